//! [`Nap`]: how long a worker may sleep while nobody but devices has anything to do.
//!
//! A device tells nobody when it is done, since a wake-up for each request would cost more than
//! looking. But a worker that has to wait long, as for disks, would burn its processor with
//! looking. So it sleeps in between, each time for a part of what it has had to wait lately: too
//! short to be late by much, and not at all where devices are fast.

use std::time::Duration;

/// The part of the usual wait that one nap takes: 1 in so many.
const PART: u64 = 8;
/// Shorter naps cost more than they spare, in microseconds.
const LEAST_US: u64 = 10;
/// Nobody is to wait longer for a sleeping worker, in microseconds.
const MOST_US: u64 = 50;
/// How much a single wait counts for what is usual: 1 in so many.
const WEIGHT: u64 = 8;

/// Waits of one worker for devices.
#[derive(Debug)]
pub(super) struct Nap {
    ticks_per_ms: u64,
    /// Tick at which it began to wait; `None` while it does not.
    since: Option<u64>,
    /// How long it has had to wait lately, in ticks.
    usual: u64,
}

impl Nap {
    /// Nothing known yet. So many ticks are a millisecond.
    pub(super) fn new(ticks_per_ms: u64) -> Self {
        Self {
            ticks_per_ms: ticks_per_ms.max(1),
            since: None,
            usual: 0,
        }
    }

    fn ticks(&self, us: u64) -> u64 {
        us * self.ticks_per_ms / 1000
    }

    /// At the tick `now` there is nothing to do but for devices. How long to sleep; `None`: look
    /// again.
    pub(super) fn waits(&mut self, now: u64) -> Option<Duration> {
        let since = *self.since.get_or_insert(now);
        // A wait that is long already counts as much as those before it.
        let wait = self.usual.max(now.saturating_sub(since));
        let length = (wait / PART).min(self.ticks(MOST_US));
        if length < self.ticks(LEAST_US) {
            return None;
        }
        Some(Duration::from_nanos(length * 1_000_000 / self.ticks_per_ms))
    }

    /// Whether it waits.
    #[inline(always)]
    pub(super) fn is_waiting(&self) -> bool {
        self.since.is_some()
    }

    /// At the tick `now` there was something to do.
    pub(super) fn ends(&mut self, now: u64) {
        if let Some(since) = self.since.take() {
            // What took so long may never come again.
            let most = self.ticks(MOST_US) * PART * 2;
            let waited = now.saturating_sub(since).min(most);
            self.usual = self.usual - self.usual / WEIGHT + waited / WEIGHT;
        }
    }

    /// No device has anything to do any more.
    #[inline(always)]
    pub(super) fn forget(&mut self) {
        self.since = None;
    }
}

/// Has the kernel end this thread's sleep when it is over, and not when that suits others.
pub(super) fn be_punctual() {
    let nothing: libc::c_ulong = 0;
    let slack_ns: libc::c_ulong = 1000;
    // SAFETY: integers; where it is refused, naps are longer.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, slack_ns, nothing, nothing, nothing) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ticks of a nanosecond.
    const PER_MS: u64 = 1_000_000;

    fn after(waits_us: u64, count: usize) -> Option<Duration> {
        let mut nap = Nap::new(PER_MS);
        for i in 0..count as u64 {
            let begin = i * PER_MS;
            nap.waits(begin);
            assert!(nap.is_waiting());
            nap.ends(begin + 1000 * waits_us);
            assert!(!nap.is_waiting());
        }
        nap.waits(count as u64 * PER_MS)
    }

    #[test]
    fn it_sleeps_for_a_part_of_the_usual_wait() {
        let length = after(200, 100).unwrap().as_micros();
        assert!((22..=25).contains(&length), "{length} us");
    }

    #[test]
    fn it_does_not_sleep_where_devices_are_fast_or_nothing_is_known() {
        assert_eq!(after(0, 0), None);
        assert_eq!(after(10, 1000), None);
        assert_eq!(after(500, 1), None, "one is not the rule");
    }

    #[test]
    fn the_first_long_wait_is_slept_through_too() {
        let mut nap = Nap::new(PER_MS);
        assert_eq!(nap.waits(1000), None);
        assert_eq!(nap.waits(1000 + 70_000), None);
        let length = nap.waits(1000 + 200_000);
        assert_eq!(length, Some(Duration::from_micros(25)));
    }

    #[test]
    fn it_never_sleeps_long_and_wakes_up_to_fast_devices() {
        assert_eq!(after(1_000_000, 1000).unwrap().as_micros(), 50);
        let mut nap = Nap::new(PER_MS);
        for i in 0..200 {
            let (begin, us) = (i * PER_MS, if i < 100 { 900 } else { 5 });
            nap.waits(begin);
            nap.ends(begin + 1000 * us);
            let sleeps = nap.waits(begin).is_some();
            nap.forget();
            if (20..100).contains(&i) || i > 140 {
                assert_eq!(sleeps, i < 100, "{i}");
            }
        }
    }
}
