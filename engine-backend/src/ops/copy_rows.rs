//! COPY_SG of rows (SPEC section 4.21): pieces of one length at fixed distances.

use byway_protocols::{Rights, Status};

use super::Step;
use super::chunk::{Chunk, Failure, Operand};
use super::walk::overlap;
use crate::backend::{Backend, Hint, Order};
use crate::stage2::Access;

/// What a row costs of a chunk's budget beside its bytes.
const ROW_COST: u64 = 64;

/// A copy of rows under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyRows {
    /// First row of the source; right READ.
    pub src: Operand,
    /// First row of the destination; right WRITE.
    pub dst: Operand,
    /// Bytes of a row, at least 1.
    pub row: u32,
    /// From one row of the source to the next, in bytes.
    pub src_stride: u64,
    /// From one row of the destination to the next, in bytes.
    pub dst_stride: u64,
    /// Bytes, a multiple of `row`, up to 2^31.
    pub size: u32,
    /// The submitter wants the destination in the caches.
    pub cached: bool,
    /// Bytes done.
    pub done: u32,
}

impl CopyRows {
    /// Copies until done or until the chunk is over.
    pub fn step<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Step {
        let result = self.run(chunk);
        Step::after(result, self.done, self.size)
    }

    /// From the first byte of the first row to the last of the last.
    fn extent(&self, stride: u64) -> Result<u64, Failure> {
        u64::from(self.size / self.row - 1)
            .checked_mul(stride)
            .and_then(|starts| starts.checked_add(u64::from(self.row)))
            .ok_or_else(|| Status::Bounds.into())
    }

    fn run<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Result<(), Failure> {
        let extents = [self.extent(self.src_stride)?, self.extent(self.dst_stride)?];
        let src = chunk.resolve(self.src, extents[0], Rights::READ)?;
        let dst = chunk.resolve(self.dst, extents[1], Rights::WRITE)?;
        let hint = Hint {
            order: if overlap(&src, extents[0], &dst, extents[1]) {
                Order::Ascending
            } else {
                Order::Disjoint
            },
            total: u64::from(self.size),
            cached: self.cached,
        };
        let before = self.done;
        let mut result = Ok(());
        while self.done < self.size && !(self.done > before && chunk.is_spent()) {
            let (row, column) = (self.done / self.row, u64::from(self.done % self.row));
            // Inside the extents, so neither wraps.
            let from = u64::from(row) * self.src_stride + column;
            let to = u64::from(row) * self.dst_stride + column;
            let room = chunk.room(u64::from(self.row) - column);
            let pieces = chunk
                .forward(&src, from, room, Access::Read)
                .and_then(|from| Ok((from, chunk.forward(&dst, to, from.len, Access::Write)?)));
            let (from, to) = match pieces {
                Ok(pieces) => pieces,
                Err(failure) => {
                    result = Err(failure);
                    break;
                }
            };
            // SAFETY: both pieces were translated in this chunk, one for reading and one
            // for writing, and guest memory has no references.
            unsafe {
                chunk
                    .backend
                    .copy(to.host, from.host, to.len as usize, hint);
            }
            self.done += to.len as u32;
            chunk.budget.spend(to.len + ROW_COST);
        }
        let moved = u64::from(self.done - before);
        chunk.settle(&[(&src, Access::Read, moved), (&dst, Access::Write, moved)])?;
        result
    }
}
