//! APPLY_DELTA (SPEC section 4.11): the record is taken into private memory before an
//! entry of it is believed.

use byway_protocols::operands::DeltaEntry;
use byway_protocols::{Rights, Status};

use super::chunk::{Chunk, Failure, Operand};
use super::staging::HALF;
use super::walk::overlap;
use super::{Outcome, Step, success};
use crate::backend::Backend;
use crate::context::Target;
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
        let completion = match self.run(chunk) {
            Ok(()) if self.done < self.delta_bytes => return Step::More,
            Ok(()) => success(self.done),
            Err(failure) => failure.completion(0, self.done),
        };
        Step::Done(Outcome {
            completion,
            bytes: u64::from(self.done),
        })
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
            if self.done > before && chunk.budget.is_over() {
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
        chunk.settle(&[(&delta, Access::Read, read), (&dst, Access::Write, 0)])?;
        result
    }

    /// Applies the first entries in the staging.
    fn apply<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        dst: &Target<'_>,
        entries: usize,
    ) -> Result<(), Failure> {
        for i in 0..entries {
            let at = i * ENTRY;
            let bytes = chunk.staging.bytes();
            let word = u16::from_le_bytes([bytes[at], bytes[at + 1]]);
            if u32::from(word) < self.lowest {
                return Err(Status::DeltaOrder.into());
            }
            let offset = u64::from(word) * WORD;
            if offset >= u64::from(self.size) {
                return Err(Status::DeltaRange.into());
            }
            let copied = chunk.copy_out(dst, offset, at + 2..at + ENTRY);
            if let Some(failure) = copied.failure {
                return Err(failure);
            }
            dst.account(0, WORD);
            chunk.budget.spend(COST);
            self.lowest = u32::from(word) + 1;
            self.done += ENTRY as u32;
        }
        Ok(())
    }
}
