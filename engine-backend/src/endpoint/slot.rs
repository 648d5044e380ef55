//! Slots: pieces of staging, each with the request that it is used for.

/// Most slots of an attachment, so that a set of them fits into a word.
pub const SLOTS_MAX: usize = 64;
