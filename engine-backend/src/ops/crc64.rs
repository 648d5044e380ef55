//! CRC64 (SPEC section 4.19): CRC-64/NVME, on private copies.

use byway_protocols::{Completion, Rights};
use crc_fast::{CrcAlgorithm, Digest};

use super::chunk::{Chunk, Failure, Operand};
use super::staging::HALF;
use super::{Outcome, Step, success};
use crate::backend::Backend;
use crate::stage2::Access;

/// Bytes that are taken in at a time: they stay in the first cache until the library has gone over them.
const PIECE: u64 = 16 << 10;
const _: () = assert!(PIECE as usize <= HALF);

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
        let completion = match self.run(chunk) {
            Ok(()) if self.done < self.size => return Step::More,
            Ok(()) => success(self.done),
            Err(failure) => failure.completion(0, self.done),
        };
        Step::Done(Outcome {
            completion: Completion {
                op0: self.crc,
                ..completion
            },
            bytes: u64::from(self.done),
        })
    }

    fn run<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Result<(), Failure> {
        let passed = u64::from(self.done);
        let left = u64::from(self.size) - passed;
        let src = chunk.resolve(self.src.plus(passed), left, Rights::READ)?;
        // The library's state is the register, which is inverted at both ends.
        let mut sum = Digest::new_with_init_state(CrcAlgorithm::Crc64Nvme, !self.crc);
        let mut at = 0;
        let mut result = Ok(());
        while at < left && result.is_ok() && !(at > 0 && chunk.is_over()) {
            let len = chunk.room(left - at).min(PIECE);
            let copied = chunk.copy_in(&src, at, 0..len as usize);
            sum.update(&chunk.staging.bytes()[..copied.bytes]);
            at += copied.bytes as u64;
            chunk.budget.spend(copied.bytes as u64);
            result = copied.failure.map_or(Ok(()), Err);
        }
        self.done += at as u32;
        self.crc = sum.finalize();
        chunk.settle(&[(&src, Access::Read, at)])?;
        result
    }
}
