//! FILL of bytes that lie in one page.

use byway_protocols::Descriptor;

use super::{Told, ended, fits, lost, reach};
use crate::backend::Backend;
use crate::ops::budget::OPERATION_COST;
use crate::ops::chunk::Chunk;
use crate::ops::{Outcome, success, validate};
use crate::stage2::Access;

/// Carries the descriptor out if it is such a fill, as [`super::try_short`] does a copy.
#[inline(always)]
pub(super) fn try_fill<B: Backend>(d: &Descriptor, chunk: &mut Chunk<'_, B>) -> Option<Told> {
    if u64::from(d.size) > B::IMMEDIATE || !fits(d.size, chunk) {
        return None;
    }
    let fill = validate::fill(d).ok()?;
    let size = u64::from(fill.size);
    let to = reach(chunk, |w| &mut w.fills, fill.dst, size, Access::Write)?;
    let hint = fill.hint();
    // SAFETY: the page was translated in this chunk for writing and holds `size` bytes; guest memory has no references.
    unsafe { (chunk.backend).fill(to, size as usize, fill.pattern, hint) };
    chunk.budget.spend(OPERATION_COST + size);
    if chunk.iotlb.has_writes() {
        chunk.log_writes();
    }
    let told = || {
        Told::from(Outcome {
            completion: success(fill.size),
            bytes: size,
        })
    };
    if chunk.has_lost_regions() {
        return Some(ended(lost(chunk, fill.dst, Access::Write), told()));
    }
    Some(told())
}
