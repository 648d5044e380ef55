//! Random numbers that a seed determines.

use byway_agent::pattern;

/// Names the seed; decimal, or hexadecimal after `0x`.
pub const SEED_VARIABLE: &str = "BYWAY_SEED";
/// Seed where none is named.
const SEED_DEFAULT: u64 = 0x000b_1a5e_d5ee_d001;

/// The seed of this run.
///
/// # Panics
/// When [`SEED_VARIABLE`] is no number.
#[must_use]
pub fn seed() -> u64 {
    let Ok(text) = std::env::var(SEED_VARIABLE) else {
        return SEED_DEFAULT;
    };
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.unwrap_or_else(|error| {
        panic!("{SEED_VARIABLE}={text}: {error}; expected a number such as 7 or 0x1f")
    })
}

/// One stream of random numbers.
#[derive(Debug, Clone)]
pub struct Rng {
    seed: u64,
    drawn: u64,
}

impl Rng {
    /// Stream number `stream` of `seed`.
    #[must_use]
    pub const fn new(seed: u64, stream: u64) -> Self {
        Self {
            seed: pattern::word(seed, stream),
            drawn: 0,
        }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.drawn += 1;
        pattern::word(self.seed, self.drawn)
    }

    /// A number below `end`, which is not 0. (The bias of the remainder does not matter here.)
    pub fn below(&mut self, end: u64) -> u64 {
        self.bits() % end
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of `choices`, which are not empty.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}
