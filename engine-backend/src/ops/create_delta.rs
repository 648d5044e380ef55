//! CREATE_DELTA (SPEC section 4.10): each byte is read once, so that the record says what was compared.

use byway_protocols::operands::{DeltaEntry, delta_result};
use byway_protocols::{Completion, Rights, Status};

use super::chunk::{Chunk, Failure, Operand};
use super::staging::{HALF, Staging};
use super::walk::overlap;
use super::{Outcome, Step as Advance, success};
use crate::backend::Backend;
use crate::backend::diff::{STEP, Step, WORD};
use crate::context::Target;
use crate::stage2::Access;

/// Bytes of an entry of the record.
const ENTRY: usize = DeltaEntry::SIZE;
/// Bytes of each source that are compared at a time: the entries of all their words fit into a half of the staging.
const PIECE: usize = HALF / 2;
const _: () = assert!(PIECE / WORD * ENTRY <= HALF);

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
    pub fn step<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Advance {
        let completion = match self.run(chunk) {
            Ok(true) => self.answer(delta_result::FULL),
            Ok(false) if self.done < self.size => return Advance::More,
            Ok(false) if self.written == 0 => self.answer(delta_result::EQUAL),
            Ok(false) => self.answer(delta_result::RECORDED),
            Err(failure) => failure.completion(0, self.done),
        };
        Advance::Done(Outcome {
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
            if at == left || (at > 0 && chunk.is_spent()) {
                break Ok(false);
            }
            let written = self.written - before;
            let found = match self.find(chunk, [&a, &b], at, left - at) {
                Ok(found) => found,
                Err(failure) => break Err(failure),
            };
            let out = HALF..HALF + found.entries * ENTRY;
            let copied = chunk.copy_out(&delta, u64::from(written), out);
            chunk
                .budget
                .spend_slowly((2 * found.bytes + copied.bytes) as u64);
            let entries = copied.bytes / ENTRY;
            self.written += (entries * ENTRY) as u32;
            if let Some(failure) = copied.failure {
                // Back to the first difference that is not recorded.
                let entry = HALF + entries * ENTRY;
                let bytes = chunk.staging.bytes();
                self.done = u32::from(u16::from_le_bytes([bytes[entry], bytes[entry + 1]])) * 8;
                break Err(failure);
            }
            self.done += found.bytes as u32;
            if found.is_full {
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

    /// Looks for differences from `at` on, and puts the entries for them into the second half of the staging, as far as the
    /// record has room.
    fn find<B: Backend>(
        &self,
        chunk: &mut Chunk<'_, B>,
        [a, b]: [&Target<'_>; 2],
        at: u64,
        left: u64,
    ) -> Result<Found, Failure> {
        let most = chunk.room(left).min(PIECE as u64);
        let x = chunk.forward(a, at, most, Access::Read)?;
        let y = chunk.forward(b, at, x.len, Access::Read)?;
        let bytes = y.len as usize / WORD * WORD;
        if bytes == 0 {
            return self.find_in_word(chunk, [a, b], at);
        }
        let private = chunk.staging.private();
        let mut entries = self.entries(chunk.staging);
        let mut step = [0; STEP];
        let mut from = 0;
        while from < bytes {
            let (x, y) = (x.host.plus(from), y.host.plus(from));
            // SAFETY: both pieces were translated in this chunk for reading, and guest memory has no references.
            let difference = unsafe { private.difference(x, y, bytes - from, &mut step) };
            let Some(Step { offset, words }) = difference else {
                break;
            };
            from += offset;
            let mut words = words;
            while words != 0 {
                let i = words.trailing_zeros() as usize;
                words &= words - 1;
                let word = self.done as usize / WORD + from / WORD + i;
                if !entries.push(word, &step[i * WORD..][..WORD]) {
                    return Ok(entries.full_after(from + i * WORD));
                }
            }
            from += STEP;
        }
        Ok(entries.all_of(bytes))
    }

    /// The same for a word of which the first bytes lie in another page than the rest.
    fn find_in_word<B: Backend>(
        &self,
        chunk: &mut Chunk<'_, B>,
        [a, b]: [&Target<'_>; 2],
        at: u64,
    ) -> Result<Found, Failure> {
        chunk.copy_in(a, at, 0..WORD).units(WORD)?;
        chunk.copy_in(b, at, WORD..2 * WORD).units(WORD)?;
        let [mut x, mut y] = [[0; WORD]; 2];
        x.copy_from_slice(&chunk.staging.bytes()[..WORD]);
        y.copy_from_slice(&chunk.staging.bytes()[WORD..2 * WORD]);
        let mut entries = self.entries(chunk.staging);
        if x != y && !entries.push(self.done as usize / WORD, &y) {
            return Ok(entries.full_after(0));
        }
        Ok(entries.all_of(WORD))
    }

    fn entries<'s>(&self, staging: &'s mut Staging) -> Entries<'s> {
        Entries {
            bytes: staging.split().1,
            count: 0,
            room: (self.room - self.written) as usize / ENTRY,
        }
    }
}

/// Entries that are about to go to the record.
struct Entries<'s> {
    bytes: &'s mut [u8],
    count: usize,
    /// Most that the record has room for.
    room: usize,
}

impl Entries<'_> {
    /// Adds one. False: there is no room.
    fn push(&mut self, word: usize, data: &[u8]) -> bool {
        if self.count == self.room {
            return false;
        }
        let entry = &mut self.bytes[self.count * ENTRY..][..ENTRY];
        // 512 KiB have 2^16 words.
        entry[..2].copy_from_slice(&(word as u16).to_le_bytes());
        entry[2..].copy_from_slice(data);
        self.count += 1;
        true
    }

    fn all_of(self, bytes: usize) -> Found {
        Found {
            bytes,
            entries: self.count,
            is_full: false,
        }
    }

    fn full_after(self, bytes: usize) -> Found {
        Found {
            bytes,
            entries: self.count,
            is_full: true,
        }
    }
}

/// What a search came to.
struct Found {
    /// Bytes of each source that need no further look.
    bytes: usize,
    /// Entries made.
    entries: usize,
    /// The word behind these bytes differs, and the record has no room for it.
    is_full: bool,
}
