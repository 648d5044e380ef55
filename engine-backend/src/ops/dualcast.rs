//! DUALCAST (SPEC section 4.12).

use byway_protocols::{Rights, Status};

use super::Step;
use super::chunk::{Chunk, Failure, Operand};
use super::walk::{abreast, overlap};
use crate::backend::{Backend, Hint, Order};
use crate::stage2::Access;

/// A copy to two places under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dualcast {
    /// Source; right READ.
    pub src: Operand,
    /// Destinations; right WRITE.
    pub dst: [Operand; 2],
    /// Bytes, 1 to 2^31.
    pub size: u32,
    /// The submitter wants the destinations in the caches.
    pub cached: bool,
    /// Bytes done.
    pub done: u32,
}

impl Dualcast {
    /// Copies until done or until the chunk is over.
    pub fn step<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Step {
        let result = self.run(chunk);
        Step::after(result, self.done, self.size)
    }

    fn run<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Result<(), Failure> {
        let passed = u64::from(self.done);
        let left = u64::from(self.size) - passed;
        let src = chunk.resolve(self.src.plus(passed), left, Rights::READ)?;
        let [first, second] = self.dst.map(|dst| dst.plus(passed));
        let first = chunk.resolve(first, left, Rights::WRITE)?;
        let second = chunk.resolve(second, left, Rights::WRITE)?;
        for (a, b) in [(&src, &first), (&src, &second), (&first, &second)] {
            if overlap(a, left, b, left) {
                return Err(Status::Overlap.into());
            }
        }
        let hint = Hint {
            order: Order::Disjoint,
            total: u64::from(self.size),
            cached: self.cached,
        };
        let both = [&first, &second];
        let (at, result) = abreast(chunk, &src, both, left, |backend, to, from, len| {
            // SAFETY: all were translated in this chunk, the source for reading and the
            // destinations for writing, and guest memory has no references.
            unsafe { backend.dualcast(to, from, len, hint) };
        });
        self.done += at as u32;
        chunk.settle(&[
            (&src, Access::Read, at),
            (&first, Access::Write, at),
            (&second, Access::Write, at),
        ])?;
        result
    }
}
