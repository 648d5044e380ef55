//! Cases: page-table entries, and accesses through them.

use super::pte::PAGE;

/// What an instruction does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A load.
    Read,
    /// A store.
    Write,
    /// A locked exchange.
    Exchange,
}

/// One access.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Virtual address of the first byte.
    pub va: u64,
    /// What is done.
    pub kind: Kind,
    /// Bytes: 1, 2, 4 or 8.
    pub width: u64,
    /// What is written.
    pub value: u64,
}

impl Step {
    /// Whether it needs the right to write.
    #[must_use]
    pub fn writes(&self) -> bool {
        self.kind != Kind::Read
    }

    /// Aligns a locked instruction: across cache lines it is an exception of its own where the host forbids it, and QEMU
    /// makes a misaligned one a load and a store.
    pub fn align(&mut self) {
        if self.kind == Kind::Exchange {
            self.va &= !(self.width - 1);
        }
    }

    /// Its parts, one for each page: address and bytes.
    #[must_use]
    pub fn parts(&self) -> Vec<(u64, u64)> {
        let first = (PAGE - self.va % PAGE).min(self.width);
        let mut parts = vec![(self.va, first)];
        if first < self.width {
            parts.push((self.va.wrapping_add(first), self.width - first));
        }
        parts
    }
}

/// A case.
#[derive(Debug, Clone)]
pub struct Case {
    /// Words to write before it: guest-physical address and value. All other words of tables are 0.
    pub entries: Vec<(u64, u64)>,
    /// Accesses, between which nothing else changes.
    pub steps: Vec<Step>,
}
