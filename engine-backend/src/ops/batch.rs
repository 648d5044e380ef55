//! BATCH (SPEC section 4.3): descriptors that lie in memory, each with a completion of
//! its own.

use byway_protocols::{Completion, Descriptor, Rights, Status};

mod alike;
mod run;
mod table;

use super::budget::OPERATION_COST;
use super::chunk::{Chunk, Failure, Operand};
use super::missing::Asked;
use super::validate;
use super::{Operation, Outcome, Step, success, try_either};
use crate::address_space::Access;
use crate::backend::{Backend, load_line, store_record};
use crate::memory::hint;
use crate::queue::PageNeed;
use run::{Held, Left};
use table::{Table, Tables};

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
        match self.run(chunk, asked) {
            Ok(()) if self.next < self.count => Step::More,
            Ok(()) if self.succeeded == self.count => Step::Done(Outcome {
                completion: success(self.succeeded),
                bytes: self.bytes,
            }),
            Ok(()) => self.failed(Status::BatchFailed.into()),
            Err(Stop::Page(need)) => Step::Blocked(need),
            Err(Stop::Device) => Step::Device,
            Err(Stop::Failure(failure)) => self.failed(failure),
        }
    }

    /// Apart, as [`Step::failed`].
    #[cold]
    #[inline(never)]
    fn failed(&self, failure: Failure) -> Step {
        Step::Done(Outcome {
            completion: failure.completion(0, self.succeeded),
            bytes: self.bytes,
        })
    }

    fn run<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>, asked: &mut Asked) -> Result<(), Stop> {
        let mut held = None;
        let mut left = self.run_nearby(chunk, &mut held)?;
        if left == Some(Left::Nothing) {
            return Ok(());
        }
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
        chunk.windows.are_for_many();
        let mut tables = Tables {
            list: Table::of_elements(self, &list),
            records: Table::of_records(self, &records),
        };
        let result = loop {
            let left = left.take();
            let ended = match left.unwrap_or_else(|| self.run_in(chunk, &mut tables, &mut held)) {
                Left::Nothing => Ok(true),
                Left::Unread | Left::Held => match held.take() {
                    Some(Held::Lost(outcome)) => self
                        .end(chunk, &mut tables.records, &outcome)
                        .map(|()| true)
                        .map_err(Stop::from),
                    Some(Held::Taken(element)) => {
                        self.element(chunk, asked, &mut tables, Some(element))
                    }
                    None => self.element(chunk, asked, &mut tables, None),
                },
            };
            match ended {
                Ok(true) if self.next < self.count && !chunk.is_spent() => {}
                // One that goes on in another chunk may have to wait for that, and not for this one's end.
                Ok(_) => break Ok(()),
                Err(stop) => break Err(stop),
            }
        };
        let done = u64::from(self.next - first);
        chunk.settle(&[
            (&list, Access::Read, done * ELEMENT),
            (&records, Access::Write, done * RECORD),
        ])?;
        result
    }

    /// Starts or continues one element, which may be taken from the list already. Whether that has ended.
    fn element<'a, B: Backend>(
        &mut self,
        chunk: &mut Chunk<'a, B>,
        asked: &mut Asked,
        tables: &mut Tables<'_, 'a>,
        taken: Option<Descriptor>,
    ) -> Result<bool, Stop> {
        // First the place for its completion: an element that ran has one.
        hint::writes_soon(tables.records.find(chunk, self.next)?.host);
        let step = match &mut self.current {
            Some(operation) => operation.step(chunk),
            None => match self.admit(chunk, &mut tables.list, taken)? {
                None => Step::refused(Status::NotAttempted),
                Some(descriptor) => {
                    // Told right away: an outcome that goes through memory as a step would wait there for all that was copied.
                    if let Some(outcome) = try_either(&descriptor, chunk) {
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
    fn end<'a, B: Backend>(
        &mut self,
        chunk: &mut Chunk<'a, B>,
        records: &mut Table<'_, 'a>,
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
        records.pass(1);
        self.succeeded += u32::from(outcome.completion.is_success());
        self.bytes += outcome.bytes;
        self.current = None;
        self.next += 1;
        Ok(())
    }

    /// The next element, read once unless it is taken. `None`: it is not to be run.
    #[inline(always)]
    fn admit<'a, B: Backend>(
        &mut self,
        chunk: &mut Chunk<'a, B>,
        list: &mut Table<'_, 'a>,
        taken: Option<Descriptor>,
    ) -> Result<Option<Descriptor>, Failure> {
        if !self.cut {
            let descriptor = match taken {
                Some(descriptor) => descriptor,
                None => {
                    let line = list.find(chunk, self.next)?;
                    list.pass(1);
                    // SAFETY: translated in this chunk for reading; a multiple of 64 because the
                    // list's first byte is one.
                    Descriptor::from_words(unsafe { load_line(line.host) })
                }
            };
            self.cut = self.succeeded < self.next && validate::has_fence(&descriptor);
            if !self.cut {
                chunk.budget.count_elements(1);
                return Ok(Some(descriptor));
            }
        }
        chunk.budget.count_elements(1);
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
        let operation = self.current.insert(Operation::Nothing);
        match validate::operation(descriptor, operation) {
            Ok(()) => operation.step(chunk),
            Err(status) => Step::refused(status),
        }
    }
}
