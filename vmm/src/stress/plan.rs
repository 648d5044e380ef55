//! How long a case runs, what its choices follow from, and how it is ended early.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use crate::signals::Stop;

/// What a case is run with.
pub struct Plan<'p> {
    /// For how long.
    pub duration: Duration,
    /// What all choices follow from.
    pub seed: u64,
    /// Whether the guests of `storm` use pages again before the engine has let go of them: to see that this is
    /// found.
    pub reuse_too_early: bool,
    /// Set by Ctrl-C.
    pub stop: &'p Stop,
    /// Shown on a terminal.
    pub bar: &'p ProgressBar,
}

impl Plan<'_> {
    /// Starts the clock.
    #[must_use]
    pub fn start(&self) -> Clock<'_> {
        self.bar
            .set_length(u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX));
        self.bar.set_position(0);
        Clock {
            started: Instant::now(),
            duration: self.duration,
            stop: self.stop,
            bar: self.bar,
        }
    }
}

/// The time of a case.
#[derive(Clone, Copy)]
pub struct Clock<'p> {
    started: Instant,
    duration: Duration,
    stop: &'p Stop,
    bar: &'p ProgressBar,
}

impl Clock<'_> {
    /// Whether the case should end.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let elapsed = self.started.elapsed();
        let shown = elapsed.min(self.duration).as_millis();
        self.bar
            .set_position(u64::try_from(shown).unwrap_or(u64::MAX));
        elapsed >= self.duration || self.stop.is_set()
    }

    /// Seconds since the start.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}

/// SplitMix64: everything that is chosen at random.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The same seed gives the same choices.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0.
    pub const fn below(&mut self, n: u64) -> u64 {
        self.roll() % n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_ends_by_time_and_by_the_flag() {
        let stop = Stop::default();
        let bar = ProgressBar::hidden();
        let plan = |duration| Plan {
            duration,
            seed: 1,
            reuse_too_early: false,
            stop: &stop,
            bar: &bar,
        };
        assert!(plan(Duration::ZERO).start().is_over());
        let long = plan(Duration::from_secs(3600));
        let clock = long.start();
        assert!(!clock.is_over());
        stop.set();
        assert!(clock.is_over());
    }

    #[test]
    fn the_same_seed_rolls_the_same() {
        let rolls = |seed| {
            let mut dice = Dice::new(seed);
            [dice.roll(), dice.below(10), dice.roll()]
        };
        assert_eq!(rolls(5), rolls(5));
        assert_ne!(rolls(5), rolls(6));
    }
}
