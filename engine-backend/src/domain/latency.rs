//! [`Latencies`]: how long the latest operations of one kind took.

use std::sync::atomic::{AtomicU64, Ordering};

/// Operations remembered.
const ROOM: usize = 8192;

/// The latest durations, in nanoseconds. Written by the control thread, read by anybody.
#[derive(Debug)]
pub struct Latencies {
    samples: Box<[AtomicU64]>,
    count: AtomicU64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            samples: (0..ROOM).map(|_| AtomicU64::new(0)).collect(),
            count: AtomicU64::new(0),
        }
    }
}

/// What [`Latencies`] amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LatencySummary {
    /// Operations ever.
    pub count: u64,
    /// The latest one, in nanoseconds; 0 when there was none.
    pub last_ns: u64,
    /// The longest of those remembered, in nanoseconds.
    pub max_ns: u64,
}

impl Latencies {
    /// Adds one. Called by one thread at a time.
    pub(crate) fn record(&self, ns: u64) {
        let count = self.count.load(Ordering::Relaxed);
        self.samples[count as usize % ROOM].store(ns, Ordering::Relaxed);
        self.count.store(count + 1, Ordering::Release);
    }
    /// Those remembered, in nanoseconds, oldest first.
    #[must_use]
    pub fn samples(&self) -> Vec<u64> {
        let count = self.count.load(Ordering::Acquire) as usize;
        (count.saturating_sub(ROOM)..count)
            .map(|i| self.samples[i % ROOM].load(Ordering::Relaxed))
            .collect()
    }
    /// What they amount to.
    #[must_use]
    pub fn summary(&self) -> LatencySummary {
        let samples = self.samples();
        LatencySummary {
            count: self.count.load(Ordering::Acquire),
            last_ns: samples.last().copied().unwrap_or(0),
            max_ns: samples.iter().copied().max().unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_kept_in_order() {
        let l = Latencies::default();
        assert_eq!(l.summary(), LatencySummary::default());
        for ns in 0..ROOM as u64 + 5 {
            l.record(ns);
        }
        let samples = l.samples();
        assert_eq!(samples.len(), ROOM);
        assert_eq!((samples[0], samples[ROOM - 1]), (5, ROOM as u64 + 4));
        assert_eq!(l.summary().count, ROOM as u64 + 5);
        assert_eq!(l.summary().max_ns, ROOM as u64 + 4);
    }
}
