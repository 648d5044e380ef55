//! FILL of bytes that lie in one page.

use byway_protocols::Descriptor;

use super::{find, fits, lost};
use crate::backend::Backend;
use crate::ops::budget::OPERATION_COST;
use crate::ops::chunk::{Chunk, Operand};
use crate::ops::{Outcome, success, validate};
use crate::stage2::Access;

/// Carries the descriptor out if it is such a fill, as [`super::try_short`] does a copy.
#[inline(always)]
pub(super) fn try_fill<B: Backend>(d: &Descriptor, chunk: &mut Chunk<'_, B>) -> Option<Outcome> {
    if u64::from(d.size) > B::IMMEDIATE || !fits(d.size, chunk) {
        return None;
    }
    let fill = validate::fill(d).ok()?;
    let size = u64::from(fill.size);
    let to = match chunk.windows.fills.find(fill.dst, size) {
        Some(to) => {
            chunk.windows.fills.passed(size);
            to
        }
        None => {
            let found = find(chunk, fill.dst, size, Access::Write)?;
            let fills = &mut chunk.windows.fills;
            fills.open(&found);
            fills.passed(size);
            fills.opened();
            found.host
        }
    };
    let hint = fill.hint();
    // SAFETY: the page was translated in this chunk for writing and holds `size` bytes; guest memory has no references.
    unsafe { (chunk.backend).fill(to, size as usize, fill.pattern, hint) };
    chunk.budget.spend(OPERATION_COST + size);
    if chunk.iotlb.has_writes() {
        chunk.log_writes();
    }
    if chunk.has_lost_regions() {
        return Some(ended(chunk, fill.dst, fill.size));
    }
    Some(Outcome {
        completion: success(fill.size),
        bytes: size,
    })
}

/// How it ended, if some region was lost. Apart, as [`Step::failed`](crate::ops::Step::failed).
#[cold]
#[inline(never)]
fn ended<B: Backend>(chunk: &Chunk<'_, B>, dst: Operand, size: u32) -> Outcome {
    let completion = match lost(chunk, dst, Access::Write) {
        Ok(()) => success(size),
        Err(failure) => failure.completion(0, size),
    };
    Outcome {
        completion,
        bytes: size.into(),
    }
}
