//! [`GuestEntry`] and [`GuestPage`]: a page-table entry and a shared page of the guest, which
//! guest CPUs and the engine change at the same time.

use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::stage2::HostAddr;

/// Eight naturally aligned bytes of guest memory. Exists only for the length of one
/// walk, inside a chunk.
#[derive(Debug, Clone, Copy)]
pub struct GuestEntry<'a>(&'a AtomicU64);

impl GuestEntry<'_> {
    /// The entry at a host address.
    ///
    /// # Safety
    /// - `host` is a multiple of 8 and came from a stage-2 translation for writing;
    /// - no grace period passes while the entry is in use.
    #[inline]
    pub(super) unsafe fn new(host: HostAddr) -> Self {
        let cell = ptr::with_exposed_provenance_mut(host.0 as usize);
        // SAFETY: stage 2 maps registered regions only, which stay mapped until a grace
        // period after their removal; the caller vouches for the rest.
        Self(unsafe { AtomicU64::from_ptr(cell) })
    }

    /// Reads it.
    #[must_use]
    #[inline]
    pub fn load(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Replaces it if it is still `current`; whether it was.
    #[inline]
    pub fn replace(&self, current: u64, new: u64) -> bool {
        self.0
            .compare_exchange(current, new, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }
}

/// A page of guest memory that the engine writes to. Exists only for the length of one chunk,
/// and is not shared between threads.
#[derive(Debug)]
pub(crate) struct GuestPage(*const [AtomicU64; 512]);

impl GuestPage {
    /// The page at a host address.
    ///
    /// # Safety
    /// - `host` is a multiple of 4096 and came from a stage-2 translation for writing;
    /// - no grace period passes while the value is in use.
    pub(super) unsafe fn new(host: HostAddr) -> Self {
        Self(ptr::with_exposed_provenance(host.0 as usize))
    }

    /// The word at an offset below 4096, a multiple of 8.
    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: a translated page, mapped for as long as `new` asks; only atomics of
        // this process access it, or the copy kernels.
        let page = unsafe { &*self.0 };
        &page[offset / 8 % 512]
    }
}
