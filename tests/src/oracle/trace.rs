//! Where a walk would go if no entry forbade it anything: which entries it meets and where it ends.
//!
//! Needed to keep a case inside memory that is the oracle's to lose, to know which entries are a fault's upper ones, and
//! to count what the cases reached. It has no opinion on rights: those are the CPU's and the engine's business.

use super::pte::{FRAME, LARGE, PAGE, PRESENT, USER, WRITABLE, index, level_bytes};

/// What of the CPU the meaning of an entry depends on. EFER.NXE is always set.
#[derive(Debug, Clone, Copy)]
pub struct Paging {
    /// Guest-physical address of the root table.
    pub root: u64,
    /// 4 or 5.
    pub levels: u8,
    /// Physical address bits.
    pub maxphyaddr: u8,
    /// Whether PS in a PDPTE makes a page of 1 GiB; else it is reserved.
    pub pages_1g: bool,
}

/// An entry that a walk meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// Its guest-physical address.
    pub gpa: u64,
    /// What it holds.
    pub value: u64,
    /// Its level, 1 = PTE.
    pub level: u8,
}

/// How a walk ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Before it began: the address is not canonical.
    NonCanonical,
    /// At an entry that is not present.
    NotPresent,
    /// At a present entry with a reserved bit set.
    Reserved,
    /// At a table that cannot be read here.
    Elsewhere,
    /// In a page.
    Page {
        /// Guest-physical address of the byte.
        gpa: u64,
        /// Level of the leaf.
        level: u8,
    },
}

/// A walk.
#[derive(Debug, Clone)]
pub struct Trace {
    /// Entries in the order in which they are met; the last is the leaf or what stopped the walk.
    pub cells: Vec<Cell>,
    /// How it ends.
    pub end: End,
}

impl Trace {
    /// The first entry that ring 3 may not pass.
    #[must_use]
    pub fn first_supervisor(&self) -> Option<&Cell> {
        self.present().find(|cell| cell.value & USER == 0)
    }

    /// The first entry that forbids writing.
    #[must_use]
    pub fn first_read_only(&self) -> Option<&Cell> {
        self.present().find(|cell| cell.value & WRITABLE == 0)
    }

    /// Entries that name a further table which the walk went on to.
    #[must_use]
    pub fn upper(&self) -> &[Cell] {
        self.cells.split_last().map_or(&[], |(_, upper)| upper)
    }

    /// Whether a table is met twice.
    #[must_use]
    pub fn has_loop(&self) -> bool {
        let table = |cell: &Cell| cell.gpa & !(PAGE - 1);
        (1..self.cells.len()).any(|at| {
            self.cells[..at]
                .iter()
                .any(|c| table(c) == table(&self.cells[at]))
        })
    }

    fn present(&self) -> impl Iterator<Item = &Cell> {
        self.cells.iter().filter(|cell| cell.value & PRESENT != 0)
    }
}

impl Paging {
    /// Whether all bits above the ones that are translated equal the topmost of those.
    #[must_use]
    pub const fn is_canonical(&self, va: u64) -> bool {
        let above = (va as i64) >> (11 + 9 * self.levels as u32);
        above == 0 || above == -1
    }

    /// Whether an entry at `level` ends a walk in a page if no bit of it is reserved.
    #[must_use]
    pub const fn is_leaf(&self, value: u64, level: u8) -> bool {
        level == 1 || (level == 2 || level == 3 && self.pages_1g) && value & LARGE != 0
    }

    /// Bits that must be 0 in a present entry of `level`, a leaf or not.
    #[must_use]
    pub const fn reserved(&self, level: u8, leaf: bool) -> u64 {
        let beyond = FRAME & !((1 << self.maxphyaddr) - 1);
        let shape = match (level, leaf) {
            (1, _) | (2, false) => 0,
            (2 | 3, true) => FRAME & (level_bytes(level) - 1) & !(1 << 12),
            _ => LARGE,
        };
        beyond | shape
    }

    /// Follows `va` through the entries that `read` knows.
    #[must_use]
    pub fn trace(&self, va: u64, read: impl Fn(u64) -> Option<u64>) -> Trace {
        let mut cells = Vec::new();
        if !self.is_canonical(va) {
            return Trace {
                cells,
                end: End::NonCanonical,
            };
        }
        let mut table = self.root;
        let mut level = self.levels;
        let end = loop {
            let gpa = table + index(va, level) * 8;
            let Some(value) = read(gpa) else {
                break End::Elsewhere;
            };
            cells.push(Cell { gpa, value, level });
            if value & PRESENT == 0 {
                break End::NotPresent;
            }
            let leaf = self.is_leaf(value, level);
            if value & self.reserved(level, leaf) != 0 {
                break End::Reserved;
            }
            if leaf {
                let inside = level_bytes(level) - 1;
                let gpa = value & FRAME & !inside | va & inside;
                break End::Page { gpa, level };
            }
            table = value & FRAME;
            level -= 1;
        };
        Trace { cells, end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::pte::{NO_EXECUTE, PAGE};
    use std::collections::HashMap;

    const P: u64 = PRESENT | WRITABLE | USER;

    fn paging(pages_1g: bool) -> Paging {
        Paging {
            root: 0x1000,
            levels: 4,
            maxphyaddr: 40,
            pages_1g,
        }
    }

    fn ends(pages_1g: bool, entries: &[u64], va: u64) -> End {
        let paging = paging(pages_1g);
        let cells: HashMap<u64, u64> = (0..)
            .zip(entries)
            .map(|(n, &value)| (0x1000 + n * PAGE + index(va, 4 - n as u8) * 8, value))
            .collect();
        paging.trace(va, |gpa| cells.get(&gpa).copied()).end
    }

    #[test]
    fn leaves_of_every_size_keep_the_offset() {
        let va = 0x0000_1234_5678_9abc;
        let way = [0x2000 | P, 0x3000 | P, 0x4000 | P];
        let small = [way[0], way[1], way[2], 0x77000 | P | LARGE | NO_EXECUTE];
        assert_eq!(
            ends(false, &small, va),
            End::Page {
                gpa: 0x77abc,
                level: 1
            }
        );
        let large = [way[0], way[1], 0x20_1000 | P | LARGE];
        let gpa = 0x20_0000 | va & 0x1f_ffff;
        assert_eq!(ends(false, &large, va), End::Page { gpa, level: 2 });
        let huge = [way[0], 0x4000_1000 | P | LARGE];
        let gpa = 0x4000_0000 | va & 0x3fff_ffff;
        assert_eq!(ends(true, &huge, va), End::Page { gpa, level: 3 });
        assert_eq!(ends(false, &huge, va), End::Reserved);
    }

    #[test]
    fn a_walk_stops_where_the_manual_says() {
        let va = 0x5000;
        assert_eq!(ends(false, &[0x2000 | P | LARGE], va), End::Reserved);
        assert_eq!(ends(false, &[0x2000 | P | 1 << 40], va), End::Reserved);
        assert_eq!(ends(false, &[0x2000 | P | 1 << 39], va), End::Elsewhere);
        assert_eq!(ends(false, &[!PRESENT], va), End::NotPresent);
        let misaligned = [0x2000 | P, 0x3000 | P, 0x2000 | P | LARGE];
        assert_eq!(ends(false, &misaligned, va), End::Reserved);
        assert_eq!(ends(false, &[], 1 << 47), End::NonCanonical);
        assert_eq!(ends(false, &[], !0 << 47), End::Elsewhere);
    }
}
