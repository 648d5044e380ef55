//! APPLY_DELTA (SPEC section 4.11): the record is taken into private memory before an
//! entry of it is believed.

use byway_protocols::operands::DeltaEntry;
use byway_protocols::{Rights, Status};

use super::Step;
use super::chunk::{Chunk, Failure, Operand, Piece};
use super::staging::HALF;
use super::walk::overlap;
use crate::backend::Backend;
use crate::context::Target;
use crate::memory::HostAddr;
use crate::stage2::Access;

/// Bytes of an entry of the record.
const ENTRY: usize = DeltaEntry::SIZE;
/// Bytes that an entry changes.
const WORD: u64 = 8;
/// Entries taken in at a time.
const ENTRIES: usize = 512;
/// What an entry costs of a chunk's budget: a write somewhere, often in a page of its own.
const COST: u64 = 64;
const _: () = assert!(ENTRIES * ENTRY <= HALF);

/// A record being applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplyDelta {
    /// The record; right READ.
    pub delta: Operand,
    /// What it changes; right WRITE.
    pub dst: Operand,
    /// Bytes of the destination, a multiple of 8, at most 512 KiB.
    pub size: u32,
    /// Bytes of the record, a multiple of 10.
    pub delta_bytes: u32,
    /// Bytes of the record that have been applied.
    pub done: u32,
    /// The lowest word that the next entry may name.
    pub lowest: u32,
}

impl ApplyDelta {
    /// Applies entries until the end or until the chunk is over.
    pub fn step<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Step {
        let result = self.run(chunk);
        Step::after(result, self.done, self.delta_bytes)
    }

    fn run<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Result<(), Failure> {
        let before = self.done;
        let left = u64::from(self.delta_bytes - before);
        let size = u64::from(self.size);
        let delta = chunk.resolve(self.delta.plus(before.into()), left, Rights::READ)?;
        let dst = chunk.resolve(self.dst, size, Rights::WRITE)?;
        if overlap(&delta, left, &dst, size) {
            return Err(Status::Overlap.into());
        }
        let mut result = Ok(());
        while result.is_ok() && self.done < self.delta_bytes {
            if self.done > before && chunk.is_spent() {
                break;
            }
            let entries = (self.delta_bytes - self.done) as usize / ENTRY;
            let affordable = (chunk.budget.left() / COST).max(1) as usize;
            let len = entries.min(affordable).min(ENTRIES) * ENTRY;
            let at = u64::from(self.done - before);
            result = match chunk.copy_in(&delta, at, 0..len).units(ENTRY) {
                Ok(entries) => self.apply(chunk, &dst, entries),
                Err(failure) => Err(failure),
            };
        }
        let read = u64::from(self.done - before);
        let written = read / ENTRY as u64 * WORD;
        chunk.settle(&[(&delta, Access::Read, read), (&dst, Access::Write, written)])?;
        result
    }

    /// Applies the first entries in the staging.
    fn apply<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        dst: &Target<'_>,
        entries: usize,
    ) -> Result<(), Failure> {
        let mut place = Place::NONE;
        for i in 0..entries {
            let at = i * ENTRY;
            let mut entry = [0; ENTRY];
            entry.copy_from_slice(&chunk.staging.bytes()[at..at + ENTRY]);
            let [low, high, data @ ..] = entry;
            let word = u32::from(u16::from_le_bytes([low, high]));
            if word < self.lowest {
                return Err(Status::DeltaOrder.into());
            }
            let offset = u64::from(word) * WORD;
            if offset >= u64::from(self.size) {
                return Err(Status::DeltaRange.into());
            }
            if let Some(host) = place.find(chunk, dst, offset)? {
                // SAFETY: translated in this chunk for writing, and guest memory has no references.
                unsafe { chunk.staging.private().store(host, &data) };
            } else {
                // Its bytes lie in two pages.
                let copied = chunk.copy_out(dst, offset, at + 2..at + ENTRY);
                if let Some(failure) = copied.failure {
                    return Err(failure);
                }
            }
            chunk.budget.spend_slowly(COST);
            self.lowest = word + 1;
            self.done += ENTRY as u32;
        }
        Ok(())
    }
}

/// The page that the last entry went to: entries ascend, so the next is likely to go there, too.
struct Place {
    /// Offset of its first byte that is known of.
    start: u64,
    piece: Piece,
}

impl Place {
    const NONE: Self = Self {
        start: 0,
        piece: Piece::NONE,
    };

    /// Where the word at `offset` lies; `None` when it is in two pages.
    #[inline]
    fn find<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        dst: &Target<'_>,
        offset: u64,
    ) -> Result<Option<HostAddr>, Failure> {
        // Entries ascend: `offset` is never below `start`.
        if offset - self.start + WORD > self.piece.len {
            *self = Self {
                start: offset,
                piece: chunk.page(dst, offset, Access::Write)?,
            };
        }
        let inside = offset - self.start;
        Ok((inside + WORD <= self.piece.len).then(|| HostAddr(self.piece.host.0 + inside)))
    }
}
