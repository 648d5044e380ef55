//! The one place that touches the memory shared with the engine.
//!
//! Owns three pointers and the number of entries. Every access is atomic, because
//! the engine reads and writes the same bytes at any moment, and every slot is masked by the
//! size of the ring, so that no position can reach outside. It must never hand out a
//! reference into shared memory.

use super::{Completion, Descriptor, NonNull, QueueHeader, QueueMemory, completion_of};
use byway_protocols::RingPosition;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub(crate) use core::sync::atomic::fence;

/// The descriptor as the eight words that are stored.
#[inline]
fn words_of(d: &Descriptor) -> [u64; 8] {
    [
        d.publish_word(),
        d.status_array,
        d.src,
        d.dst,
        u64::from(d.size) | u64::from(d.int_handle) << 32 | u64::from(d.reserved38) << 48,
        d.op0,
        d.op1,
        d.op2,
    ]
}

/// Access to a queue's memory.
#[derive(Debug)]
pub(crate) struct Shared {
    ring: NonNull<AtomicU64>,
    completions: NonNull<AtomicU64>,
    header: NonNull<AtomicU32>,
    mask: u32,
}

// SAFETY: the memory is reached by atomics only, and `Shared::new` was promised that no
// other thread submits here; nothing in it belongs to one thread.
unsafe impl Send for Shared {}

impl Shared {
    /// # Safety
    /// The obligations of [`crate::Queue::new`]; `memory` is aligned and `memory.entries` is a
    /// power of two.
    pub(crate) unsafe fn new(memory: &QueueMemory) -> Self {
        Self {
            ring: memory.ring.cast(),
            completions: memory.completions.cast(),
            header: memory.header.cast(),
            mask: memory.entries - 1,
        }
    }

    #[inline]
    fn slot(&self, at: RingPosition) -> usize {
        (at.count() & self.mask) as usize
    }

    #[inline]
    fn descriptor_word(&self, at: RingPosition, word: usize) -> &AtomicU64 {
        debug_assert!(word < 8);
        // SAFETY: the slot is masked to the ring's size and a descriptor has 8 words, so this
        // is inside the `entries * 64` bytes that `new` was promised, aligned to 8.
        unsafe { self.ring.add(self.slot(at) * 8 + word).as_ref() }
    }

    #[inline]
    fn completion_word(&self, at: RingPosition, word: usize) -> &AtomicU64 {
        debug_assert!(word < 4);
        // SAFETY: as above, with the `entries * 32` bytes of completions of 4 words each.
        unsafe { self.completions.add(self.slot(at) * 4 + word).as_ref() }
    }

    #[inline]
    fn header_word(&self, offset: usize) -> &AtomicU32 {
        debug_assert!(offset < QueueHeader::SIZE);
        // SAFETY: the header has 64 bytes and the offset is that of one of its u32 fields.
        unsafe { self.header.add(offset / 4).as_ref() }
    }

    /// Publishes a descriptor: bytes 8-63, then bytes 0-7 by one release store.
    #[inline]
    pub(crate) fn publish(&self, at: RingPosition, descriptor: &Descriptor) {
        let words = words_of(descriptor);
        for (index, word) in words.iter().enumerate().skip(1) {
            self.descriptor_word(at, index)
                .store(*word, Ordering::Relaxed);
        }
        self.descriptor_word(at, 0)
            .store(words[0], Ordering::Release);
    }

    /// The completion of the entry, once it is published with the lap's phase.
    #[inline]
    pub(crate) fn completion(&self, at: RingPosition) -> Option<Completion> {
        let first = self.completion_word(at, 0).load(Ordering::Acquire);
        if (first & Completion::PUBLISH_PHASE != 0) != at.phase() {
            return None;
        }
        let rest = |word| self.completion_word(at, word).load(Ordering::Relaxed);
        Some(completion_of([first, rest(1), rest(2), rest(3)]))
    }

    /// Whether the engine asks for a kick. The caller fences first.
    #[inline]
    pub(crate) fn need_kick(&self) -> bool {
        self.header_word(offset_of!(QueueHeader, need_kick))
            .load(Ordering::Relaxed)
            != 0
    }

    /// State and instance. What the engine wrote before the state is visible afterwards.
    #[inline]
    pub(crate) fn state_and_instance(&self) -> (u32, u32) {
        let state = self
            .header_word(offset_of!(QueueHeader, state))
            .load(Ordering::Acquire);
        let instance = self
            .header_word(offset_of!(QueueHeader, instance))
            .load(Ordering::Relaxed);
        (state, instance)
    }
}
