//! How fast the time stamp counter runs.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::ops::budget::ticks;

/// Ticks of the time stamp counter in `us` microseconds; measured once, against the
/// system's clock, in about a millisecond.
pub(crate) fn ticks_in_us(us: u64) -> u64 {
    (u128::from(ticks_in_ms()) * u128::from(us) / 1000) as u64
}

/// Nanoseconds that so many ticks take.
pub(crate) fn ns_of_ticks(ticks: u64) -> u64 {
    let ns = u128::from(ticks) * 1_000_000 / u128::from(ticks_in_ms().max(1));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

fn ticks_in_ms() -> u64 {
    static TICKS_PER_MS: OnceLock<u64> = OnceLock::new();
    *TICKS_PER_MS.get_or_init(|| {
        let (t0, c0) = both();
        while t0.elapsed() < Duration::from_millis(1) {
            std::hint::spin_loop();
        }
        let (t1, c1) = both();
        let elapsed_ns = t1.duration_since(t0).as_nanos().max(1);
        (u128::from(c1.wrapping_sub(c0)) * 1_000_000 / elapsed_ns) as u64
    })
}

/// Both clocks at one moment: of some tries the one that took the shortest, so that being
/// preempted between the two does not count.
fn both() -> (Instant, u64) {
    let read = || {
        let before = ticks();
        let now = Instant::now();
        let after = ticks();
        (after.wrapping_sub(before), now, after)
    };
    let first = read();
    let (_, now, count) =
        (0..8).map(|_| read()).fold(
            first,
            |best, this| {
                if this.0 < best.0 { this } else { best }
            },
        );
    (now, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_takes_as_many_ticks_as_expected() {
        let expected = ticks_in_us(5000);
        let (t, c) = (Instant::now(), ticks());
        while t.elapsed() < Duration::from_millis(5) {
            std::hint::spin_loop();
        }
        let took = ticks().wrapping_sub(c);
        // Only a lower bound holds on a busy machine.
        assert!(took > expected / 2, "{took} of {expected}");
        assert!(ns_of_ticks(expected).abs_diff(5_000_000) < 1000);
        assert!(expected > 5_000_000, "{expected}: slower than 1 GHz?");
    }
}
