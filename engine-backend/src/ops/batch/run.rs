//! A run: elements that are short copies through the chunk's windows, one after the other.
//!
//! It does what [`Batch::element`] would do for each of them, but keeps in registers what that keeps in the batch, in its
//! tables and in the windows, and writes it back when the run ends: an element whose 64 bytes are copied in the time of a few
//! cache accesses would spend twice as long on its own accounts. A batch without such copies has no windows, and no runs.

use byway_protocols::Descriptor;

use super::alike::{Alike, Then};
use super::table::Tables;
use super::{Batch, ELEMENT, RECORD};
use crate::backend::{Backend, load_line, store_record};
use crate::memory::{HostAddr, hint};
use crate::ops::chunk::{Chunk, Failure};
use crate::ops::short::{Short, lost};
use crate::ops::{Outcome, validate};
use crate::stage2::Access;

/// Why a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// The batch or the chunk is over.
    Nothing,
    /// What comes next is not read yet.
    Unread,
    /// There is one in hand: [`Held`].
    Held,
}

/// The element that a run leaves to others. Apart from [`Left`], since most leave none: what may hold one goes through memory in
/// parts, and is taken up as a whole after all that was copied.
pub(super) enum Held {
    /// It is read, and is no such copy.
    Taken(Descriptor),
    /// It is copied, and what is to be told of it is not that it is done: a region was lost meanwhile.
    Lost(Outcome),
}

/// What became of a run.
#[derive(Clone, Copy)]
struct Run {
    left: Left,
    /// Elements read.
    taken: u32,
    /// Elements told of.
    told: u32,
}

impl Run {
    const NONE: Self = Self {
        left: Left::Unread,
        taken: 0,
        told: 0,
    };
}

impl Batch {
    /// A run where the batch's own memory lies in windows, as that of the batches before did: nothing is to be looked up for it.
    /// `None` where it does not, or there is none.
    ///
    /// # Errors
    /// As [`Chunk::settle`], when all are done.
    #[inline(always)]
    pub(super) fn run_nearby<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        held: &mut Option<Held>,
    ) -> Result<Option<Left>, Failure> {
        let (next, rest) = (u64::from(self.next), u64::from(self.count - self.next));
        let windows = &chunk.windows;
        let list = self.list.plus(next * ELEMENT);
        let records = self.records.plus(next * RECORD);
        let line = windows.reads.find(list, rest * ELEMENT);
        let record = windows.fills.find(records, rest * RECORD);
        let (Some(line), Some(record)) = (line, record) else {
            return Ok(None);
        };
        // A page has the alignment that its addresses have.
        let is_aligned = line.0.is_multiple_of(ELEMENT) && record.0.is_multiple_of(RECORD);
        if !is_aligned || !self.may_run(chunk) {
            return Ok(None);
        }
        let run = self.run_of_copies(chunk, (line, record), rest as u32, held);
        chunk.windows.reads.passed(u64::from(run.told) * ELEMENT);
        chunk.windows.fills.passed(u64::from(run.told) * RECORD);
        // Otherwise it is looked at when the element in hand has ended.
        if run.left == Left::Nothing && chunk.has_lost_regions() {
            lost(chunk, self.list, Access::Read)?;
            lost(chunk, self.records, Access::Write)?;
        }
        Ok(Some(run.left))
    }

    /// A run in the tables.
    #[inline(always)]
    pub(super) fn run_in<'a, B: Backend>(
        &mut self,
        chunk: &mut Chunk<'a, B>,
        tables: &mut Tables<'_, 'a>,
        held: &mut Option<Held>,
    ) -> Left {
        if !self.may_run(chunk) {
            return Left::Unread;
        }
        let (list, records) = tables.known(chunk, self.next);
        let known = (list.len / ELEMENT).min(records.len / RECORD);
        let rest = known.min((self.count - self.next).into()) as u32;
        let run = self.run_of_copies(chunk, (list.host, records.host), rest, held);
        tables.list.pass(run.taken);
        tables.records.pass(run.told);
        run.left
    }

    fn may_run<B: Backend>(&self, chunk: &Chunk<'_, B>) -> bool {
        !self.cut && self.current.is_none() && chunk.windows.places().are_open()
    }

    /// Carries out as many of `rest` elements as follow each other of that kind. The first one lies at `line`, its completion at `record`:
    /// both were translated in this chunk, for reading and writing, are multiples of 64 and 32, and are followed by those of the others in
    /// their pages.
    ///
    /// A function of its own, so that the registers are its loop's.
    #[inline(never)]
    fn run_of_copies<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        (mut line, mut record): (HostAddr, HostAddr),
        rest: u32,
        held: &mut Option<Held>,
    ) -> Run {
        if rest == 0 {
            return Run::NONE;
        }
        let has_failed = self.succeeded < self.next;
        let (mut copied, mut bytes) = (0, 0);
        let (mut read, mut lost) = (None, None);
        let left = loop {
            let words = match read.take() {
                Some(words) => words,
                None => {
                    // SAFETY: one of those that the caller speaks of.
                    let words = unsafe { load_line(line) };
                    line = line.plus(ELEMENT as usize);
                    // What is copied may push the next one out of the first cache, and nothing of that can begin before it is here.
                    hint::reads_soon(line);
                    hint::writes_soon(record);
                    words
                }
            };
            let descriptor = Descriptor::from_words(words);
            let is_fenced_off = has_failed && validate::has_fence(&descriptor);
            let Some(copy) = Short::through(&descriptor, chunk).filter(|_| !is_fenced_off) else {
                *held = Some(Held::Taken(descriptor));
                break Left::Held;
            };
            if let Some(alike) = Alike::to(&words, &copy, chunk) {
                let ran = alike.run(chunk, &copy, &mut line, &mut record, rest - copied);
                copied += ran.elements;
                bytes += u64::from(ran.elements) * u64::from(copy.size());
                match ran.then {
                    Then::Unread => {}
                    Then::Other(words) => {
                        read = Some(words);
                        continue;
                    }
                    Then::Lost(words) => {
                        let descriptor = Descriptor::from_words(words);
                        bytes += u64::from(copy.size());
                        lost = Some(copy.outcome(chunk, &descriptor));
                        break Left::Held;
                    }
                }
            } else {
                copy.carry_out(chunk);
                bytes += u64::from(copy.size());
                if chunk.has_lost_regions() {
                    lost = Some(copy.outcome(chunk, &descriptor));
                    break Left::Held;
                }
                chunk.backend.finish();
                // SAFETY: as above.
                unsafe { store_record(record, &copy.completion()) };
                record = record.plus(RECORD as usize);
                copied += 1;
            }
            if chunk.is_spent() {
                break Left::Nothing;
            }
            if copied == rest {
                break Left::Unread;
            }
        };
        let (mut taken, mut counted) = (copied, copied);
        if left == Left::Held {
            taken += 1;
        }
        chunk.windows.moved(bytes);
        if let Some(outcome) = lost {
            // Counted by who tells of it.
            bytes -= outcome.bytes;
            counted += 1;
            *held = Some(Held::Lost(outcome));
        }
        chunk.budget.count_elements(counted);
        self.next += copied;
        self.succeeded += copied;
        self.bytes += bytes;
        let left = match left {
            Left::Unread if self.next == self.count => Left::Nothing,
            left => left,
        };
        Run {
            left,
            taken,
            told: copied,
        }
    }
}
