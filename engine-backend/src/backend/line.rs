//! The engine's own small accesses at translated addresses: elements of a batch, their
//! completions, and single words.

use std::sync::atomic::{AtomicU64, Ordering};

use byway_protocols::{Completion, Descriptor};

use crate::memory::HostAddr;

/// Reads the 64 bytes of a batch's element, each word once.
///
/// # Safety
/// `at` is a multiple of 64 and comes from a translation for reading made inside the
/// current chunk.
#[must_use]
pub unsafe fn load_line(at: HostAddr) -> Descriptor {
    let mut bytes = [0; Descriptor::SIZE];
    for (i, word) in bytes.chunks_exact_mut(8).enumerate() {
        // SAFETY: the caller guarantees as much of the whole line.
        let value = unsafe { load_word(at.plus(8 * i)) };
        word.copy_from_slice(&value.to_le_bytes());
    }
    Descriptor::from_bytes(&bytes)
}

/// Reads 8 bytes, once.
///
/// # Safety
/// `at` is a multiple of 8 and comes from a translation for reading made inside the
/// current chunk.
#[inline(always)]
#[must_use]
pub unsafe fn load_word(at: HostAddr) -> u64 {
    let word: *const AtomicU64 = std::ptr::with_exposed_provenance(at.0 as usize);
    // SAFETY: the caller guarantees that the word is mapped, readable and aligned; guests
    // change it at any time, hence the atomic load.
    unsafe { (*word).load(Ordering::Relaxed) }
}

/// Writes an element's completion: bytes 8-31, then the first 8 with release ordering.
///
/// # Safety
/// `at` is a multiple of 32 and comes from a translation for writing made inside the
/// current chunk.
pub unsafe fn store_record(at: HostAddr, completion: &Completion) {
    let words: *const AtomicU64 = std::ptr::with_exposed_provenance(at.0 as usize);
    let rest = [completion.fault_addr, completion.op0, completion.op1];
    for (i, value) in rest.into_iter().enumerate() {
        // SAFETY: the caller guarantees that the record is mapped, writable and
        // aligned; guests read it at any time, hence the atomic store.
        unsafe { (*words.add(1 + i)).store(value, Ordering::Relaxed) };
    }
    // SAFETY: as above.
    unsafe { (*words).store(completion.publish_word(), Ordering::Release) };
}

/// 8 bytes of guest memory that the engine works on atomically.
#[derive(Debug)]
pub struct GuestWord<'g>(&'g AtomicU64);

/// The word at a translated address.
///
/// # Safety
/// `at` is a multiple of 8 and comes from a translation for writing made inside the
/// current chunk, which `'g` does not outlive.
#[must_use]
pub unsafe fn atomic_u64<'g>(at: HostAddr) -> GuestWord<'g> {
    let word: *const AtomicU64 = std::ptr::with_exposed_provenance(at.0 as usize);
    // SAFETY: the caller guarantees that the word is mapped, writable and aligned; it is
    // an atomic one, so guests may race with it.
    GuestWord(unsafe { &*word })
}

impl GuestWord<'_> {
    /// Adds modulo 2^64; gives back what was there.
    pub fn add(&self, by: u64) -> u64 {
        self.0.fetch_add(by, Ordering::SeqCst)
    }

    /// Stores; gives back what was there.
    pub fn swap(&self, new: u64) -> u64 {
        self.0.swap(new, Ordering::SeqCst)
    }

    /// Stores `new` if `current` is there; gives back what was there.
    pub fn compare_swap(&self, current: u64, new: u64) -> u64 {
        let (success, failure) = (Ordering::SeqCst, Ordering::SeqCst);
        match self.0.compare_exchange(current, new, success, failure) {
            Ok(found) | Err(found) => found,
        }
    }

    /// Stores, ordered after every earlier access.
    pub fn publish(&self, value: u64) {
        self.0.store(value, Ordering::Release);
    }
}
