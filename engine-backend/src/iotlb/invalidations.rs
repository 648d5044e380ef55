//! Range invalidations on their way from control threads to the workers.

/// Bounded, lock-free inboxes, one per worker.
#[derive(Debug)]
pub struct Invalidations {}

impl Invalidations {
    /// Inboxes for `workers` workers, numbered from 0.
    #[must_use]
    pub fn new(_workers: usize) -> Self {
        Self {}
    }
    /// Tells every worker to drop what overlaps `pages` pages of 4096 bytes from `addr` on
    /// in the address space `space_id`; 0 pages mean all of it. A grace period
    /// later no access by an old translation is in flight.
    pub fn push(&self, _space_id: u64, _addr: u64, _pages: u64) {}
}
