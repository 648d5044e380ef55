//! Bits of a page-table entry, written down here once more so that a mistake in the engine's own list is seen (Intel SDM
//! volume 3, "4-Level Paging and 5-Level Paging").

/// Present.
pub const PRESENT: u64 = 1 << 0;
/// Writable.
pub const WRITABLE: u64 = 1 << 1;
/// Accessible from ring 3.
pub const USER: u64 = 1 << 2;
/// Accessed.
pub const ACCESSED: u64 = 1 << 5;
/// Dirty, in a leaf.
pub const DIRTY: u64 = 1 << 6;
/// A leaf, at levels 2 and 3; PAT at level 1; reserved above.
pub const LARGE: u64 = 1 << 7;
/// Global, in a leaf.
pub const GLOBAL: u64 = 1 << 8;
/// No instruction fetches.
pub const NO_EXECUTE: u64 = 1 << 63;
/// Bits that hold an address on a CPU with 52 of them.
pub const FRAME: u64 = 0x000f_ffff_ffff_f000;
/// Bits that mean nothing for a data access of ring 3 without protection keys and without PCID: write-through, uncached,
/// global, 9 to 11 and 52 to 62.
pub const IGNORED: u64 = 1 << 3 | 1 << 4 | GLOBAL | 0b111 << 9 | 0x7ff << 52;

/// Bytes of a page, and of a table.
pub const PAGE: u64 = 4096;

/// Bytes that one entry at `level` (1 = PTE) covers.
#[must_use]
pub const fn level_bytes(level: u8) -> u64 {
    1 << (12 + 9 * (level as u32 - 1))
}

/// Index into a table of `level` for `va`.
#[must_use]
pub const fn index(va: u64, level: u8) -> u64 {
    va >> (12 + 9 * (level as u32 - 1)) & 511
}
