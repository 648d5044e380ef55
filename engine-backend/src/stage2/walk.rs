//! The stage-2 walk: lock-free, bounded, and exact about accessed and dirty bits.

use std::sync::atomic::{AtomicU64, Ordering};

use super::entry::{Entry, GPA_BITS, LEVELS, index, level_bytes};
use super::table::{self, Table};
use super::{Access, HostAddr, Perms, Stage2Fault, Stage2Hit, WALKS_MAX};

/// Translates; see [`super::Stage2::walk`].
pub(super) fn walk(root: &Table, gpa: u64, access: Access) -> Result<Stage2Hit, Stage2Fault> {
    if gpa >> GPA_BITS != 0 {
        return Err(Stage2Fault::NotPresent);
    }
    for _ in 0..WALKS_MAX {
        if let Some(hit) = attempt(root, gpa, access)? {
            return Ok(hit);
        }
    }
    // The tables change faster than they can be walked: nothing stable is there now.
    Err(Stage2Fault::NotPresent)
}

/// One walk; `None` when an entry changed before its accessed or dirty bit was set.
#[inline]
fn attempt(root: &Table, gpa: u64, access: Access) -> Result<Option<Stage2Hit>, Stage2Fault> {
    let mut path: [Option<(&AtomicU64, Entry)>; LEVELS as usize] = [None; LEVELS as usize];
    let mut perms = Perms::ALL;
    let mut table = root;
    let mut level = LEVELS;
    let leaf = loop {
        let cell = table.cell(index(gpa, level));
        let entry = Entry(cell.load(Ordering::Acquire));
        if !entry.is_present() {
            return Err(Stage2Fault::NotPresent);
        }
        if entry.is_misconfigured(level) {
            return Err(Stage2Fault::Misconfigured);
        }
        perms = perms & entry.perms();
        path[(level - 1) as usize] = Some((cell, entry));
        if entry.is_leaf(level) {
            break entry;
        }
        // SAFETY: present and not a leaf; the caller of a walk is inside a chunk or
        // otherwise keeps the grace period from passing (`Retired::free`).
        table = unsafe { table::child(entry) };
        level -= 1;
    };
    let needed = match access {
        Access::Read => Perms::READ,
        Access::Write => Perms::WRITE,
    };
    if !perms.contains(needed) {
        return Err(Stage2Fault::Permission);
    }
    for step in (level..=LEVELS).rev() {
        let Some((cell, entry)) = path[(step - 1) as usize] else {
            continue;
        };
        let touched = entry.touched(step == level && access == Access::Write);
        if touched != entry
            && cell
                .compare_exchange(entry.0, touched.0, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
        {
            return Ok(None);
        }
    }
    let leaf_bytes = level_bytes(level);
    Ok(Some(Stage2Hit {
        host: HostAddr(leaf.frame() | gpa & (leaf_bytes - 1)),
        leaf_bytes,
    }))
}
