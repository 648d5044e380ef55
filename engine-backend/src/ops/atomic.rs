//! ATOMIC64 (SPEC section 4.22).

use byway_protocols::{Completion, Rights, Status};

use super::chunk::{Chunk, Failure, Operand};
use super::{Outcome, Step, success};
use crate::backend::{Backend, atomic_u64};
use crate::stage2::Access;

/// Bytes of what it works on.
const BYTES: u64 = 8;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Adds, modulo 2^64.
    Add(u64),
    /// Stores.
    Swap(u64),
    /// Stores `new` if `current` is there.
    CompareSwap {
        /// What must be there.
        current: u64,
        /// What is stored then.
        new: u64,
    },
}

/// One atomic operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Atomic {
    /// Where; rights READ and WRITE.
    pub dst: Operand,
    /// What.
    pub change: Change,
}

impl Atomic {
    /// Done in one go.
    pub fn step<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Step {
        let (completion, bytes) = match self.run(chunk) {
            Ok(completion) => (completion, BYTES),
            Err(failure) => (failure.completion(0, 0), 0),
        };
        Step::Done(Outcome { completion, bytes })
    }

    fn run<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Result<Completion, Failure> {
        let dst = chunk.resolve(self.dst, BYTES, Rights::READ | Rights::WRITE)?;
        // A capability may start anywhere: what counts is where the 8 bytes lie, too.
        if !dst.addr.is_multiple_of(BYTES) {
            return Err(Status::AddressAlignment.into());
        }
        let piece = chunk.page(&dst, 0, Access::Write)?;
        // What earlier operations wrote may be on its way past the caches.
        chunk.backend.finish();
        // SAFETY: translated in this chunk for writing, and aligned, as pages are.
        let there = unsafe { atomic_u64(piece.host) };
        let (old, result) = match self.change {
            Change::Add(by) => (there.add(by), 0),
            Change::Swap(new) => (there.swap(new), 0),
            Change::CompareSwap { current, new } => {
                let old = there.compare_swap(current, new);
                (old, u8::from(old != current))
            }
        };
        chunk.settle(&[(&dst, Access::Write, BYTES)])?;
        Ok(Completion {
            result,
            op0: old,
            ..success(BYTES as u32)
        })
    }
}
