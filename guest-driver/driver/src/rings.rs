//! The memory of a work queue: where ring, completions and header stand in one allocation
//! (SPEC section 2), and the queue that owns such an allocation.

use crate::Error;
use crate::hal::{DmaPages, PAGE_BYTES};
use crate::handle::QueueId;
use byway_protocols::ring::QueueState;
use byway_protocols::{Completion, Descriptor, QueueHeader, RingPosition};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};

/// Offsets of a work queue's areas from the beginning of its pages, in bytes.
///
/// The header stands first and alone in its 128 bytes, so that the prefetcher of
/// adjacent lines does not drag it along with the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingLayout {
    entries: u32,
}

impl RingLayout {
    const RING: u64 = 128;

    /// The layout for `entries` descriptors, or `None` unless that is a power of two from 2 to
    /// 32768.
    #[must_use]
    pub const fn new(entries: u32) -> Option<Self> {
        match RingPosition::new(entries) {
            Some(_) => Some(Self { entries }),
            None => None,
        }
    }

    /// Entries.
    #[must_use]
    pub const fn entries(self) -> u32 {
        self.entries
    }

    /// Offset of the [`QueueHeader`].
    #[must_use]
    pub const fn header(self) -> u64 {
        0
    }

    /// Offset of the descriptors.
    #[must_use]
    pub const fn ring(self) -> u64 {
        Self::RING
    }

    /// Offset of the completions.
    #[must_use]
    pub const fn completions(self) -> u64 {
        Self::RING + self.entries as u64 * Descriptor::SIZE as u64
    }

    /// Pages of 4096 bytes that all of it takes.
    #[must_use]
    pub const fn pages(self) -> usize {
        let bytes = self.completions() + self.entries as u64 * Completion::SIZE as u64;
        (bytes as usize).div_ceil(PAGE_BYTES)
    }

    /// The areas when the pages begin at the guest-physical address `gpa`.
    #[must_use]
    pub const fn at(self, gpa: u64) -> RingAddresses {
        RingAddresses {
            entries: self.entries,
            ring: gpa + self.ring(),
            completions: gpa + self.completions(),
            header: gpa + self.header(),
        }
    }
}

/// The areas of a work queue, guest-physical, as QUEUE_CREATE takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingAddresses {
    /// Entries.
    pub entries: u32,
    /// Descriptors: `entries * 64` zeroed bytes, aligned to 64.
    pub ring: u64,
    /// Completions: `entries * 32` zeroed bytes, aligned to 64.
    pub completions: u64,
    /// Header: 64 zeroed bytes, aligned to 64.
    pub header: u64,
}

/// A work queue together with the pages that the driver allocated for it.
///
/// Map [`Self::pages`] into the one process that submits. Give it back by
/// [`crate::Device::destroy_owned_queue`]; a dropped one leaks its pages, which is safe.
#[derive(Debug)]
pub struct OwnedQueue {
    pub(crate) id: QueueId,
    pub(crate) layout: RingLayout,
    pub(crate) pages: DmaPages,
    /// Generation of the device that it was created under.
    pub(crate) generation: u32,
}

impl OwnedQueue {
    /// Its number, valid until the device is reset.
    #[must_use]
    pub const fn id(&self) -> QueueId {
        self.id
    }

    /// Where the areas stand in the pages.
    #[must_use]
    pub const fn layout(&self) -> RingLayout {
        self.layout
    }

    /// The pages to map.
    #[must_use]
    pub const fn pages(&self) -> &DmaPages {
        &self.pages
    }

    /// Writes state "dead" into the header in the engine's place, so that the process that
    /// submits sees it: for when the engine is gone and cannot.
    pub fn mark_dead(&self) {
        let offset = self.layout.header() as usize + offset_of!(QueueHeader, state);
        // SAFETY: inside the pages that this value holds, aligned to 4, and accessed by atomics.
        let state = unsafe { AtomicU32::from_ptr(self.pages.ptr.add(offset).as_ptr().cast()) };
        state.store(QueueState::Dead as u32, Ordering::Release);
    }
}

/// A queue that could not be destroyed; it still owns its pages.
#[derive(Debug)]
pub struct NotDestroyed {
    /// Why.
    pub error: Error,
    /// The queue; try again, or after a reset of the device.
    pub queue: OwnedQueue,
}
