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

/// Segments of a list that were read and are not used up. They share a line of the list, which is fetched as a whole
/// anyway; what is left of them when the chunk ends is read anew in the next one.
#[derive(Debug, Clone, Copy)]
struct Ahead {
    segments: [Segment; AHEAD],
    taken: usize,
    read: usize,
}

/// Segments of a line.
const AHEAD: usize = 64 / Segment::SIZE;

impl Ahead {
    fn new() -> Self {
        Self {
            segments: [Segment::default(); AHEAD],
            taken: 0,
            read: 0,
        }
    }

    /// The next segment, which comes from what is in this line of the list.
    fn next<B: Backend>(
        &mut self,
        side: &Side,
        chunk: &mut Chunk<'_, B>,
    ) -> Result<Segment, Failure> {
        if self.taken == self.read {
            let rest = side.count - side.next;
            let from = side.list.plus(u64::from(side.next) * Segment::SIZE as u64);
            let of_line = AHEAD - (from.addr as usize / Segment::SIZE) % AHEAD;
            let count = of_line.min(rest.into());
            let bytes = count * Segment::SIZE;
            let all = u64::from(rest) * Segment::SIZE as u64;
            let list = chunk.resolve(from, all, Rights::READ)?;
            if let Some(failure) = chunk.copy_in(&list, 0, 0..bytes).failure {
                return Err(failure);
            }
            for (index, segment) in self.segments.iter_mut().enumerate().take(count) {
                *segment = segment::load(chunk.staging, index);
            }
            chunk.settle(&[(&list, Access::Read, bytes as u64)])?;
            (self.taken, self.read) = (0, count);
        }
        let segment = self.segments[self.taken];
        self.taken += 1;
        Ok(segment)
    }
}

impl Side {
    /// Takes the next segment in hand when the one before is used up: numbers that stay until it is used up.
    fn refill<B: Backend>(
        &mut self,
        ahead: &mut Ahead,
        chunk: &mut Chunk<'_, B>,
    ) -> Result<(), Failure> {
        if self.left != 0 {
            return Ok(());
        }
        if self.next == self.count {
            return Err(Status::BadCount.into());
        }
        let segment = ahead.next(self, chunk)?;
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
        let mut ahead = [Ahead::new(); 2];
        let mut started = false;
        while self.done < self.size && !(started && chunk.is_spent()) {
            started = true;
            self.src.refill(&mut ahead[0], chunk)?;
            self.dst.refill(&mut ahead[1], chunk)?;
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
