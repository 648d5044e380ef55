//! Guest memory: the one layer that touches it.
//!
//! Owns the engine's mappings of a domain's RAM and the domain's stage-2 table. Above it
//! nobody sees a pointer into guest memory but the copy kernels, which get a
//! [`HostAddr`] from a translation. Nothing here ever makes a reference or a slice of
//! guest memory: a guest changes it at any time, so every access is volatile or atomic.

pub mod sigbus;
mod span;

pub use crate::stage2::HostAddr;
pub use span::HostSpan;

use std::io;

use crate::interface::MemoryRegion;
use crate::stage2::Stage2;

/// What can go wrong with a memory region.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// An address or size that cannot be used.
    #[error("{0}")]
    BadArgument(String),
    /// The region is not there, overlaps another, or is one too many.
    #[error("memory region {guest_addr:#x}+{size:#x}: {what}")]
    Region {
        /// Guest-physical start.
        guest_addr: u64,
        /// Length in bytes.
        size: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The host refused to map it.
    #[error("{what}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

/// What a removal took out of use. Workers may still be using it: it must be freed after
/// a grace period, by [`Self::free`]. Dropped without that it is leaked, which wastes
/// address space but is safe.
#[must_use = "free it after a grace period, or it leaks"]
#[derive(Debug)]
pub struct Retired {}

impl Retired {
    /// Unmaps the region and frees the tables.
    ///
    /// # Safety
    /// A grace period has passed since the removal: every chunk that a worker was in at
    /// that time has ended, and nobody outside a chunk still translates or uses a
    /// translation of before.
    pub unsafe fn free(self) {}
}

/// One domain's RAM.
#[derive(Debug, Default)]
pub struct GuestMemory {
    stage2: Stage2,
}

impl GuestMemory {
    /// A domain without RAM.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Maps a region and makes it translatable.
    ///
    /// # Errors
    /// See [`MemoryError`]; nothing has changed then.
    pub fn add_region(&self, _region: MemoryRegion) -> Result<(), MemoryError> {
        Ok(())
    }

    /// Makes a region untranslatable and bumps the stage-2 epoch. The caller waits for a
    /// grace period and then calls [`Retired::free`].
    ///
    /// # Errors
    /// When there is no region with just this start and size.
    pub fn remove_region(&self, guest_addr: u64, size: u64) -> Result<Retired, MemoryError> {
        Err(MemoryError::Region {
            guest_addr,
            size,
            what: "no such region",
        })
    }

    /// A range that lies in one writable region, for rings and virtqueue areas; `None`
    /// otherwise. The span keeps the mapping alive after the region's removal.
    #[must_use]
    pub fn contiguous(&self, _gpa: u64, _len: u64) -> Option<HostSpan> {
        None
    }

    /// Whether a region lost its backing (status 5A): the domain must be detached.
    #[must_use]
    #[inline]
    pub fn is_dead(&self) -> bool {
        false
    }

    /// The stage-2 table.
    #[must_use]
    #[inline]
    pub fn stage2(&self) -> &Stage2 {
        &self.stage2
    }
}
