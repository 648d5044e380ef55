//! The short way: a MEMMOVE of which each operand lies in one page, done in one go.
//!
//! Nearly all small messages are of this kind. It does exactly what
//! [`Execution`](super::Execution) would, but keeps everything in registers: no state that
//! a later chunk would need is ever written to memory and read back. Whatever is not that
//! simple - refused, faulting, across a page's end - is left to the long way, from its
//! beginning. In a burst most of it is done once for many ([`Windows`]).

use byway_protocols::{Completion, Descriptor, Opcode, PAGE_SIZE, Rights, Status};

use super::budget::OPERATION_COST;
use super::chunk::{Chunk, Failure, seen_as};
use super::memmove::{Memmove, apart, decide, decide_in_one};
use super::window::Windows;
use super::{Outcome, success, validate};
use crate::backend::{Backend, Hint, IMMEDIATE_BYTES, Order};
use crate::memory::{HostAddr, sigbus};
use crate::stage2::Access;

/// Longest transfer that is tried, in bytes: one that no backend puts off.
const SIZE_MAX: u32 = IMMEDIATE_BYTES as u32;

/// Both operands on the host, and the direction of the copy.
type Places = (HostAddr, HostAddr, Order);

/// Carries the descriptor out if it is simple, and charges the budget for it; otherwise nothing
/// has happened, but that pages may have been marked accessed or dirty by walks that succeeded.
/// `windows` are those of the chunk.
#[inline(always)]
pub fn try_short<'a, B: Backend>(
    d: &Descriptor,
    chunk: &mut Chunk<'a, B>,
    windows: &mut Windows<'a>,
) -> Option<Outcome> {
    let code = d.code();
    if code != Opcode::Memmove as u8 && code != Opcode::InterDomainMemmove as u8
        || d.size > SIZE_MAX
    {
        return None;
    }
    let memmove = validate::memmove(d).ok()?;
    let size = u64::from(memmove.size);
    let (from, to, order) = match through(windows, &memmove, size) {
        Some(places) => places,
        None => look(chunk, windows, &memmove, size)?,
    };
    let hint = Hint {
        order,
        total: size,
        cached: memmove.cached,
    };
    // SAFETY: both pages were translated in this chunk, one for reading and one for
    // writing, and hold `size` bytes; guest memory has no references.
    unsafe {
        chunk.backend.copy(to, from, size as usize, hint);
    }
    chunk.budget.spend(OPERATION_COST + size);
    let result = u8::from(order == Order::Descending);
    if chunk.iotlb.has_writes() {
        chunk.log_writes();
    }
    let completion = if sigbus::generation() == chunk.regions_lost {
        Completion {
            result,
            ..success(memmove.size)
        }
    } else {
        match lost(chunk, &memmove) {
            None => Completion {
                result,
                ..success(memmove.size)
            },
            Some(failure) => failure.completion(result, memmove.size),
        }
    };
    Some(Outcome {
        completion,
        bytes: size,
    })
}

/// Where the operands are, if both lie in their windows; their bytes are counted.
#[inline(always)]
fn through(windows: &mut Windows<'_>, memmove: &Memmove, size: u64) -> Option<Places> {
    let from = windows.src.find(memmove.src, size)?;
    let to = windows.dst.find(memmove.dst, size)?;
    let order = if windows.are_apart {
        apart(memmove.strict)
    } else {
        // In one address space, in which the windows know where they are.
        let src = windows.src.address(memmove.src);
        let dst = windows.dst.address(memmove.dst);
        decide_in_one(src, dst, size, memmove.strict).ok()?
    };
    windows.moved(size);
    Some((from, to, order))
}

/// Finds out where the operands are; their bytes are counted, and there are windows for them
/// from now on. `None` when one is not that simple.
#[inline]
fn look<'a, B: Backend>(
    chunk: &mut Chunk<'a, B>,
    windows: &mut Windows<'a>,
    memmove: &Memmove,
    size: u64,
) -> Option<Places> {
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
    windows.open(chunk, (memmove.src, &src), (memmove.dst, &dst), size);
    Some((from.host, to.host, order))
}

/// Why what was moved may be gone: a region lost its backing meanwhile.
#[cold]
fn lost<B: Backend>(chunk: &Chunk<'_, B>, memmove: &Memmove) -> Option<Failure> {
    let operands = [
        (memmove.src, Rights::READ, false),
        (memmove.dst, Rights::WRITE, true),
    ];
    operands.into_iter().find_map(|(operand, need, write)| {
        match chunk.resolve(operand, 0, need) {
            Ok(target) => target.space.memory().is_dead().then(|| Failure {
                status: seen_as(&target, Status::RegionGone),
                write,
                addr: operand.addr,
            }),
            // Taken back in the same moment.
            Err(failure) => Some(failure),
        }
    })
}
