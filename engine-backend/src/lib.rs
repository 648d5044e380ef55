//! Byway's engine.
#![deny(missing_docs)]

pub mod interface;
