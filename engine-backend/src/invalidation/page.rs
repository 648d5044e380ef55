//! [`SharedPage`]: one address space's page, and what each worker knows of it.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use byway_protocols::invalidation::{BUSY_OFFSET, RANGES, RANGES_OFFSET};

use super::{PageMemory, Stale};
use crate::epoch::WORKERS_MAX;
use crate::memory::{GuestMemory, GuestPage};
use crate::stage2::Stage2Fault;

/// Bytes of a busy word.
const WORD: usize = 8;
/// Bytes of a range.
const RANGE: usize = 16;

/// What one worker remembers of one page; no other worker touches it.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Memo {
    /// Generation up to which it has dropped what is stale.
    seen: AtomicU64,
    /// The number under which it used the address space last.
    number: AtomicU64,
}

/// The invalidation page of an address space.
///
/// Known by its guest-physical address and looked up by stage 2 in each chunk that needs
/// it: when its memory goes, the address space faults as if its page tables had gone.
#[derive(Debug)]
pub(crate) struct SharedPage {
    gpa: u64,
    memos: Box<[Memo]>,
}

impl SharedPage {
    /// For the page at `gpa`, a multiple of 4096, and this many workers.
    pub(crate) fn new(gpa: u64, workers: usize) -> Self {
        Self {
            gpa,
            memos: (0..workers.min(WORKERS_MAX))
                .map(|_| Memo::default())
                .collect(),
        }
    }

    /// Whether the worker is using the address space under this number already.
    pub(crate) fn is_entered(&self, worker: usize, number: u64) -> bool {
        let memo = self.memos.get(worker);
        memo.is_some_and(|memo| memo.number.load(Ordering::Relaxed) == number)
    }

    /// Enters a page that is not entered; `None` for a worker that it has no room for.
    ///
    /// Must run inside a chunk, and [`EnteredPage::leave`] before its end.
    ///
    /// # Errors
    /// When the page is not in writable RAM.
    pub(crate) fn enter(
        &self,
        memory: &GuestMemory,
        worker: usize,
        number: u64,
        drop: impl FnMut(Stale),
    ) -> Result<Option<EnteredPage>, Stage2Fault> {
        let Some(memo) = self.memos.get(worker) else {
            return Ok(None);
        };
        let page = memory.page(self.gpa)?;
        let seen = memo.seen.load(Ordering::Relaxed);
        let now = super::enter(&page, worker, number, seen, drop);
        memo.seen.store(now, Ordering::Relaxed);
        memo.number.store(number, Ordering::Relaxed);
        Ok(Some(EnteredPage { page, worker }))
    }

    /// Guest-physical address of the page.
    pub(crate) fn gpa(&self) -> u64 {
        self.gpa
    }
}

/// A page that a worker has entered in this chunk.
#[derive(Debug)]
pub(crate) struct EnteredPage {
    page: GuestPage,
    worker: usize,
}

impl EnteredPage {
    /// The worker has made its last access to the address space in this chunk.
    pub(crate) fn leave(self) {
        super::leave(&self.page, self.worker);
    }
}

impl PageMemory for GuestPage {
    fn store_busy(&self, worker: usize, number: u64) {
        self.word(BUSY_OFFSET + WORD * (worker % WORKERS_MAX))
            .store(number, Ordering::Release);
    }
    fn clear_busy(&self, worker: usize) {
        // Streaming stores of the chunk are out before the word, as before a completion.
        fence(Ordering::SeqCst);
        self.word(BUSY_OFFSET + WORD * (worker % WORKERS_MAX))
            .store(0, Ordering::Release);
    }
    fn load_generation(&self) -> u64 {
        self.word(0).load(Ordering::Acquire)
    }
    fn load_range(&self, index: usize) -> (u64, u64) {
        let at = RANGES_OFFSET + RANGE * (index % RANGES);
        let load = |at| self.word(at).load(Ordering::Relaxed);
        (load(at), load(at + WORD))
    }
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
    fn load_fence(&self) {
        fence(Ordering::Acquire);
    }
}
