//! The rate of the time-stamp counter, which guests time with.

use std::arch::x86_64::_rdtsc;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Ticks per millisecond, measured once over 20 ms against the monotonic clock.
#[must_use]
pub fn khz() -> u64 {
    static KHZ: OnceLock<u64> = OnceLock::new();
    *KHZ.get_or_init(|| {
        let sample = || {
            // SAFETY: every x86-64 CPU has the instruction.
            let ticks = unsafe { _rdtsc() };
            (Instant::now(), ticks)
        };
        let (start, first) = sample();
        std::thread::sleep(Duration::from_millis(20));
        let (end, last) = sample();
        let ns = (end - start).as_nanos().max(1);
        (u128::from(last.wrapping_sub(first)) * 1_000_000 / ns) as u64
    })
}
