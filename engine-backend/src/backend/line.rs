//! The engine's own small accesses at translated addresses: elements of a batch, their
//! completions, and single words.

use std::sync::atomic::{AtomicU64, Ordering};

use byway_protocols::Completion;

use crate::memory::HostAddr;

/// Reads the 64 bytes of a descriptor in memory, each word once: for [`from_words`](byway_protocols::Descriptor::from_words).
///
/// # Safety
/// `at` is a multiple of 64 and comes from a translation for reading made inside the
/// current chunk.
#[inline(always)]
#[must_use]
pub unsafe fn load_line(at: HostAddr) -> [u64; 8] {
    // SAFETY: the caller guarantees as much of the whole line.
    std::array::from_fn(|i| unsafe { load_word(at.plus(8 * i)) })
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
#[inline(always)]
pub unsafe fn store_record(at: HostAddr, completion: &Completion) {
    let rest = [completion.fault_addr, completion.op0, completion.op1];
    // SAFETY: the caller's guarantee, passed on.
    unsafe { store_words(at, completion.publish_word(), rest) };
}

/// The same of one whose first word is `publish`, and of which all others are 0.
///
/// # Safety
/// As for [`store_record`].
#[inline(always)]
pub unsafe fn store_short_record(at: HostAddr, publish: u64) {
    // SAFETY: the caller's guarantee, passed on.
    unsafe { store_words(at, publish, [0; 3]) };
}

/// # Safety
/// As for [`store_record`].
#[inline(always)]
unsafe fn store_words(at: HostAddr, publish: u64, rest: [u64; 3]) {
    let words: *const AtomicU64 = std::ptr::with_exposed_provenance(at.0 as usize);
    for (i, value) in rest.into_iter().enumerate() {
        // SAFETY: the caller guarantees that the record is mapped, writable and
        // aligned; guests read it at any time, hence the atomic store.
        unsafe { (*words.add(1 + i)).store(value, Ordering::Relaxed) };
    }
    // SAFETY: as above.
    unsafe { (*words).store(publish, Ordering::Release) };
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
