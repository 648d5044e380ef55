//! CRC_GEN and COPY_CRC (SPEC sections 4.14 and 4.15).

use byway_protocols::{Rights, Status};

use super::Step;
use super::chunk::{Chunk, Failure, Operand};
use super::walk::{abreast, along, overlap};
use crate::backend::{Backend, Hint, Order};
use crate::stage2::Access;

/// A CRC-32C under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crc {
    /// Source; right READ.
    pub src: Operand,
    /// COPY_CRC: destination; right WRITE.
    pub dst: Option<Operand>,
    /// Bytes, 1 to 2^31.
    pub size: u32,
    /// The submitter wants the destination in the caches.
    pub cached: bool,
    /// The submitter wants the destination written in ascending order.
    pub strict: bool,
    /// Bytes done.
    pub done: u32,
    /// Checksum of these, and of what came before.
    pub crc: u32,
}

impl Crc {
    /// Goes on until done or until the chunk is over.
    pub fn step<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Step {
        let result = self.run(chunk);
        Step::after(result, self.done, self.size).telling(u64::from(self.crc))
    }

    fn run<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Result<(), Failure> {
        let passed = u64::from(self.done);
        let left = u64::from(self.size) - passed;
        let src = chunk.resolve(self.src.plus(passed), left, Rights::READ)?;
        let mut crc = self.crc;
        let (at, result) = if let Some(dst) = self.dst {
            let dst = chunk.resolve(dst.plus(passed), left, Rights::WRITE)?;
            if overlap(&src, left, &dst, left) {
                return Err(Status::Overlap.into());
            }
            let hint = Hint {
                order: if self.strict {
                    Order::Ascending
                } else {
                    Order::Disjoint
                },
                total: u64::from(self.size),
                cached: self.cached,
            };
            let walked = abreast(chunk, &src, [&dst], left, |backend, [to], from, len| {
                // SAFETY: both were translated in this chunk, one for reading and one for
                // writing, and guest memory has no references.
                crc = unsafe { backend.copy_crc32c(to, from, len, crc, hint) };
            });
            self.advance(walked.0, crc);
            let moved = [
                (&src, Access::Read, walked.0),
                (&dst, Access::Write, walked.0),
            ];
            chunk.settle(&moved)?;
            walked
        } else {
            let walked = along(chunk, &src, left, Access::Read, |backend, from, len| {
                // SAFETY: translated in this chunk for reading.
                crc = unsafe { backend.crc32c(from, len, crc) };
            });
            self.advance(walked.0, crc);
            chunk.settle(&[(&src, Access::Read, walked.0)])?;
            walked
        };
        debug_assert!(at <= left);
        result
    }

    fn advance(&mut self, bytes: u64, crc: u32) {
        self.done += bytes as u32;
        self.crc = crc;
    }
}
