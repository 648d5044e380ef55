//! COMPARE and COMPARE_VALUE of ranges that lie in one page each.

use byway_protocols::{Descriptor, Rights};

use super::{Told, ended, find, fits, lost};
use crate::backend::Backend;
use crate::memory::HostAddr;
use crate::ops::budget::OPERATION_COST;
use crate::ops::chunk::{Chunk, Failure, Operand};
use crate::ops::compare::{Compare, Other};
use crate::ops::{Outcome, validate};
use crate::stage2::Access;

/// Carries the descriptor out if it is such a comparison of two ranges, as [`super::try_short`] does a copy.
#[inline(always)]
pub(super) fn try_ranges<B: Backend>(d: &Descriptor, chunk: &mut Chunk<'_, B>) -> Option<Told> {
    let compare = validate::compare(d).ok()?;
    let Other::Range(other) = compare.with else {
        return None;
    };
    if !fits(compare.size, chunk) {
        return None;
    }
    let size = u64::from(compare.size);
    let windows = &chunk.windows;
    let known = (windows.reads.find(compare.src, size)).zip(windows.others.find(other, size));
    let (a, b) = match known {
        Some(known) => known,
        None => look_at_both(chunk, compare.src, other, size)?,
    };
    // SAFETY: the pages were translated in this chunk for reading and hold `size` bytes; guest memory has no references.
    let difference = unsafe { chunk.backend.compare(a, b, size as usize, size) };
    let equal = difference.map_or(size, |offset| offset as u64);
    chunk.windows.reads.passed(equal);
    chunk.windows.others.passed(equal);
    if known.is_none() {
        chunk.windows.reads.opened();
        chunk.windows.others.opened();
    }
    chunk.budget.spend(OPERATION_COST + equal);
    if chunk.has_lost_regions() {
        return Some(ended(
            kept(chunk, [compare.src, other]),
            told(compare, difference),
        ));
    }
    Some(told(compare, difference))
}

/// The same of a range and a value.
#[inline(always)]
pub(super) fn try_value<B: Backend>(d: &Descriptor, chunk: &mut Chunk<'_, B>) -> Option<Told> {
    let compare = validate::compare_value(d).ok()?;
    let Other::Value(value) = compare.with else {
        return None;
    };
    if !fits(compare.size, chunk) {
        return None;
    }
    let size = u64::from(compare.size);
    let known = chunk.windows.reads.find(compare.src, size);
    let src = match known {
        Some(known) => known,
        None => look(chunk, compare.src, size)?,
    };
    let pattern = u128::from(value) | u128::from(value) << 64;
    // SAFETY: the page was translated in this chunk for reading and holds `size` bytes; guest memory has no references.
    let difference = unsafe { (chunk.backend).compare_value(src, size as usize, pattern, size) };
    let equal = difference.map_or(size, |offset| offset as u64);
    chunk.windows.reads.passed(equal);
    if known.is_none() {
        chunk.windows.reads.opened();
    }
    chunk.budget.spend(OPERATION_COST + equal);
    if chunk.has_lost_regions() {
        return Some(ended(kept(chunk, [compare.src]), told(compare, difference)));
    }
    Some(told(compare, difference))
}

/// What is told of a comparison.
#[inline(always)]
fn told(mut compare: Compare, difference: Option<usize>) -> Told {
    compare.done = difference.map_or(compare.size, |offset| offset as u32);
    Told::from(Outcome {
        completion: compare.answer(difference.is_some()),
        bytes: compare.done.into(),
    })
}

/// Finds out where a range is, of which there is a window from now on. What is read of it is to be counted.
#[inline(never)]
fn look<B: Backend>(chunk: &mut Chunk<'_, B>, src: Operand, size: u64) -> Option<HostAddr> {
    let found = find(chunk, src, size, Access::Read)?;
    chunk.windows.reads.open(&found);
    Some(found.host)
}

/// The same of two.
#[inline(never)]
fn look_at_both<B: Backend>(
    chunk: &mut Chunk<'_, B>,
    src: Operand,
    other: Operand,
    size: u64,
) -> Option<(HostAddr, HostAddr)> {
    // Where one is refused, no page of the other is marked accessed.
    chunk.resolve(other, size, Rights::READ).ok()?;
    let src = find(chunk, src, size, Access::Read)?;
    let with = find(chunk, other, size, Access::Read)?;
    chunk.windows.reads.open(&src);
    chunk.windows.others.open(&with);
    Some((src.host, with.host))
}

/// Whether the ranges were there when they were read, if some region was lost.
#[cold]
fn kept<B: Backend, const N: usize>(
    chunk: &Chunk<'_, B>,
    ranges: [Operand; N],
) -> Result<(), Failure> {
    (ranges.into_iter()).try_for_each(|range| lost(chunk, range, Access::Read))
}
