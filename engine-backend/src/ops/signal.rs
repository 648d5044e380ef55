//! SIGNAL (SPEC section 4.23): the one way to tell a third party that data has arrived.

use byway_protocols::{Rights, Status};

use super::chunk::{Chunk, Failure, Operand};
use super::{Outcome, Step, success};
use crate::backend::{Backend, atomic_u64};
use crate::stage2::Access;

/// Bytes of what it stores.
const BYTES: u64 = 8;

/// A value to be published. When it starts, all before it in its queue or batch is
/// complete: it implies a fence (`validate::has_fence`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal {
    /// Where; right WRITE.
    pub dst: Operand,
    /// What is stored.
    pub value: u64,
}

impl Signal {
    /// Done in one go.
    pub fn step<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Step {
        let (completion, bytes) = match self.run(chunk) {
            Ok(()) => (success(BYTES as u32), BYTES),
            Err(failure) => (failure.completion(0, 0), 0),
        };
        Step::Done(Outcome { completion, bytes })
    }

    fn run<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Result<(), Failure> {
        let dst = chunk.resolve(self.dst, BYTES, Rights::WRITE)?;
        if !dst.addr.is_multiple_of(BYTES) {
            return Err(Status::AddressAlignment.into());
        }
        let piece = chunk.page(&dst, 0, Access::Write)?;
        // Streaming stores of earlier operations first.
        chunk.backend.finish();
        // SAFETY: translated in this chunk for writing, and aligned, as pages are.
        unsafe { atomic_u64(piece.host) }.publish(self.value);
        chunk.settle(&[(&dst, Access::Write, BYTES)])
    }
}
