//! The memory shared with the engine, and the words that stand in it.
//!
//! [`raw`] is what serves applications; `model` stands in for it where loom tries every
//! interleaving of the two sides.

#[cfg(all(loom, test))]
mod model;
#[cfg(not(all(loom, test)))]
mod raw;

#[cfg(all(loom, test))]
pub(crate) use model::{Lines, Shared, fence};
#[cfg(not(all(loom, test)))]
pub(crate) use raw::{Shared, fence};

use byway_protocols::{Completion, Descriptor, QueueHeader};
use core::ptr::NonNull;

/// Where a queue lies in the address space of the process that uses it.
///
/// The kernel's driver allocates these areas, zeroed, and gives them to the engine by
/// QUEUE_CREATE (SPEC section 8); the process gets them mapped.
#[derive(Debug, Clone, Copy)]
pub struct QueueMemory {
    /// `entries` descriptors, aligned to 64 bytes.
    pub ring: NonNull<Descriptor>,
    /// `entries` completions, aligned to 64 bytes.
    pub completions: NonNull<Completion>,
    /// The header line, aligned to 64 bytes.
    pub header: NonNull<QueueHeader>,
    /// Entries: a power of two.
    pub entries: u32,
}

impl QueueMemory {
    /// Whether the three areas are aligned as SPEC section 2 asks.
    pub(crate) fn is_aligned(&self) -> bool {
        let areas = [
            self.ring.as_ptr().addr(),
            self.completions.as_ptr().addr(),
            self.header.as_ptr().addr(),
        ];
        areas.iter().all(|address| address.is_multiple_of(64))
    }
}

/// The completion from the four words that were loaded.
#[inline]
pub(crate) fn completion_of(words: [u64; 4]) -> Completion {
    Completion {
        status: words[0] as u8,
        result: (words[0] >> 8) as u8,
        reserved2: (words[0] >> 16) as u8,
        phase: (words[0] >> 24) as u8,
        bytes_completed: (words[0] >> 32) as u32,
        fault_addr: words[1],
        op0: words[2],
        op1: words[3],
    }
}
