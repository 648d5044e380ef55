//! BATCH (SPEC section 4.3): descriptors that lie in memory, each with a completion of
//! its own.

use byway_protocols::{Completion, Descriptor, Rights, Status};

use super::budget::OPERATION_COST;
use super::chunk::{Chunk, Failure, Operand, Piece};
use super::missing::Asked;
use super::validate;
use super::{Operation, Outcome, Step, Windows, success, try_short};
use crate::address_space::Access;
use crate::backend::{Backend, load_line, store_record};
use crate::context::Target;
use crate::memory::hint;
use crate::queue::PageNeed;

/// Bytes of an element.
const ELEMENT: u64 = Descriptor::SIZE as u64;
/// Bytes of an element's completion.
const RECORD: u64 = Completion::SIZE as u64;

/// A batch under way.
#[derive(Debug)]
pub struct Batch {
    /// Descriptor list; right READ.
    pub list: Operand,
    /// Completions of the elements; right WRITE.
    pub records: Operand,
    /// Elements, 1 to 1024.
    pub count: u32,
    /// The element in hand, or the next.
    pub next: u32,
    /// What is left of it.
    pub current: Option<Operation>,
    /// It waits for pages of its own domain.
    pub blocks: bool,
    /// Elements that ended in success.
    pub succeeded: u32,
    /// A fence came after a failure: the rest is not run.
    pub cut: bool,
    /// Bytes touched by elements.
    pub bytes: u64,
}

/// Why a batch goes no further in this chunk.
enum Stop {
    /// A fault in its own memory, or the end of a right to it: its end.
    Failure(Failure),
    /// The element in hand waits for a page.
    Page(PageNeed),
    /// The element in hand waits for a device.
    Device,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<Status> for Stop {
    fn from(status: Status) -> Self {
        Self::Failure(status.into())
    }
}

impl Batch {
    /// Runs elements until all are done, one waits for a page, or the chunk is over.
    pub fn step<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>, asked: &mut Asked) -> Step {
        let completion = match self.run(chunk, asked) {
            Ok(()) if self.next < self.count => return Step::More,
            Ok(()) => Completion {
                status: if self.succeeded == self.count {
                    Status::Success
                } else {
                    Status::BatchFailed
                } as u8,
                ..success(self.succeeded)
            },
            Err(Stop::Page(need)) => return Step::Blocked(need),
            Err(Stop::Device) => return Step::Device,
            Err(Stop::Failure(failure)) => failure.completion(0, self.succeeded),
        };
        Step::Done(Outcome {
            completion,
            bytes: self.bytes,
        })
    }

    fn run<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>, asked: &mut Asked) -> Result<(), Stop> {
        let count = u64::from(self.count);
        let list = chunk.resolve(self.list, count * ELEMENT, Rights::READ)?;
        let records = chunk.resolve(self.records, count * RECORD, Rights::WRITE)?;
        // A capability may start anywhere: what counts for single accesses is where
        // the elements lie, too.
        if !list.addr.is_multiple_of(ELEMENT) {
            return Err(Status::ListAlignment.into());
        }
        if !records.addr.is_multiple_of(RECORD) {
            return Err(Status::AddressAlignment.into());
        }
        let first = self.next;
        let mut windows = Windows::of_burst();
        let mut tables = Tables {
            list: Table::new(&list, ELEMENT, Access::Read, Status::BatchListFault),
            records: Table::new(&records, RECORD, Access::Write, Status::StatusArrayFault),
        };
        let result = loop {
            let has_ended = match self.element(chunk, &mut windows, asked, &mut tables) {
                Ok(has_ended) => has_ended,
                Err(stop) => break Err(stop),
            };
            // One that goes on in another chunk may have to wait for that, and not for this one's end.
            if !has_ended || self.next == self.count || chunk.is_spent() {
                break Ok(());
            }
        };
        windows.close();
        let done = u64::from(self.next - first);
        chunk.settle(&[
            (&list, Access::Read, done * ELEMENT),
            (&records, Access::Write, done * RECORD),
        ])?;
        result
    }

    /// Starts or continues one element. Whether that has ended.
    fn element<'a, B: Backend>(
        &mut self,
        chunk: &mut Chunk<'a, B>,
        windows: &mut Windows<'a>,
        asked: &mut Asked,
        tables: &mut Tables<'_>,
    ) -> Result<bool, Stop> {
        // First the place for its completion: an element that ran has one.
        hint::writes_soon(tables.records.find(chunk, self.next)?.host);
        let step = match &mut self.current {
            Some(operation) => operation.step(chunk),
            None => match self.fetch(chunk, &mut tables.list)? {
                None => Step::refused(Status::NotAttempted),
                Some(descriptor) => {
                    // Told right away: an outcome that goes through memory as a step would wait there for all that was copied.
                    if let Some(outcome) = try_short(&descriptor, chunk, windows) {
                        self.end(chunk, &mut tables.records, &outcome)?;
                        return Ok(true);
                    }
                    self.start(chunk, &descriptor)
                }
            },
        };
        if step == Step::Device {
            return Err(Stop::Device);
        }
        let Step::Done(mut outcome) = step else {
            return Ok(false);
        };
        if let Some(need) = chunk.waits(asked, self.blocks, &mut outcome) {
            return Err(Stop::Page(need));
        }
        self.end(chunk, &mut tables.records, &outcome)?;
        Ok(true)
    }

    /// Tells how the element in hand ended, and turns to the next.
    #[inline(always)]
    fn end<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        records: &mut Table<'_>,
        outcome: &Outcome,
    ) -> Result<(), Failure> {
        // Once more: what is noted of a write may be told before it.
        let record = records.find(chunk, self.next).inspect_err(|_| {
            // What has run must not run again: no waiting here.
            chunk.missing = None;
        })?;
        chunk.backend.finish();
        // SAFETY: translated in this chunk for writing; a multiple of 32 because the
        // array's first byte is one.
        unsafe { store_record(record.host, &outcome.completion) };
        records.pass();
        let succeeded = outcome.completion.status().is_some_and(Status::is_success);
        self.succeeded += u32::from(succeeded);
        self.bytes += outcome.bytes;
        self.current = None;
        self.next += 1;
        Ok(())
    }

    /// Reads the next element, once. `None`: it is not to be run.
    #[inline(always)]
    fn fetch<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        list: &mut Table<'_>,
    ) -> Result<Option<Descriptor>, Failure> {
        chunk.budget.element();
        if !self.cut {
            let line = list.find(chunk, self.next)?;
            // SAFETY: translated in this chunk for reading; a multiple of 64 because the
            // list's first byte is one.
            let descriptor = unsafe { load_line(line.host) };
            // What the element moves may push the next one out of the first cache, and nothing of that can begin before it is here.
            if line.len > ELEMENT {
                hint::reads_soon(line.host.plus(ELEMENT as usize));
            }
            list.pass();
            self.cut = self.succeeded < self.next && validate::has_fence(&descriptor);
            if !self.cut {
                return Ok(Some(descriptor));
            }
        }
        chunk.budget.spend(OPERATION_COST);
        Ok(None)
    }

    /// Runs of an element that the short way has left what fits into the chunk.
    #[inline(never)]
    fn start<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>, descriptor: &Descriptor) -> Step {
        // One that the short way met: the long way meets it again, if it does.
        chunk.missing = None;
        chunk.budget.spend(OPERATION_COST);
        self.blocks = validate::blocks(descriptor);
        // In place, as `validate::request` says.
        let checked = validate::operation(descriptor, |operation| self.current = Some(operation));
        match (checked, &mut self.current) {
            (Ok(()), Some(operation)) => operation.step(chunk),
            (Ok(()), None) => Step::refused(Status::BadOpcode),
            (Err(status), _) => Step::refused(status),
        }
    }
}

/// A batch's own memory, in one chunk.
struct Tables<'t> {
    list: Table<'t>,
    records: Table<'t>,
}

/// One part of it, gone through entry by entry. A page that was translated in a chunk stays usable to its end, so
/// it is looked up once for all entries in it, where each use need not be noted by itself.
struct Table<'t> {
    target: &'t Target<'t>,
    entry: u64,
    access: Access,
    /// What a fault in it is, if mending the page mends the batch.
    fault: Status,
    /// What is left of the page, from the entry in hand on; nothing where it is to be looked up.
    page: Piece,
}

impl<'t> Table<'t> {
    fn new(target: &'t Target<'t>, entry: u64, access: Access, fault: Status) -> Self {
        Self {
            target,
            entry,
            access,
            fault,
            page: Piece::NONE,
        }
    }

    /// The entry in hand, whose number is `index`, and what follows it in its page.
    #[inline(always)]
    fn find<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>, index: u32) -> Result<Piece, Failure> {
        if self.page.len == 0 {
            return self.look_up(chunk, index);
        }
        Ok(self.page)
    }

    #[inline(never)]
    fn look_up<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        index: u32,
    ) -> Result<Piece, Failure> {
        let page = chunk
            .page(self.target, u64::from(index) * self.entry, self.access)
            .map_err(|f| met_in(self.target, f, self.fault))?;
        if chunk.iotlb.around(self.access).is_some() {
            self.page = page;
        }
        Ok(page)
    }

    /// The next entry is in hand.
    #[inline(always)]
    fn pass(&mut self) {
        if self.page.len != 0 {
            self.page.take_front(self.entry);
        }
    }
}

/// A fault on the batch's own memory: in one's own domain, a status that names which
/// part it was, if mending the page mends the batch.
fn met_in(target: &Target<'_>, failure: Failure, status: Status) -> Failure {
    if target.own && failure.status.is_resumable() {
        Failure { status, ..failure }
    } else {
        failure
    }
}
