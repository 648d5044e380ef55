//! CRC64 (SPEC section 4.19): CRC-64/NVME.

use byway_protocols::Rights;

use super::Step;
use super::chunk::{Chunk, Failure, Operand};
use super::walk::along;
use crate::backend::Backend;
use crate::stage2::Access;

/// A CRC-64 under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crc64 {
    /// Source; right READ.
    pub src: Operand,
    /// Bytes, 1 to 2^31.
    pub size: u32,
    /// Bytes done.
    pub done: u32,
    /// Checksum of these, and of what came before.
    pub crc: u64,
}

impl Crc64 {
    /// Goes on until done or until the chunk is over.
    pub fn step<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Step {
        let result = self.run(chunk);
        Step::after(result, self.done, self.size).telling(self.crc)
    }

    fn run<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Result<(), Failure> {
        let passed = u64::from(self.done);
        let left = u64::from(self.size) - passed;
        let src = chunk.resolve(self.src.plus(passed), left, Rights::READ)?;
        // The library's state is the register, which is inverted at both ends.
        let mut crc = self.crc;
        let (at, result) = along(chunk, &src, left, Access::Read, |backend, from, len| {
            // SAFETY: translated in this chunk for reading.
            crc = unsafe { backend.crc64(from, len, crc) };
        });
        self.done += at as u32;
        self.crc = crc;
        chunk.settle(&[(&src, Access::Read, at)])?;
        result
    }
}
