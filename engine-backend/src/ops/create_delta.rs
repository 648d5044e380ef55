//! CREATE_DELTA (SPEC section 4.10): what differs is decided on private copies, so that
//! the record says what was read, once.

use byway_protocols::operands::{DeltaEntry, delta_result};
use byway_protocols::{Completion, Rights, Status};

use super::chunk::{Chunk, Failure, Operand};
use super::staging::HALF;
use super::walk::overlap;
use super::{Outcome, Step, success};
use crate::backend::Backend;
use crate::stage2::Access;

/// Bytes that are compared as one.
const WORD: usize = 8;
/// Bytes of an entry of the record.
const ENTRY: usize = DeltaEntry::SIZE;
/// Bytes of each source that are compared at a time: both fit into a half of the
/// staging, and the entries of all their words into the other.
const PIECE: usize = HALF / 2;
const _: () = assert!(PIECE / WORD * ENTRY <= HALF);
/// Bytes that are looked at together where nothing differs.
const STRIDE: usize = 64;

/// A search for differences under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreateDelta {
    /// Sources; right READ.
    pub src: [Operand; 2],
    /// The record; right WRITE.
    pub delta: Operand,
    /// Bytes of each source, a multiple of 8, at most 512 KiB.
    pub size: u32,
    /// Room for the record, a multiple of 10.
    pub room: u32,
    /// Bytes compared, with their differences recorded.
    pub done: u32,
    /// Bytes of the record written.
    pub written: u32,
}

impl CreateDelta {
    /// Compares until the end, until the record is full, or until the chunk is over.
    pub fn step<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Step {
        let completion = match self.run(chunk) {
            Ok(true) => self.answer(delta_result::FULL),
            Ok(false) if self.done < self.size => return Step::More,
            Ok(false) if self.written == 0 => self.answer(delta_result::EQUAL),
            Ok(false) => self.answer(delta_result::RECORDED),
            Err(failure) => failure.completion(0, self.done),
        };
        Step::Done(Outcome {
            completion: Completion {
                op0: u64::from(self.written),
                ..completion
            },
            bytes: u64::from(self.done) + u64::from(self.written),
        })
    }

    fn answer(&self, result: u8) -> Completion {
        Completion {
            result,
            ..success(self.done)
        }
    }

    /// Whether the record is full, with a difference at `done` that it does not hold.
    fn run<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Result<bool, Failure> {
        let passed = u64::from(self.done);
        let left = u64::from(self.size) - passed;
        let [a, b] = self.src.map(|src| src.plus(passed));
        let a = chunk.resolve(a, left, Rights::READ)?;
        let b = chunk.resolve(b, left, Rights::READ)?;
        let (before, room) = (self.written, u64::from(self.room - self.written));
        let delta = self.delta.plus(u64::from(before));
        let delta = chunk.resolve(delta, room, Rights::WRITE)?;
        if overlap(&a, left, &delta, room) || overlap(&b, left, &delta, room) {
            return Err(Status::Overlap.into());
        }
        let result = loop {
            let at = u64::from(self.done) - passed;
            if at == left || (at > 0 && chunk.budget.is_over()) {
                break Ok(false);
            }
            let len = chunk.room(left - at).min(PIECE as u64) as usize / WORD * WORD;
            let words = chunk.copy_in(&a, at, 0..len).units(WORD).and_then(|n| {
                let second = PIECE..PIECE + n * WORD;
                chunk.copy_in(&b, at, second).units(WORD)
            });
            let words = match words {
                Ok(words) => words,
                Err(failure) => break Err(failure),
            };
            let written = self.written - before;
            let found = self.find(chunk.staging.split(), words);
            let out = HALF..HALF + found.entries * ENTRY;
            let copied = chunk.copy_out(&delta, u64::from(written), out);
            chunk.budget.spend((2 * words * WORD + copied.bytes) as u64);
            let entries = copied.bytes / ENTRY;
            self.written += (entries * ENTRY) as u32;
            if let Some(failure) = copied.failure {
                // Back to the first difference that is not recorded.
                let entry = HALF + entries * ENTRY;
                let bytes = chunk.staging.bytes();
                self.done = u32::from(u16::from_le_bytes([bytes[entry], bytes[entry + 1]])) * 8;
                break Err(failure);
            }
            self.done += (found.words * WORD) as u32;
            if found.words < words {
                break Ok(true);
            }
        };
        let read = u64::from(self.done) - passed;
        chunk.settle(&[
            (&a, Access::Read, read),
            (&b, Access::Read, read),
            (&delta, Access::Write, u64::from(self.written - before)),
        ])?;
        result
    }

    /// Writes the entries for the differences of the first `words` words of two copies,
    /// as far as the record has room.
    fn find(&self, (sources, entries): (&mut [u8], &mut [u8]), words: usize) -> Found {
        let room = (self.room - self.written) as usize / ENTRY;
        let (a, b) = sources.split_at(PIECE);
        let (a, b) = (&a[..words * WORD], &b[..words * WORD]);
        let mut found = Found { words, entries: 0 };
        let first = self.done as usize / WORD;
        let (blocks, rest) = (a.as_chunks::<STRIDE>(), b.as_chunks::<STRIDE>());
        let last = [(blocks.1, rest.1)];
        let whole = blocks
            .0
            .iter()
            .zip(rest.0)
            .map(|(x, y)| (x == y, &x[..], &y[..]));
        let all = whole.chain(last.map(|(x, y)| (x == y, x, y)));
        for (i, (is_equal, x, y)) in all.enumerate() {
            if is_equal {
                continue;
            }
            let words = x.as_chunks::<WORD>().0.iter().zip(y.as_chunks::<WORD>().0);
            for (j, (x, y)) in words.enumerate() {
                if x == y {
                    continue;
                }
                let word = i * (STRIDE / WORD) + j;
                if found.entries == room {
                    found.words = word;
                    return found;
                }
                let entry = &mut entries[found.entries * ENTRY..][..ENTRY];
                // 512 KiB have 2^16 words.
                entry[..2].copy_from_slice(&((first + word) as u16).to_le_bytes());
                entry[2..].copy_from_slice(y);
                found.entries += 1;
            }
        }
        found
    }
}

/// What a comparison of two copies came to.
struct Found {
    /// Words that need no further look.
    words: usize,
    /// Entries written.
    entries: usize,
}
