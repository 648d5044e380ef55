//! The dirty log: which pages of a domain's RAM the engine has written since they were
//! last harvested, one bit per page of 4 KiB, as a live migration needs it (vhost-user's
//! VHOST_F_LOG_ALL).
//!
//! Whoever writes guest memory marks the page *after* the bytes, so that a page whose bit
//! is harvested can be copied right away. Marking takes no lock; turning the log on or off
//! and harvesting are the VMM's, one at a time. Off, all that anybody looks at is
//! [`DirtyLog::is_on`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;

/// Bytes that one bit stands for.
pub const LOG_PAGE: u64 = 4096;

/// The bits of one region.
#[derive(Debug)]
struct Part {
    first_page: u64,
    pages: u64,
    words: Box<[AtomicU64]>,
}

impl Part {
    fn new(gpa: u64, size: u64) -> Self {
        let pages = size / LOG_PAGE;
        Self {
            first_page: gpa / LOG_PAGE,
            pages,
            words: (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Number of a page in the part, if it is there.
    fn index(&self, page: u64) -> Option<u64> {
        page.checked_sub(self.first_page)
            .filter(|&n| n < self.pages)
    }

    /// Reads and clears the bits of `pages` pages from the `first` on: bit n of word n/64
    /// of what it returns is page `first + n`.
    fn take(&self, first: u64, pages: u64) -> Vec<u64> {
        let mut out = vec![0; pages.div_ceil(64) as usize];
        let mut done = 0;
        while done < pages {
            let at = first + done;
            let (shift, room) = (at % 64, 64 - at % 64);
            let count = room.min(pages - done);
            let mask = (u64::MAX >> (64 - count)) << shift;
            let word = &self.words[(at / 64) as usize];
            // Acquire: what was written before a bit is seen by whoever copies the page.
            let bits = (word.fetch_and(!mask, Ordering::AcqRel) & mask) >> shift;
            out[(done / 64) as usize] |= bits << (done % 64);
            let spill = done % 64 + count;
            if spill > 64 {
                out[(done / 64) as usize + 1] |= bits >> (64 - done % 64);
            }
            done += count;
        }
        out
    }
}

/// One domain's log.
#[derive(Debug, Default)]
pub struct DirtyLog {
    is_on: AtomicBool,
    /// One part for each region that was there when the log was turned on, or came later.
    parts: ArcSwap<Vec<Arc<Part>>>,
}

impl DirtyLog {
    /// Whether writes are to be marked: one load.
    #[must_use]
    #[inline(always)]
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Acquire)
    }

    /// Starts with no page marked. Writes are sure to be marked once translations of before
    /// are dropped and a grace period has passed.
    pub(super) fn turn_on(&self, regions: impl Iterator<Item = (u64, u64)>) {
        let parts = regions.map(|(gpa, size)| Arc::new(Part::new(gpa, size)));
        self.parts.store(Arc::new(parts.collect()));
        self.is_on.store(true, Ordering::SeqCst);
    }

    /// Forgets everything.
    pub(super) fn turn_off(&self) {
        self.is_on.store(false, Ordering::SeqCst);
        self.parts.store(Arc::default());
    }

    /// A region has come.
    pub(super) fn add(&self, gpa: u64, size: u64) {
        if self.is_on() {
            let mut parts = self.parts.load().to_vec();
            parts.push(Arc::new(Part::new(gpa, size)));
            self.parts.store(Arc::new(parts));
        }
    }

    /// A region has gone, and its bits with it.
    pub(super) fn remove(&self, gpa: u64) {
        if self.is_on() {
            let mut parts = self.parts.load().to_vec();
            parts.retain(|part| part.first_page != gpa / LOG_PAGE);
            self.parts.store(Arc::new(parts));
        }
    }

    /// Marks the pages of `bytes` bytes from `gpa` on, not 0, after they were written.
    #[cold]
    pub fn mark(&self, gpa: u64, bytes: u64) {
        let parts = self.parts.load();
        let last = gpa.saturating_add(bytes - 1) / LOG_PAGE;
        for page in gpa / LOG_PAGE..=last {
            if let Some((part, n)) = parts.iter().find_map(|p| Some((p, p.index(page)?))) {
                // Always a locked instruction, even for a bit that is set: it puts the bytes,
                // streamed ones included, before the bit that a harvest may be about to take.
                part.words[(n / 64) as usize].fetch_or(1 << (n % 64), Ordering::AcqRel);
            }
        }
    }

    /// Reads and clears the bits of a range that lies in one region; `None` when the log
    /// does not cover it.
    pub(super) fn take(&self, gpa: u64, size: u64) -> Option<Vec<u64>> {
        let parts = self.parts.load();
        let pages = size / LOG_PAGE;
        parts.iter().find_map(|part| {
            let first = part.index(gpa / LOG_PAGE)?;
            (pages <= part.pages - first).then(|| part.take(first, pages))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn pages(first: u64, bits: &[u64]) -> BTreeSet<u64> {
        (0..bits.len() as u64 * 64)
            .filter(|n| bits[(n / 64) as usize] >> (n % 64) & 1 == 1)
            .map(|n| first + n)
            .collect()
    }

    proptest! {
        /// Against a set of page numbers: two regions, the second not word-aligned.
        #[test]
        fn a_harvest_has_just_the_marked_pages_once(
            marks in proptest::collection::vec((0u64..500 * 4096, 1u64..3 * 4096), 0..40),
            takes in proptest::collection::vec((0u64..300, 1u64..200), 1..20),
        ) {
            const REGIONS: [(u64, u64); 2] = [(0, 100), (133, 300)];
            let log = DirtyLog::default();
            log.turn_on(REGIONS.iter().map(|&(p, n)| (p * LOG_PAGE, n * LOG_PAGE)));
            let is_ram = |page: &u64| REGIONS.iter().any(|&(p, n)| (p..p + n).contains(page));
            let mut model = BTreeSet::new();
            for &(gpa, bytes) in &marks {
                log.mark(gpa, bytes);
                model.extend((gpa / LOG_PAGE..=(gpa + bytes - 1) / LOG_PAGE).filter(is_ram));
            }
            for &(offset, len) in &takes {
                for (start, _) in REGIONS {
                    let first = start + offset;
                    let taken = log.take(first * LOG_PAGE, len * LOG_PAGE);
                    let inside = |&(p, n): &(u64, u64)| first >= p && first + len <= p + n;
                    if !REGIONS.iter().any(inside) {
                        prop_assert!(taken.is_none());
                        continue;
                    }
                    let expected: BTreeSet<_> = model.range(first..first + len).copied().collect();
                    prop_assert_eq!(pages(first, &taken.unwrap()), expected);
                    model.retain(|page| !(first..first + len).contains(page));
                }
            }
        }
    }

    #[test]
    fn regions_come_and_go() {
        let log = DirtyLog::default();
        log.mark(0, 1);
        assert!(log.take(0, 4096).is_none());
        log.turn_on([(0, 8192)].into_iter());
        log.add(1 << 30, 4096);
        log.mark(1 << 30, 1);
        log.mark(4096, 1);
        assert_eq!(log.take(1 << 30, 4096), Some(vec![1]));
        log.remove(1 << 30);
        assert!(log.take(1 << 30, 4096).is_none());
        assert_eq!(log.take(0, 8192), Some(vec![2]));
        log.mark(0, 1);
        log.turn_off();
        log.turn_on([(0, 8192)].into_iter());
        assert_eq!(log.take(0, 8192), Some(vec![0]));
    }
}
