//! Changes of parts of a region: read-only or writable again, taken away (ballooned) and
//! given back. Pages of 4 KiB; large stage-2 leaves are split where a range begins or ends
//! inside one, and are not joined again.
//!
//! What is changed is the stage-2 table alone, which is thus the only place that knows:
//! the engine's own mapping stays as it is.

use std::sync::PoisonError;

use super::{GuestMemory, HostSpan, MemoryError, Region};
use crate::stage2::{HostAddr, Perms, RetiredTables};

impl GuestMemory {
    /// Makes pages read-only, or writable again, and bumps the stage-2 epoch; pages that
    /// are taken away stay so. A grace period later no write that is forbidden is in flight.
    ///
    /// # Errors
    /// When the range is misaligned or not inside one region, or is to become writable in
    /// a region that was added read-only; nothing has changed then.
    pub fn protect(&self, gpa: u64, size: u64, writable: bool) -> Result<(), MemoryError> {
        self.in_region(gpa, size, |region| {
            if writable && !region.writable {
                return Err(refused(gpa, size, "its region was added read-only"));
            }
            self.stage2
                .protect(gpa, size, perms(writable))
                .map_err(|e| MemoryError::BadArgument(e.to_string()))
        })
    }

    /// Takes pages away, and bumps the stage-2 epoch. The caller waits for a grace period
    /// and then frees the tables. Pages that are away already stay so.
    ///
    /// # Errors
    /// When the range is misaligned or not inside one region; nothing has changed then.
    pub fn discard(&self, gpa: u64, size: u64) -> Result<RetiredTables, MemoryError> {
        self.in_region(gpa, size, |_| {
            self.stage2
                .unmap(gpa, size)
                .map_err(|e| MemoryError::BadArgument(e.to_string()))
        })
    }

    /// Gives back what [`Self::discard`] took away of the range, as writable as its region;
    /// pages that are there stay as they are.
    ///
    /// # Errors
    /// When the range is misaligned or not inside one region; nothing has changed then.
    pub fn restore(&self, gpa: u64, size: u64) -> Result<(), MemoryError> {
        self.in_region(gpa, size, |region| {
            let base = region.mapping.base().as_ptr().expose_provenance() as u64;
            let host = HostAddr(base + (gpa - region.guest_addr));
            self.stage2
                .map_missing(gpa, host, size, perms(region.writable))
                .map_err(|e| MemoryError::BadArgument(e.to_string()))
        })
    }

    /// Turns the dirty log on, with no page marked, or off. On, it bumps the stage-2 epoch:
    /// a grace period later every write is marked.
    pub fn set_dirty_log(&self, on: bool) {
        // So that no region comes or goes meanwhile.
        let regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        if on {
            self.dirty
                .turn_on(regions.iter().map(|r| (r.guest_addr, r.size)));
            self.stage2.expire();
        } else {
            self.dirty.turn_off();
        }
    }

    /// Reads and clears the dirty bits of a range: bit n of word n/64 is page n of it. The
    /// caller waits for a grace period.
    ///
    /// # Errors
    /// When the range is misaligned or not inside one region, or the log is off.
    pub fn take_dirty(&self, gpa: u64, size: u64) -> Result<Vec<u64>, MemoryError> {
        self.in_region(gpa, size, |_| {
            let bits = self.dirty.take(gpa, size);
            bits.ok_or_else(|| refused(gpa, size, "the dirty log is off"))
        })
    }

    /// Whether `len` bytes from `gpa` on are there, and writable if asked. For control
    /// threads: takes locks.
    #[must_use]
    pub fn allows(&self, gpa: u64, len: u64, write: bool) -> bool {
        let needed = if write {
            Perms::READ_WRITE
        } else {
            Perms::READ
        };
        self.stage2.allows(gpa, len, needed)
    }

    /// The writable regions, whole: parts of them may be read-only or away, which whoever
    /// uses them asks [`Self::allows`] about. For control threads.
    #[must_use]
    pub fn writable_regions(&self) -> Vec<HostSpan> {
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        regions
            .iter()
            .filter(|region| region.writable)
            .filter_map(|r| HostSpan::new(&r.mapping, r.guest_addr, 0, r.mapping.len()))
            .collect()
    }

    /// Does something to a range of one region, which stays for as long.
    fn in_region<R>(
        &self,
        gpa: u64,
        size: u64,
        change: impl FnOnce(&Region) -> Result<R, MemoryError>,
    ) -> Result<R, MemoryError> {
        let aligned = gpa.is_multiple_of(4096) && size.is_multiple_of(4096) && size != 0;
        let end = gpa.checked_add(size).filter(|_| aligned).ok_or_else(|| {
            MemoryError::BadArgument(format!(
                "{gpa:#x}+{size:#x}: expected multiples of 4096, not empty"
            ))
        })?;
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        let region = regions
            .iter()
            .find(|r| gpa >= r.guest_addr && end <= r.guest_addr + r.size)
            .ok_or_else(|| refused(gpa, size, "not inside one region"))?;
        change(region)
    }
}

/// What stage 2 allows in a region, or a part of one.
pub(super) fn perms(writable: bool) -> Perms {
    if writable { Perms::ALL } else { Perms::READ }
}

fn refused(guest_addr: u64, size: u64, what: &'static str) -> MemoryError {
    MemoryError::Region {
        guest_addr,
        size,
        what,
    }
}
