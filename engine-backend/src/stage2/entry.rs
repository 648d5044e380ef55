//! One EPT entry: which bits mean what, and which are forbidden (Intel SDM volume 3,
//! tables "Format of an EPT PML4 entry" to "Format of an EPT page-table entry").

use super::Perms;

/// Levels of the table; level 4 is the root, level 1 holds 4 KiB leaves.
pub(super) const LEVELS: u32 = 4;
/// Guest-physical addresses have this many bits; above them nothing is mapped.
pub(super) const GPA_BITS: u32 = 48;

const PERMS: u64 = 0b111;
const MEMORY_TYPE: u64 = 0b111 << 3;
const MEMORY_TYPE_SHIFT: u32 = 3;
const WRITE_BACK: u64 = 6 << MEMORY_TYPE_SHIFT;
const LARGE: u64 = 1 << 7;
const ACCESSED: u64 = 1 << 8;
const DIRTY: u64 = 1 << 9;
const FRAME: u64 = ((1 << 52) - 1) & !0xfff;

/// Bytes that one entry of a table at `level` covers.
pub(super) const fn level_bytes(level: u32) -> u64 {
    1 << (12 + 9 * (level - 1))
}

/// Index of the entry for `gpa` in a table at `level`.
pub(super) const fn index(gpa: u64, level: u32) -> usize {
    (gpa >> (12 + 9 * (level - 1)) & 511) as usize
}

/// An entry, read once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry(pub(super) u64);

impl Entry {
    /// Maps nothing.
    pub(super) const EMPTY: Self = Self(0);

    /// Points to a table; everything is allowed here and decided by the leaves.
    pub(super) const fn table(frame: u64) -> Self {
        Self(frame | PERMS)
    }

    /// Maps the block at `frame`; write-back memory.
    pub(super) const fn leaf(frame: u64, level: u32, perms: Perms) -> Self {
        let large = if level > 1 { LARGE } else { 0 };
        Self(frame | large | WRITE_BACK | perms.bits())
    }

    /// Whether it maps anything: some access is allowed.
    pub(super) const fn is_present(self) -> bool {
        self.0 & PERMS != 0
    }

    /// Whether a present entry ends the walk. Bit 7 is ignored at level 1 and reserved
    /// at level 4.
    pub(super) const fn is_leaf(self, level: u32) -> bool {
        level == 1 || (level < LEVELS && self.0 & LARGE != 0)
    }

    /// Whether the format forbids a present entry.
    pub(super) const fn is_misconfigured(self, level: u32) -> bool {
        if self.0 & Perms::READ.bits() == 0 && self.0 & Perms::WRITE.bits() != 0 {
            return true;
        }
        if self.is_leaf(level) {
            let alignment = (level_bytes(level) - 1) & !0xfff;
            self.0 & alignment != 0
                || matches!((self.0 & MEMORY_TYPE) >> MEMORY_TYPE_SHIFT, 2 | 3 | 7)
        } else {
            let reserved = if level == LEVELS { 0xf8 } else { 0x78 };
            self.0 & reserved != 0
        }
    }

    /// What it allows.
    pub(super) const fn perms(self) -> Perms {
        Perms::from_entry(self.0 & PERMS)
    }

    /// The table or block that it points to.
    pub(super) const fn frame(self) -> u64 {
        self.0 & FRAME
    }

    /// The same entry with A set, and D too when `dirty`.
    pub(super) const fn touched(self, dirty: bool) -> Self {
        Self(self.0 | ACCESSED | if dirty { DIRTY } else { 0 })
    }

    /// The same entry with other permissions.
    pub(super) const fn with_perms(self, perms: Perms) -> Self {
        Self(self.0 & !PERMS | perms.bits())
    }

    /// The `n`th of the 512 leaves that together map what this leaf at `level` maps,
    /// accessed and dirty bits included.
    pub(super) const fn split(self, level: u32, n: u64) -> Self {
        let large = if level > 2 { LARGE } else { 0 };
        let part = n * level_bytes(level - 1);
        Self(self.0 & !LARGE | large | part)
    }
}
