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
use crate::memory::hint;
use crate::ops::chunk::Chunk;
use crate::ops::short::Short;
use crate::ops::{Outcome, validate};

/// Why a run ends.
pub(super) enum Left {
    /// The batch or the chunk is over.
    Nothing,
    /// What comes next is not read yet.
    Unread,
    /// It is read, and is no such copy.
    Taken(Descriptor),
    /// It is copied, and what is to be told of it is not that it is done: a region was lost meanwhile.
    Lost(Outcome),
}

impl Batch {
    /// Carries out as many elements as follow each other of that kind: none where the chunk has no windows yet.
    ///
    /// A function of its own, so that the registers are its loop's.
    #[inline(never)]
    pub(super) fn run_of_copies<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        tables: &mut Tables<'_>,
    ) -> Left {
        let places = *chunk.windows.places();
        if self.cut || self.current.is_some() || !places.are_open() {
            return Left::Unread;
        }
        let (list, records) = tables.known(chunk, self.next);
        let known = (list.len / ELEMENT).min(records.len / RECORD);
        let rest = known.min((self.count - self.next).into()) as u32;
        if rest == 0 {
            return Left::Unread;
        }
        let has_failed = self.succeeded < self.next;
        let (mut line, mut record) = (list.host, records.host);
        let (mut copied, mut bytes) = (0, 0);
        let mut read = None;
        let left = loop {
            let words = match read.take() {
                Some(words) => words,
                None => {
                    // SAFETY: translated in this chunk for reading, and one of those that lie in the page; a multiple of 64
                    // because the list's first byte is one.
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
            let Some(copy) = Short::through(&descriptor, &places).filter(|_| !is_fenced_off) else {
                break Left::Taken(descriptor);
            };
            copy.carry_out(chunk);
            bytes += u64::from(copy.size());
            if chunk.has_lost_regions() {
                break Left::Lost(copy.outcome(chunk, &descriptor));
            }
            chunk.backend.finish();
            // SAFETY: translated in this chunk for writing, and one of those that lie in the page; a multiple of 32
            // because the array's first byte is one.
            unsafe { store_record(record, &copy.completion()) };
            record = record.plus(RECORD as usize);
            copied += 1;
            if let Some(alike) = Alike::to(&words, &copy, &places, chunk) {
                let ran = alike.run(chunk, &mut line, &mut record, rest - copied);
                copied += ran.elements;
                bytes += u64::from(ran.elements) * u64::from(copy.size());
                match ran.then {
                    Then::Unread => {}
                    Then::Other(words) => {
                        read = Some(words);
                        continue;
                    }
                    Then::Lost(descriptor) => {
                        bytes += u64::from(copy.size());
                        break Left::Lost(copy.outcome(chunk, &descriptor));
                    }
                }
            }
            if chunk.is_spent() {
                break Left::Nothing;
            }
            if copied == rest {
                break Left::Unread;
            }
        };
        let (taken, counted) = match &left {
            Left::Nothing | Left::Unread => (copied, copied),
            // Counted by who carries it out.
            Left::Taken(_) => (copied + 1, copied),
            Left::Lost(_) => (copied + 1, copied + 1),
        };
        tables.list.pass(taken);
        tables.records.pass(copied);
        chunk.budget.count_elements(counted);
        chunk.windows.moved(bytes);
        self.next += copied;
        self.succeeded += copied;
        self.bytes += match &left {
            Left::Lost(outcome) => bytes - outcome.bytes,
            _ => bytes,
        };
        match left {
            Left::Unread if self.next == self.count => Left::Nothing,
            left => left,
        }
    }
}
