//! FILL (SPEC section 4.6).

use byway_protocols::Rights;

use super::Step;
use super::chunk::{Chunk, Failure, Operand};
use super::walk::Track;
use crate::backend::{Backend, Hint, Order};
use crate::stage2::Access;

/// A fill under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// Destination; right WRITE.
    pub dst: Operand,
    /// 16 bytes, the least significant first; an 8-byte pattern twice.
    pub pattern: u128,
    /// Bytes, 1 to 2^31.
    pub size: u32,
    /// The submitter wants the destination in the caches.
    pub cached: bool,
    /// The submitter wants the destination written in ascending order.
    pub strict: bool,
    /// Bytes done.
    pub done: u32,
}

impl Fill {
    /// Fills until done or until the chunk is over.
    pub fn step<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Step {
        let result = self.run(chunk);
        Step::after(result, self.done, self.size)
    }

    /// How it is to be written.
    #[inline(always)]
    pub(super) fn hint(&self) -> Hint {
        Hint {
            order: if self.strict {
                Order::Ascending
            } else {
                Order::Disjoint
            },
            total: u64::from(self.size),
            cached: self.cached,
        }
    }

    fn run<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Result<(), Failure> {
        let left = u64::from(self.size - self.done);
        let dst = chunk.resolve(self.dst.plus(u64::from(self.done)), left, Rights::WRITE)?;
        let hint = self.hint();
        let mut at = 0;
        let mut result = Ok(());
        let mut track = Track::NEW;
        while at < left && !(at > 0 && chunk.is_over()) {
            let room = chunk.room(left - at);
            let len = match track.reach(chunk, &dst, at, room, Access::Write) {
                Ok(len) => len,
                Err(failure) => {
                    result = Err(failure);
                    break;
                }
            };
            let to = track.pass(len);
            // The pattern goes on where the piece before ended.
            let pattern = self.pattern.rotate_right(8 * (self.done % 16));
            // SAFETY: the piece was translated in this chunk for writing, and guest
            // memory has no references.
            unsafe { chunk.backend.fill(to, len as usize, pattern, hint) };
            at += len;
            self.done += len as u32;
            chunk.budget.spend(len);
        }
        chunk.settle(&[(&dst, Access::Write, at)])?;
        result
    }
}
