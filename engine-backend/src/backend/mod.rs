//! Backends: who moves the bytes once an operation has been checked and translated.
//!
//! A [`Backend`] gets pieces: host addresses that a translation inside the current chunk
//! ended at, each contiguous, 64 KiB together at most. It decides nothing about rights,
//! and must touch no byte outside the pieces it is given.
//!
//! **A backend may put work off.** What `copy` and `fill` are told may be done at any time
//! until [`Backend::finish`] returns, by a device too, but the bytes that end up in memory
//! are always those of doing it at once, piece after piece. Translations are valid inside
//! a chunk only, so `finish` ends every chunk's work on a descriptor, before it is
//! accounted for and long before its completion is published. What answers a question
//! (`compare`) is done when it returns, and so is every operation of at most
//! [`IMMEDIATE_BYTES`]: the short way counts on it.

mod choice;
pub mod dsa;
mod line;
mod software;

pub use choice::{Backends, Choice, ChoiceError};
pub use dsa::Dsa;
pub use line::{GuestWord, atomic_u64, load_line, load_word, store_record, store_short_record};
pub(crate) use software::polynomial;
pub use software::{Private, Software, diff, sum};

use crate::memory::HostAddr;

/// A copy of this size or less, in bytes, is over when its method returns, whatever the backend.
pub const IMMEDIATE_BYTES: u64 = 4096;

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
    /// A copy of this size or less, in bytes, is over when its method returns; [`IMMEDIATE_BYTES`] at least.
    const IMMEDIATE: u64;

    /// Copies `len` bytes.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn copy(&mut self, dst: HostAddr, src: HostAddr, len: usize, hint: Hint);

    /// What is decided once for many copies of one length and kind.
    type Prepared: Copy;

    /// Decides it for copies of `len` bytes.
    fn prepare(&self, len: usize, hint: Hint) -> Self::Prepared;

    /// One of these copies.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn copy_prepared(&mut self, prepared: Self::Prepared, dst: HostAddr, src: HostAddr);

    /// Writes the 16-byte pattern over and over, its byte 0 first.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn fill(&mut self, dst: HostAddr, len: usize, pattern: u128, hint: Hint);

    /// Offset of the first byte in which the two differ. The whole operation is one of `total` bytes.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn compare(&mut self, a: HostAddr, b: HostAddr, len: usize, total: u64)
    -> Option<usize>;

    /// Offset of the first byte that differs from the pattern repeated, its byte 0 first, in an operation of `total` bytes.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn compare_value(
        &mut self,
        a: HostAddr,
        len: usize,
        pattern: u128,
        total: u64,
    ) -> Option<usize>;

    /// Copies `len` bytes to two places, each loaded once. No two of the three ranges
    /// share a byte, whatever `hint` says of their order.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn dualcast(&mut self, dst: [HostAddr; 2], src: HostAddr, len: usize, hint: Hint);

    /// CRC-32C of `len` bytes that follow those of which `crc` is the CRC-32C; 0 before
    /// the first. Each byte is loaded once. Both values are as RFC 3720 writes them, with
    /// the register inverted before and after: the CRC-32C of `123456789` is `e3069283`,
    /// in one piece or in many.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn crc32c(&mut self, src: HostAddr, len: usize, crc: u32) -> u32;

    /// CRC-64/NVME of `len` bytes that follow those of which `crc` is the CRC-64/NVME, likewise: of `123456789` it is
    /// `ae8b14860a799888`.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn crc64(&mut self, src: HostAddr, len: usize, crc: u64) -> u64;

    /// The same as [`Self::crc32c`], and copies the very bytes of which it is the checksum: a source that
    /// changes meanwhile never makes the two differ. The ranges share no byte.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn copy_crc32c(
        &mut self,
        dst: HostAddr,
        src: HostAddr,
        len: usize,
        crc: u32,
        hint: Hint,
    ) -> u32;

    /// Writes the lines of a range back from the caches to memory, done at the next
    /// [`Backend::finish`]; with `keep` they may stay in the caches.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn flush(&mut self, at: HostAddr, len: usize, keep: bool);

    /// Ends what was put off: every byte is written, and ordered before any later store.
    fn finish(&mut self);
}
