//! Stage 2: guest-physical to host, in the x86 EPT format (Intel SDM volume 3,
//! "The Extended Page Table Mechanism"), 4 levels, MAXPHYADDR 52, accessed and dirty
//! bits on.
//!
//! The frame of a leaf is an opaque host address: here an address in the engine's own
//! mapping of the guest's RAM, [`HostAddr`]. This module owns the tables, never the
//! memory that leaves point to, and never touches guest memory. Walks are lock-free and
//! may run on any thread while a control thread changes the tables; what a change takes
//! out of use is handed back as [`RetiredTables`] and freed after a grace period only.

mod edit;
mod entry;
mod table;
#[cfg(test)]
mod tests;
mod walk;

use std::fmt;
use std::ops::BitAnd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use byway_protocols::Status;
use entry::{GPA_BITS, LEVELS};
use table::Table;

/// Walks that one translation makes before it gives up, when entries keep changing
/// between being read and having their accessed and dirty bits set.
pub const WALKS_MAX: u32 = 8;

/// A host address that a translation ended at: opaque here, dereferenced only by the
/// memory layer and the copy kernels, inside a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostAddr(pub u64);

impl HostAddr {
    /// The address `bytes` further on, in the same piece.
    #[inline(always)]
    #[must_use]
    pub const fn plus(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// What is going to be done at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// A data read.
    Read,
    /// A data write.
    Write,
}

/// What an entry allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Perms(u64);

impl Perms {
    /// Data reads.
    pub const READ: Self = Self(1);
    /// Data writes; legal only with [`Self::READ`].
    pub const WRITE: Self = Self(2);
    /// Instruction fetches; the engine makes none.
    pub const EXECUTE: Self = Self(4);
    /// Reads and writes.
    pub const READ_WRITE: Self = Self(3);
    /// Everything.
    pub const ALL: Self = Self(7);

    const fn from_entry(bits: u64) -> Self {
        Self(bits)
    }
    const fn bits(self) -> u64 {
        self.0
    }
    /// Whether every permission of `other` is there.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
    /// Whether an entry with just these permissions is present and legal.
    const fn is_mappable(self) -> bool {
        self.0 != 0 && (self.contains(Self::READ) || !self.contains(Self::WRITE))
    }
}

impl BitAnd for Perms {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// Why a guest-physical address does not translate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage2Fault {
    /// No entry: nothing is there (status 42).
    NotPresent,
    /// Present, but not for this access (status 59).
    Permission,
    /// An entry that the format forbids (status 58).
    Misconfigured,
}

impl Stage2Fault {
    /// The status with which a descriptor ends.
    #[must_use]
    pub const fn status(self) -> Status {
        match self {
            Self::NotPresent => Status::Stage2Pending,
            Self::Permission => Status::Stage2Permission,
            Self::Misconfigured => Status::Stage2Misconfigured,
        }
    }
}

/// Where a guest-physical address lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage2Hit {
    /// Host address of the very byte.
    pub host: HostAddr,
    /// Size of the leaf that maps it: 4 KiB, 2 MiB or 1 GiB, in bytes.
    pub leaf_bytes: u64,
}

/// The leaf that the last walk for writing ended in, so that the tables of one stage-1
/// walk, which mostly lie close together, cost one walk of stage 2 and not one each.
///
/// Must not outlive the stage-1 walk that it was made for: it knows no epoch.
#[derive(Debug, Default)]
pub struct LastLeaf {
    start: u64,
    bytes: u64,
    host: u64,
}

/// Why the tables were not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stage2Error {
    /// An address or length that is not a multiple of 4096, or a length of 0.
    #[error("{gpa:#x}+{len:#x}: expected multiples of 4096, not empty")]
    Misaligned {
        /// Guest-physical start.
        gpa: u64,
        /// Length in bytes.
        len: u64,
    },
    /// The range ends above the 48 bits that four levels can address.
    #[error("{gpa:#x}+{len:#x}: guest-physical addresses have 48 bits")]
    TooHigh {
        /// Guest-physical start.
        gpa: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Part of the range is mapped already.
    #[error("{gpa:#x}+{len:#x}: overlaps what is mapped already")]
    Overlap {
        /// Guest-physical start.
        gpa: u64,
        /// Length in bytes.
        len: u64,
    },
    /// No permission at all, or writing without reading.
    #[error("permissions {0:#b}: expected at least one, and no write without read")]
    Perms(u64),
}

/// Tables that a change took out of use. Dropped without [`Self::free`] they are leaked,
/// which is safe.
#[must_use = "free them after a grace period, or they leak"]
#[derive(Debug, Default)]
pub struct RetiredTables(Vec<NonNull<Table>>);

// SAFETY: the tables belong to this value alone, apart from walkers that the grace
// period waits for.
unsafe impl Send for RetiredTables {}

impl RetiredTables {
    /// Frees them.
    ///
    /// # Safety
    /// A grace period has passed since the change: no walk that began before it is
    /// still running.
    pub unsafe fn free(self) {
        for table in self.0 {
            // SAFETY: retired once, owned here; the caller vouches for the grace period.
            unsafe { table::free(table) };
        }
    }
}

/// One domain's stage-2 table.
pub struct Stage2 {
    root: Box<Table>,
    epoch: AtomicU64,
    /// Nothing translates, whatever the tables say.
    closed: AtomicBool,
    editing: Mutex<()>,
}

impl Default for Stage2 {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Stage2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage2")
            .field("epoch", &self.epoch())
            .finish_non_exhaustive()
    }
}

impl Stage2 {
    /// A table that maps nothing.
    #[must_use]
    pub fn new() -> Self {
        Self {
            root: Table::new(),
            epoch: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            editing: Mutex::new(()),
        }
    }

    /// Counts the changes that made a translation stricter or took one away. A cached
    /// translation is good only as long as this has the value read before its walk.
    #[must_use]
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Maps `len` bytes from `gpa` on to `host` and what follows it, with leaves as
    /// large as the alignment of both allows. Leaves [`Self::epoch`] alone: no
    /// translation that was good becomes wrong.
    ///
    /// # Errors
    /// See [`Stage2Error`]; nothing has changed then.
    pub fn map(&self, gpa: u64, host: HostAddr, len: u64, perms: Perms) -> Result<(), Stage2Error> {
        let end = check_map(gpa, host, len, perms)?;
        let _editing = self.edit();
        if !edit::is_unmapped(&self.root, LEVELS, gpa, end) {
            return Err(Stage2Error::Overlap { gpa, len });
        }
        edit::map(&self.root, LEVELS, gpa, end, host, perms);
        Ok(())
    }

    /// As [`Self::map`], but leaves alone what is mapped in the range already: for giving
    /// back what [`Self::unmap`] took away in parts.
    ///
    /// # Errors
    /// See [`Stage2Error`]; nothing has changed then.
    pub fn map_missing(
        &self,
        gpa: u64,
        host: HostAddr,
        len: u64,
        perms: Perms,
    ) -> Result<(), Stage2Error> {
        let end = check_map(gpa, host, len, perms)?;
        let _editing = self.edit();
        edit::map(&self.root, LEVELS, gpa, end, host, perms);
        Ok(())
    }

    /// Whether all of `len` bytes from `gpa` on is mapped with at least these permissions.
    /// Sets no bit. For control threads: takes a lock.
    #[must_use]
    pub fn allows(&self, gpa: u64, len: u64, perms: Perms) -> bool {
        let Some(end) = gpa.checked_add(len).filter(|&end| end <= 1 << GPA_BITS) else {
            return false;
        };
        let _editing = self.edit();
        edit::allows(&self.root, LEVELS, gpa, end, perms)
    }

    /// Unmaps whatever is mapped in `len` bytes from `gpa` on, and bumps the epoch. A
    /// grace period later no access by an old translation is in flight.
    ///
    /// # Errors
    /// See [`Stage2Error`]; nothing has changed then.
    pub fn unmap(&self, gpa: u64, len: u64) -> Result<RetiredTables, Stage2Error> {
        let end = range_end(gpa, len)?;
        let _editing = self.edit();
        let mut retired = RetiredTables::default();
        edit::unmap(&self.root, LEVELS, gpa, end, &mut retired.0);
        self.epoch.fetch_add(1, Ordering::SeqCst);
        Ok(retired)
    }

    /// Gives whatever is mapped in `len` bytes from `gpa` on these permissions, and
    /// bumps the epoch. A grace period later no access that they forbid is in flight.
    ///
    /// # Errors
    /// See [`Stage2Error`]; nothing has changed then.
    pub fn protect(&self, gpa: u64, len: u64, perms: Perms) -> Result<(), Stage2Error> {
        let end = range_end(gpa, len)?;
        if !perms.is_mappable() {
            return Err(Stage2Error::Perms(perms.bits()));
        }
        let _editing = self.edit();
        edit::protect(&self.root, LEVELS, gpa, end, perms);
        self.epoch.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// Bumps the epoch without a change, so that every address is walked for again.
    pub fn expire(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// Has nothing translate (status 42) until [`Self::open`], and bumps the epoch. A grace
    /// period later no access is in flight.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.expire();
    }

    /// Has everything translate again as the tables say.
    pub fn open(&self) {
        self.closed.store(false, Ordering::SeqCst);
    }

    /// Translates: checks the permissions of all levels, then sets A on every level and,
    /// for a write, D on the leaf.
    ///
    /// Must run inside a chunk, or on a thread that keeps the grace period from passing:
    /// see [`RetiredTables::free`].
    ///
    /// # Errors
    /// See [`Stage2Fault`].
    #[inline]
    pub fn walk(&self, gpa: u64, access: Access) -> Result<Stage2Hit, Stage2Fault> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Stage2Fault::NotPresent);
        }
        walk::walk(&self.root, gpa, access)
    }

    /// As [`Self::walk`], unless the address lies in the leaf that `last` remembers: that
    /// one allows writes and has its A and D set already.
    ///
    /// # Errors
    /// See [`Stage2Fault`].
    #[inline]
    pub fn walk_near(
        &self,
        last: &mut LastLeaf,
        gpa: u64,
        access: Access,
    ) -> Result<Stage2Hit, Stage2Fault> {
        let offset = gpa.wrapping_sub(last.start);
        if offset < last.bytes {
            return Ok(Stage2Hit {
                host: HostAddr(last.host + offset),
                leaf_bytes: last.bytes,
            });
        }
        let hit = self.walk(gpa, access)?;
        if access == Access::Write {
            let offset = gpa & (hit.leaf_bytes - 1);
            *last = LastLeaf {
                start: gpa - offset,
                bytes: hit.leaf_bytes,
                host: hit.host.0 - offset,
            };
        }
        Ok(hit)
    }

    /// The cells that a walk for `gpa` reads, with their levels, root first.
    #[cfg(test)]
    pub(crate) fn path(&self, gpa: u64) -> Vec<(u32, &AtomicU64)> {
        let mut path = Vec::new();
        let mut table: &Table = &self.root;
        for level in (1..=LEVELS).rev() {
            let cell = table.cell(entry::index(gpa, level));
            let entry = entry::Entry(cell.load(Ordering::Acquire));
            path.push((level, cell));
            if !entry.is_present() || entry.is_leaf(level) {
                break;
            }
            // SAFETY: present and not a leaf; tests free nothing meanwhile.
            table = unsafe { table::child(entry) };
        }
        path
    }

    fn edit(&self) -> std::sync::MutexGuard<'_, ()> {
        // The lock guards no data that a panic could have left half changed.
        self.editing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stage2 {
    fn drop(&mut self) {
        edit::free_below(&self.root, LEVELS);
    }
}

/// The end of a range that can be mapped so.
fn check_map(gpa: u64, host: HostAddr, len: u64, perms: Perms) -> Result<u64, Stage2Error> {
    let end = range_end(gpa, len)?;
    if !host.0.is_multiple_of(4096) || host.0.checked_add(len).is_none_or(|end| end >> 52 != 0) {
        return Err(Stage2Error::Misaligned { gpa, len });
    }
    if !perms.is_mappable() {
        return Err(Stage2Error::Perms(perms.bits()));
    }
    Ok(end)
}

fn range_end(gpa: u64, len: u64) -> Result<u64, Stage2Error> {
    if !gpa.is_multiple_of(4096) || !len.is_multiple_of(4096) || len == 0 {
        return Err(Stage2Error::Misaligned { gpa, len });
    }
    gpa.checked_add(len)
        .filter(|&end| end <= 1 << GPA_BITS)
        .ok_or(Stage2Error::TooHigh { gpa, len })
}
