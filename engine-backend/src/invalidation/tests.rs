//! The protocol over a page of plain atomics, against a guest that keeps to the rules and
//! one that does not.

use std::cell::Cell;

use byway_protocols::invalidation::RANGES;
use proptest::prelude::*;

use super::*;

/// A page that one thread looks at from both sides.
struct Page {
    busy: Cell<u64>,
    generation: Cell<u64>,
    ranges: [Cell<(u64, u64)>; RANGES],
    /// Appended when the engine has read its next range.
    surprise: Cell<u64>,
}

impl Page {
    fn new(generation: u64) -> Self {
        Self {
            busy: Cell::new(0),
            generation: Cell::new(generation),
            ranges: std::array::from_fn(|_| Cell::new((0, 0))),
            surprise: Cell::new(0),
        }
    }
    fn append(&self, addr: u64, pages: u64) {
        let generation = self.generation.get();
        self.ranges[(generation % RANGES as u64) as usize].set((addr, pages));
        self.generation.set(generation.wrapping_add(1));
    }
    /// Enters from `seen` on; what is stale, and the generation.
    fn enter(&self, seen: u64) -> (Vec<Stale>, u64) {
        let mut stale = Vec::new();
        let now = enter(self, 3, 9, seen, |s| stale.push(s));
        (stale, now)
    }
}

impl PageMemory for Page {
    fn store_busy(&self, worker: usize, number: u64) {
        assert_eq!((worker, number), (3, 9));
        self.busy.set(number);
    }
    fn clear_busy(&self, _worker: usize) {
        self.busy.set(0);
    }
    fn load_generation(&self) -> u64 {
        assert_ne!(self.busy.get(), 0, "busy comes first");
        self.generation.get()
    }
    fn load_range(&self, index: usize) -> (u64, u64) {
        for n in 0..self.surprise.take() {
            self.append(n << 12, 1);
        }
        self.ranges[index].get()
    }
    fn fence(&self) {}
    fn load_fence(&self) {}
}

#[test]
fn nothing_is_stale_when_nothing_came() {
    for generation in [0, 5, u64::MAX] {
        let page = Page::new(generation);
        assert_eq!(page.enter(generation), (vec![], generation));
        assert_eq!(page.busy.get(), 9);
        leave(&page, 3);
        assert_eq!(page.busy.get(), 0);
    }
}

#[test]
fn ranges_are_met_once_in_order_also_where_the_counter_wraps() {
    let start = u64::MAX - 1;
    let page = Page::new(start);
    for n in 0..4 {
        page.append(n << 12, n + 1);
    }
    let (stale, now) = page.enter(start);
    let expected: Vec<_> = (0..4)
        .map(|n| Stale::Range {
            addr: n << 12,
            pages: n + 1,
        })
        .collect();
    assert_eq!(stale, expected);
    assert_eq!(page.enter(now).0, []);
}

#[test]
fn a_ring_that_is_overwritten_while_it_is_read_is_not_trusted() {
    let page = Page::new(0);
    page.append(0x1000, 1);
    page.surprise.set(RANGES as u64 - 2);
    assert!(!page.enter(0).0.contains(&Stale::Everything));
    let page = Page::new(0);
    page.append(0x1000, 1);
    page.surprise.set(RANGES as u64 - 1);
    assert!(page.enter(0).0.contains(&Stale::Everything));
}

proptest! {
    /// Whatever the page holds, each appended range is covered, and the work is bounded.
    #[test]
    fn every_range_is_covered(
        start: u64,
        batches in proptest::collection::vec(
            proptest::collection::vec((any::<u64>(), 0u64..4), 0..200), 1..6),
    ) {
        let page = Page::new(start);
        let mut seen = start;
        for batch in batches {
            for &(addr, pages) in &batch {
                page.append(addr, pages);
            }
            let (stale, now) = page.enter(seen);
            prop_assert!(stale.len() as u64 <= RANGES_ONE_BY_ONE + 1);
            for (addr, pages) in batch {
                let named = Stale::Range { addr, pages };
                let is_covered = stale.contains(&Stale::Everything) || stale.contains(&named);
                prop_assert!(is_covered);
            }
            seen = now;
        }
    }

    #[test]
    fn a_hostile_generation_costs_its_own_space_only(seen: u64, generation: u64) {
        let page = Page::new(generation);
        let (stale, now) = page.enter(seen);
        prop_assert_eq!(now, generation);
        prop_assert!(seen == generation || stale.contains(&Stale::Everything));
    }
}
