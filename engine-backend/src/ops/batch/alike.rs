//! Elements that ask for the same as the one before, of other bytes of the same windows.
//!
//! In most lists of copies only addresses differ. What all of them have in common is compared with two words that are known to be in
//! order, and all that follows from these - the order, the kernel, the cost, the completion - is known. What is left to do for
//! an element is so little that the processor begins with its copy while it still waits for the lines of the one before: of 4 KiB
//! from the second cache such a copy takes no longer than one that follows from a loop.

use byway_protocols::PAGE_SIZE;

use super::{ELEMENT, RECORD};
use crate::backend::{Backend, load_line, store_short_record};
use crate::memory::{HostAddr, hint};
use crate::ops::budget::OPERATION_COST;
use crate::ops::chunk::Chunk;
use crate::ops::short::Short;
use crate::ops::window::Nearby;

/// What an element was that is copied through the chunk's windows.
pub(super) struct Alike<B: Backend> {
    /// Slots, flags and operation.
    publish: u64,
    /// Bytes, and what is 0 beside them.
    size: u64,
    src: Nearby,
    dst: Nearby,
    copies: B::Prepared,
    /// First word of its completion; the others are 0.
    told: u64,
}

/// Why no more of them were carried out.
pub(super) enum Then {
    /// What follows is not read yet: there is none, or the chunk's accounts are to be looked at.
    Unread,
    /// It is read, and is not like the one before.
    Other([u64; 8]),
    /// It is copied, but a region was lost meanwhile; its words.
    Lost([u64; 8]),
}

/// Of how many elements it is known what became of them, and of which it is not.
pub(super) struct Ran {
    pub(super) elements: u32,
    pub(super) then: Then,
}

impl<B: Backend> Alike<B> {
    /// What `copy` is that a descriptor in memory, whose words these are, asks for. `None` where its order depends on its addresses.
    #[inline(always)]
    pub(super) fn to(words: &[u64; 8], copy: &Short, chunk: &Chunk<'_, B>) -> Option<Self> {
        let &[publish, 0, _, _, size, 0, 0, 0] = words else {
            return None;
        };
        let places = chunk.windows.places();
        let bytes = u64::from(copy.size());
        (size == bytes && places.are_apart).then(|| Self {
            publish,
            size,
            src: places.src.of_size(bytes),
            dst: places.dst.of_size(bytes),
            copies: chunk.backend.prepare(bytes as usize, copy.hint()),
            told: copy.completion().publish_word(),
        })
    }

    /// Carries out `copy` itself, an element that is read, and those behind it that are like it, `most` in all, one after the
    /// other. Their bytes are to be counted.
    #[inline(always)]
    pub(super) fn run(
        &self,
        chunk: &mut Chunk<'_, B>,
        copy: &Short,
        line: &mut HostAddr,
        record: &mut HostAddr,
        most: u32,
    ) -> Ran {
        let &Self {
            publish,
            size,
            src,
            dst,
            copies,
            told,
        } = self;
        let cost = OPERATION_COST + size;
        let mut elements = 0;
        // Until the accounts are to be looked at; and how many of these are left.
        let mut stretch = affordable(chunk.budget.unseen(), size, most).max(1);
        let mut left = stretch;
        let (mut from, mut to) = copy.places();
        let then = loop {
            // SAFETY: both pages were translated in this chunk, one for reading and one for writing, and hold the bytes; guest
            // memory has no references.
            unsafe { chunk.backend.copy_prepared(copies, to, from) };
            left -= 1;
            if chunk.has_lost_regions() {
                let [src, dst] = [src.address(from), dst.address(to)];
                break Then::Lost([publish, 0, src, dst, size, 0, 0, 0]);
            }
            chunk.backend.finish();
            // SAFETY: as for any element of the run.
            unsafe { store_short_record(*record, told) };
            *record = record.plus(RECORD as usize);
            elements += 1;
            if left == 0 {
                chunk.budget.spend(cost * u64::from(stretch));
                stretch = 0;
                if elements == most || chunk.is_spent() {
                    break Then::Unread;
                }
                stretch = affordable(chunk.budget.unseen(), size, most - elements);
                left = stretch;
                if left == 0 {
                    break Then::Unread;
                }
            }
            // SAFETY: as for any element of the run.
            let words = unsafe { load_line(*line) };
            *line = line.plus(ELEMENT as usize);
            hint::reads_soon(*line);
            hint::writes_soon(*record);
            let is_alike = words[0] == publish
                && words[4] == size
                && words[1] | words[5] | words[6] | words[7] == 0;
            (from, to) = match (src.find(words[2]), dst.find(words[3])) {
                (Some(from), Some(to)) if is_alike => (from, to),
                _ => break Then::Other(words),
            };
        };
        chunk.budget.spend(cost * u64::from(stretch - left));
        Ran { elements, then }
    }
}

/// How many of `size` bytes, of `most`, may be carried out one after the other where there is `room` for so much until the accounts are
/// to be looked at: for as long as [`Chunk::has_room`] says so. What is left of a page is not kept for later.
#[inline(always)]
fn affordable(room: u64, size: u64, most: u32) -> u32 {
    let room = room.min((room + PAGE_SIZE).saturating_sub(size));
    room.div_ceil(OPERATION_COST + size).min(most.into()) as u32
}
