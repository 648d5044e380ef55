//! A work queue's three areas in guest memory, as [`RingMemory`].

use std::mem::offset_of;
use std::sync::atomic::{Ordering, fence};

use byway_protocols::ring::QueueState;
use byway_protocols::{Completion, Descriptor, QueueHeader};

use super::ring::RingMemory;
use crate::memory::{HostSpan, Slots};

/// Words of a descriptor.
const DESCRIPTOR: usize = Descriptor::SIZE / size_of::<u64>();
/// Words of a completion.
const COMPLETION: usize = Completion::SIZE / size_of::<u64>();

/// The areas; each access is to a slot that the ring's mask has bounded.
#[derive(Debug, Clone)]
pub(crate) struct SpanMemory {
    ring: Slots<DESCRIPTOR>,
    completions: Slots<COMPLETION>,
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
        assert!(header.len() >= QueueHeader::SIZE);
        Self {
            ring: Slots::new(ring, entries),
            completions: Slots::new(completions, entries),
            header,
        }
    }

    /// Guest-physical address and size in bytes of a completion.
    pub(crate) fn completion(&self, slot: u32) -> (u64, u64) {
        self.completions.gpa(slot)
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
        self.ring.words(slot)[0].load(Ordering::Acquire)
    }

    #[inline(always)]
    fn load_rest(&self, slot: u32) -> [u64; 7] {
        let words = self.ring.words(slot);
        std::array::from_fn(|i| words[i + 1].load(Ordering::Relaxed))
    }

    #[inline(always)]
    fn store_rest(&self, slot: u32, values: [u64; 3]) {
        let words = self.completions.words(slot);
        for (word, value) in words[1..].iter().zip(values) {
            word.store(value, Ordering::Relaxed);
        }
    }

    #[inline(always)]
    fn store_word(&self, slot: u32, word: u64) {
        self.completions.words(slot)[0].store(word, Ordering::Release);
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
        self.ring.prefetch(slot);
    }

    #[inline(always)]
    fn prefetch_completion(&self, slot: u32) {
        self.completions.prefetch_for_write(slot);
    }
}
