//! The short way: a MEMMOVE of which each operand lies in one page, done in one go.
//!
//! Nearly all small messages are of this kind. It does exactly what
//! [`Execution`](super::Execution) would, but keeps everything in registers: no state that
//! a later chunk would need is ever written to memory and read back. Whatever is not that
//! simple - refused, faulting, across a page's end - is left to the long way, from its
//! beginning.

use byway_protocols::{Completion, Descriptor, Opcode, PAGE_SIZE, Rights};

use super::chunk::Chunk;
use super::memmove::decide;
use super::{Outcome, success, validate};
use crate::backend::{Backend, Hint, IMMEDIATE_BYTES, Order};
use crate::stage2::Access;

/// Longest transfer that is tried, in bytes: one that no backend puts off.
const SIZE_MAX: u32 = IMMEDIATE_BYTES as u32;

/// Carries the descriptor out if it is simple; otherwise nothing has happened, but that
/// pages may have been marked accessed or dirty by walks that succeeded.
#[inline(always)]
pub fn try_short<B: Backend>(d: &Descriptor, chunk: &mut Chunk<'_, B>) -> Option<Outcome> {
    let code = d.code();
    if code != Opcode::Memmove as u8 && code != Opcode::InterDomainMemmove as u8
        || d.size > SIZE_MAX
    {
        return None;
    }
    let memmove = validate::memmove(d).ok()?;
    let size = u64::from(memmove.size);
    let src = chunk.resolve(memmove.src, size, Rights::READ).ok()?;
    let dst = chunk.resolve(memmove.dst, size, Rights::WRITE).ok()?;
    let order = decide(&src, &dst, size, memmove.strict).ok()?;
    // Its end comes first: the beginning's page must not be marked dirty if the end's is missing.
    if order == Order::Descending && dst.addr % PAGE_SIZE + size > PAGE_SIZE {
        return None;
    }
    let from = chunk.page(&src, 0, Access::Read).ok()?;
    if from.len < size {
        return None;
    }
    let to = chunk.page(&dst, 0, Access::Write).ok()?;
    if to.len < size {
        return None;
    }
    let hint = Hint {
        order,
        total: size,
        cached: memmove.cached,
    };
    // SAFETY: both pages were translated in this chunk, one for reading and one for
    // writing, and hold `size` bytes; guest memory has no references.
    unsafe {
        chunk.backend.copy(to.host, from.host, size as usize, hint);
    }
    chunk.budget.spend(size);
    let result = u8::from(order == Order::Descending);
    let moved = [(&src, Access::Read, size), (&dst, Access::Write, size)];
    let completion = match chunk.settle_moved(&moved) {
        Ok(()) => Completion {
            result,
            ..success(memmove.size)
        },
        Err(failure) => failure.completion(result, memmove.size),
    };
    Some(Outcome {
        completion,
        bytes: size,
    })
}
