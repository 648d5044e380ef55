//! Invalidation from atomic context (SPEC section 10): a page that the kernel shares with the
//! engine, for notifiers that can neither sleep nor wait for a virtqueue.
//!
//! [`InvalidationPage`] owns the page and the order of what is done to it. It needs neither the
//! [`crate::Device`] nor a lock, and any number of CPUs may use it at once.

use crate::dma::Dma;
use crate::hal::{DmaPages, Hal};
use byway_protocols::invalidation::{BUSY_OFFSET, RANGES, RANGES_OFFSET, WORKERS};
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering, fence};

/// The engine has not moved for as long as the caller was ready to wait.
///
/// It is dead or stopped. The change of the page tables may go ahead: the device is broken, no
/// new chunk begins, and at most one late chunk of each worker can still use what it has
/// translated. Tell the device by [`crate::Device::give_up`] and reset it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stalled {
    /// The first worker that did not move.
    pub worker: u32,
}

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {} of the engine stands still", self.worker)
    }
}

/// The invalidation page of one address space.
///
/// Give [`Self::gpa`] to [`crate::Device::bind`], and the page back after the address space is
/// unbound or the device reset; a dropped one leaks its page, which is safe.
#[derive(Debug)]
pub struct InvalidationPage {
    dma: Dma,
    workers: u32,
    /// Places given out in the ring; a CPU has its turn when the generation has come so far.
    next: AtomicU64,
}

// SAFETY: the page is only accessed by atomics, and turns are taken by `next`.
unsafe impl Sync for InvalidationPage {}

impl InvalidationPage {
    /// A page for an engine with this many workers ([`crate::EngineInfo::workers`]); `None` when
    /// there is no memory, or the engine has more than the page has room for.
    pub fn new<H: Hal>(hal: &mut H, workers: u32) -> Option<Self> {
        if workers as usize > WORKERS {
            return None;
        }
        Some(Self {
            dma: Dma::new(hal.allocate(1)?),
            workers,
            next: AtomicU64::new(0),
        })
    }

    /// Guest-physical address, for [`crate::Bind::invalidation_page`].
    #[must_use]
    pub fn gpa(&self) -> u64 {
        self.dma.gpa(0)
    }

    /// The page, to be freed: the engine must not know it any more.
    #[must_use]
    pub fn into_pages(self) -> DmaPages {
        self.dma.into_pages()
    }

    /// Invalidates `pages` pages of 4096 bytes from `address` on, or the whole address space
    /// with 0 pages, after the page tables have been changed. When it returns `Ok`, no access by
    /// an old translation is in flight or can start.
    ///
    /// Never sleeps. Between two looks `keep_waiting` is called, which may pause, and returns
    /// false when it has been long enough: a chunk takes some 20 microseconds, unless the host
    /// takes the engine's core away. Interrupts must be off, or others that wait for their turn
    /// wait for the interrupt as well.
    ///
    /// # Errors
    /// [`Stalled`] when `keep_waiting` said so. The range is known to the engine nevertheless.
    pub fn invalidate(
        &self,
        address: u64,
        pages: u64,
        mut keep_waiting: impl FnMut() -> bool,
    ) -> Result<(), Stalled> {
        self.append(address, pages);
        // Store-load: the generation before the busy words. Pairs with the engine's fence between
        // its busy word and the generation.
        fence(Ordering::SeqCst);
        // One after the other: those that wait later have had the more time to change.
        let mut noted = [0; WORKERS];
        for (worker, noted) in (0..self.workers).zip(&mut noted) {
            *noted = self.busy(worker);
        }
        for (worker, noted) in (0..self.workers).zip(noted) {
            while noted != 0 && self.busy(worker) == noted {
                if !keep_waiting() {
                    return Err(Stalled { worker });
                }
            }
        }
        Ok(())
    }

    /// Writes a range and then the generation, which only this does.
    fn append(&self, address: u64, pages: u64) {
        let mine = self.next.fetch_add(1, Ordering::Relaxed);
        // Those before are between two stores, with interrupts off.
        while self.dma.load_u64(0, Ordering::Acquire) != mine {
            core::hint::spin_loop();
        }
        let at = RANGES_OFFSET + 16 * (mine % RANGES as u64) as usize;
        self.dma.store_u64(at, address & !0xfff, Ordering::Relaxed);
        self.dma.store_u64(at + 8, pages, Ordering::Relaxed);
        self.dma
            .store_u64(0, mine.wrapping_add(1), Ordering::Release);
    }

    fn busy(&self, worker: u32) -> u64 {
        let at = BUSY_OFFSET + 8 * worker as usize;
        self.dma.load_u64(at, Ordering::Acquire)
    }
}
