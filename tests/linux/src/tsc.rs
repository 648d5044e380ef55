//! How fast this machine's time stamp counter counts, which is also how fast QEMU's emulation has those of its guests count.

use std::arch::x86_64::_rdtsc;
use std::time::{Duration, Instant};

/// How long it is watched.
const WINDOW: Duration = Duration::from_millis(100);
/// Looks at both clocks, of which the closest counts: whoever lost its CPU in between has seen nothing.
const LOOKS: usize = 16;

/// Thousands of ticks a second.
pub(crate) fn khz() -> u64 {
    let (from, start) = look();
    std::thread::sleep(WINDOW);
    let (to, end) = look();
    let nanoseconds = end.duration_since(start).as_nanos();
    let ticks = u128::from(to.wrapping_sub(from));
    u64::try_from(ticks * 1_000_000 / nanoseconds.max(1)).unwrap_or(u64::MAX)
}

/// The counter, and the moment at which it was that.
fn look() -> (u64, Instant) {
    let one = || {
        let before = ticks();
        let now = Instant::now();
        (ticks() - before, before, now)
    };
    let (_, ticks, now) = std::iter::repeat_with(one)
        .take(LOOKS)
        .min_by_key(|(took, ..)| *took)
        .unwrap_or_else(one);
    (ticks, now)
}

fn ticks() -> u64 {
    // SAFETY: reads a counter that every processor of this kind has.
    unsafe { _rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_looks_agree_whatever_else_runs() {
        let (first, second) = (khz(), khz());
        assert!(first > 100_000, "{first} kHz");
        assert!(
            first.abs_diff(second) < first / 100,
            "{first} and {second} kHz"
        );
    }
}
