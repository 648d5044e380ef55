//! COMPARE and COMPARE_VALUE of ranges that lie in one page each.

use byway_protocols::{Completion, Rights, Status};

use super::{find, fits, lost};
use crate::backend::Backend;
use crate::memory::HostAddr;
use crate::ops::Outcome;
use crate::ops::budget::OPERATION_COST;
use crate::ops::chunk::{Chunk, Failure, Operand};
use crate::ops::compare::{Compare, Other};
use crate::ops::window::{Found, Lone};
use crate::stage2::Access;

/// A range, and how it was found if that was not by its window.
struct Range<'a> {
    host: HostAddr,
    found: Option<Found<'a>>,
}

impl<'a> Range<'a> {
    /// The one that lies at `host`, if it is in its window.
    #[inline(always)]
    fn of<B: Backend>(
        chunk: &mut Chunk<'a, B>,
        operand: Operand,
        size: u64,
        host: Option<HostAddr>,
    ) -> Option<Self> {
        if let Some(host) = host {
            return Some(Self { host, found: None });
        }
        let found = find(chunk, operand, size, Access::Read)?;
        Some(Self {
            host: found.host,
            found: Some(found),
        })
    }

    /// So many bytes of it were read.
    #[inline(always)]
    fn was_read(&self, lone: &mut Lone<'a>, bytes: u64) {
        match &self.found {
            None => lone.passed(bytes),
            Some(found) => lone.open(found, bytes),
        }
    }
}

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
    let host = chunk.windows.reads.find(compare.src, size);
    if host.is_none()
        && let Other::Range(operand) = compare.with
    {
        // Where one is refused, no page of the other is marked accessed.
        chunk.resolve(operand, size, Rights::READ).ok()?;
    }
    let src = Range::of(chunk, compare.src, size, host)?;
    let difference = match compare.with {
        Other::Range(operand) => {
            let host = chunk.windows.others.find(operand, size);
            let with = Range::of(chunk, operand, size, host)?;
            // SAFETY: both pages were translated in this chunk for reading and hold `len` bytes; guest memory has no
            // references.
            let difference = unsafe { chunk.backend.compare(src.host, with.host, len) };
            let equal = difference.map_or(size, |offset| offset as u64);
            with.was_read(&mut chunk.windows.others, equal);
            difference
        }
        Other::Value(value) => {
            let pattern = u128::from(value) | u128::from(value) << 64;
            // SAFETY: as above, for one.
            unsafe { chunk.backend.compare_value(src.host, len, pattern) }
        }
    };
    compare.done = difference.map_or(compare.size, |offset| offset as u32);
    src.was_read(&mut chunk.windows.reads, compare.done.into());
    chunk.budget.spend(OPERATION_COST + u64::from(compare.done));
    let completion = compare.answer(difference.is_some());
    if chunk.has_lost_regions() {
        return Some(ended(chunk, &compare, completion));
    }
    Some(Outcome {
        completion,
        bytes: compare.done.into(),
    })
}

/// How it ended, if some region was lost. Apart, as [`Step::failed`](crate::ops::Step::failed).
#[cold]
#[inline(never)]
fn ended<B: Backend>(chunk: &Chunk<'_, B>, compare: &Compare, answer: Completion) -> Outcome {
    let are_kept = || -> Result<(), Failure> {
        lost(chunk, compare.src, Access::Read)?;
        match compare.with {
            Other::Range(operand) => lost(chunk, operand, Access::Read),
            Other::Value(_) => Ok(()),
        }
    };
    let completion = match are_kept() {
        Ok(()) => answer,
        Err(failure) => failure.completion(0, compare.done),
    };
    Outcome {
        completion,
        bytes: compare.done.into(),
    }
}
