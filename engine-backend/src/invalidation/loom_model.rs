//! Loom model of an invalidation from atomic context: the guest kernel changes a mapping,
//! appends the range, waits as SPEC section 10 says, and reuses the page.

use super::{PageMemory, Stale, enter, leave};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::thread;

/// The page's words that one range needs.
struct Page {
    busy: AtomicU64,
    generation: AtomicU64,
    range: [AtomicU64; 2],
    /// Whether the engine's fence is left out, to see the model fail.
    broken: bool,
}

/// What the guest shares with the engine.
struct Guest {
    page: Page,
    /// The page-table entry: whether `memory` is mapped.
    entry: AtomicU64,
    /// The page behind it. Loom reports any access that is not ordered against the guest's.
    memory: UnsafeCell<u64>,
}

// SAFETY: the model checks just this: that all access to `memory` is ordered.
unsafe impl Sync for Guest {}
// SAFETY: as above.
unsafe impl Send for Guest {}

impl PageMemory for Page {
    fn store_busy(&self, _worker: usize, number: u64) {
        self.busy.store(number, Ordering::Release);
    }
    fn clear_busy(&self, _worker: usize) {
        self.busy.store(0, Ordering::Release);
    }
    fn load_generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
    fn load_range(&self, _index: usize) -> (u64, u64) {
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
        (load(&self.range[0]), load(&self.range[1]))
    }
    fn fence(&self) {
        if !self.broken {
            fence(Ordering::SeqCst);
        }
    }
    fn load_fence(&self) {
        fence(Ordering::Acquire);
    }
}

/// Two chunks of a worker that has the translation cached.
fn worker(guest: &Guest) {
    let (mut cached, mut seen) = (true, 0);
    for number in 1..=2 {
        seen = enter(&guest.page, 0, number, seen, |stale| {
            assert_eq!(
                stale,
                Stale::Range {
                    addr: 0x5000,
                    pages: 1
                }
            );
            cached = false;
        });
        if cached || guest.entry.load(Ordering::Acquire) == 1 {
            // SAFETY: loom checks it.
            guest.memory.with(|m| assert_eq!(unsafe { *m }, 1));
        }
        leave(&guest.page, 0);
    }
}

/// The guest kernel's side, from atomic context.
fn invalidate(guest: &Guest) {
    guest.entry.store(0, Ordering::Relaxed);
    let page = &guest.page;
    page.range[0].store(0x5000, Ordering::Relaxed);
    page.range[1].store(1, Ordering::Relaxed);
    page.generation.store(1, Ordering::Release);
    fence(Ordering::SeqCst);
    let busy = page.busy.load(Ordering::Acquire);
    while busy != 0 && page.busy.load(Ordering::Acquire) == busy {
        thread::yield_now();
    }
    // SAFETY: loom checks it.
    guest.memory.with_mut(|m| unsafe { *m = 2 });
}

fn check(broken: bool) {
    loom::model(move || {
        let guest = Arc::new(Guest {
            page: Page {
                busy: AtomicU64::new(0),
                generation: AtomicU64::new(0),
                range: [AtomicU64::new(0), AtomicU64::new(0)],
                broken,
            },
            entry: AtomicU64::new(1),
            memory: UnsafeCell::new(1),
        });
        let t = thread::spawn({
            let guest = guest.clone();
            move || worker(&guest)
        });
        invalidate(&guest);
        t.join().unwrap();
    });
}

#[test]
fn loom_no_access_after_the_busy_word_has_changed() {
    check(false);
}

/// Without the store-load fence loom must find the access that it forbids.
#[test]
#[should_panic]
fn loom_without_the_fence_it_is_seen_to_fail() {
    check(true);
}
