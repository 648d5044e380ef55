//! CACHE_FLUSH (SPEC section 4.18).

use byway_protocols::Rights;

use super::Step;
use super::chunk::{Chunk, Failure, Operand};
use super::walk::along;
use crate::backend::Backend;
use crate::stage2::Access;

/// A flush under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheFlush {
    /// What is flushed; right READ, since no byte changes.
    pub dst: Operand,
    /// Bytes, 1 to 2^31.
    pub size: u32,
    /// Lines may stay in the caches once written back.
    pub keep: bool,
    /// Bytes done.
    pub done: u32,
}

impl CacheFlush {
    /// Flushes until done or until the chunk is over.
    pub fn step<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Step {
        let result = self.run(chunk);
        Step::after(result, self.done, self.size)
    }

    fn run<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Result<(), Failure> {
        let passed = u64::from(self.done);
        let left = u64::from(self.size) - passed;
        let dst = chunk.resolve(self.dst.plus(passed), left, Rights::READ)?;
        let keep = self.keep;
        let (at, result) = along(chunk, &dst, left, Access::Read, |backend, at, len| {
            // SAFETY: translated in this chunk for reading; a flush changes nothing.
            unsafe { backend.flush(at, len, keep) };
        });
        self.done += at as u32;
        chunk.settle(&[(&dst, Access::Read, at)])?;
        result
    }
}
