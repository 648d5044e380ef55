//! [`Seats`]: the domains whose queues are parked at one side of a port.
//!
//! Whoever parks takes a seat, fences, and looks at the port once more; whoever changes the
//! port fences and looks at the seats. So one of the two sees the other: no wake-up is lost
//! between the last look and the parking.
//!
//! Parked queues of one domain share a seat, since it is domains that are rung for. So
//! nobody can use the seats up by having many queues wait, and be polled for all others: as
//! many domains have seats as a port is ever likely to be given to, and only queues of
//! further ones stay polled.

use crate::epoch::sync::{AtomicU64, Ordering, fence};

/// Domains of one side that are rung for.
const SEATS: usize = if cfg!(loom) { 2 } else { 32 };

/// A seat: the domain in the upper half, how many of its queues share it in the lower.
const EMPTY: u64 = 0;
const DOMAIN_SHIFT: u32 = 32;
const ONE_QUEUE: u64 = 1;

/// Domains to ring for.
#[derive(Debug)]
pub(super) struct Seats {
    /// How many queues have one, or are about to.
    taken: AtomicU64,
    domains: [AtomicU64; SEATS],
}

/// The domain of a seat that is taken.
fn domain_of(seat: u64) -> u32 {
    (seat >> DOMAIN_SHIFT) as u32
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
        let share = |seat: &AtomicU64| {
            change(seat, |old| {
                (old != EMPTY && domain_of(old) == domain).then_some(old + ONE_QUEUE)
            })
        };
        let sit = |seat: &AtomicU64| {
            change(seat, |old| {
                (old == EMPTY).then_some(u64::from(domain) << DOMAIN_SHIFT | ONE_QUEUE)
            })
        };
        // Two at the same time may find two seats: each is rung for then, once too often.
        let found =
            (self.domains.iter().position(share)).or_else(|| self.domains.iter().position(sit));
        if found.is_none() {
            self.taken.fetch_sub(1, Ordering::Relaxed);
        }
        // Against the one in `for_each`: the seat before the caller's last look.
        fence(Ordering::SeqCst);
        found
    }

    /// Gives it back.
    pub(super) fn leave(&self, seat: usize) {
        change(&self.domains[seat], |old| {
            let left = old - ONE_QUEUE;
            Some(if left as u32 == 0 { EMPTY } else { left })
        });
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
        let mut last = None;
        for seat in &self.domains {
            let seat = seat.load(Ordering::Relaxed);
            if seat != EMPTY && last != Some(domain_of(seat)) {
                last = Some(domain_of(seat));
                ring(domain_of(seat));
            }
        }
    }
}

/// Changes a seat, unless `to` says no.
fn change(seat: &AtomicU64, to: impl Fn(u64) -> Option<u64>) -> bool {
    let mut old = seat.load(Ordering::Relaxed);
    while let Some(new) = to(old) {
        match seat.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(now) => old = now,
        }
    }
    false
}
