//! COPY_SG by one short list, all of which lies in windows: found first, and then copied as if nothing else could happen.

use byway_protocols::{Completion, Descriptor};

use super::{Told, check_regions, fits, lost};
use crate::backend::Backend;
use crate::memory::HostAddr;
use crate::ops::budget::OPERATION_COST;
use crate::ops::chunk::{Chunk, Operand};
use crate::ops::copy_sg::{CopySg, SEGMENT_COST, Side};
use crate::ops::{Outcome, segment, success, validate};
use crate::stage2::Access;

/// Most segments: two lines of a list.
const MOST: usize = 8;

/// A segment and what it is copied from or to, on the host.
#[derive(Clone, Copy)]
struct Piece {
    from: HostAddr,
    to: HostAddr,
    len: u32,
    /// Both may be the same bytes in part.
    may_overlap: bool,
}

impl Piece {
    const NONE: Self = Self {
        from: HostAddr(0),
        to: HostAddr(0),
        len: 0,
        may_overlap: false,
    };
}

/// The two sides of such a copy.
struct Sides {
    copy: CopySg,
    /// What has a list is the destination.
    scatters: bool,
}

impl Sides {
    #[inline(always)]
    fn wanted(d: &Descriptor) -> Option<Self> {
        let copy = validate::copy_lists(d).ok()?;
        let scatters = copy.src.count == 0;
        // Lists on both sides are for the long way.
        (scatters || copy.dst.count == 0).then_some(Self { copy, scatters })
    }

    #[inline(always)]
    fn listed(&self) -> &Side {
        if self.scatters {
            &self.copy.dst
        } else {
            &self.copy.src
        }
    }

    /// Source and destination of a segment with `at` bytes before it.
    #[inline(always)]
    fn operands(&self, segment: Operand, at: u32) -> [Operand; 2] {
        if self.scatters {
            [self.copy.src.segment.plus(at.into()), segment]
        } else {
            [segment, self.copy.dst.segment.plus(at.into())]
        }
    }

    /// How it ends with `segments` used up.
    #[inline(always)]
    fn ended(&self, completion: Completion, segments: usize) -> Outcome {
        Outcome {
            bytes: completion.bytes_completed.into(),
            completion: Completion {
                op0: (segments as u64) << if self.scatters { 32 } else { 0 },
                ..completion
            },
        }
    }
}

/// Carries the descriptor out if it is such a copy, as [`super::try_short`] does one without a list.
#[inline(never)]
pub(super) fn try_list<B: Backend>(d: &Descriptor, chunk: &mut Chunk<'_, B>) -> Option<Told> {
    let sides = Sides::wanted(d)?;
    let count = usize::from(sides.listed().count);
    let size = sides.copy.size;
    if count > MOST || u64::from(size) > B::IMMEDIATE || !fits(size, chunk) {
        return None;
    }
    let list = segment::read_found(chunk, sides.listed().list, count)?;
    let mut pieces = [Piece::NONE; MOST];
    let mut at = 0;
    for (i, piece) in pieces.iter_mut().enumerate().take(count) {
        let segment = segment::load(chunk.staging, i);
        let len = segment.bytes;
        // A list that is longer than the copy, too, is for the long way.
        if len == 0 || len > size - at {
            return None;
        }
        let [src, dst] = sides.operands(segment::operand(&segment).ok()?, at);
        let found = chunk.windows.places().both(src, dst, len.into())?;
        *piece = Piece {
            from: found.src,
            to: found.dst,
            len,
            may_overlap: found.distance.is_some_and(|bytes| bytes < len.into()),
        };
        at += len;
    }
    if at != size {
        return None;
    }
    for piece in &pieces[..count] {
        let hint = sides.copy.hint(piece.may_overlap);
        // SAFETY: both pages were translated in this chunk, one for reading and one for
        // writing, and hold `len` bytes; guest memory has no references.
        unsafe { (chunk.backend).copy(piece.to, piece.from, piece.len as usize, hint) };
    }
    chunk.windows.reads.passed(list);
    chunk.windows.moved(size.into());
    let cost = OPERATION_COST + count as u64 * SEGMENT_COST;
    chunk.budget.spend(cost + u64::from(size));
    if chunk.has_lost_regions() {
        return Some(check(&sides, count, chunk).into());
    }
    Some(sides.ended(success(size), count).into())
}

/// How it ended, if some region was lost: with the first segment of which a byte may be gone. Apart, as
/// [`Step::failed`](crate::ops::Step::failed).
#[cold]
#[inline(never)]
fn check<B: Backend>(sides: &Sides, count: usize, chunk: &mut Chunk<'_, B>) -> Outcome {
    if let Err(failure) = lost(chunk, sides.listed().list, Access::Read) {
        return sides.ended(failure.completion(0, 0), 0);
    }
    let mut at = 0;
    for i in 0..count {
        let segment = segment::load(chunk.staging, i);
        let checked = segment::operand(&segment).and_then(|operand| {
            let [src, dst] = sides.operands(operand, at);
            at += segment.bytes;
            check_regions(chunk, src, dst)
        });
        if let Err(failure) = checked {
            return sides.ended(failure.completion(0, at), i + 1);
        }
    }
    sides.ended(success(at), count)
}
