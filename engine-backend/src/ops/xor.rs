//! XOR (SPEC section 4.20): each byte of a source is read once, and each of the sum is written once.
//!
//! The list of sources is looked up and checked anew in every chunk, like every operand:
//! nothing of it is kept in between.

use byway_protocols::operands::{Segment, XOR_SOURCES_MAX};
use byway_protocols::{Rights, Status};

use super::Step;
use super::chunk::{Chunk, Failure, Operand};
use super::segment;
use super::staging::{HALF, Staging};
use super::walk::overlap;
use crate::backend::Backend;
use crate::backend::sum::SUMMANDS_MAX;
use crate::context::Target;
use crate::memory::HostAddr;
use crate::stage2::Access;

/// Least of each source that is summed up at a time: with all 16 of them a chunk.
const LEAST: u64 = 4 << 10;

/// Sources that take about as long as a copy of the same length, which reads one stream and writes one: measured of 4 sources
/// in the second cache (1.7 copies) and in memory (2.3).
const SOURCES_PER_COPY: u64 = 2;

/// Most sources.
const SOURCES: usize = XOR_SOURCES_MAX as usize;

/// A sum under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Xor {
    /// List of the sources; right READ, as for each of them.
    pub list: Operand,
    /// Sources, 2 to 16.
    pub count: u16,
    /// Destination; right WRITE.
    pub dst: Operand,
    /// Bytes of each, 1 to 2^31.
    pub size: u32,
    /// Bytes done.
    pub done: u32,
}

impl Xor {
    /// Sums up until done or until the chunk is over.
    pub fn step<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Step {
        let result = self.run(chunk);
        Step::after(result, self.done, self.size)
    }

    fn run<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Result<(), Failure> {
        let passed = u64::from(self.done);
        let left = u64::from(self.size) - passed;
        let count = usize::from(self.count);
        let bytes = (count * Segment::SIZE) as u64;
        segment::read(chunk, self.list, bytes, count, 0)?;
        let dst = chunk.resolve(self.dst.plus(passed), left, Rights::WRITE)?;
        let mut sources: [Option<Target<'_>>; SOURCES] = [None; SOURCES];
        for (i, source) in sources.iter_mut().enumerate().take(count) {
            let segment = segment::load(chunk.staging, i);
            if segment.bytes != 0 {
                return Err(Status::ReservedNotZero.into());
            }
            let operand = segment::operand(&segment)?.plus(passed);
            let target = chunk.resolve(operand, left, Rights::READ)?;
            // In place is well-defined, since every byte is read before it is written.
            let same = target.space.id() == dst.space.id() && target.addr == dst.addr;
            if !same && overlap(&target, left, &dst, left) {
                return Err(Status::Overlap.into());
            }
            *source = Some(target);
        }
        let sources = &sources[..count];
        let mut at = 0;
        let mut result = Ok(());
        while at < left && !(at > 0 && chunk.is_spent()) {
            // Translated once for all that this chunk has time for, if its pages lie in a row.
            let len = affordable(chunk.budget.rest(), left - at, count as u64, u64::MAX);
            match piece(chunk, sources, &dst, at, len) {
                Ok(bytes) => at += bytes,
                Err(failure) => {
                    result = Err(failure);
                    break;
                }
            }
        }
        self.done += at as u32;
        for source in sources.iter().flatten() {
            chunk.settle(&[(source, Access::Read, at)])?;
        }
        chunk.settle(&[(&dst, Access::Write, at)])?;
        result
    }
}

/// Sums up at most `len` bytes from `at` on. Every operand is translated before a byte is written, the sources in their
/// order first.
fn piece<B: Backend>(
    chunk: &mut Chunk<'_, B>,
    sources: &[Option<Target<'_>>],
    dst: &Target<'_>,
    at: u64,
    mut len: u64,
) -> Result<u64, Failure> {
    let mut from = [HostAddr(0); SOURCES];
    for (host, source) in from.iter_mut().zip(sources.iter().flatten()) {
        let piece = chunk.forward(source, at, len, Access::Read)?;
        (*host, len) = (piece.host, piece.len);
    }
    let to = chunk.forward(dst, at, len, Access::Write)?;
    let (to, len) = (to.host, to.len);
    let from = &mut from[..sources.len()];
    let count = from.len() as u64;
    let (mut to, mut done) = (to, 0);
    loop {
        let part = affordable(chunk.budget.left(), len - done, count, HALF as u64);
        sum_up(chunk.staging, from, to, part as usize);
        chunk.budget.spend(part * count / SOURCES_PER_COPY);
        done += part;
        if done == len || chunk.is_spent() {
            return Ok(done);
        }
        to = to.plus(part as usize);
        for host in &mut *from {
            *host = host.plus(part as usize);
        }
    }
}

/// How much of `left` bytes of each of `count` sources `budget` allows to sum up, at most `max`: whole pages, so that what
/// follows is aligned as what came before.
fn affordable(budget: u64, left: u64, count: u64, max: u64) -> u64 {
    let share = (SOURCES_PER_COPY * budget / count).clamp(LEAST, max);
    // A crumb is not left for another part.
    if left < share + LEAST {
        left.min(max)
    } else {
        share & !(LEAST - 1)
    }
}

/// Adds `len` bytes at each of the addresses: a few sources at a time, the sum so far in private
/// memory. Nothing is written before the last source has been read, since it may be where the sum goes.
fn sum_up(staging: &mut Staging, from: &[HostAddr], to: HostAddr, len: usize) {
    let private = staging.private();
    let sum = HostAddr(staging.bytes().as_mut_ptr().expose_provenance() as u64);
    let (mut few, mut rest) = from.split_at(from.len().min(SUMMANDS_MAX));
    let mut with_sum = [sum; SUMMANDS_MAX];
    loop {
        let into = if rest.is_empty() { to } else { sum };
        // SAFETY: all were translated in this chunk, the sources for reading and the destination for writing, and guest
        // memory has no references; `sum` is half the staging, which is borrowed and not looked at meanwhile.
        unsafe { private.sum(into, few, len) };
        if rest.is_empty() {
            return;
        }
        let (now, later) = rest.split_at(rest.len().min(SUMMANDS_MAX - 1));
        with_sum[1..=now.len()].copy_from_slice(now);
        (few, rest) = (&with_sum[..=now.len()], later);
    }
}
