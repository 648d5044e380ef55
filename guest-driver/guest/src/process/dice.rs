//! Choices that follow from a seed. Used by the kernel process too.

use byway_agent::pattern;

/// SplitMix64.
pub struct Dice {
    seed: u64,
    rolled: u64,
}

impl Dice {
    /// The same seed gives the same choices.
    pub const fn new(seed: u64) -> Self {
        Self { seed, rolled: 0 }
    }

    /// Any number.
    pub fn roll(&mut self) -> u64 {
        let word = pattern::word(self.seed, self.rolled);
        self.rolled += 1;
        word
    }

    /// A number below `n`, which is small against 2^64 and not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.roll() % n
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}
