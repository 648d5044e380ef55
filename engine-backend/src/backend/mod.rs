//! Backends: who moves the bytes once an operation has been checked and translated.
//!
//! A [`Backend`] gets pieces: host addresses that a translation inside the current chunk
//! ended at, each contiguous, 64 KiB together at most. It decides nothing about rights,
//! and must touch no byte outside the pieces it is given.
//!
//! **A hardware backend** (Intel DSA) fits the same trait. Its `copy`, `fill` and
//! `compare` write a descriptor with these host addresses to the device's portal and
//! return; [`Backend::finish`], which ends every chunk's work on a descriptor before the
//! completion is published, waits for the records of what was started. Translations
//! are valid inside the chunk only, so nothing may be outstanding when it ends. What a
//! device compares is known at `finish` only: an operation that needs the answer earlier
//! (COMPARE stops at the first difference) calls it after each piece; a backend may carry
//! out short pieces in software.

mod line;
mod software;

pub use line::{load_line, store_record};
pub use software::Software;

use crate::memory::HostAddr;

/// How the two operands of a copy lie, and in which direction it must run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// They share no byte, in any order.
    Disjoint,
    /// Ascending addresses: the destination lies below the source, or the submitter
    /// asked for it.
    Ascending,
    /// Descending addresses: the destination lies above the source and overlaps it.
    Descending,
}

/// How a piece is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint {
    /// Direction.
    pub order: Order,
    /// The whole operation's size in bytes: long ones need not pass through the caches.
    pub total: u64,
    /// The submitter asked for the destination to stay in the caches.
    pub cached: bool,
}

/// Executes translated pieces.
///
/// # Safety of the methods
/// For each of them the caller guarantees that from the call to the next
/// [`Backend::finish`]: every byte of the ranges is mapped, sources readable and
/// destinations writable; and no range contains memory of which Rust holds a reference
/// or a value, so that only guests and other backends race with the accesses. The
/// addresses of translations made inside the current chunk are so.
pub trait Backend {
    /// Copies `len` bytes.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn copy(&mut self, dst: HostAddr, src: HostAddr, len: usize, hint: Hint);

    /// Writes the 16-byte pattern over and over, its byte 0 first.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn fill(&mut self, dst: HostAddr, len: usize, pattern: u128, hint: Hint);

    /// Offset of the first byte in which the two differ.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn compare(&mut self, a: HostAddr, b: HostAddr, len: usize) -> Option<usize>;

    /// Offset of the first byte that differs from the pattern repeated, its byte 0 first.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn compare_value(&mut self, a: HostAddr, len: usize, pattern: u128) -> Option<usize>;

    /// Ends what was started: every byte written is ordered before any later store.
    fn finish(&mut self);
}
