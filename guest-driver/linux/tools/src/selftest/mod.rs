//! The checks of `byway-selftest`: what one guest can find out about engine, module and library by itself.
//!
//! Each check stands alone: it gets a context and a queue of its own, provokes something, and compares what
//! comes with what has to come. One that cannot be made here says why and is counted as skipped.

mod abuse;
mod lab;
mod memory;
mod process;
mod refusals;
mod transfers;
mod waiting;

pub use lab::{Lab, Problem};
pub use process::{PROBE, probe};

/// One check.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// Its name, unique.
    pub name: &'static str,
    /// Makes it.
    pub run: fn(&mut Lab) -> Result<(), Problem>,
}

/// All checks, in order.
#[must_use]
pub fn all() -> Vec<Check> {
    [
        transfers::CHECKS,
        refusals::CHECKS,
        memory::CHECKS,
        waiting::CHECKS,
        process::CHECKS,
        abuse::CHECKS,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = all().iter().map(|check| check.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
