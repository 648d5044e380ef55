//! COMPARE and COMPARE_VALUE of ranges that lie in one page each.

use byway_protocols::{Rights, Status};

use super::{ended, find, fits, lost};
use crate::backend::Backend;
use crate::memory::HostAddr;
use crate::ops::Outcome;
use crate::ops::budget::OPERATION_COST;
use crate::ops::chunk::{Chunk, Failure};
use crate::ops::compare::{Compare, Other};
use crate::stage2::Access;

/// Carries out what a descriptor asks for if that is such a comparison, as [`super::try_short`] does a copy.
#[inline]
pub(super) fn try_compare<B: Backend>(
    wanted: Result<Compare, Status>,
    chunk: &mut Chunk<'_, B>,
) -> Option<Outcome> {
    let mut compare = wanted.ok()?;
    if !fits(compare.size, chunk) {
        return None;
    }
    let (len, size) = (compare.size as usize, u64::from(compare.size));
    let mut src = chunk.windows.reads.find(compare.src, size);
    let mut with = match compare.with {
        Other::Range(operand) => chunk.windows.others.find(operand, size),
        Other::Value(_) => src,
    };
    let was_known = src.is_some() && with.is_some();
    if !was_known {
        [src, with] = look(chunk, &compare)?.map(Some);
    }
    let (src, with) = (src?, with?);
    // SAFETY: the pages were translated in this chunk for reading and hold `len` bytes; guest memory has no references.
    let difference = unsafe {
        match compare.with {
            Other::Range(_) => chunk.backend.compare(src, with, len, size),
            Other::Value(value) => {
                let pattern = u128::from(value) | u128::from(value) << 64;
                chunk.backend.compare_value(src, len, pattern, size)
            }
        }
    };
    compare.done = difference.map_or(compare.size, |offset| offset as u32);
    let equal = u64::from(compare.done);
    chunk.windows.reads.passed(equal);
    if let Other::Range(_) = compare.with {
        chunk.windows.others.passed(equal);
    }
    if !was_known {
        chunk.windows.reads.opened();
        chunk.windows.others.opened();
    }
    chunk.budget.spend(OPERATION_COST + equal);
    let completion = compare.answer(difference.is_some());
    if chunk.has_lost_regions() {
        return Some(ended(kept(chunk, &compare), &completion));
    }
    Some(Outcome {
        completion,
        bytes: equal,
    })
}

/// Finds out where the ranges are, of which there are windows from now on; the first one twice if there is no other. What is
/// read of them is to be counted.
#[inline(never)]
fn look<B: Backend>(chunk: &mut Chunk<'_, B>, compare: &Compare) -> Option<[HostAddr; 2]> {
    let size = u64::from(compare.size);
    let Other::Range(operand) = compare.with else {
        let src = find(chunk, compare.src, size, Access::Read)?;
        chunk.windows.reads.open(&src);
        return Some([src.host; 2]);
    };
    // Where one is refused, no page of the other is marked accessed.
    chunk.resolve(operand, size, Rights::READ).ok()?;
    let src = find(chunk, compare.src, size, Access::Read)?;
    let with = find(chunk, operand, size, Access::Read)?;
    chunk.windows.reads.open(&src);
    chunk.windows.others.open(&with);
    Some([src.host, with.host])
}

/// Whether the ranges were there when they were read, if some region was lost.
#[cold]
fn kept<B: Backend>(chunk: &Chunk<'_, B>, compare: &Compare) -> Result<(), Failure> {
    lost(chunk, compare.src, Access::Read)?;
    match compare.with {
        Other::Range(operand) => lost(chunk, operand, Access::Read),
        Other::Value(_) => Ok(()),
    }
}
