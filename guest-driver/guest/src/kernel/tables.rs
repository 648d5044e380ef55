//! Page tables: walking and editing them, from ring 3, through the direct map.
//!
//! Owns nothing: a [`Tables`] names a root. Tests plant anything they like in the entries, so no
//! walk here goes anywhere but into RAM, or takes more steps than there are levels.

use super::frames::{Frames, direct};
use crate::layout::{LARGE_PAGE, PAGE};

/// Entry bit: present.
pub const PRESENT: u64 = 1;
/// Entry bit: writable.
pub const WRITABLE: u64 = 1 << 1;
/// Entry bit: accessible from ring 3.
pub const USER: u64 = 1 << 2;
/// Entry bit: write-through.
pub const WRITE_THROUGH: u64 = 1 << 3;
/// Entry bit: uncached, as device registers must be.
pub const UNCACHED: u64 = 1 << 4;
/// Entry bit: accessed.
pub const ACCESSED: u64 = 1 << 5;
/// Entry bit: dirty.
pub const DIRTY: u64 = 1 << 6;
/// Entry bit, above level 1: a leaf.
pub const LARGE: u64 = 1 << 7;
/// Entry bit: no instruction fetches.
pub const NO_EXECUTE: u64 = 1 << 63;
/// Bits of an entry that hold an address.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Bits of entries that lead to another table.
const INNER: u64 = PRESENT | WRITABLE | USER;

/// The page tables of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tables {
    /// Guest-physical address of the root: CR3.
    pub root: u64,
    /// Levels, 4 or 5.
    pub levels: u32,
}

/// An entry found by a walk.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Its own guest-physical address.
    pub address: u64,
    /// What it held when it was read.
    pub value: u64,
    /// Its level, 1 = PTE.
    pub level: u32,
}

impl Entry {
    /// Replaces it.
    pub fn set(&self, value: u64) {
        // SAFETY: `Tables::walk` found the address in RAM; volatile because CPU and engine use it
        // too.
        unsafe { direct::<u64>(self.address).write_volatile(value) };
    }

    /// Whether it maps memory rather than a table, or would if it were present.
    pub const fn is_leaf(&self) -> bool {
        self.level == 1 || self.value & LARGE != 0
    }
}

/// Not enough memory for a table.
#[derive(Debug)]
pub struct OutOfFrames;

impl Tables {
    /// Empty ones.
    pub fn new(frames: &mut Frames, levels: u32) -> Option<Self> {
        Some(Self {
            root: frames.take_zeroed()?,
            levels,
        })
    }

    /// The entry for `va` at `level`, or, where the way there ends early, the lowest on it. A table
    /// that is not in RAM ends it too.
    pub fn walk(&self, frames: &Frames, va: u64, level: u32) -> Option<Entry> {
        let mut table = self.root;
        let mut at = self.levels;
        loop {
            if table >= frames.top() {
                return None;
            }
            let address = table + index(va, at) * 8;
            // SAFETY: below the top of RAM, and all of it is mapped.
            let value = unsafe { direct::<u64>(address).read_volatile() };
            let entry = Entry {
                address,
                value,
                level: at,
            };
            let next = value & ADDRESS;
            if at == level || value & PRESENT == 0 || entry.is_leaf() || next >= frames.top() {
                return Some(entry);
            }
            table = next;
            at -= 1;
        }
    }

    /// The entry for `va` at `level`, with the tables above it created where none is present.
    pub fn entry(&self, frames: &mut Frames, va: u64, level: u32) -> Result<Entry, OutOfFrames> {
        loop {
            let found = self.walk(frames, va, level).ok_or(OutOfFrames)?;
            if found.level == level {
                return Ok(found);
            }
            let table = frames.take_zeroed().ok_or(OutOfFrames)?;
            found.set(table | INNER);
        }
    }

    /// Maps `len` bytes at `va` to guest-physical `pa` with leaf entries of `bits`, large ones
    /// wherever alignment allows.
    pub fn map(
        &self,
        frames: &mut Frames,
        va: u64,
        pa: u64,
        len: u64,
        bits: u64,
    ) -> Result<(), OutOfFrames> {
        let mut done = 0;
        while done < len {
            let large = (va + done).is_multiple_of(LARGE_PAGE)
                && (pa + done).is_multiple_of(LARGE_PAGE)
                && len - done >= LARGE_PAGE;
            let (level, size, extra) = if large {
                (2, LARGE_PAGE, LARGE)
            } else {
                (1, PAGE, 0)
            };
            self.entry(frames, va + done, level)?
                .set((pa + done) | bits | extra);
            done += size;
        }
        Ok(())
    }
}

/// Index into a table of level `level` for `va`.
const fn index(va: u64, level: u32) -> u64 {
    va >> (12 + 9 * (level - 1)) & 0x1ff
}
