//! [`WalkCounts`]: how often a domain's page tables were walked, and in leaves of which size the
//! walks ended. For the operator; a test of huge pages sees by it that pages were huge.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::epoch::WORKERS_MAX;

/// What one worker counted; a line of its own, so that no two workers share one.
#[derive(Debug, Default)]
#[repr(align(64))]
struct PerWorker {
    misses: AtomicU64,
    leaves: [AtomicU64; 3],
}

/// Counts of one domain, over all that its memory has ever been.
#[derive(Debug)]
pub struct WalkCounts(Box<[PerWorker]>);

impl Default for WalkCounts {
    fn default() -> Self {
        Self((0..WORKERS_MAX).map(|_| PerWorker::default()).collect())
    }
}

/// Sums over all workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WalkTotals {
    /// Translations that the IOTLB did not have.
    pub misses: u64,
    /// Walks of page tables that ended in a leaf of 4 KiB, 2 MiB, 1 GiB.
    pub leaves: [u64; 3],
}

impl WalkCounts {
    /// Notes a miss by this worker, which is the only one to do so for its number. `leaf_bytes`
    /// is the size of the guest's own page, if its tables were walked and had one.
    pub fn note(&self, worker: usize, leaf_bytes: Option<u64>) {
        let Some(mine) = self.0.get(worker) else {
            return;
        };
        // One writer: no locked instruction is needed.
        let add =
            |count: &AtomicU64| count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        add(&mine.misses);
        if let Some(bytes) = leaf_bytes {
            add(&mine.leaves[usize::from(bytes >= 2 << 20) + usize::from(bytes >= 1 << 30)]);
        }
    }

    /// What all have noted so far.
    #[must_use]
    pub fn totals(&self) -> WalkTotals {
        let mut totals = WalkTotals::default();
        for one in &self.0 {
            totals.misses += one.misses.load(Ordering::Relaxed);
            for (sum, count) in totals.leaves.iter_mut().zip(&one.leaves) {
                *sum += count.load(Ordering::Relaxed);
            }
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_are_counted_by_the_size_of_their_leaf() {
        let counts = WalkCounts::default();
        for (worker, bytes) in [
            (0, Some(4096)),
            (1, Some(2 << 20)),
            (1, Some(2 << 20)),
            (63, Some(1 << 30)),
            (0, None),
            (64, None),
        ] {
            counts.note(worker, bytes);
        }
        let totals = counts.totals();
        assert_eq!((totals.misses, totals.leaves), (5, [1, 2, 1]));
    }
}
