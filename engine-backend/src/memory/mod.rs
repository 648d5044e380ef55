//! Guest memory: the one layer that touches it.
//!
//! Owns the engine's mappings of a domain's RAM and the domain's stage-2 table. Above it
//! nobody sees a pointer into guest memory but the copy kernels, which get a
//! [`HostAddr`] from a translation. The guest changes its memory at any time, so every
//! access is atomic; nothing here ever makes a slice of it, or a reference to anything
//! but an atomic.

mod changes;
mod dirty;
mod entry;
mod file_system;
pub mod hint;
mod lent;
mod mapping;
mod shared_log;
pub mod sigbus;
mod slots;
mod span;
#[cfg(test)]
pub(crate) mod test_ram;
#[cfg(test)]
mod tests;
mod walks;

pub use crate::stage2::HostAddr;
pub use dirty::{DirtyLog, LOG_PAGE};
pub use entry::GuestEntry;
pub(crate) use entry::GuestPage;
pub(crate) use file_system::file_system;
pub use lent::{LENT_PARTS_MAX, Lent, LentPart, LentParts, Remains};
pub use shared_log::SharedLog;
pub use slots::Slots;
pub use span::HostSpan;
pub use walks::{WalkCounts, WalkTotals};

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::interface::MemoryRegion;
use crate::seldom::Seldom;
use crate::stage2::{Access, LastLeaf, RetiredTables, Stage2, Stage2Error, Stage2Fault};
use mapping::Mapping;

/// Most regions of one domain.
pub const REGIONS_MAX: usize = 64;

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
/// memory but is safe.
#[must_use = "free it after a grace period, or it leaks"]
#[derive(Debug)]
pub struct Retired {
    mapping: ManuallyDrop<Arc<Mapping>>,
    tables: RetiredTables,
}

impl Retired {
    /// Frees the tables. What is left unmaps the region when it is dropped, or when the last [`HostSpan`] or [`Lent`]
    /// is that is in it.
    ///
    /// # Safety
    /// A grace period has passed since the removal: every chunk that a worker was in at
    /// that time has ended, and nobody outside a chunk still translates or uses a
    /// translation of before.
    pub unsafe fn free(self) -> Remains {
        // SAFETY: the caller's own promise.
        unsafe { self.tables.free() };
        Remains(ManuallyDrop::into_inner(self.mapping))
    }
}

/// One region, mapped.
#[derive(Debug)]
struct Region {
    guest_addr: u64,
    size: u64,
    writable: bool,
    mapping: Arc<Mapping>,
}

/// One domain's RAM.
///
/// Workers translate by [`Self::stage2`] without a lock. The list of regions is behind a
/// lock that only control threads take.
#[derive(Debug, Default)]
pub struct GuestMemory {
    stage2: Stage2,
    regions: RwLock<Vec<Region>>,
    dead: Arc<AtomicBool>,
    dirty: Arc<DirtyLog>,
    walks: Arc<WalkCounts>,
}

impl GuestMemory {
    /// A domain without RAM.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, whose walks are counted where others' were before.
    #[must_use]
    pub fn counted(walks: &Arc<WalkCounts>) -> Self {
        Self {
            walks: Arc::clone(walks),
            ..Self::default()
        }
    }

    /// Maps a region and makes it translatable.
    ///
    /// # Errors
    /// See [`MemoryError`]; nothing has changed then.
    pub fn add_region(&self, region: MemoryRegion) -> Result<(), MemoryError> {
        let MemoryRegion {
            guest_addr, size, ..
        } = region;
        let refused = |what| MemoryError::Region {
            guest_addr,
            size,
            what,
        };
        check_file(&region)?;
        let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        if regions.len() >= REGIONS_MAX {
            return Err(refused("the domain has as many regions as it may"));
        }
        let mapping = Mapping::new(&region, &self.dead)?;
        let perms = changes::perms(region.writable);
        let host = HostAddr(mapping.base().as_ptr().expose_provenance() as u64);
        self.stage2
            .map(guest_addr, host, size, perms)
            .map_err(|error| match error {
                Stage2Error::Overlap { .. } => refused("overlaps another region"),
                other => MemoryError::BadArgument(other.to_string()),
            })?;
        self.dirty.add(guest_addr, size);
        regions.push(Region {
            guest_addr,
            size,
            writable: region.writable,
            mapping: Arc::new(mapping),
        });
        Ok(())
    }

    /// Makes a region untranslatable and bumps the stage-2 epoch. The caller waits for a
    /// grace period and then calls [`Retired::free`].
    ///
    /// # Errors
    /// When there is no region with just this start and size.
    pub fn remove_region(&self, guest_addr: u64, size: u64) -> Result<Retired, MemoryError> {
        let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        let index = regions
            .iter()
            .position(|r| r.guest_addr == guest_addr && r.size == size)
            .ok_or(MemoryError::Region {
                guest_addr,
                size,
                what: "no such region",
            })?;
        let tables = self
            .stage2
            .unmap(guest_addr, size)
            .map_err(|error| MemoryError::BadArgument(error.to_string()))?;
        self.dirty.remove(guest_addr);
        Ok(Retired {
            mapping: ManuallyDrop::new(regions.swap_remove(index).mapping),
            tables,
        })
    }

    /// A range that lies in one writable region, all of it there and writable, for rings and
    /// virtqueue areas; `None` otherwise. The span keeps the mapping alive after the region's removal, so whoever
    /// holds one drops it when told that the region goes.
    ///
    /// For control threads: takes locks.
    #[must_use]
    pub fn contiguous(&self, gpa: u64, len: u64) -> Option<HostSpan> {
        let end = gpa.checked_add(len)?;
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        let region = regions
            .iter()
            .find(|r| gpa >= r.guest_addr && end <= r.guest_addr + r.size)
            .filter(|r| r.writable && self.allows(gpa, len, true))?;
        let offset = usize::try_from(gpa - region.guest_addr).ok()?;
        let len = usize::try_from(len).ok()?;
        HostSpan::new(&region.mapping, region.guest_addr, offset, len)
    }

    /// Start and size of every region, in bytes, in no order. For control threads.
    #[must_use]
    pub fn regions(&self) -> Vec<(u64, u64)> {
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        regions.iter().map(|r| (r.guest_addr, r.size)).collect()
    }

    /// Whether a region lost its backing (status 5A): the domain must be detached.
    #[must_use]
    #[inline]
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// How often its page tables were walked.
    #[must_use]
    pub fn walks(&self) -> &Arc<WalkCounts> {
        &self.walks
    }

    /// Which pages the engine has written.
    #[must_use]
    #[inline]
    pub fn dirty_log(&self) -> &Arc<DirtyLog> {
        &self.dirty
    }

    /// The stage-2 table.
    #[must_use]
    #[inline]
    pub fn stage2(&self) -> &Stage2 {
        &self.stage2
    }

    /// The page-table entry at `gpa`, a multiple of 8. Counts as a write, as a CPU's
    /// access to a guest's paging structures does when EPT's accessed and dirty bits are
    /// on. `last` belongs to the walk that the entry is read for.
    ///
    /// Must run inside a chunk, or on a thread that keeps the grace period from passing:
    /// see [`Retired::free`].
    ///
    /// # Errors
    /// See [`Stage2Fault`].
    #[inline]
    pub(crate) fn table_entry(
        &self,
        last: &mut LastLeaf,
        gpa: u64,
    ) -> Result<GuestEntry<'_>, Stage2Fault> {
        debug_assert!(gpa.is_multiple_of(8));
        let hit = self.stage2.walk_near(last, gpa & !7, Access::Write)?;
        // SAFETY: aligned, translated for writing, and used within this walk.
        Ok(unsafe { GuestEntry::new(hit.host) })
    }
}

impl GuestMemory {
    /// The page at `gpa`, a multiple of 4096, for writing.
    ///
    /// Must run inside a chunk, which the page must not outlive.
    ///
    /// # Errors
    /// See [`Stage2Fault`].
    pub(crate) fn page(&self, gpa: u64) -> Result<GuestPage, Stage2Fault> {
        let hit = self.stage2.walk(gpa & !0xfff, Access::Write)?;
        // SAFETY: aligned, translated for writing, and used within the chunk.
        Ok(unsafe { GuestPage::new(hit.host) })
    }
}

/// Checks that the file holds all of the region, and says so when it could shrink later.
fn check_file(region: &MemoryRegion) -> Result<(), MemoryError> {
    let MemoryRegion {
        guest_addr,
        size,
        file_offset,
        ..
    } = *region;
    if [guest_addr, size, file_offset]
        .iter()
        .any(|x| !x.is_multiple_of(4096))
        || size == 0
    {
        return Err(MemoryError::BadArgument(format!(
            "region {guest_addr:#x}+{size:#x} at file offset {file_offset:#x}: expected \
             multiples of 4096, not empty"
        )));
    }
    let file_bytes = region
        .file
        .metadata()
        .map_err(|source| MemoryError::Host {
            what: "cannot tell the size of the file behind guest RAM",
            source,
        })?
        .len();
    if file_offset
        .checked_add(size)
        .is_none_or(|end| end > file_bytes)
    {
        return Err(MemoryError::BadArgument(format!(
            "region {guest_addr:#x}+{size:#x} at file offset {file_offset:#x}: the file has \
             {file_bytes:#x} bytes only"
        )));
    }
    // SAFETY: asks for the seals of an open file.
    let seals = unsafe { libc::fcntl(region.file.as_raw_fd(), libc::F_GET_SEALS) };
    if seals < 0 || seals & libc::F_SEAL_SHRINK == 0 {
        static TOLD: Seldom = Seldom::new();
        TOLD.tell(|| {
            tracing::warn!(
                guest_addr,
                size,
                "the file behind guest RAM is not sealed with F_SEAL_SHRINK; if it shrinks, the \
                 domain is detached"
            );
        });
    }
    Ok(())
}
