//! The library against the engine itself, without rings: what a builder takes the engine does not
//! call malformed, what a builder refuses the engine refuses for the same reason, rests of partial
//! operations add up to the whole, results mean what they say, and the largest sizes are counted to their end.
#![cfg(not(loom))]

mod builders;
#[path = "../common/mod.rs"]
mod common;
mod rests;
mod sizes;
mod world;
