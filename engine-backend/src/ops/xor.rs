//! XOR (SPEC section 4.20): each source is read once, into a sum in private memory.
//!
//! The list of sources is looked up and checked anew in every chunk, like every operand:
//! nothing of it is kept in between.

use byway_protocols::operands::{Segment, XOR_SOURCES_MAX};
use byway_protocols::{Rights, Status};

use super::chunk::{Chunk, Failure, Operand};
use super::segment;
use super::staging::HALF;
use super::walk::overlap;
use super::{Outcome, Step, success};
use crate::backend::Backend;
use crate::context::Target;
use crate::stage2::Access;

/// Bytes that are summed up at a time: they stay in the first cache.
const PIECE: u64 = 8 << 10;
const _: () = assert!(PIECE as usize <= HALF);

/// Least of each source that is summed up at a time: with all 16 of them a chunk.
const LEAST: u64 = 4 << 10;

/// Most sources.
const SOURCES: usize = XOR_SOURCES_MAX as usize;

/// A sum under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Xor {
    /// List of the sources; right READ, as for each of them.
    pub list: Operand,
    /// Sources, 2 to 16.
    pub count: u16,
    /// Destination; right WRITE.
    pub dst: Operand,
    /// Bytes of each, 1 to 2^31.
    pub size: u32,
    /// Bytes done.
    pub done: u32,
}

impl Xor {
    /// Sums up until done or until the chunk is over.
    pub fn step<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Step {
        let completion = match self.run(chunk) {
            Ok(()) if self.done < self.size => return Step::More,
            Ok(()) => success(self.done),
            Err(failure) => failure.completion(0, self.done),
        };
        Step::Done(Outcome {
            completion,
            bytes: u64::from(self.done),
        })
    }

    fn run<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Result<(), Failure> {
        let passed = u64::from(self.done);
        let left = u64::from(self.size) - passed;
        let count = usize::from(self.count);
        let bytes = count * Segment::SIZE;
        let list = chunk.resolve(self.list, bytes as u64, Rights::READ)?;
        let dst = chunk.resolve(self.dst.plus(passed), left, Rights::WRITE)?;
        if let Some(failure) = chunk.copy_in(&list, 0, 0..bytes).failure {
            return Err(failure);
        }
        let mut sources: [Option<Target<'_>>; SOURCES] = [None; SOURCES];
        for (i, source) in sources.iter_mut().enumerate().take(count) {
            let segment = segment::load(chunk.staging, i);
            if segment.bytes != 0 {
                return Err(Status::ReservedNotZero.into());
            }
            let operand = segment::operand(&segment)?.plus(passed);
            let target = chunk.resolve(operand, left, Rights::READ)?;
            // In place is well-defined, since every byte is read before it is written.
            let same = target.space.id() == dst.space.id() && target.addr == dst.addr;
            if !same && overlap(&target, left, &dst, left) {
                return Err(Status::Overlap.into());
            }
            *source = Some(target);
        }
        let sources = &sources[..count];
        let mut at = 0;
        let mut result = Ok(());
        while at < left && result.is_ok() && !(at > 0 && chunk.budget.is_over()) {
            let share = (chunk.budget.left() / count as u64).clamp(LEAST, PIECE);
            let mut len = share.min(left - at) as usize;
            let mut first = true;
            for source in sources.iter().flatten() {
                let copied = if first {
                    chunk.copy_in(source, at, 0..len)
                } else {
                    chunk.fold_in(source, at, 0..len)
                };
                first = false;
                match copied.units(1) {
                    Ok(bytes) => len = bytes,
                    Err(failure) => {
                        (result, len) = (Err(failure), 0);
                        break;
                    }
                }
            }
            if len == 0 {
                break;
            }
            let copied = chunk.copy_out(&dst, at, 0..len);
            at += copied.bytes as u64;
            chunk.budget.spend(copied.bytes as u64 * count as u64);
            result = copied.failure.map_or(Ok(()), Err);
        }
        self.done += at as u32;
        for source in sources.iter().flatten() {
            chunk.settle(&[(source, Access::Read, at)])?;
        }
        chunk.settle(&[(&dst, Access::Write, at)])?;
        result
    }
}
