//! What Byway's fuzzers run: one function per boundary at which hostile bytes come in.
//!
//! Each target takes any bytes, makes a deterministic run of them and panics when a promise
//! does not hold. Nothing here knows libFuzzer: `libfuzzer/` links the targets with it,
//! `tests/corpus.rs` replays the kept inputs as plain tests, and [`seeds`] writes the inputs
//! that a fuzzer begins with. Only public interfaces of the crates under test are used.
#![deny(missing_docs)]

pub mod capabilities;
pub mod config;
pub mod control;
pub mod descriptors;
mod input;
pub mod seeds;
pub mod tables;

/// A boundary that is fuzzed.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Name of its program and of its folder in the corpus.
    pub name: &'static str,
    /// Runs one input; panics when a promise does not hold.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 5] = [
    Target {
        name: "descriptors",
        run: descriptors::run,
    },
    Target {
        name: "control",
        run: control::run,
    },
    Target {
        name: "tables",
        run: tables::run,
    },
    Target {
        name: "capabilities",
        run: capabilities::run,
    },
    Target {
        name: "config",
        run: config::run,
    },
];
