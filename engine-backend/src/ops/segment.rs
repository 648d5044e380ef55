//! Elements of the lists that XOR and COPY_SG read (SPEC section 4.20).

use std::ops::Range;

use byway_protocols::operands::Segment;
use byway_protocols::{Rights, Status, Word0};

use super::chunk::{Chunk, Failure, Operand};
use super::short::lost;
use super::staging::Staging;
use crate::backend::{Backend, load_word};
use crate::memory::HostAddr;
use crate::stage2::Access;

/// The element with this index of a list that has been copied into the staging. Taken up in the words in which it may have been
/// put down: as one of 16 bytes it would wait for these.
pub(super) fn load(staging: &mut Staging, index: usize) -> Segment {
    let at = index * Segment::SIZE;
    let bytes = &staging.bytes()[at..at + Segment::SIZE];
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let (addr, rest) = (word(0), word(8));
    Segment {
        addr,
        bytes: rest as u32,
        slot: (rest >> 32) as u16,
        reserved14: (rest >> 48) as u16,
    }
}

/// Reads the first `count` elements of a list, of which `whole` bytes are to be in bounds, into the staging, the first one at
/// `index` there. They are counted, and there is a window for those that follow them.
///
/// # Errors
/// As [`Chunk::resolve`], [`Chunk::page`] and [`Chunk::settle`].
pub(super) fn read<B: Backend>(
    chunk: &mut Chunk<'_, B>,
    list: Operand,
    whole: u64,
    count: usize,
    index: usize,
) -> Result<(), Failure> {
    let (at, bytes) = (index * Segment::SIZE, count * Segment::SIZE);
    let from = match chunk.windows.reads.find(list, whole) {
        Some(from) if is_aligned(from) => {
            chunk.windows.reads.passed(bytes as u64);
            from
        }
        _ => match look(chunk, list, whole, at..at + bytes)? {
            Some(from) => from,
            None => return Ok(()),
        },
    };
    // SAFETY: translated in this chunk for reading, a multiple of 8, and the bytes lie inside the page.
    unsafe { take(&mut chunk.staging.bytes()[at..at + bytes], from) };
    if chunk.has_lost_regions() {
        return lost(chunk, list, Access::Read);
    }
    Ok(())
}

/// Reads all `count` elements of a list for which there is a window. Their bytes, which are to be counted once something is done.
#[inline(always)]
pub(super) fn read_found<B: Backend>(
    chunk: &mut Chunk<'_, B>,
    list: Operand,
    count: usize,
) -> Option<u64> {
    let bytes = count * Segment::SIZE;
    let from = (chunk.windows.reads.find(list, bytes as u64)).filter(|&from| is_aligned(from))?;
    // SAFETY: as in `read`.
    unsafe { take(&mut chunk.staging.bytes()[..bytes], from) };
    Some(bytes as u64)
}

/// Loads words of a list, each once.
///
/// # Safety
/// So many bytes are mapped and readable there, at a multiple of 8, and no memory that Rust knows about.
#[inline(always)]
unsafe fn take(into: &mut [u8], from: HostAddr) {
    for (i, place) in into.chunks_exact_mut(8).enumerate() {
        // SAFETY: the caller's guarantee.
        let word = unsafe { load_word(from.plus(8 * i)) };
        place.copy_from_slice(&word.to_le_bytes());
    }
}

/// Finds out where the elements that are to be read to `staged` lie. `None`: not so that words of them can be loaded, and
/// they have been copied.
#[inline(never)]
fn look<B: Backend>(
    chunk: &mut Chunk<'_, B>,
    list: Operand,
    whole: u64,
    staged: Range<usize>,
) -> Result<Option<HostAddr>, Failure> {
    let bytes = staged.len() as u64;
    let target = chunk.resolve(list, whole, Rights::READ)?;
    let piece = chunk.page(&target, 0, Access::Read)?;
    if piece.len >= bytes && is_aligned(piece.host) {
        let found = (chunk.windows).found(chunk.iotlb, list, target, Access::Read, piece.host);
        chunk.windows.reads.open_for(&found, bytes);
        return Ok(Some(piece.host));
    }
    let copied = chunk.copy_in(&target, 0, staged);
    copied.failure.map_or(Ok(()), Err)?;
    chunk.settle(&[(&target, Access::Read, bytes)])?;
    Ok(None)
}

/// Whether words can be loaded from there.
fn is_aligned(at: HostAddr) -> bool {
    at.0.is_multiple_of(8)
}

/// Where the element lies.
///
/// # Errors
/// 12 when reserved bits are not 0.
pub(super) fn operand(segment: &Segment) -> Result<Operand, Failure> {
    if segment.slot > Word0::SLOT_MAX || segment.reserved14 != 0 {
        return Err(Status::ReservedNotZero.into());
    }
    Ok(Operand {
        slot: segment.slot,
        addr: segment.addr,
    })
}
