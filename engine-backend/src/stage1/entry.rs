//! One page-table entry of the guest, and which of its bits are forbidden (Intel SDM
//! volume 3, "4-Level Paging and 5-Level Paging").

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const FRAME: u64 = ((1 << 52) - 1) & !0xfff;

/// Deepest format: 5 levels; level 1 holds 4 KiB leaves.
pub(super) const LEVELS_MAX: usize = 5;

/// Bytes that one entry of a table at `level` covers.
pub(super) const fn level_bytes(level: u8) -> u64 {
    1 << (12 + 9 * (level as u32 - 1))
}

/// Offset in bytes of the entry for `va` in a table at `level`.
pub(super) const fn offset(va: u64, level: u8) -> u64 {
    (va >> (12 + 9 * (level as u32 - 1)) & 511) * 8
}

/// An entry, read once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry(pub(super) u64);

impl Entry {
    pub(super) const fn is_present(self) -> bool {
        self.0 & PRESENT != 0
    }
    pub(super) const fn is_user(self) -> bool {
        self.0 & USER != 0
    }
    pub(super) const fn is_writable(self) -> bool {
        self.0 & WRITABLE != 0
    }
    pub(super) const fn is_accessed(self) -> bool {
        self.0 & ACCESSED != 0
    }
    pub(super) const fn is_dirty(self) -> bool {
        self.0 & DIRTY != 0
    }
    /// Whether a present entry without a reserved bit ends the walk. Bit 7 is PAT at
    /// level 1 and reserved above level 3.
    pub(super) const fn is_leaf(self, level: u8) -> bool {
        level == 1 || (level <= 3 && self.0 & LARGE != 0)
    }
    /// Guest-physical address of the table below.
    pub(super) const fn table(self) -> u64 {
        self.0 & FRAME
    }
    /// Guest-physical address of the page that a leaf at `level` maps; its low bits, PAT
    /// in bit 12 of a large one included, are not part of it.
    pub(super) const fn page(self, level: u8) -> u64 {
        self.0 & FRAME & !(level_bytes(level) - 1)
    }
    /// The same entry with A set, and D too when `dirty`.
    pub(super) const fn touched(self, dirty: bool) -> Self {
        Self(self.0 | ACCESSED | if dirty { DIRTY } else { 0 })
    }
}

/// The reserved bits of every level, worked out once for one address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reserved {
    table: [u64; LEVELS_MAX],
    leaf: [u64; LEVELS_MAX],
}

impl Reserved {
    /// For a CPU with this MAXPHYADDR (at most 52), EFER.NXE and 1 GiB pages or not.
    pub(super) const fn new(maxphyaddr: u8, nxe: bool, pages_1g: bool) -> Self {
        let mut common = FRAME & !((1 << maxphyaddr) - 1);
        if !nxe {
            common |= NO_EXECUTE;
        }
        let leaf_1g = if pages_1g {
            0x3fff_e000 // 29:13; bit 12 is PAT
        } else {
            LARGE
        };
        let leaf_2m = 0x1f_e000; // 20:13; bit 12 is PAT
        Self {
            table: [
                common,
                common,
                common,
                common | LARGE, // PML4E
                common | LARGE, // PML5E
            ],
            leaf: [
                common,
                common | leaf_2m,
                common | leaf_1g,
                common | LARGE,
                common | LARGE,
            ],
        }
    }

    /// Whether a present entry at `level` (1 to 5) has a reserved bit set.
    pub(super) const fn violated_by(&self, entry: Entry, level: u8) -> bool {
        let level_index = level as usize - 1;
        let mask = if entry.is_leaf(level) {
            self.leaf[level_index]
        } else {
            self.table[level_index]
        };
        entry.0 & mask != 0
    }
}
