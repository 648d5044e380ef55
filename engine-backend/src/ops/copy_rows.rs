//! COPY_SG of rows (SPEC section 4.21): pieces of one length at fixed distances.

use byway_protocols::{Rights, Status};

use super::Step;
use super::chunk::{Chunk, Failure, Operand, Piece};
use super::walk::{overlap, part_of};
use crate::backend::{Backend, Hint};
use crate::context::Target;
use crate::memory::HostAddr;
use crate::stage2::Access;

/// What a row costs of a chunk's budget beside its bytes.
pub(super) const ROW_COST: u64 = 64;

/// A copy of rows under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyRows {
    /// First row of the source; right READ.
    pub src: Operand,
    /// First row of the destination; right WRITE.
    pub dst: Operand,
    /// Bytes of a row, at least 1.
    pub row: u32,
    /// From one row of the source to the next, in bytes.
    pub src_stride: u64,
    /// From one row of the destination to the next, in bytes.
    pub dst_stride: u64,
    /// Bytes, a multiple of `row`, up to 2^31.
    pub size: u32,
    /// The submitter wants the destination in the caches.
    pub cached: bool,
    /// Bytes done.
    pub done: u32,
}

/// Where the rows of an operand lie, one after the other, and the page that the last of them was found in: rows are often shorter
/// than pages, and a page that was translated in a chunk stays usable to its end.
struct Rows {
    /// Offset of the present row in the operand.
    row: u64,
    stride: u64,
    /// Offset of the first byte that is known to lie in the page.
    first: u64,
    /// From there to the page's end; of no bytes while none is known.
    page: Piece,
    /// Bits that a distance from there can have.
    inside: u64,
}

impl Rows {
    fn from(row: u64, stride: u64) -> Self {
        Self {
            row,
            stride,
            first: 0,
            page: Piece::NONE,
            inside: 0,
        }
    }

    /// On to the next row.
    #[inline(always)]
    fn pass(&mut self) {
        // Beyond the address space behind the last row only.
        self.row = self.row.wrapping_add(self.stride);
    }

    /// How many rows of `bytes` bytes lie in the page, from the present one on.
    #[inline(always)]
    fn in_page(&self, bytes: u32) -> u32 {
        let at = self.row.wrapping_sub(self.first);
        let left = (self.page.len.checked_sub(at)).and_then(|left| left.checked_sub(bytes.into()));
        match left {
            None => 0,
            Some(left) => (left.checked_div(self.stride)).map_or(u32::MAX, |more| {
                more.saturating_add(1).try_into().unwrap_or(u32::MAX)
            }),
        }
    }

    /// Where the present row is, which lies in the page.
    #[inline(always)]
    fn host(&self) -> HostAddr {
        let at = self.row.wrapping_sub(self.first);
        // How many rows there are may be mispredicted; see `Window::find`.
        HostAddr(self.page.host.0.wrapping_add(at & self.inside))
    }

    /// The piece that starts at a column of the present row, at most `max` bytes. Its page is the one that is known from now on.
    #[inline(never)]
    fn piece<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        (target, access): (&Target<'_>, Access),
        column: u64,
        max: u64,
    ) -> Result<Piece, Failure> {
        let offset = self.row + column;
        let page = chunk.page(target, offset, access)?;
        (self.first, self.page) = (offset, page);
        // No page is as large as the address space.
        self.inside = page.len.next_power_of_two() - 1;
        // What is left of a row may lie in several pages.
        Ok(chunk.from_page(target, offset, page, max, access))
    }
}

impl CopyRows {
    /// Copies until done or until the chunk is over.
    pub fn step<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Step {
        let result = self.run(chunk);
        Step::after(result, self.done, self.size)
    }

    /// What a row costs of a chunk's budget.
    fn cost(&self) -> u64 {
        u64::from(self.row) + ROW_COST
    }

    /// Rows for which the chunk has room.
    #[inline(always)]
    fn affordable<B: Backend>(&self, chunk: &Chunk<'_, B>) -> u32 {
        let left = (self.size - self.done) / self.row;
        // So many at least that what follows is not done in crumbs.
        let room = chunk.room(u64::from(left) * self.cost());
        left.min((room / self.cost()) as u32)
    }

    /// Bytes of each operand from the first one of the first row to the last one of the last.
    ///
    /// # Errors
    /// 42 when there are more than an address space has.
    #[inline(always)]
    pub(super) fn extents(&self) -> Result<[u64; 2], Status> {
        let extent = |stride| {
            u64::from(self.size / self.row - 1)
                .checked_mul(stride)
                .and_then(|starts| starts.checked_add(u64::from(self.row)))
                .ok_or(Status::Bounds)
        };
        Ok([extent(self.src_stride)?, extent(self.dst_stride)?])
    }

    /// How each row is to be copied.
    #[inline(always)]
    pub(super) fn hint(&self, overlaps: bool) -> Hint {
        part_of(self.size, self.cached, overlaps)
    }

    /// Copies the whole rows of both pages that are known, as many as the chunk has room for. Whether there were any.
    #[inline(always)]
    fn copy_known<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        sources: &mut Rows,
        targets: &mut Rows,
        hint: Hint,
    ) -> bool {
        let known = sources.in_page(self.row).min(targets.in_page(self.row));
        let rows = self.affordable(chunk).min(known);
        let copies = chunk.backend.prepare(self.row as usize, hint);
        for _ in 0..rows {
            // SAFETY: both pages were translated in this chunk, one for reading and one for writing, and hold the row; guest
            // memory has no references.
            unsafe { (chunk.backend).copy_prepared(copies, targets.host(), sources.host()) };
            sources.pass();
            targets.pass();
        }
        self.done += rows * self.row;
        chunk.budget.spend(u64::from(rows) * self.cost());
        rows != 0
    }

    fn run<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Result<(), Failure> {
        let extents = self.extents()?;
        let src = chunk.resolve(self.src, extents[0], Rights::READ)?;
        let dst = chunk.resolve(self.dst, extents[1], Rights::WRITE)?;
        let hint = self.hint(overlap(&src, extents[0], &dst, extents[1]));
        let before = self.done;
        let row = u64::from(self.done / self.row);
        let mut column = u64::from(self.done % self.row);
        // Inside the extents, so none of them wraps before the last row.
        let mut sources = Rows::from(row * self.src_stride, self.src_stride);
        let mut targets = Rows::from(row * self.dst_stride, self.dst_stride);
        let mut result = Ok(());
        while self.done < self.size && !(self.done > before && chunk.is_spent()) {
            if column == 0 && self.copy_known(chunk, &mut sources, &mut targets, hint) {
                continue;
            }
            let room = chunk.room(u64::from(self.row) - column);
            let pieces = sources
                .piece(chunk, (&src, Access::Read), column, room)
                .and_then(|from| {
                    let to = targets.piece(chunk, (&dst, Access::Write), column, from.len)?;
                    Ok((from, to))
                });
            let (from, to) = match pieces {
                Ok(pieces) => pieces,
                Err(failure) => {
                    result = Err(failure);
                    break;
                }
            };
            // SAFETY: both pieces were translated in this chunk, one for reading and one
            // for writing, and guest memory has no references.
            unsafe {
                chunk
                    .backend
                    .copy(to.host, from.host, to.len as usize, hint);
            }
            self.done += to.len as u32;
            chunk.budget.spend(to.len + ROW_COST);
            column += to.len;
            if column == u64::from(self.row) {
                column = 0;
                sources.pass();
                targets.pass();
            }
        }
        let moved = u64::from(self.done - before);
        chunk.settle(&[(&src, Access::Read, moved), (&dst, Access::Write, moved)])?;
        result
    }
}
