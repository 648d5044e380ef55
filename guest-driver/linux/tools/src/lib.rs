//! What the three commands share: how they end, how they open the device, how they offer, how they say sizes.
//!
//! The commands are `src/bin`; the checks of `byway-selftest` are [`selftest`].
#![deny(
    missing_docs,
    unsafe_op_in_unsafe_fn,
    clippy::undocumented_unsafe_blocks
)]

pub mod blocks;
pub mod emulation;
pub mod exit;
pub mod offer;
pub mod progress;
pub mod selftest;
pub mod size;
