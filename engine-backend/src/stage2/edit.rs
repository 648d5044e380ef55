//! Changes to the tables: mapping, unmapping, protecting. Called by control threads, one
//! at a time; walkers see either the old or the new entry, never half of one.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use super::entry::{Entry, LEVELS, index, level_bytes};
use super::table::{self, Table};
use super::{HostAddr, Perms};

/// The part of a range that one entry covers.
struct Slice {
    index: usize,
    start: u64,
    end: u64,
}

impl Slice {
    fn is_whole(&self, level: u32) -> bool {
        self.end - self.start == level_bytes(level)
    }
}

/// Cuts `start..end` at the borders of the entries of a table at `level`.
fn slices(level: u32, start: u64, end: u64) -> impl Iterator<Item = Slice> {
    let bytes = level_bytes(level);
    let mut at = start;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let slice = Slice {
            index: index(at, level),
            start: at,
            end: end.min((at & !(bytes - 1)) + bytes),
        };
        at = slice.end;
        Some(slice)
    })
}

/// The table below an entry that points to one.
fn below<'a>(entry: Entry) -> &'a Table {
    // SAFETY: present and not a leaf, as every caller here has checked; tables are taken
    // out of the tree by the editing thread alone, which is this one.
    unsafe { table::child(entry) }
}

/// Whether nothing is mapped in `start..end`.
pub(super) fn is_unmapped(table: &Table, level: u32, start: u64, end: u64) -> bool {
    slices(level, start, end).all(|slice| {
        let entry = table.load(slice.index);
        !entry.is_present()
            || !entry.is_leaf(level) && is_unmapped(below(entry), level - 1, slice.start, slice.end)
    })
}

/// Whether all of `start..end` is mapped with at least these permissions.
pub(super) fn allows(table: &Table, level: u32, start: u64, end: u64, perms: Perms) -> bool {
    slices(level, start, end).all(|slice| {
        let entry = table.load(slice.index);
        entry.is_present()
            && entry.perms().contains(perms)
            && (entry.is_leaf(level)
                || allows(below(entry), level - 1, slice.start, slice.end, perms))
    })
}

/// Maps what is not mapped of `start..end`, with leaves as large as alignment allows.
pub(super) fn map(table: &Table, level: u32, start: u64, end: u64, host: HostAddr, perms: Perms) {
    for slice in slices(level, start, end) {
        let frame = host.0 + (slice.start - start);
        let entry = table.load(slice.index);
        let fits =
            level < LEVELS && slice.is_whole(level) && frame.is_multiple_of(level_bytes(level));
        if fits && !entry.is_present() {
            table.store(slice.index, Entry::leaf(frame, level, perms));
            continue;
        }
        if entry.is_present() && entry.is_leaf(level) {
            continue;
        }
        let entry = if entry.is_present() {
            entry
        } else {
            let entry = Entry::table(table::publish(Table::new()));
            table.store(slice.index, entry);
            entry
        };
        map(
            below(entry),
            level - 1,
            slice.start,
            slice.end,
            HostAddr(frame),
            perms,
        );
    }
}

/// Unmaps whatever is mapped in `start..end`; tables that became empty go to `retired`.
pub(super) fn unmap(
    table: &Table,
    level: u32,
    start: u64,
    end: u64,
    retired: &mut Vec<NonNull<Table>>,
) {
    for slice in slices(level, start, end) {
        let entry = table.load(slice.index);
        if !entry.is_present() {
            continue;
        }
        if entry.is_leaf(level) && slice.is_whole(level) {
            table.store(slice.index, Entry::EMPTY);
            continue;
        }
        let child = below(table_at(table.cell(slice.index), level));
        unmap(child, level - 1, slice.start, slice.end, retired);
        if child.is_empty() {
            // The walkers' accessed bits may have changed the entry; its frame is the same.
            let entry = table.load(slice.index);
            table.store(slice.index, Entry::EMPTY);
            // SAFETY: present, not a leaf, and out of the tree as of the store above.
            retired.push(unsafe { table::retire(entry) });
        }
    }
}

/// Gives whatever is mapped in `start..end` these permissions, which are not empty.
pub(super) fn protect(table: &Table, level: u32, start: u64, end: u64, perms: Perms) {
    for slice in slices(level, start, end) {
        let entry = table.load(slice.index);
        if !entry.is_present() {
            continue;
        }
        let cell = table.cell(slice.index);
        if entry.is_leaf(level) && slice.is_whole(level) {
            replace(cell, |e| e.with_perms(perms));
        } else {
            protect(
                below(table_at(cell, level)),
                level - 1,
                slice.start,
                slice.end,
                perms,
            );
        }
    }
}

/// The entry in a present cell once it points to a table: a leaf is split first, its
/// accessed and dirty bits inherited by every part.
fn table_at(cell: &AtomicU64, level: u32) -> Entry {
    let entry = Entry(cell.load(Ordering::Acquire));
    if !entry.is_leaf(level) {
        return entry;
    }
    let parts = Table::new();
    let frame = table::publish(parts);
    let split = Entry::table(frame);
    replace(cell, |leaf| {
        for n in 0..512 {
            below(split).store(n, leaf.split(level, n as u64));
        }
        split
    });
    split
}

/// Changes an entry while walkers may be setting its accessed and dirty bits.
fn replace(cell: &AtomicU64, mut change: impl FnMut(Entry) -> Entry) {
    let mut current = cell.load(Ordering::Acquire);
    // Ends: only the two bits can change under the editor, and each is set once.
    while let Err(seen) = cell.compare_exchange(
        current,
        change(Entry(current)).0,
        Ordering::AcqRel,
        Ordering::Acquire,
    ) {
        current = seen;
    }
}

/// Frees everything below a table that no walker can reach any more.
pub(super) fn free_below(table: &Table, level: u32) {
    for i in 0..512 {
        let entry = table.load(i);
        if entry.is_present() && !entry.is_leaf(level) {
            free_below(below(entry), level - 1);
            // SAFETY: the whole tree is being dropped, so nobody walks it.
            unsafe { table::free(table::retire(entry)) };
        }
    }
}
