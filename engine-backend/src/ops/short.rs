//! The short way: a MEMMOVE of which each operand lies in one page, done in one go.
//!
//! Nearly all small messages are of this kind. It does exactly what
//! [`Execution`](super::Execution) would, but keeps everything in registers: no state that
//! a later chunk would need is ever written to memory and read back. Whatever is not that
//! simple - refused, faulting, across a page's end - is left to the long way, from its
//! beginning. In a burst most of it is done once for many ([`Windows`]).

use byway_protocols::{Completion, Descriptor, Opcode, PAGE_SIZE, Rights, Status};

use super::budget::OPERATION_COST;
use super::chunk::{Chunk, Failure, Operand, seen_as};
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
    let Memmove {
        src,
        dst,
        size,
        cached,
        strict,
        ..
    } = validate::memmove(d).ok()?;
    let size = u64::from(size);
    let (from, to, order) = match through(windows, src, dst, size, strict) {
        Some(places) => places,
        None => look(chunk, windows, src, dst, size, strict)?,
    };
    let hint = Hint {
        order,
        total: size,
        cached,
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
    let mut completion = Completion {
        result,
        ..success(d.size)
    };
    if sigbus::generation() != chunk.regions_lost
        && let Some(failure) = lost(chunk, src, dst)
    {
        completion = failure.completion(result, d.size);
    }
    Some(Outcome {
        completion,
        bytes: size,
    })
}

/// Where the operands are, if both lie in their windows; their bytes are counted.
#[inline(always)]
fn through(
    windows: &mut Windows<'_>,
    src: Operand,
    dst: Operand,
    size: u64,
    strict: bool,
) -> Option<Places> {
    let from = windows.src.find(src, size)?;
    let to = windows.dst.find(dst, size)?;
    let order = if windows.are_apart {
        apart(strict)
    } else {
        // In one address space, in which the windows know where they are.
        let src = windows.src.address(src);
        let dst = windows.dst.address(dst);
        decide_in_one(src, dst, size, strict).ok()?
    };
    windows.moved(size);
    Some((from, to, order))
}

/// Finds out where the operands are; their bytes are counted, and there are windows for them
/// from now on. `None` when one is not that simple.
#[inline(never)]
fn look<'a, B: Backend>(
    chunk: &mut Chunk<'a, B>,
    windows: &mut Windows<'a>,
    src_operand: Operand,
    dst_operand: Operand,
    size: u64,
    strict: bool,
) -> Option<Places> {
    let src = chunk.resolve(src_operand, size, Rights::READ).ok()?;
    let dst = chunk.resolve(dst_operand, size, Rights::WRITE).ok()?;
    let order = decide(&src, &dst, size, strict).ok()?;
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
    windows.open(chunk, (src_operand, &src), (dst_operand, &dst), size);
    Some((from.host, to.host, order))
}

/// Why what was moved may be gone: a region lost its backing meanwhile.
#[cold]
fn lost<B: Backend>(chunk: &Chunk<'_, B>, src: Operand, dst: Operand) -> Option<Failure> {
    let operands = [(src, Rights::READ, false), (dst, Rights::WRITE, true)];
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
