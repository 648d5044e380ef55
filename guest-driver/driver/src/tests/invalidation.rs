//! Invalidation from atomic context against an engine written from SPEC section 10.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::vec::Vec;

use byway_protocols::invalidation::{BUSY_OFFSET, RANGES, RANGES_OFFSET};

use super::fake::attached;
use crate::hal::{DmaPages, Hal};
use crate::{Broken, Error, InvalidationPage, Stalled};

/// One page of the host's memory.
struct OnePage<'a>(Option<&'a Page>);

#[repr(align(4096))]
struct Page([AtomicU64; 512]);

impl Page {
    fn zeroed() -> std::boxed::Box<Self> {
        std::boxed::Box::new(Self(std::array::from_fn(|_| AtomicU64::new(0))))
    }
}

// SAFETY: one zeroed page, given out once, whose owner outlives its user in every test.
unsafe impl Hal for OnePage<'_> {
    fn allocate(&mut self, pages: usize) -> Option<DmaPages> {
        assert_eq!(pages, 1);
        let page = self.0.take()?;
        Some(DmaPages {
            gpa: 0x7000,
            ptr: std::ptr::NonNull::from(&page.0).cast(),
            pages: 1,
        })
    }
    unsafe fn free(&mut self, _pages: DmaPages) {}
    fn now_ns(&mut self) -> u64 {
        0
    }
}

/// The driver's side of the page.
fn driver_of(page: &Page, workers: u32) -> InvalidationPage {
    InvalidationPage::new(&mut OnePage(Some(page)), workers).unwrap()
}

fn never() -> bool {
    panic!("nothing to wait for")
}

fn busy(page: &[AtomicU64; 512], worker: usize) -> &AtomicU64 {
    &page[BUSY_OFFSET / 8 + worker]
}

fn range(page: &[AtomicU64; 512], index: usize) -> [u64; 2] {
    [0, 1].map(|n| page[RANGES_OFFSET / 8 + 2 * index + n].load(Ordering::Relaxed))
}

#[test]
fn ranges_go_round_the_ring_and_idle_workers_are_not_waited_for() {
    let page = Page::zeroed();
    let driver = driver_of(&page, 3);
    let page = &page.0;
    assert_eq!(driver.gpa(), 0x7000);
    // One that the engine has not: what stands there is nobody's.
    busy(page, 3).store(7, Ordering::Relaxed);
    for n in 0..RANGES as u64 + 2 {
        driver.invalidate(n << 12 | 5, n + 1, never).unwrap();
        assert_eq!(page[0].load(Ordering::Relaxed), n + 1);
        assert_eq!(range(page, n as usize % RANGES), [n << 12, n + 1]);
    }
    assert_eq!(range(page, 2), [2 << 12, 3]);
    assert_eq!(driver.into_pages().gpa, 0x7000);
}

#[test]
fn a_busy_worker_is_waited_for_until_its_word_changes() {
    let page = Page::zeroed();
    let driver = driver_of(&page, 4);
    let page = &page.0;
    for next in [0, 8] {
        busy(page, 2).store(7, Ordering::Relaxed);
        let mut looks = 0;
        driver
            .invalidate(0, 0, || {
                looks += 1;
                if looks == 3 {
                    busy(page, 2).store(next, Ordering::Relaxed);
                }
                true
            })
            .unwrap();
        assert_eq!(looks, 3);
        busy(page, 2).store(0, Ordering::Relaxed);
    }
}

#[test]
fn an_engine_that_stands_still_is_told() {
    let page = Page::zeroed();
    let driver = driver_of(&page, 4);
    let page = &page.0;
    busy(page, 1).store(7, Ordering::Relaxed);
    let mut patience = 5;
    let stalled = driver.invalidate(0x1000, 1, || {
        patience -= 1;
        patience > 0
    });
    assert_eq!(stalled, Err(Stalled { worker: 1 }));
    // The range is there for when it moves again, and the next one finds its place.
    assert_eq!(range(page, 0), [0x1000, 1]);
    busy(page, 1).store(0, Ordering::Relaxed);
    driver.invalidate(0x2000, 1, never).unwrap();
    assert_eq!(range(page, 1), [0x2000, 1]);
}

#[test]
fn a_device_that_was_given_up_works_again_after_a_reset() {
    let (world, mut device) = attached();
    device.give_up(Stalled { worker: 0 });
    assert_eq!(device.broken(), Some(Broken::TimedOut));
    let asked = world.borrow().requests.len();
    assert_eq!(device.query().unwrap_err(), Error::Broken(Broken::TimedOut));
    assert_eq!(world.borrow().requests.len(), asked);
    device.reset().unwrap();
    assert_eq!(device.broken(), None);
}

#[test]
fn an_engine_with_too_many_workers_gets_no_page() {
    assert!(InvalidationPage::new(&mut OnePage(None), 65).is_none());
    assert!(InvalidationPage::new(&mut OnePage(None), 1).is_none());
}

/// Several CPUs invalidate while a worker runs chunks: whatever was mapped before a chunk's
/// generation is not used once the invalidation has returned.
#[test]
fn no_chunk_uses_what_was_invalidated() {
    const CPUS: usize = 3;
    let page = Page::zeroed();
    let driver = driver_of(&page, 1);
    let page = &page.0;
    // Stands for page tables: what each CPU has mapped.
    let mapped: Vec<_> = (0..CPUS).map(|_| AtomicU64::new(1)).collect();
    let in_use: Vec<_> = (0..CPUS).map(|_| AtomicU64::new(0)).collect();
    let stop = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (mapped, in_use, driver) = (&mapped, &in_use, &driver);
        let engine_stop = Arc::clone(&stop);
        scope.spawn(move || {
            let (mut number, mut seen) = (0, 0);
            let mut cached = [0; CPUS];
            while !engine_stop.load(Ordering::Relaxed) {
                number += 1;
                busy(page, 0).store(number, Ordering::Relaxed);
                fence(Ordering::SeqCst);
                let now = page[0].load(Ordering::Acquire);
                if now != seen {
                    seen = now;
                    cached = std::array::from_fn(|n| mapped[n].load(Ordering::Acquire));
                }
                for n in 0..CPUS {
                    in_use[n].store(cached[n], Ordering::Relaxed);
                }
                for used in in_use {
                    used.store(0, Ordering::Relaxed);
                }
                busy(page, 0).store(0, Ordering::Release);
            }
        });
        let cpus: Vec<_> = (0..CPUS)
            .map(|n| {
                scope.spawn(move || {
                    for round in 2..2000 {
                        mapped[n].store(round, Ordering::Relaxed);
                        driver.invalidate(n as u64, 1, || true).unwrap();
                        let used = in_use[n].load(Ordering::Relaxed);
                        assert!(used == 0 || used == round, "{used} in round {round}");
                    }
                })
            })
            .collect();
        for cpu in cpus {
            cpu.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
}
