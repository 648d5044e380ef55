//! COPY_SG of lists (SPEC section 4.21): gathers, scatters, or both at once.

use byway_protocols::operands::Segment;
use byway_protocols::{Rights, Status};

use super::Step;
use super::chunk::{Chunk, Failure, Operand};
use super::segment;
use super::short;
use super::walk::{Walked, abreast, overlap, part_of};
use crate::backend::{Backend, Hint};
use crate::stage2::Access;

/// What a segment costs of a chunk's budget beside its bytes.
pub(super) const SEGMENT_COST: u64 = 128;

/// One side of a copy: a list and the segment of it that is in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Side {
    /// The list, right READ; not looked at when `count` is 0.
    pub list: Operand,
    /// Segments in the list; 0: the one in hand is the whole side.
    pub count: u16,
    /// The segment that follows the one in hand.
    pub next: u16,
    /// What is left of the one in hand.
    pub segment: Operand,
    /// Bytes of it.
    pub left: u32,
}

/// Segments of a list that were read and are not used up. They share a line of the list, which is fetched as a whole
/// anyway; what is left of them when the chunk ends is read anew in the next one.
#[derive(Debug, Clone, Copy)]
struct Ahead {
    /// The next one's place in the staging.
    next: usize,
    /// The end of them there.
    end: usize,
    /// Where they are put.
    place: usize,
}

/// Segments of a line.
const AHEAD: usize = 64 / Segment::SIZE;

impl Ahead {
    /// None yet of the list with this number.
    fn of(list: usize) -> Self {
        let place = list * AHEAD;
        Self {
            next: place,
            end: place,
            place,
        }
    }

    /// The next segment, which comes from what is in this line of the list.
    #[inline(always)]
    fn next<B: Backend>(
        &mut self,
        side: &Side,
        chunk: &mut Chunk<'_, B>,
    ) -> Result<Segment, Failure> {
        if self.next == self.end {
            let count = self.read(side.following(), side.count - side.next, chunk)?;
            (self.next, self.end) = (self.place, self.place + count);
        }
        let segment = segment::load(chunk.staging, self.next);
        self.next += 1;
        Ok(segment)
    }

    /// Reads the rest of a line from an address in a slot on, of a list with `rest` segments from there on. How many segments
    /// that were.
    #[inline(never)]
    fn read<B: Backend>(
        &self,
        (slot, addr): (u32, u64),
        rest: u16,
        chunk: &mut Chunk<'_, B>,
    ) -> Result<usize, Failure> {
        let slot = slot as u16;
        let from = Operand { slot, addr };
        let of_line = AHEAD - (from.addr as usize / Segment::SIZE) % AHEAD;
        let count = of_line.min(rest.into());
        let all = u64::from(rest) * Segment::SIZE as u64;
        segment::read(chunk, from, all, count, self.place)?;
        Ok(count)
    }
}

impl Side {
    /// Slot and address of the segment that follows. A slot of 16 bits that is to be passed on would be loaded as 32, and
    /// wait until what was stored of it alone is in the cache, and all that was stored before.
    fn following(&self) -> (u32, u64) {
        let passed = u64::from(self.next) * Segment::SIZE as u64;
        (self.list.slot.into(), self.list.addr.wrapping_add(passed))
    }

    /// Takes the next segment in hand when the one before is used up: numbers that stay until it is used up.
    #[inline(always)]
    fn refill<B: Backend>(
        &mut self,
        ahead: &mut Ahead,
        chunk: &mut Chunk<'_, B>,
    ) -> Result<(), Failure> {
        if self.left != 0 {
            return Ok(());
        }
        if self.next == self.count {
            return Err(Status::BadCount.into());
        }
        let segment = ahead.next(self, chunk)?;
        let operand = segment::operand(&segment)?;
        if segment.bytes == 0 {
            return Err(Status::BadSize.into());
        }
        chunk.budget.spend(SEGMENT_COST);
        (self.segment, self.left) = (operand, segment.bytes);
        self.next += 1;
        Ok(())
    }

    #[inline(always)]
    fn pass(&mut self, bytes: u32) {
        self.segment = self.segment.plus(bytes.into());
        self.left -= bytes;
    }

    /// Segments of the list that are used up.
    fn used(&self) -> u64 {
        u64::from(self.next - u16::from(self.count != 0 && self.next != 0 && self.left != 0))
    }
}

/// A copy of lists under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopySg {
    /// Where bytes come from; right READ.
    pub src: Side,
    /// Where they go; right WRITE.
    pub dst: Side,
    /// Bytes, 1 to 2^31.
    pub size: u32,
    /// The submitter wants the destination in the caches.
    pub cached: bool,
    /// Bytes done.
    pub done: u32,
}

impl CopySg {
    /// Copies until done or until the chunk is over.
    pub fn step<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Step {
        let result = self.run(chunk);
        Step::after(result, self.done, self.size).telling(self.src.used() | self.dst.used() << 32)
    }

    fn run<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Result<(), Failure> {
        chunk.windows.are_for_many();
        let result = self.copy(chunk);
        chunk.settle(&[])?;
        result
    }

    fn copy<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Result<(), Failure> {
        let mut ahead = [0, 1].map(Ahead::of);
        let mut started = false;
        while self.done < self.size && !(started && chunk.is_spent()) {
            started = true;
            self.src.refill(&mut ahead[0], chunk)?;
            self.dst.refill(&mut ahead[1], chunk)?;
            let left = (self.size - self.done)
                .min(self.src.left)
                .min(self.dst.left);
            let (src, dst) = (self.src.segment, self.dst.segment);
            // All that is in hand must be within bounds, as in the other way, whatever the chunk has time for.
            let Some(found) = chunk.windows.places().both(src, dst, left.into()) else {
                let (at, result) = self.copy_segment(chunk, left.into());
                self.pass(at as u32);
                result?;
                continue;
            };
            let len = chunk.room(left.into());
            let hint = self.hint(found.distance.is_some_and(|bytes| bytes < left.into()));
            // SAFETY: both pages were translated in this chunk, one for reading and one for
            // writing, and hold `len` bytes; guest memory has no references.
            unsafe { (chunk.backend).copy(found.dst, found.src, len as usize, hint) };
            chunk.budget.spend(len);
            chunk.windows.moved(len);
            self.pass(len as u32);
            short::check_regions(chunk, src, dst)?;
        }
        Ok(())
    }

    #[inline(always)]
    fn pass(&mut self, bytes: u32) {
        self.src.pass(bytes);
        self.dst.pass(bytes);
        self.done += bytes;
    }

    /// What is in hand of both sides, as far as the chunk goes. How much was copied, and why no more.
    #[inline(never)]
    fn copy_segment<B: Backend>(&self, chunk: &mut Chunk<'_, B>, len: u64) -> Walked {
        let resolved = chunk
            .resolve(self.src.segment, len, Rights::READ)
            .and_then(|src| Ok((src, chunk.resolve(self.dst.segment, len, Rights::WRITE)?)));
        let (src, dst) = match resolved {
            Ok(both) => both,
            Err(failure) => return (0, Err(failure)),
        };
        let hint = self.hint(overlap(&src, len, &dst, len));
        let (at, result) = abreast(chunk, &src, [&dst], len, |backend, [to], from, len| {
            // SAFETY: both were translated in this chunk, one for reading and one for
            // writing, and guest memory has no references.
            unsafe { backend.copy(to, from, len, hint) };
        });
        if result.is_err() {
            let settled = chunk.settle(&[(&src, Access::Read, at), (&dst, Access::Write, at)]);
            return (at, settled.and(result));
        }
        let settled = chunk.settle(&[(&src, Access::Read, 0), (&dst, Access::Write, 0)]);
        // Both were translated last, and counted from now on.
        (chunk.windows).open(
            chunk.iotlb,
            (self.src.segment, &src),
            (self.dst.segment, &dst),
            at,
        );
        (at, settled)
    }

    #[inline(always)]
    pub(super) fn hint(&self, overlaps: bool) -> Hint {
        part_of(self.size, self.cached, overlaps)
    }
}
