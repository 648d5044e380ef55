//! What workers publish about themselves: plain numbers, written by one worker with
//! relaxed stores once a chunk, read by anyone at any time.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use crate::iotlb::IotlbStats;

/// What one worker has done since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WorkerStats {
    /// Thread number on the host, for `/proc/self/task/<tid>/schedstat`; 0 before the
    /// thread runs.
    pub tid: i32,
    /// Descriptors completed.
    pub descriptors: u64,
    /// Bytes touched by them.
    pub bytes: u64,
    /// Chunks.
    pub chunks: u64,
    /// Times that it slept.
    pub sleeps: u64,
    /// Times that it slept for a moment while devices worked.
    pub naps: u64,
    /// Queues parked.
    pub parked: u64,
    /// Ticks of the time stamp counter spent in chunks.
    pub busy_ticks: u64,
    /// Its IOTLB.
    pub iotlb: IotlbStats,
}

/// The same where others can read it. Numbers may stem from two adjacent chunks.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Published {
    tid: AtomicI32,
    descriptors: AtomicU64,
    bytes: AtomicU64,
    chunks: AtomicU64,
    sleeps: AtomicU64,
    naps: AtomicU64,
    parked: AtomicU64,
    busy_ticks: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    walks: [AtomicU64; 3],
    faults: AtomicU64,
}

impl Published {
    /// Writes all of it, `iotlb` in place of what `stats` has. Number by number from where it was counted: a copy on the
    /// way would wait until the last of them has left the store buffer.
    #[inline]
    pub(crate) fn store(&self, stats: &WorkerStats, iotlb: &IotlbStats) {
        self.tid.store(stats.tid, Ordering::Relaxed);
        for (to, from) in [
            (&self.descriptors, stats.descriptors),
            (&self.bytes, stats.bytes),
            (&self.chunks, stats.chunks),
            (&self.sleeps, stats.sleeps),
            (&self.naps, stats.naps),
            (&self.parked, stats.parked),
            (&self.busy_ticks, stats.busy_ticks),
            (&self.hits, iotlb.hits),
            (&self.misses, iotlb.misses),
            (&self.walks[0], iotlb.walks[0]),
            (&self.walks[1], iotlb.walks[1]),
            (&self.walks[2], iotlb.walks[2]),
            (&self.faults, iotlb.faults),
        ] {
            to.store(from, Ordering::Relaxed);
        }
    }

    /// Reads all of it.
    pub(crate) fn load(&self) -> WorkerStats {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        WorkerStats {
            tid: self.tid.load(Ordering::Relaxed),
            descriptors: get(&self.descriptors),
            bytes: get(&self.bytes),
            chunks: get(&self.chunks),
            sleeps: get(&self.sleeps),
            naps: get(&self.naps),
            parked: get(&self.parked),
            busy_ticks: get(&self.busy_ticks),
            iotlb: IotlbStats {
                hits: get(&self.hits),
                misses: get(&self.misses),
                walks: [
                    get(&self.walks[0]),
                    get(&self.walks[1]),
                    get(&self.walks[2]),
                ],
                faults: get(&self.faults),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_comes_back() {
        let stats = WorkerStats {
            tid: 1,
            descriptors: 2,
            bytes: 3,
            chunks: 4,
            sleeps: 5,
            naps: 14,
            parked: 6,
            busy_ticks: 13,
            iotlb: IotlbStats {
                hits: 7,
                misses: 8,
                walks: [9, 10, 11],
                faults: 12,
            },
        };
        let published = Published::default();
        published.store(&stats, &stats.iotlb);
        assert_eq!(published.load(), stats);
    }
}
