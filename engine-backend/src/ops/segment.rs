//! Elements of the lists that XOR and COPY_SG read (SPEC section 4.20).

use byway_protocols::operands::Segment;
use byway_protocols::{Status, Word0};

use super::chunk::{Chunk, Failure, Operand};
use super::staging::Staging;
use crate::backend::{Backend, load_word};
use crate::context::Target;
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

/// Reads `count` elements of a list from its beginning on into the staging, the first one at `index` there.
///
/// # Errors
/// As [`Chunk::page`].
pub(super) fn read<B: Backend>(
    chunk: &mut Chunk<'_, B>,
    list: &Target<'_>,
    count: usize,
    index: usize,
) -> Result<(), Failure> {
    let (at, bytes) = (index * Segment::SIZE, count * Segment::SIZE);
    let piece = chunk.page(list, 0, Access::Read)?;
    if piece.len < bytes as u64 || !piece.host.0.is_multiple_of(8) {
        let copied = chunk.copy_in(list, 0, at..at + bytes);
        return copied.failure.map_or(Ok(()), Err);
    }
    let places = &mut chunk.staging.bytes()[at..at + bytes];
    for (i, place) in places.chunks_exact_mut(8).enumerate() {
        // SAFETY: translated in this chunk for reading, a multiple of 8, and inside the page.
        let word = unsafe { load_word(piece.host.plus(8 * i)) };
        place.copy_from_slice(&word.to_le_bytes());
    }
    Ok(())
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
