//! [`Account`]: what a domain is to get of the workers, and what it has had.
//!
//! One for each domain, shared by all its queues and so by all workers: a rate holds for
//! the domain, not for each worker. The operator's side writes, workers look now and then
//! (weights, whether there is a limit) or once a chunk (a limit that there is).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::bucket::Bucket;
use super::clock::{ns_of_ticks, ticks_in_us};
use crate::interface::Share;

/// A second, in microseconds.
const SECOND_US: u64 = 1_000_000;

/// A domain's weight, rate limits and worker time.
#[derive(Debug)]
pub struct Account {
    weight: AtomicU32,
    bytes: Bucket,
    operations: Bucket,
    busy_ticks: AtomicU64,
    /// As it was set, for who asks.
    share: Mutex<Share>,
}

impl Account {
    /// For a domain with this share.
    #[must_use]
    pub fn new(share: &Share) -> Arc<Self> {
        let account = Self {
            weight: AtomicU32::new(1),
            bytes: Bucket::default(),
            operations: Bucket::default(),
            busy_ticks: AtomicU64::new(0),
            share: Mutex::new(*share),
        };
        account.set_share(share);
        Arc::new(account)
    }

    /// Another share from now on; workers follow within some hundred turns.
    pub fn set_share(&self, share: &Share) {
        *self.share.lock().unwrap_or_else(PoisonError::into_inner) = *share;
        self.set_on_clock(share, ticks_in_us(SECOND_US));
    }

    /// Its share.
    #[must_use]
    pub fn share(&self) -> Share {
        *self.share.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same on a clock with so many ticks a second.
    pub(super) fn set_on_clock(&self, share: &Share, second: u64) {
        let burst = u128::from(second) * u128::from(share.burst_us) / u128::from(SECOND_US);
        let burst = u64::try_from(burst).unwrap_or(u64::MAX);
        self.bytes.set(share.bytes_per_s, second, burst);
        self.operations.set(share.operations_per_s, second, burst);
        self.weight.store(share.weight.max(1), Ordering::Relaxed);
    }

    /// Nanoseconds of worker time that its queues have had; told with some delay.
    #[must_use]
    pub fn busy_ns(&self) -> u64 {
        ns_of_ticks(self.busy_ticks.load(Ordering::Relaxed))
    }

    pub(super) fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }
    pub(super) fn is_limited(&self) -> bool {
        self.bytes.is_limited() || self.operations.is_limited()
    }
    pub(super) fn may_go(&self, now: u64) -> bool {
        self.bytes.may_go(now) && self.operations.may_go(now)
    }
    pub(super) fn spend(&self, now: u64, bytes: u64, operations: u64) {
        self.bytes.spend(now, bytes);
        self.operations.spend(now, operations);
    }
    pub(super) fn add_busy(&self, ticks: u64) {
        if ticks != 0 {
            self.busy_ticks.fetch_add(ticks, Ordering::Relaxed);
        }
    }
}
