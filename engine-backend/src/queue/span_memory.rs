//! A work queue's three areas in guest memory, as [`RingMemory`].

use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T0, _mm_prefetch};
use std::mem::offset_of;
use std::sync::atomic::{Ordering, fence};

use byway_protocols::ring::QueueState;
use byway_protocols::{Completion, Descriptor, QueueHeader};

use super::ring::RingMemory;
use crate::memory::HostSpan;

/// The areas; each access is to a slot that the ring's mask has bounded.
#[derive(Debug, Clone)]
pub(crate) struct SpanMemory {
    ring: HostSpan,
    completions: HostSpan,
    header: HostSpan,
}

impl SpanMemory {
    /// Areas that are long enough for `entries` entries.
    pub(crate) fn new(
        entries: u32,
        ring: HostSpan,
        completions: HostSpan,
        header: HostSpan,
    ) -> Self {
        assert!(ring.len() >= entries as usize * Descriptor::SIZE);
        assert!(completions.len() >= entries as usize * Completion::SIZE);
        assert!(header.len() >= QueueHeader::SIZE);
        Self {
            ring,
            completions,
            header,
        }
    }

    /// Guest-physical address and size in bytes of a completion.
    pub(crate) fn completion(&self, slot: u32) -> (u64, u64) {
        let size = Completion::SIZE as u64;
        (self.completions.gpa() + u64::from(slot) * size, size)
    }
    /// Guest-physical address of the header line.
    pub(crate) fn header_gpa(&self) -> u64 {
        self.header.gpa()
    }

    /// Writes the engine's instance.
    pub(crate) fn store_instance(&self, instance: u32) {
        self.header
            .store_u32(offset_of!(QueueHeader, instance), instance);
    }

    /// Writes the queue's state, after everything written before.
    pub(crate) fn store_state(&self, state: QueueState) {
        fence(Ordering::Release);
        self.header
            .store_u32(offset_of!(QueueHeader, state), state as u32);
    }

    /// Writes how many descriptors were taken.
    pub(crate) fn store_taken(&self, taken: u32) {
        self.header.store_u32(offset_of!(QueueHeader, taken), taken);
    }
}

impl RingMemory for SpanMemory {
    #[inline(always)]
    fn load_word(&self, slot: u32) -> u64 {
        self.ring.load_u64_acquire(slot as usize * Descriptor::SIZE)
    }

    #[inline(always)]
    fn load_rest(&self, slot: u32) -> [u64; 7] {
        self.ring
            .load_words(slot as usize * Descriptor::SIZE + size_of::<u64>())
    }

    #[inline(always)]
    fn store_rest(&self, slot: u32, words: [u64; 3]) {
        let at = slot as usize * Completion::SIZE + size_of::<u64>();
        self.completions.store_words(at, words);
    }

    #[inline(always)]
    fn store_word(&self, slot: u32, word: u64) {
        self.completions
            .store_u64_release(slot as usize * Completion::SIZE, word);
    }

    fn store_need_kick(&self, need: bool) {
        self.header
            .store_u32(offset_of!(QueueHeader, need_kick), u32::from(need));
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    #[inline(always)]
    fn prefetch_descriptor(&self, slot: u32) {
        let line = self.ring.host().0 as usize + slot as usize * Descriptor::SIZE;
        // SAFETY: a hint that may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::without_provenance(line)) };
    }

    #[inline(always)]
    fn prefetch_completion(&self, slot: u32) {
        let line = self.completions.host().0 as usize + slot as usize * Completion::SIZE;
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(std::ptr::without_provenance(line)) };
    }
}
