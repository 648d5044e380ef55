//! COPY_SG of rows that lie in one page on either side.

use byway_protocols::{Descriptor, Rights};

use super::{Told, check_regions, ended, fits};
use crate::backend::Backend;
use crate::ops::budget::OPERATION_COST;
use crate::ops::chunk::Chunk;
use crate::ops::copy_rows::{CopyRows, ROW_COST};
use crate::ops::{Outcome, success, validate};
use crate::stage2::Access;

/// Carries the descriptor out if it is such a copy, as [`super::try_short`] does one of a single row.
#[inline(never)]
pub(super) fn try_rows<B: Backend>(d: &Descriptor, chunk: &mut Chunk<'_, B>) -> Option<Told> {
    let copy = validate::copy_rows(d).ok()?;
    let size = u64::from(copy.size);
    let rows = copy.size / copy.row;
    let cost = size + u64::from(rows) * ROW_COST;
    if size > B::IMMEDIATE || !fits(copy.size, chunk) || !chunk.has_room(cost) {
        return None;
    }
    let extents = copy.extents().ok()?;
    let in_windows = |chunk: &Chunk<'_, B>| {
        let places = chunk.windows.places();
        places.may_overlap((copy.src, extents[0]), (copy.dst, extents[1]))
    };
    let overlaps = match in_windows(chunk) {
        Some(overlaps) => overlaps,
        None => {
            look(chunk, &copy, extents)?;
            in_windows(chunk)?
        }
    };
    let row = u64::from(copy.row);
    let places = chunk.windows.places();
    let (from, to) = (places.src.of_size(row), places.dst.of_size(row));
    let copies = (chunk.backend).prepare(copy.row as usize, copy.hint(overlaps));
    let (mut src, mut dst) = (copy.src.addr, copy.dst.addr);
    for _ in 0..rows {
        // SAFETY: both pages were translated in this chunk, one for reading and one for writing, and hold the row; guest
        // memory has no references.
        unsafe { (chunk.backend).copy_prepared(copies, to.place(dst), from.place(src)) };
        // Beyond the address space behind the last row only.
        src = src.wrapping_add(copy.src_stride);
        dst = dst.wrapping_add(copy.dst_stride);
    }
    chunk.windows.moved(size);
    chunk.budget.spend(OPERATION_COST + cost);
    let told = Told::from(Outcome {
        completion: success(copy.size),
        bytes: size,
    });
    if chunk.has_lost_regions() {
        return Some(ended(check_regions(chunk, copy.src, copy.dst), told));
    }
    Some(told)
}

/// Makes windows for both operands, if each lies in one page. What is copied is to be counted with them.
#[inline(never)]
fn look<B: Backend>(chunk: &mut Chunk<'_, B>, copy: &CopyRows, extents: [u64; 2]) -> Option<()> {
    let src = chunk.resolve(copy.src, extents[0], Rights::READ).ok()?;
    let dst = chunk.resolve(copy.dst, extents[1], Rights::WRITE).ok()?;
    if chunk.page(&src, 0, Access::Read).ok()?.len < extents[0]
        || chunk.page(&dst, 0, Access::Write).ok()?.len < extents[1]
    {
        return None;
    }
    chunk.windows.are_for_many();
    (chunk.windows).open(chunk.iotlb, (copy.src, &src), (copy.dst, &dst), 0);
    Some(())
}
