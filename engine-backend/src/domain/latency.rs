//! [`Latencies`]: how long the latest operations of one kind took, and how often the host took the core away meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Operations remembered.
const ROOM: usize = 8192;

/// The latest durations, in nanoseconds. Written by the control thread, read by anybody.
#[derive(Debug)]
pub struct Latencies {
    samples: Box<[AtomicU64]>,
    last_preemptions: AtomicU64,
    last_stolen_ns: AtomicU64,
    count: AtomicU64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            samples: (0..ROOM).map(|_| AtomicU64::new(0)).collect(),
            last_preemptions: AtomicU64::new(0),
            last_stolen_ns: AtomicU64::new(0),
            count: AtomicU64::new(0),
        }
    }
}

/// What [`Latencies`] amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LatencySummary {
    /// Operations ever.
    pub count: u64,
    /// The latest one, in nanoseconds; 0 when there was none.
    pub last_ns: u64,
    /// Times that the host took the core from the thread that carried out the latest one, while it did. Tells an engine
    /// that was slow from one that was not let run.
    pub last_preemptions: u64,
    /// Nanoseconds of the latest one in which its thread did not run although it could have. Beside what
    /// [`Self::last_preemptions`] counts that is what a hypervisor below this host took: where the host is itself a
    /// virtual machine, Linux leaves stolen time out of a thread's processor time.
    pub last_stolen_ns: u64,
    /// The longest of those remembered, in nanoseconds.
    pub max_ns: u64,
}

/// Times one operation of the calling thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch {
    preemptions: u64,
    cpu_time: Duration,
    started: Instant,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self {
            preemptions: preemptions(),
            cpu_time: cpu_time(),
            // Last, so that all of what is timed is within the processor time.
            started: Instant::now(),
        }
    }
    pub(crate) fn started(&self) -> Instant {
        self.started
    }
}

/// Times that the host took the core from the calling thread since it began.
fn preemptions() -> u64 {
    // SAFETY: all zeroes is a valid rusage: it holds nothing but integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is a valid rusage to write to.
    let got = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) };
    debug_assert_eq!(got, 0, "getrusage of the calling thread cannot fail");
    u64::try_from(usage.ru_nivcsw).unwrap_or(0)
}

/// Processor time of the calling thread. None of it is what a hypervisor has stolen, if the kernel accounts for that
/// (CONFIG_PARAVIRT_TIME_ACCOUNTING).
fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec to write to.
    let got = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    debug_assert_eq!(got, 0, "every thread has a clock");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

impl Latencies {
    /// Adds one that ends now, on the thread that started it. Called by one thread at a time.
    pub(crate) fn record(&self, stopwatch: Stopwatch) {
        let elapsed = stopwatch.started.elapsed();
        let ran = cpu_time().saturating_sub(stopwatch.cpu_time);
        let stolen = elapsed.saturating_sub(ran).as_nanos();
        self.last_stolen_ns
            .store(u64::try_from(stolen).unwrap_or(u64::MAX), Ordering::Relaxed);
        let preemptions = preemptions().wrapping_sub(stopwatch.preemptions);
        self.last_preemptions.store(preemptions, Ordering::Relaxed);
        self.push(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX));
    }
    fn push(&self, ns: u64) {
        let count = self.count.load(Ordering::Relaxed);
        self.samples[count as usize % ROOM].store(ns, Ordering::Relaxed);
        self.count.store(count + 1, Ordering::Release);
    }
    /// Those remembered, in nanoseconds, oldest first.
    #[must_use]
    pub fn samples(&self) -> Vec<u64> {
        let count = self.count.load(Ordering::Acquire) as usize;
        (count.saturating_sub(ROOM)..count)
            .map(|i| self.samples[i % ROOM].load(Ordering::Relaxed))
            .collect()
    }
    /// What they amount to.
    #[must_use]
    pub fn summary(&self) -> LatencySummary {
        let samples = self.samples();
        LatencySummary {
            count: self.count.load(Ordering::Acquire),
            last_ns: samples.last().copied().unwrap_or(0),
            last_preemptions: self.last_preemptions.load(Ordering::Relaxed),
            last_stolen_ns: self.last_stolen_ns.load(Ordering::Relaxed),
            max_ns: samples.iter().copied().max().unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_kept_in_order() {
        let l = Latencies::default();
        assert_eq!(l.summary(), LatencySummary::default());
        for ns in 0..ROOM as u64 + 5 {
            l.push(ns);
        }
        let samples = l.samples();
        assert_eq!(samples.len(), ROOM);
        assert_eq!((samples[0], samples[ROOM - 1]), (5, ROOM as u64 + 4));
        assert_eq!(l.summary().count, ROOM as u64 + 5);
        assert_eq!(l.summary().max_ns, ROOM as u64 + 4);
    }
    #[test]
    fn an_operation_is_timed_and_its_preemptions_are_counted() {
        let l = Latencies::default();
        let stopwatch = Stopwatch::start();
        std::thread::sleep(std::time::Duration::from_millis(2));
        l.record(stopwatch);
        assert!(l.summary().last_ns >= 2_000_000);
        // A thread that gave its core up has not lost it, so what was counted before is what can be asserted of the count.
        let mut earlier = Stopwatch::start();
        earlier.preemptions = earlier.preemptions.wrapping_sub(3);
        l.record(earlier);
        assert!(l.summary().last_preemptions >= 3);
    }
    #[test]
    fn time_without_a_core_is_told_from_time_with_one() {
        let l = Latencies::default();
        let stopwatch = Stopwatch::start();
        // As seen from here, no core is no core.
        std::thread::sleep(std::time::Duration::from_millis(5));
        l.record(stopwatch);
        let s = l.summary();
        assert!((4_000_000..=s.last_ns).contains(&s.last_stolen_ns), "{s:?}");
        let stopwatch = Stopwatch::start();
        let ran = cpu_time();
        while cpu_time() - ran < Duration::from_millis(5) {}
        l.record(stopwatch);
        let s = l.summary();
        assert!(s.last_stolen_ns + 5_000_000 <= s.last_ns, "{s:?}");
    }
}
