//! Stage 1: virtual to guest-physical, by the guest's own page tables, as the guest's CPU
//! would for a data access of ring 3 (Intel SDM volume 3, "4-Level Paging and 5-Level
//! Paging").
//!
//! Every read of a table goes through stage 2. The walk ends at the first entry with
//! U/S = 0, so kernel page tables are never walked. Accessed and dirty bits are set by
//! compare-exchange on the entry that was walked, top down, and only when the access is
//! allowed in both stages. What does not take part: CR0.WP and SMAP (the access is a
//! user's), NX (it is no fetch), protection keys (PKRU belongs to a thread, and the engine
//! acts for none; bits 62:59 are ignored).
//!
//! Page tables are hostile: they may point anywhere, at themselves, or change under the
//! walk. All that costs is a bounded number of steps.

mod entry;
#[cfg(test)]
mod tests;

use byway_protocols::Status;

use crate::memory::{GuestEntry, GuestMemory};
use crate::stage2::{Access, HostAddr, LastLeaf};
use entry::{Entry, LEVELS_MAX, Reserved, level_bytes, offset};

/// Walks that one translation makes before it gives up, when entries keep changing
/// between being read and having their accessed and dirty bits set.
pub const WALKS_MAX: u32 = 8;

/// How to read a guest's page tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    levels: u8,
    no_ad: bool,
    reserved: Reserved,
}

impl Format {
    /// The format of a CPU with `levels` levels (4 or 5) and this MAXPHYADDR (32 to 52);
    /// `None` for others. `nxe`: EFER.NXE is set; `pages_1g`: it has 1 GiB pages;
    /// `no_ad`: entries must not be written, so A = 0, or D = 0 on a write, is a fault.
    #[must_use]
    pub const fn new(
        levels: u8,
        maxphyaddr: u8,
        nxe: bool,
        pages_1g: bool,
        no_ad: bool,
    ) -> Option<Self> {
        if !matches!(levels, 4 | 5) || maxphyaddr < 32 || maxphyaddr > 52 {
            return None;
        }
        Some(Self {
            levels,
            no_ad,
            reserved: Reserved::new(maxphyaddr, nxe, pages_1g),
        })
    }

    /// Whether all bits above the address's 48 or 57 equal its topmost one.
    const fn is_canonical(&self, va: u64) -> bool {
        let unused = 64 - (12 + 9 * self.levels as u32);
        ((va << unused) as i64 >> unused) as u64 == va
    }
}

/// Where a virtual address lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage1Hit {
    /// Host address of the very byte.
    pub host: HostAddr,
    /// Guest-physical address of the very byte.
    pub gpa: u64,
    /// Size of the guest's page: 4 KiB, 2 MiB or 1 GiB, in bytes.
    pub page_bytes: u64,
    /// Size of the stage-2 leaf under it, in bytes.
    pub leaf_bytes: u64,
}

/// Translates one virtual address through both stages, from the root table at the
/// guest-physical address `root`, a multiple of 4096.
///
/// Must run inside a chunk, or on a thread that keeps the grace period from passing: see
/// [`crate::memory::Retired::free`].
///
/// # Errors
/// The status with which a descriptor in its own memory ends.
pub fn walk(
    memory: &GuestMemory,
    format: &Format,
    root: u64,
    va: u64,
    access: Access,
) -> Result<Stage1Hit, Status> {
    if !format.is_canonical(va) {
        return Err(Status::NonCanonical);
    }
    for _ in 0..WALKS_MAX {
        if let Some(hit) = attempt(memory, format, root, va, access)? {
            return Ok(hit);
        }
    }
    // The guest changes the entries faster than they can be walked; it may resubmit.
    Err(Status::Stage1NotPresent)
}

/// One walk; `None` when an entry changed before its accessed or dirty bit was set.
fn attempt(
    memory: &GuestMemory,
    format: &Format,
    root: u64,
    va: u64,
    access: Access,
) -> Result<Option<Stage1Hit>, Status> {
    let write = access == Access::Write;
    let mut path: [Option<(GuestEntry<'_>, Entry)>; LEVELS_MAX] = [None; LEVELS_MAX];
    let mut last = LastLeaf::default();
    let mut writable = true;
    let mut accessed = true;
    let mut table = root;
    let mut level = format.levels;
    let leaf = loop {
        let cell = memory
            .table_entry(&mut last, table | offset(va, level))
            .map_err(|fault| fault.status())?;
        let entry = Entry(cell.load());
        if !entry.is_present() {
            return Err(Status::Stage1NotPresent);
        }
        if format.reserved.violated_by(entry, level) {
            return Err(Status::ReservedBit);
        }
        if !entry.is_user() {
            return Err(Status::Stage1Permission);
        }
        writable &= entry.is_writable();
        accessed &= entry.is_accessed();
        path[usize::from(level) - 1] = Some((cell, entry));
        if entry.is_leaf(level) {
            break entry;
        }
        table = entry.table();
        level -= 1;
    };
    if write && !writable {
        return Err(Status::Stage1Permission);
    }
    if format.no_ad && !(accessed && (leaf.is_dirty() || !write)) {
        return Err(Status::Stage1NotPresent);
    }
    let page_bytes = level_bytes(level);
    let gpa = leaf.page(level) | va & (page_bytes - 1);
    let hit = memory
        .stage2()
        .walk_near(&mut last, gpa, access)
        .map_err(|fault| fault.status())?;
    // Both stages allow the access: only now is it recorded in the guest's own tables.
    // With NO_AD every bit is there already, so nothing is written.
    for step in (level..=format.levels).rev() {
        let Some((cell, entry)) = path[usize::from(step) - 1] else {
            continue;
        };
        let touched = entry.touched(write && step == level);
        if touched == entry {
            continue;
        }
        if !cell.replace(entry.0, touched.0) {
            return Ok(None);
        }
        if memory.dirty_log().is_on() {
            let above = path.get(usize::from(step)).copied().flatten();
            let table = above.map_or(root, |(_, entry)| entry.table());
            memory.dirty_log().mark(table | offset(va, step), 8);
        }
    }
    Ok(Some(Stage1Hit {
        host: hit.host,
        gpa,
        page_bytes,
        leaf_bytes: hit.leaf_bytes,
    }))
}
