//! The VMM's own count of `KVM_RUN` returns, by kind.
//!
//! Written by one vCPU thread, read by any. Relaxed is enough: each counter
//! stands alone, and a reader that must know about a particular exit waits for
//! its effect first.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why `KVM_RUN` returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunExit {
    /// Port read or write.
    Io,
    /// Memory-mapped read or write.
    Mmio,
    /// A signal, or the immediate-exit flag.
    Interrupted,
    /// The guest's end: shutdown, triple fault, emulation or entry failure.
    Fatal,
    /// Anything else.
    Other,
}

impl RunExit {
    const COUNT: usize = 5;

    /// All kinds, for tables.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Io,
        Self::Mmio,
        Self::Interrupted,
        Self::Fatal,
        Self::Other,
    ];
}

/// Returns of `KVM_RUN` of one vCPU.
#[derive(Debug, Default)]
pub struct RunCounts {
    kinds: [AtomicU64; RunExit::COUNT],
}

impl RunCounts {
    /// Counts one return.
    pub fn count(&self, exit: RunExit) {
        self.kinds[exit as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns of one kind.
    pub fn get(&self, exit: RunExit) -> u64 {
        self.kinds[exit as usize].load(Ordering::Relaxed)
    }

    /// Returns of every kind.
    pub fn total(&self) -> u64 {
        RunExit::ALL.iter().map(|exit| self.get(*exit)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_counts_apart_and_all_count_in_the_total() {
        let counts = RunCounts::default();
        for exit in RunExit::ALL {
            counts.count(exit);
            counts.count(exit);
            assert_eq!(counts.get(exit), 2);
        }
        assert_eq!(counts.total(), 2 * RunExit::ALL.len() as u64);
    }
}
