//! What the host did to a thread while it was measured: involuntary context switches, time spent
//! runnable without a core, page faults. A window in which these moved says something about the host,
//! not about Byway, and is reported apart.

use std::fs;
use std::io;

/// Counters of one thread since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ThreadLoad {
    /// Times that the host took the core away.
    pub involuntary_switches: u64,
    /// Nanoseconds runnable but waiting for a core.
    pub run_delay_ns: u64,
    /// Page faults of both kinds.
    pub faults: u64,
}

impl ThreadLoad {
    /// Reads the counters of thread `tid` of this process.
    ///
    /// # Errors
    /// When the thread is gone or procfs is not mounted.
    pub fn of(tid: i32) -> io::Result<Self> {
        let folder = format!("/proc/self/task/{tid}");
        let bad = |file: &str| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{folder}/{file} is not in the form that Linux documents"),
            )
        };
        let status = fs::read_to_string(format!("{folder}/status"))?;
        let involuntary_switches = status
            .lines()
            .find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"))
            .and_then(|value| value.trim().parse().ok())
            .ok_or_else(|| bad("status"))?;
        let run_delay_ns = fs::read_to_string(format!("{folder}/schedstat"))
            .ok()
            .and_then(|text| text.split_whitespace().nth(1)?.parse().ok())
            // Kernels without CONFIG_SCHED_INFO have no such file; the switches still tell.
            .unwrap_or(0);
        let stat = fs::read_to_string(format!("{folder}/stat"))?;
        // The name, in parentheses, may hold anything; fields are counted after it.
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace().collect())
            .unwrap_or_default();
        let number = |index: usize| fields.get(index).and_then(|v| v.parse::<u64>().ok());
        let faults = number(7)
            .zip(number(9))
            .map(|(minor, major)| minor + major)
            .ok_or_else(|| bad("stat"))?;
        Ok(Self {
            involuntary_switches,
            run_delay_ns,
            faults,
        })
    }

    /// The same of the calling thread.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn of_this_thread() -> io::Result<Self> {
        // SAFETY: takes no argument and cannot fail.
        Self::of(unsafe { libc::gettid() })
    }

    /// Whether anything but a little waiting happened since `earlier`: at most `run_delay_ns_max`
    /// nanoseconds of run delay, no involuntary switch, no page fault.
    #[must_use]
    pub fn quiet_since(&self, earlier: &Self, run_delay_ns_max: u64) -> bool {
        self.involuntary_switches == earlier.involuntary_switches
            && self.faults == earlier.faults
            && self.run_delay_ns.saturating_sub(earlier.run_delay_ns) <= run_delay_ns_max
    }

    /// The same, but that the host may have taken the core away for as long as that: for windows that it leaves in one
    /// piece but rarely, of work that finds nothing in the caches after so short a time that it would not find otherwise.
    #[must_use]
    pub fn has_run_since(&self, earlier: &Self, run_delay_ns_max: u64) -> bool {
        // A kernel that does not tell for how long: every time counts.
        let tells = self.run_delay_ns != 0;
        let switches = match tells {
            true => earlier.involuntary_switches,
            false => self.involuntary_switches,
        };
        let as_if = Self {
            involuntary_switches: switches,
            ..*self
        };
        as_if.quiet_since(earlier, run_delay_ns_max)
    }
}

/// Processor time that thread `tid` of this process has used, in seconds.
///
/// # Errors
/// When the thread is gone or procfs does not tell.
pub fn cpu_seconds(tid: i32) -> io::Result<f64> {
    let path = format!("/proc/self/task/{tid}/schedstat");
    let text = fs::read_to_string(&path)?;
    let ns = text
        .split_whitespace()
        .next()
        .and_then(|ns| ns.parse::<u64>().ok());
    let bad = || io::Error::new(io::ErrorKind::InvalidData, format!("{path} has no number"));
    Ok(ns.ok_or_else(bad)? as f64 / 1e9)
}

/// Every thread of this process.
///
/// # Errors
/// When procfs is not mounted.
pub fn threads() -> io::Result<Vec<i32>> {
    let entries = fs::read_dir("/proc/self/task")?;
    entries
        .map(|entry| {
            let name = entry?.file_name();
            let bad = || io::Error::new(io::ErrorKind::InvalidData, "a thread without a number");
            name.to_str()
                .and_then(|name| name.parse().ok())
                .ok_or_else(bad)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::ThreadLoad;

    #[test]
    fn faults_of_this_thread_are_seen() {
        // SAFETY: gettid has no preconditions.
        let tid = unsafe { libc::gettid() };
        let before = ThreadLoad::of(tid).unwrap();
        let memory = vec![1u8; 4 << 20];
        std::hint::black_box(&memory);
        let after = ThreadLoad::of(tid).unwrap();
        assert!(after.faults > before.faults);
        assert!(!after.quiet_since(&before, u64::MAX));
        assert!(after.quiet_since(&after, 0));
    }

    #[test]
    fn a_core_that_was_lost_for_a_moment_counts_by_its_time() {
        let before = ThreadLoad {
            involuntary_switches: 1,
            run_delay_ns: 500,
            faults: 7,
        };
        let after = ThreadLoad {
            involuntary_switches: 2,
            run_delay_ns: 600,
            ..before
        };
        assert!(after.has_run_since(&before, 100) && !after.quiet_since(&before, 100));
        assert!(!after.has_run_since(&before, 99));
        let faulted = ThreadLoad { faults: 8, ..after };
        assert!(!faulted.has_run_since(&before, 100));
        // Nothing is known of the time: only that the core was lost.
        let [before, after] = [before, after].map(|load| ThreadLoad {
            run_delay_ns: 0,
            ..load
        });
        assert!(!after.has_run_since(&before, 100) && after.has_run_since(&after, 0));
    }
}
