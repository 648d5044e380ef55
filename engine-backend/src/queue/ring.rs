//! The engine's side of a ring's protocol (SPEC section 2), over any memory, so that
//! loom can run the very code that serves guests.
//!
//! Everything read here was written by a guest: a word is looked at for its phase
//! bit, then copied out once, and nothing is believed about it.

use byway_protocols::descriptor::Word0;
use byway_protocols::{Completion, Descriptor, RingPosition};

/// In a burst, how far ahead of the next descriptor lines are fetched: as far as one
/// transfer between two cores takes, in operations.
const DESCRIPTORS_AHEAD: u32 = 4;
/// Completions likewise, further since each line holds two.
const COMPLETIONS_AHEAD: u32 = 8;

/// The memory of one work queue. `slot` is below the number of entries.
pub(crate) trait RingMemory {
    /// Bytes 0-7 of a descriptor; acquire.
    fn load_word(&self, slot: u32) -> u64;
    /// Bytes 8-63 of a descriptor, each word read once.
    fn load_rest(&self, slot: u32) -> [u64; 7];
    /// Bytes 8-31 of a completion.
    fn store_rest(&self, slot: u32, words: [u64; 3]);
    /// Bytes 0-7 of a completion; release.
    fn store_word(&self, slot: u32, word: u64);
    /// `need_kick` of the header.
    fn store_need_kick(&self, need: bool);
    /// A sequentially consistent fence.
    fn fence(&self);
    /// A hint: the descriptor of this slot will be read soon.
    fn prefetch_descriptor(&self, slot: u32);
    /// A hint: the completion of this slot will be written soon.
    fn prefetch_completion(&self, slot: u32);
}

/// Which entry a taken descriptor came from; completes it once.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket {
    slot: u32,
    phase: bool,
}

impl Ticket {
    /// The entry.
    #[inline(always)]
    pub(crate) fn slot(&self) -> u32 {
        self.slot
    }
}

/// Where the engine is in one ring.
#[derive(Debug)]
pub(crate) struct EngineRing<M> {
    memory: M,
    next: RingPosition,
}

impl<M: RingMemory> EngineRing<M> {
    /// At the start of a zeroed ring.
    pub(crate) fn new(memory: M, start: RingPosition) -> Self {
        Self {
            memory,
            next: start,
        }
    }

    /// The publishing word of the next descriptor, when there is one: one load.
    #[inline(always)]
    pub(crate) fn poll(&self) -> Option<u64> {
        let word = self.memory.load_word(self.next.slot());
        let phase = word & u64::from(Word0::PHASE) != 0;
        (phase == self.next.phase()).then_some(word)
    }

    /// Copies the descriptor out that [`Self::poll`] found, and goes on to the next.
    #[inline(always)]
    pub(crate) fn take(&mut self, word: u64) -> (Ticket, Descriptor) {
        let slot = self.next.slot();
        let phase = self.next.phase();
        let [b, c, d, e, f, g, h] = self.memory.load_rest(slot);
        self.next.advance();
        let descriptor = Descriptor::from_words([word, b, c, d, e, f, g, h]);
        (Ticket { slot, phase }, descriptor)
    }

    /// Fetches what later descriptors of a burst need, while this one is worked on.
    #[inline(always)]
    pub(crate) fn prefetch(&self) {
        self.memory
            .prefetch_descriptor(self.next.plus(DESCRIPTORS_AHEAD).slot());
        self.memory
            .prefetch_completion(self.next.plus(COMPLETIONS_AHEAD).slot());
    }

    /// Fetches the next descriptor.
    #[inline(always)]
    pub(crate) fn prefetch_next(&self) {
        self.memory.prefetch_descriptor(self.next.slot());
    }

    /// Publishes how a descriptor ended, with the phase of its lap.
    #[inline(always)]
    pub(crate) fn complete(&self, ticket: Ticket, completion: &Completion) {
        let Ticket { slot, phase } = ticket;
        self.memory.store_rest(
            slot,
            [completion.fault_addr, completion.op0, completion.op1],
        );
        self.memory
            .store_word(slot, completion.with_phase(phase).publish_word());
    }

    /// Asks for a kick and looks once more. False: a descriptor came in between, the
    /// queue stays awake.
    pub(crate) fn park(&self) -> bool {
        self.memory.store_need_kick(true);
        // Store-load: the request for a kick before the last look. Pairs with the
        // submitter's fence between publishing and reading `need_kick`.
        self.memory.fence();
        if self.poll().is_some() {
            self.memory.store_need_kick(false);
            return false;
        }
        true
    }

    /// Asks for no kick any more.
    pub(crate) fn unpark(&self) {
        self.memory.store_need_kick(false);
    }

    /// Descriptors taken since creation, modulo 2^32.
    pub(crate) fn taken(&self) -> u32 {
        self.next.count()
    }

    /// Number of a taken descriptor, counted as [`Self::taken`] does: the last one that the entry was
    /// taken for.
    pub(crate) fn number_of(&self, ticket: &Ticket) -> u32 {
        let last = self.next.count().wrapping_sub(1);
        let age = last.wrapping_sub(ticket.slot) & (self.entries() - 1);
        last.wrapping_sub(age)
    }

    /// Entries of the ring.
    pub(crate) fn entries(&self) -> u32 {
        self.next.entries()
    }

    /// The memory below.
    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }
}
