//! [`Seats`]: the domains whose queues are parked at one side of a port.
//!
//! Whoever parks takes a seat, fences, and looks at the port once more; whoever changes the
//! port fences and looks at the seats. So one of the two sees the other: no wake-up is lost
//! between the last look and the parking. Seats are few: who finds none stays polled.

use crate::epoch::sync::{AtomicU64, Ordering, fence};

/// Parked queues of one side that are rung for.
const SEATS: usize = if cfg!(loom) { 2 } else { 32 };

/// No domain: they count up from 1.
const EMPTY: u64 = 0;

/// Domains to ring for, one for each parked queue.
#[derive(Debug)]
pub(super) struct Seats {
    /// How many are taken, or about to be.
    taken: AtomicU64,
    domains: [AtomicU64; SEATS],
}

impl Seats {
    pub(super) fn new() -> Self {
        Self {
            taken: AtomicU64::new(0),
            domains: std::array::from_fn(|_| AtomicU64::new(EMPTY)),
        }
    }

    /// Takes a seat; the caller looks once more at what it waits for. `None`: there is none.
    pub(super) fn take(&self, domain: u32) -> Option<usize> {
        self.taken.fetch_add(1, Ordering::Relaxed);
        let domain = u64::from(domain);
        let free = |seat: &AtomicU64| {
            seat.compare_exchange(EMPTY, domain, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        };
        let found = self.domains.iter().position(free);
        if found.is_none() {
            self.taken.fetch_sub(1, Ordering::Relaxed);
        }
        // Against the one in `for_each`: the seat before the caller's last look.
        fence(Ordering::SeqCst);
        found
    }

    /// Gives it back.
    pub(super) fn leave(&self, seat: usize) {
        self.domains[seat].store(EMPTY, Ordering::Relaxed);
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }

    /// Tells of each domain that has seats, after what its queues wait for has been changed:
    /// two that follow each other once only.
    pub(super) fn for_each(&self, mut ring: impl FnMut(u32)) {
        // Against the one in `take`: the change before the look at the seats.
        fence(Ordering::SeqCst);
        if self.taken.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut last = EMPTY;
        for seat in &self.domains {
            let domain = seat.load(Ordering::Relaxed);
            if domain != EMPTY && domain != last {
                last = domain;
                // Only domains' numbers are stored.
                ring(domain as u32);
            }
        }
    }
}
