//! The library against the engine itself, without rings: what a builder takes the engine does not
//! call malformed, what a builder refuses the engine refuses for the same reason, rests of partial
//! operations add up to the whole, and results mean what they say.
#![cfg(not(loom))]

mod builders;
#[path = "../common/mod.rs"]
mod common;
mod rests;
mod world;
