//! [`Bucket`]: a rate limit that several workers share without a lock.
//!
//! A token bucket kept as one number, the moment at which it will be full again (the
//! "generic cell rate algorithm" of ATM switches): spending moves the moment on, time
//! passes by itself, and nothing has to be refilled.

use std::sync::atomic::{AtomicU64, Ordering};

/// Fraction bits of a unit's price in ticks.
const FRACTION: u32 = 20;

/// A bounded rate of something, on a clock of ticks that the caller reads.
///
/// Spending comes after the deed, so each worker may overdraw by one chunk; that is
/// paid by waiting. Over any span of time no more than the rate times that span, the
/// burst and one chunk per worker gets through.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    /// Ticks that one unit takes, with [`FRACTION`] bits behind the point; 0 = no limit.
    price: AtomicU64,
    /// Ticks that may be spent in advance.
    burst: AtomicU64,
    /// Tick at which it is full.
    full_at: AtomicU64,
}

impl Bucket {
    /// Lets `units` through in each `period` ticks from now on, 0 meaning as many as there
    /// are, and as many at once as in `burst` ticks.
    pub(super) fn set(&self, units: u64, period: u64, burst: u64) {
        let price = match units {
            0 => 0,
            // Rounded up, here and when spending: the limit is not passed.
            units => u64::try_from((u128::from(period) << FRACTION).div_ceil(u128::from(units)))
                .unwrap_or(u64::MAX)
                .max(1),
        };
        self.burst.store(burst, Ordering::Relaxed);
        self.price.store(price, Ordering::Relaxed);
    }

    /// Whether there is a limit at all.
    pub(super) fn is_limited(&self) -> bool {
        self.price.load(Ordering::Relaxed) != 0
    }

    /// Whether something may go on at the tick `now`.
    pub(super) fn may_go(&self, now: u64) -> bool {
        !self.is_limited()
            || self.full_at.load(Ordering::Relaxed)
                <= now.saturating_add(self.burst.load(Ordering::Relaxed))
    }

    /// Takes out what was used by the tick `now`.
    pub(super) fn spend(&self, now: u64, units: u64) {
        let price = self.price.load(Ordering::Relaxed);
        if price == 0 || units == 0 {
            return;
        }
        let ticks = (u128::from(units) * u128::from(price)).div_ceil(1 << FRACTION);
        let ticks = u64::try_from(ticks).unwrap_or(u64::MAX);
        let spent = self
            .full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
                Some(full_at.max(now).saturating_add(ticks))
            });
        debug_assert!(spent.is_ok(), "it always has a next value");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn without_a_limit_everything_goes() {
        let bucket = Bucket::default();
        bucket.spend(0, u64::MAX);
        assert!(!bucket.is_limited() && bucket.may_go(0));
        bucket.set(1, 1000, 0);
        bucket.spend(0, 5);
        assert!(!bucket.may_go(4999) && bucket.may_go(5000));
        bucket.set(0, 1000, 0);
        assert!(bucket.may_go(0));
    }

    #[test]
    fn extremes_do_not_wrap() {
        let bucket = Bucket::default();
        bucket.set(1, u64::MAX, u64::MAX);
        bucket.spend(u64::MAX, u64::MAX);
        assert!(bucket.may_go(u64::MAX));
        bucket.set(u64::MAX, 1, 0);
        bucket.spend(u64::MAX, 1);
        assert!(bucket.is_limited());
    }

    proptest! {
        /// Never more than rate x time + burst + one piece, and never much less while
        /// there is demand, whoever of the workers asks when.
        #[test]
        fn the_rate_holds_over_any_span(
            rate in 1_u64..5000,
            burst in 0_u64..5000,
            pieces in proptest::collection::vec((0_u64..40, 1_u64..200), 1..300),
        ) {
            const PERIOD: u64 = 10_000;
            let bucket = Bucket::default();
            bucket.set(rate, PERIOD, burst);
            // Each time step offers a piece; a log of what went through, and when.
            let (mut now, mut log) = (1_000_000, Vec::new());
            for (wait, piece) in pieces {
                now += wait;
                if bucket.may_go(now) {
                    bucket.spend(now, piece);
                    log.push((now, piece));
                }
            }
            for (i, &(start, _)) in log.iter().enumerate() {
                let mut sum = 0;
                for &(end, piece) in &log[i..] {
                    // The last piece is the overdraft.
                    let allowed = (end - start + burst) as f64 * rate as f64 / PERIOD as f64;
                    prop_assert!(sum as f64 <= allowed + 1e-6, "{sum} > {allowed}");
                    sum += piece;
                }
            }
        }
    }
}
