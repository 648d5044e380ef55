//! COPY_SG of lists (SPEC section 4.21): gathers, scatters, or both at once.

use byway_protocols::operands::Segment;
use byway_protocols::{Completion, Rights, Status};

use super::chunk::{Chunk, Failure, Operand};
use super::segment;
use super::walk::{abreast, overlap};
use super::{Outcome, Step, success};
use crate::backend::{Backend, Hint, Order};
use crate::stage2::Access;

/// What a segment costs of a chunk's budget beside its bytes.
const SEGMENT_COST: u64 = 128;

/// One side of a copy: a list and the segment of it that is in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Side {
    /// The list, right READ; not looked at when `count` is 0.
    pub list: Operand,
    /// Segments in the list; 0: the one in hand is the whole side.
    pub count: u16,
    /// The segment that follows the one in hand.
    pub next: u16,
    /// What is left of the one in hand.
    pub segment: Operand,
    /// Bytes of it.
    pub left: u32,
}

impl Side {
    /// Takes the next segment in hand when the one before is used up. It is read once,
    /// into numbers that stay until it is used up.
    fn refill<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Result<(), Failure> {
        if self.left != 0 {
            return Ok(());
        }
        if self.next == self.count {
            return Err(Status::BadCount.into());
        }
        let at = u64::from(self.next) * Segment::SIZE as u64;
        let rest = u64::from(self.count - self.next) * Segment::SIZE as u64;
        let list = chunk.resolve(self.list.plus(at), rest, Rights::READ)?;
        if let Some(failure) = chunk.copy_in(&list, 0, 0..Segment::SIZE).failure {
            return Err(failure);
        }
        let segment = segment::load(chunk.staging, 0);
        chunk.settle(&[(&list, Access::Read, Segment::SIZE as u64)])?;
        let operand = segment::operand(&segment)?;
        if segment.bytes == 0 {
            return Err(Status::BadSize.into());
        }
        chunk.budget.spend(SEGMENT_COST);
        (self.segment, self.left) = (operand, segment.bytes);
        self.next += 1;
        Ok(())
    }

    fn pass(&mut self, bytes: u32) {
        self.segment = self.segment.plus(bytes.into());
        self.left -= bytes;
    }

    /// Segments of the list that are used up.
    fn used(&self) -> u64 {
        u64::from(self.next - u16::from(self.count != 0 && self.next != 0 && self.left != 0))
    }
}

/// A copy of lists under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopySg {
    /// Where bytes come from; right READ.
    pub src: Side,
    /// Where they go; right WRITE.
    pub dst: Side,
    /// Bytes, 1 to 2^31.
    pub size: u32,
    /// The submitter wants the destination in the caches.
    pub cached: bool,
    /// Bytes done.
    pub done: u32,
}

impl CopySg {
    /// Copies until done or until the chunk is over.
    pub fn step<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Step {
        let completion = match self.run(chunk) {
            Ok(()) if self.done < self.size => return Step::More,
            Ok(()) => success(self.done),
            Err(failure) => failure.completion(0, self.done),
        };
        Step::Done(Outcome {
            completion: Completion {
                op0: self.src.used() | self.dst.used() << 32,
                ..completion
            },
            bytes: u64::from(self.done),
        })
    }

    fn run<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Result<(), Failure> {
        let mut started = false;
        while self.done < self.size && !(started && chunk.is_spent()) {
            started = true;
            self.src.refill(chunk)?;
            self.dst.refill(chunk)?;
            let left = (self.size - self.done)
                .min(self.src.left)
                .min(self.dst.left);
            let len = u64::from(left);
            let src = chunk.resolve(self.src.segment, len, Rights::READ)?;
            let dst = chunk.resolve(self.dst.segment, len, Rights::WRITE)?;
            let hint = Hint {
                order: if overlap(&src, len, &dst, len) {
                    Order::Ascending
                } else {
                    Order::Disjoint
                },
                total: u64::from(self.size),
                cached: self.cached,
            };
            let (at, result) = abreast(chunk, &src, [&dst], len, |backend, [to], from, len| {
                // SAFETY: both were translated in this chunk, one for reading and one for
                // writing, and guest memory has no references.
                unsafe { backend.copy(to, from, len, hint) };
            });
            self.src.pass(at as u32);
            self.dst.pass(at as u32);
            self.done += at as u32;
            chunk.settle(&[(&src, Access::Read, at), (&dst, Access::Write, at)])?;
            result?;
        }
        Ok(())
    }
}
