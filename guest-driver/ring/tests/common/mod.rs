//! The engine's side of a queue, for tests: memory that lies still, and hands that take
//! descriptors and complete them as SPEC section 2 says.
#![allow(dead_code, reason = "each test binary uses its own part")]

use byway_protocols::ring::QueueState;
use byway_protocols::{Completion, Descriptor, QueueHeader, RingPosition, Status, Word0};
use byway_ring::{Options, Queue, QueueMemory};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::mem::offset_of;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Zeroed memory of a queue.
pub struct Memory {
    base: NonNull<u8>,
    entries: u32,
}

// SAFETY: reached by atomics alone.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    pub fn new(entries: u32) -> Arc<Self> {
        // SAFETY: the size is not 0.
        let base = NonNull::new(unsafe { alloc_zeroed(Self::layout(entries)) }).unwrap();
        Arc::new(Self { base, entries })
    }

    fn layout(entries: u32) -> Layout {
        Layout::from_size_align(128 + 96 * entries as usize, 4096).unwrap()
    }

    /// Header, then ring, then completions.
    pub fn parts(&self) -> QueueMemory {
        // SAFETY: all inside the allocation.
        unsafe {
            QueueMemory {
                header: self.base.cast(),
                ring: self.base.add(128).cast(),
                completions: self.base.add(128 + 64 * self.entries as usize).cast(),
                entries: self.entries,
            }
        }
    }

    /// A queue over this memory. Make only one.
    pub fn queue(&self, options: Options) -> Queue {
        // SAFETY: the memory is zeroed, lives as long as the test, and is reached only by the
        // queue and by an `Engine`.
        unsafe { Queue::new(self.parts(), options) }.unwrap()
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: offsets below come from slots of the ring; aligned to 8.
        unsafe { self.base.add(offset).cast().as_ref() }
    }

    fn header(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: a field of the header.
        unsafe { self.base.add(offset).cast().as_ref() }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.base.as_ptr(), Self::layout(self.entries)) }
    }
}

/// A fake engine.
pub struct Engine {
    memory: Arc<Memory>,
    next: RingPosition,
}

impl Engine {
    /// Serves the memory as `instance`.
    pub fn start(memory: &Arc<Memory>, instance: u32) -> Self {
        let engine = Self {
            memory: memory.clone(),
            next: RingPosition::new(memory.entries).unwrap(),
        };
        engine.set_instance(instance);
        engine.set_state(QueueState::Running);
        engine
    }

    pub fn set_instance(&self, instance: u32) {
        let word = self.memory.header(offset_of!(QueueHeader, instance));
        word.store(instance, Ordering::Relaxed);
    }

    pub fn set_state(&self, state: QueueState) {
        let word = self.memory.header(offset_of!(QueueHeader, state));
        word.store(state as u32, Ordering::Release);
    }

    pub fn set_need_kick(&self, need: bool) {
        let word = self.memory.header(offset_of!(QueueHeader, need_kick));
        word.store(u32::from(need), Ordering::Relaxed);
    }

    /// Asks for a kick, fences, looks once more. False: a descriptor came in between.
    pub fn park(&self) -> bool {
        self.set_need_kick(true);
        fence(Ordering::SeqCst);
        if self.is_there() {
            self.set_need_kick(false);
            return false;
        }
        true
    }

    fn first_word(&self) -> u64 {
        self.memory
            .word(128 + 64 * self.next.slot() as usize)
            .load(Ordering::Acquire)
    }

    /// Whether the next descriptor is published.
    pub fn is_there(&self) -> bool {
        (self.first_word() & u64::from(Word0::PHASE) != 0) == self.next.phase()
    }

    /// The next descriptor and where it stands.
    pub fn take(&mut self) -> Option<(RingPosition, Descriptor)> {
        if !self.is_there() {
            return None;
        }
        let at = self.next;
        let base = 128 + 64 * at.slot() as usize;
        let mut bytes = [0; 64];
        for (index, chunk) in bytes.chunks_exact_mut(8).enumerate() {
            let word = self.memory.word(base + 8 * index).load(Ordering::Relaxed);
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        self.next.advance();
        Some((at, Descriptor::from_bytes(&bytes)))
    }

    /// Writes a completion and publishes it with the phase of its position.
    pub fn complete(&self, at: RingPosition, completion: Completion) {
        let base = 128 + 64 * at.entries() as usize + 32 * at.slot() as usize;
        let bytes = completion.with_phase(at.phase()).to_bytes();
        let word = |index: usize| u64::from_le_bytes(bytes[8 * index..][..8].try_into().unwrap());
        for index in 1..4 {
            self.memory
                .word(base + 8 * index)
                .store(word(index), Ordering::Relaxed);
        }
        self.memory.word(base).store(word(0), Ordering::Release);
    }
}

/// A successful completion that carries a number back.
pub fn success(number: u64) -> Completion {
    Completion {
        status: Status::Success as u8,
        bytes_completed: number as u32,
        fault_addr: number,
        op0: !number,
        op1: number.rotate_left(32),
        ..Completion::default()
    }
}
