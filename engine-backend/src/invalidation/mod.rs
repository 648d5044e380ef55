//! The invalidation page, the engine's side (SPEC section 10): how a guest kernel takes
//! translations back where it can neither sleep nor wait for a virtqueue.
//!
//! Owns the protocol, generic over the page's memory so that loom runs the very code that
//! serves guests, and what each worker remembers of each page. An address space that gave
//! no page never comes here.
//!
//! The page is hostile: its words are read once each, every number is taken as it comes,
//! and the worst that it can cost is that its own address space is walked for again.

mod page;

#[cfg(loom)]
mod loom_model;
#[cfg(all(test, not(loom)))]
mod tests;

pub(crate) use page::{EnteredPage, SharedPage};

use byway_protocols::invalidation::RANGES;

/// Ranges that are dropped one by one; a worker that is further behind drops the whole
/// space, which costs less.
const RANGES_ONE_BY_ONE: u64 = 8;

/// The words of an invalidation page.
pub(crate) trait PageMemory {
    /// The worker's busy word, after everything before: a guest kernel that sees the number of a later chunk
    /// may take the one that it waits for to be over.
    fn store_busy(&self, worker: usize, number: u64);
    /// The same, after everything before.
    fn clear_busy(&self, worker: usize);
    /// `generation`; acquire.
    fn load_generation(&self) -> u64;
    /// Address and pages of the range at an index below [`RANGES`].
    fn load_range(&self, index: usize) -> (u64, u64);
    /// A sequentially consistent fence.
    fn fence(&self);
    /// Keeps later loads behind earlier ones.
    fn load_fence(&self);
}

/// What a worker has to drop before it uses the address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stale {
    /// `pages` pages of 4096 bytes from `addr` on, neither checked.
    Range {
        /// First address.
        addr: u64,
        /// Pages; not 0.
        pages: u64,
    },
    /// All of it.
    Everything,
}

/// Says that the worker uses the address space from here on, and tells what has become
/// stale since it has `seen` that generation. Returns the generation that is in force.
///
/// `number` is not 0 and differs from the worker's number before.
pub(crate) fn enter<M: PageMemory>(
    page: &M,
    worker: usize,
    number: u64,
    seen: u64,
    mut drop: impl FnMut(Stale),
) -> u64 {
    page.store_busy(worker, number);
    // Store-load: busy before the generation is read. Pairs with the fence of the guest
    // kernel between its generation and its look at the busy words: either it sees this
    // worker and waits, or this worker sees its range.
    page.fence();
    let now = page.load_generation();
    let behind = now.wrapping_sub(seen);
    if behind == 0 {
        return now;
    }
    if behind > RANGES_ONE_BY_ONE {
        drop(Stale::Everything);
        return now;
    }
    for n in 0..behind {
        let index = seen.wrapping_add(n) % RANGES as u64;
        match page.load_range(index as usize) {
            (_, 0) => drop(Stale::Everything),
            (addr, pages) => drop(Stale::Range { addr, pages }),
        }
    }
    // Whoever appends meanwhile may have come round to what was just read.
    page.load_fence();
    if page.load_generation().wrapping_sub(seen) >= RANGES as u64 {
        drop(Stale::Everything);
    }
    now
}

/// Says that the worker is done with the address space.
pub(crate) fn leave<M: PageMemory>(page: &M, worker: usize) {
    page.clear_busy(worker);
}
