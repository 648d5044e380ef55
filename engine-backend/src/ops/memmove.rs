//! MEMMOVE (SPEC section 4.5).

use byway_protocols::{Completion, Rights, Status};

use super::chunk::{Chunk, Failure, Operand, Piece};
use super::walk::Track;
use super::{Outcome, Step, success};
use crate::backend::{Backend, Hint, Order};
use crate::context::Target;
use crate::stage2::Access;

/// Bytes of a long copy between two looks at whether somebody waits for the chunk's end: some microseconds, since what is
/// that long is in no cache.
const LOOK_EVERY: u64 = 16 << 10;

/// A copy of more bytes is long.
const LONG: u32 = 4 << 20;

/// Most bytes that are copied in one go, of this many in all. A chunk of what the caches hold is short enough.
#[inline(always)]
fn longest(size: u32) -> u64 {
    if size > LONG { LOOK_EVERY } else { u64::MAX }
}

/// A copy under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memmove {
    /// Source; right READ.
    pub src: Operand,
    /// Destination; right WRITE.
    pub dst: Operand,
    /// Bytes, 1 to 2^31.
    pub size: u32,
    /// The submitter wants the destination in the caches.
    pub cached: bool,
    /// The submitter wants the destination written in ascending order.
    pub strict: bool,
    /// Bytes done, from the end that `order` says.
    pub done: u32,
    /// Decided in the first chunk, when the operands' places are known.
    pub order: Option<Order>,
}

impl Memmove {
    /// Copies until done or until the chunk is over.
    #[inline]
    pub fn step<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Step {
        match self.run(chunk) {
            Ok(()) if self.done < self.size => Step::More,
            Ok(()) => Step::Done(Outcome {
                completion: Completion {
                    result: self.result(),
                    ..success(self.done)
                },
                bytes: u64::from(self.done),
            }),
            Err(failure) => Step::failed(failure, self.result(), self.done),
        }
    }

    /// 1 when it ran backwards.
    pub(super) fn result(&self) -> u8 {
        u8::from(self.done != 0 && self.order == Some(Order::Descending))
    }

    #[inline]
    fn run<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Result<(), Failure> {
        let left = u64::from(self.size - self.done);
        // The rest only: an ascending copy has left the beginning behind.
        let passed = match self.order {
            None | Some(Order::Descending) => 0,
            Some(_) => u64::from(self.done),
        };
        let src = chunk.resolve(self.src.plus(passed), left, Rights::READ)?;
        let dst = chunk.resolve(self.dst.plus(passed), left, Rights::WRITE)?;
        let order = match self.order {
            Some(order) => order,
            None => *self.order.insert(decide(&src, &dst, left, self.strict)?),
        };
        let hint = Hint {
            order,
            total: u64::from(self.size),
            cached: self.cached,
        };
        let before = self.done;
        let result = if order == Order::Descending {
            self.backwards(chunk, &src, &dst, left, hint)
        } else {
            self.forwards(chunk, &src, &dst, left, hint)
        };
        let moved = u64::from(self.done - before);
        chunk.settle(&[(&src, Access::Read, moved), (&dst, Access::Write, moved)])?;
        result
    }

    #[inline]
    fn forwards<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        src: &Target<'_>,
        dst: &Target<'_>,
        left: u64,
        hint: Hint,
    ) -> Result<(), Failure> {
        let longest = longest(self.size);
        let mut at = 0;
        let (mut from, mut to) = (Track::NEW, Track::NEW);
        loop {
            let room = chunk.room(left - at);
            let len = from.reach(chunk, src, at, room, Access::Read)?;
            let len = to.reach(chunk, dst, at, len.min(longest), Access::Write)?;
            let (from, to) = (from.pass(len), to.pass(len));
            // SAFETY: both pieces were translated in this chunk, one for reading and one
            // for writing, and guest memory has no references.
            unsafe { chunk.backend.copy(to, from, len as usize, hint) };
            at += len;
            self.done += len as u32;
            chunk.budget.spend(len);
            if at == left || chunk.is_over() {
                return Ok(());
            }
        }
    }

    fn backwards<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        src: &Target<'_>,
        dst: &Target<'_>,
        left: u64,
        hint: Hint,
    ) -> Result<(), Failure> {
        let longest = longest(self.size);
        let mut end = left;
        let mut from = Piece::NONE;
        loop {
            if from.len == 0 {
                from = chunk.backward(src, end, chunk.room(end), Access::Read)?;
            }
            let to = chunk.backward(dst, end, from.len.min(longest), Access::Write)?;
            let from_host = from.take_back(to.len);
            // SAFETY: as for the ascending copy.
            unsafe {
                chunk
                    .backend
                    .copy(to.host, from_host, to.len as usize, hint);
            }
            end -= to.len;
            self.done += to.len as u32;
            chunk.budget.spend(to.len);
            if end == 0 || chunk.is_over() {
                return Ok(());
            }
        }
    }
}

/// In which direction a copy must run. Only addresses in one address space count: what
/// the guest maps twice is its own matter.
#[inline(always)]
pub(super) fn decide(
    src: &Target<'_>,
    dst: &Target<'_>,
    size: u64,
    strict: bool,
) -> Result<Order, Failure> {
    if src.space.id() == dst.space.id() {
        return decide_in_one(src.addr, dst.addr, size, strict);
    }
    Ok(apart(strict))
}

/// The same for two addresses in one address space.
#[inline(always)]
pub(super) fn decide_in_one(src: u64, dst: u64, size: u64, strict: bool) -> Result<Order, Failure> {
    // Neither range wraps, so a distance below `size` means that they overlap.
    if dst > src && dst - src < size {
        return if strict {
            Err(Status::Overlap.into())
        } else {
            Ok(Order::Descending)
        };
    }
    if src >= dst && src - dst < size {
        return Ok(Order::Ascending);
    }
    Ok(apart(strict))
}

/// The direction for ranges that share no byte.
#[inline(always)]
pub(super) fn apart(strict: bool) -> Order {
    if strict {
        Order::Ascending
    } else {
        Order::Disjoint
    }
}
