//! Windows in which the host left the measured threads alone, told apart from those in which it did not.
//!
//! A window counts when the worker lost no core and took no page fault in it, neither to another thread of the host nor,
//! where the host is a virtual machine and tells, to whatever runs beside that. When more than a tenth
//! do not count, the result is "not measured" (decided before measuring, so that nobody picks the good ones).

use anyhow::Result;
use byway_engine::domain::LatencySummary;

use crate::measure::ThreadLoad;
use crate::steer::Stage;

/// Largest share of disturbed windows with which a result stands.
pub const DISTURBED_SHARE_MAX: f64 = 0.1;
/// Run delay in a window that is put down to the host's own timer, in nanoseconds.
pub const RUN_DELAY_NS_MAX: u64 = 50_000;
/// Time in which the timed thread did not run although it could have, in nanoseconds, that is put down to how exact
/// clocks are.
const STOLEN_NS_MAX: u64 = 2_000;

/// Whether the host, and what is below it, let both threads run that a revocation needs: the worker between two readings
/// of its load, and the control thread, of whose latest one `latest` tells.
#[must_use]
pub fn let_revoke(before: &ThreadLoad, after: &ThreadLoad, latest: &LatencySummary) -> bool {
    after.quiet_since(before, RUN_DELAY_NS_MAX)
        && latest.last_preemptions == 0
        && latest.last_stolen_ns <= STOLEN_NS_MAX
}

/// A result, or why there is none.
#[derive(Debug, Clone)]
pub enum Quiet<T> {
    /// It stands.
    Measured(T),
    /// It does not, and why.
    NotMeasured(String),
}

impl<T> Quiet<T> {
    /// Both results together, or the first reason.
    pub fn and<U, V>(self, other: Quiet<U>, join: impl FnOnce(T, U) -> V) -> Quiet<V> {
        match (self, other) {
            (Self::Measured(a), Quiet::Measured(b)) => Quiet::Measured(join(a, b)),
            (Self::NotMeasured(why), _) | (_, Quiet::NotMeasured(why)) => Quiet::NotMeasured(why),
        }
    }

    /// The result; a reason goes to `not_measured`.
    pub fn or_note(self, not_measured: &mut Vec<String>) -> Option<T> {
        match self {
            Self::Measured(value) => Some(value),
            Self::NotMeasured(why) => {
                not_measured.push(why);
                None
            }
        }
    }
}

/// Values of one kind of window.
#[derive(Debug, Default)]
pub struct Watch {
    quiet: Vec<f64>,
    disturbed: usize,
}

impl Watch {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            quiet: Vec::new(),
            disturbed: 0,
        }
    }

    /// Measures one window.
    ///
    /// # Errors
    /// What `timed` returns, or when the worker's thread cannot be observed.
    pub fn window(&mut self, stage: &Stage, timed: impl FnOnce() -> Result<f64>) -> Result<()> {
        let before = stage.worker_load()?;
        let value = timed()?;
        self.add(value, &before, &stage.worker_load()?);
        Ok(())
    }

    /// Adds a value measured between two readings of the worker's load.
    pub fn add(&mut self, value: f64, before: &ThreadLoad, after: &ThreadLoad) {
        self.count(value, after.quiet_since(before, RUN_DELAY_NS_MAX));
    }

    /// Adds a value measured in a window that was quiet, or was not.
    pub fn count(&mut self, value: f64, quiet: bool) {
        if quiet {
            self.quiet.push(value);
        } else {
            self.disturbed += 1;
        }
    }

    /// Share of windows that do not count.
    #[must_use]
    pub fn disturbed_share(&self) -> f64 {
        let all = self.quiet.len() + self.disturbed;
        self.disturbed as f64 / all.max(1) as f64
    }

    /// Values of the windows that count.
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.quiet
    }

    /// Median of the windows that count.
    #[must_use]
    pub fn median(&self) -> Option<f64> {
        let mut sorted = self.quiet.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }

    /// The median, if it stands.
    #[must_use]
    pub fn quiet(&self, what: &str) -> Quiet<f64> {
        match self.median() {
            Some(median) if self.disturbed_share() <= DISTURBED_SHARE_MAX => {
                Quiet::Measured(median)
            }
            _ => Quiet::NotMeasured(format!(
                "{what}: the host disturbed {} of {} windows; close other programs and run again",
                self.disturbed,
                self.disturbed + self.quiet.len()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disturbed_windows_do_not_count_and_too_many_void_the_result() {
        let calm = ThreadLoad::default();
        let switched = ThreadLoad {
            involuntary_switches: 1,
            ..calm
        };
        let mut watch = Watch::default();
        for i in 0..19 {
            watch.add(f64::from(i), &calm, &calm);
        }
        watch.add(1e9, &calm, &switched);
        assert_eq!(watch.median(), Some(9.0));
        assert!(matches!(watch.quiet("x"), Quiet::Measured(_)));
        for _ in 0..3 {
            watch.add(1e9, &calm, &switched);
        }
        assert!(matches!(watch.quiet("x"), Quiet::NotMeasured(_)));
    }
}
