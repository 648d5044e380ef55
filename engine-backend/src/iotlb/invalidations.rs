//! Range invalidations on their way from control threads to the workers.

use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_queue::ArrayQueue;

use super::Iotlb;
use crate::address_space::AddressSpace;

/// Ranges that one worker can be behind by; what finds no room costs its own address space
/// every translation, and no other one anything.
const INBOX_RANGES: usize = 256;

/// A range of one address space.
#[derive(Debug, Clone, Copy)]
struct Range {
    space_id: u64,
    addr: u64,
    pages: u64,
}

/// One worker's inbox, on cache lines of its own: the worker looks at it in every chunk.
#[derive(Debug)]
#[repr(align(128))]
struct Inbox {
    /// Something was put in since the worker last looked.
    pending: AtomicBool,
    ranges: ArrayQueue<Range>,
}

/// Bounded, lock-free inboxes, one per worker.
///
/// An invalidation is done when, after [`Self::push`], a grace period has passed: a chunk
/// that began earlier has ended, and one that begins later finds the range in its inbox.
#[derive(Debug)]
pub struct Invalidations {
    inboxes: Box<[Inbox]>,
}

impl Invalidations {
    /// Inboxes for `workers` workers, numbered from 0.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        let inbox = || Inbox {
            pending: AtomicBool::new(false),
            ranges: ArrayQueue::new(INBOX_RANGES),
        };
        Self {
            inboxes: std::iter::repeat_with(inbox).take(workers).collect(),
        }
    }

    /// Tells every worker to drop what overlaps `pages` pages of 4096 bytes from `addr` on
    /// in an address space; 0 pages mean all of it, for which
    /// [`AddressSpace::invalidate_all`] is cheaper. Never waits.
    pub fn push(&self, space: &AddressSpace, addr: u64, pages: u64) {
        let range = Range {
            space_id: space.id(),
            addr,
            pages,
        };
        let mut all_told = true;
        for inbox in &self.inboxes {
            all_told &= inbox.ranges.push(range).is_ok();
            inbox.pending.store(true, Ordering::SeqCst);
        }
        if !all_told {
            space.invalidate_all();
        }
    }

    /// Whether anything waits for a worker.
    #[inline(always)]
    pub(super) fn is_pending(&self, worker: usize) -> bool {
        self.inboxes[worker].pending.load(Ordering::Acquire)
    }

    /// Empties a worker's inbox into its IOTLB.
    #[cold]
    pub(super) fn deliver(&self, worker: usize, iotlb: &mut Iotlb) {
        let inbox = &self.inboxes[worker];
        // Cleared before looking: what is put in from here on sets it again.
        inbox.pending.swap(false, Ordering::SeqCst);
        // Bounded: what was there when the chunk began is among as many as there is room
        // for, and the rest has set `pending` again.
        for _ in 0..INBOX_RANGES {
            let Some(range) = inbox.ranges.pop() else {
                break;
            };
            iotlb.drop_range(range.space_id, range.addr, range.pages);
        }
    }
}
