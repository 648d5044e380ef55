//! The memory of the guest that the oracle may fill with anything: a few pages for tables, a few for data, and the
//! process's root table, of which it may use some slots.
//!
//! Two ways lead there. The *guest* changes it by instructions of its own, so that a hypervisor which shadows page
//! tables sees it; the *host* looks at it, and puts it back between two accesses of the engine, through the engine's own
//! mapping. What the host put back the guest writes once more before its CPU uses it again.

use anyhow::{Context as _, Result, ensure};
use byway_agent::commands::{ACCESS_WRITE, ALLOC_ZERO, Access, Alloc, FillPattern, PteGet, PteSet};
use byway_engine::memory::HostSpan;
use byway_engine::stage2::HostAddr;

use super::machine::Machine;
use super::pte::{FRAME, PAGE, level_bytes};

/// Pages for tables: few, so that tables often meet themselves.
pub const TABLES: u64 = 8;
/// Pages for data behind them.
pub const DATA: u64 = 8;
const BYTES: u64 = (TABLES + DATA) * PAGE;
const BLOCK: u64 = 2 << 20;
const WORDS: usize = ((1 + TABLES + DATA) * PAGE / 8) as usize;

/// Contents of the root table and of the arena.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    words: Vec<u64>,
}

/// The arena.
#[derive(Debug)]
pub struct Arena {
    /// Guest-physical address, a multiple of 2 MiB: a large leaf can map it.
    gpa: u64,
    /// Where the process has it mapped for good.
    window: u64,
    root_gpa: u64,
    levels: u8,
    root: HostSpan,
    pages: HostSpan,
}

impl Arena {
    /// Has the process allocate one.
    ///
    /// # Errors
    /// When the guest cannot.
    pub fn new(machine: &Machine) -> Result<Self> {
        let paging = machine.paging();
        let request = Alloc {
            bytes: BLOCK,
            page_size: BLOCK,
            flags: ALLOC_ZERO,
        };
        let block = machine.call(request)?;
        let entries = machine.call(PteGet { va: block.va })?;
        ensure!(
            entries.lowest == 2 && entries.level2 & FRAME == block.gpa,
            "the arena is not one page of 2 MiB: {entries:x?}"
        );
        // Data that repeats nowhere, so that reading the wrong place shows. As a table it makes garbage of every kind.
        let data = FillPattern {
            va: block.va + TABLES * PAGE,
            len: DATA * PAGE,
            seed: 1,
        };
        machine.call(data)?;
        let span = |gpa, len| {
            let span = machine.memory().contiguous(gpa, len);
            span.with_context(|| format!("{gpa:#x}+{len:#x} is not in RAM"))
        };
        Ok(Self {
            gpa: block.gpa,
            window: block.va,
            root_gpa: paging.root,
            levels: paging.levels,
            root: span(paging.root, PAGE)?,
            pages: span(block.gpa, BYTES)?,
        })
    }

    /// Guest-physical address of page `number`: tables first, then data.
    #[must_use]
    pub const fn page(&self, number: u64) -> u64 {
        self.gpa + number * PAGE
    }

    /// Whether an address lies in it; the root table does not count.
    #[must_use]
    pub const fn contains(&self, gpa: u64) -> bool {
        gpa >= self.gpa && gpa < self.gpa + BYTES
    }

    /// Whether an address lies in the root table.
    #[must_use]
    pub const fn in_root(&self, gpa: u64) -> bool {
        gpa & !(PAGE - 1) == self.root_gpa
    }

    fn span_of(&self, gpa: u64) -> Option<(&HostSpan, usize)> {
        if self.contains(gpa) {
            Some((&self.pages, (gpa - self.gpa) as usize))
        } else if self.in_root(gpa) {
            Some((&self.root, (gpa - self.root_gpa) as usize))
        } else {
            None
        }
    }

    /// Where the engine has the byte at `gpa`.
    #[must_use]
    pub fn host(&self, gpa: u64) -> Option<HostAddr> {
        let (span, offset) = self.span_of(gpa)?;
        Some(HostAddr(span.host().0 + offset as u64))
    }

    /// Reads bytes that lie in one page of arena or root.
    ///
    /// # Panics
    /// When they do not.
    pub fn read(&self, gpa: u64, into: &mut [u8]) {
        let (span, offset) = self.span_of(gpa).expect("checked when the case was made");
        span.read_bytes(offset, into);
    }

    /// Writes bytes that lie in one page of arena or root.
    ///
    /// # Panics
    /// When they do not.
    pub fn write(&self, gpa: u64, from: &[u8]) {
        let (span, offset) = self.span_of(gpa).expect("checked when the case was made");
        span.write_bytes(offset, from);
    }

    /// Index in an [`Image`] of the word at `gpa`.
    #[must_use]
    pub fn index(&self, gpa: u64) -> Option<usize> {
        let word = |offset| (offset / 8) as usize;
        if self.in_root(gpa) {
            Some(word(gpa - self.root_gpa))
        } else if self.contains(gpa) {
            Some(word(PAGE + gpa - self.gpa))
        } else {
            None
        }
    }

    /// Guest-physical address of word `index` of an [`Image`].
    #[must_use]
    pub const fn gpa_of(&self, index: usize) -> u64 {
        let offset = index as u64 * 8;
        if offset < PAGE {
            self.root_gpa + offset
        } else {
            self.gpa + offset - PAGE
        }
    }

    /// What is there now.
    #[must_use]
    pub fn capture(&self) -> Image {
        let root = (0..PAGE as usize)
            .step_by(8)
            .map(|at| self.root.load_u64(at));
        let pages = (0..BYTES as usize)
            .step_by(8)
            .map(|at| self.pages.load_u64(at));
        let words: Vec<u64> = root.chain(pages).collect();
        debug_assert_eq!(words.len(), WORDS);
        Image { words }
    }

    /// Makes it what it was, as the host.
    pub fn restore(&self, image: &Image) {
        for (index, (&wanted, now)) in image.words.iter().zip(self.capture().words).enumerate() {
            if wanted != now {
                self.write(self.gpa_of(index), &wanted.to_le_bytes());
            }
        }
    }

    /// Stores one word, as the guest. Words of the root table go through the guest kernel, which flushes the TLB.
    ///
    /// # Errors
    /// When the guest cannot.
    pub fn plant(&self, machine: &Machine, gpa: u64, value: u64) -> Result<()> {
        if self.in_root(gpa) {
            let va = (gpa - self.root_gpa) / 8 * level_bytes(self.levels);
            machine.call(PteSet {
                va,
                level: u64::from(self.levels),
                value,
            })?;
        } else {
            let va = self.window + (gpa - self.gpa);
            let stored = machine.call(Access {
                va,
                kind: ACCESS_WRITE,
                width: 8,
                value,
            })?;
            ensure!(
                stored.faulted == 0,
                "the process cannot write to its arena: {stored:x?}"
            );
        }
        Ok(())
    }
}

impl Image {
    /// Word `index`.
    #[must_use]
    pub fn word(&self, index: usize) -> u64 {
        self.words[index]
    }

    /// The byte at `gpa`.
    #[must_use]
    pub fn byte(&self, arena: &Arena, gpa: u64) -> Option<u8> {
        let word = self.word(arena.index(gpa)?);
        word.to_le_bytes().get((gpa % 8) as usize).copied()
    }

    /// Replaces word `index`.
    pub fn set(&mut self, index: usize, value: u64) {
        self.words[index] = value;
    }

    /// Where the two differ, and in which bits.
    pub fn differences<'i>(&'i self, other: &'i Self) -> impl Iterator<Item = (usize, u64)> + 'i {
        let both = self.words.iter().zip(&other.words).enumerate();
        both.filter(|(_, (a, b))| a != b)
            .map(|(index, (a, b))| (index, a ^ b))
    }
}
