//! [`Meter`]: a bounded count, and [`Charge`]: one unit of it, given back on drop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counts what a domain uses of one of its quotas.
#[derive(Debug)]
pub struct Meter {
    used: AtomicU32,
    limit: u32,
}

impl Meter {
    /// Nothing used of `limit` units.
    #[must_use]
    pub fn new(limit: u32) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicU32::new(0),
            limit,
        })
    }
    /// Takes one unit, or `None` when all are taken.
    #[must_use]
    pub fn charge(self: &Arc<Self>) -> Option<Charge> {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                (used < self.limit).then(|| used + 1)
            })
            .ok()
            .map(|_| Charge(Arc::clone(self)))
    }
    /// Units taken.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }
}

/// One unit of a [`Meter`].
#[derive(Debug)]
pub struct Charge(Arc<Meter>);

impl Drop for Charge {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_is_given_back_when_dropped() {
        let meter = Meter::new(2);
        let first = meter.charge().unwrap();
        let _second = meter.charge().unwrap();
        assert!(meter.charge().is_none());
        drop(first);
        assert_eq!(meter.used(), 1);
        assert!(meter.charge().is_some());
    }
}
