//! Compression and encryption of bytes in memory of the engine's own.
//!
//! What is here knows neither guests nor descriptors: pure functions and state machines
//! over slices, which [`crate::ops`] feeds from staging buffers. All state is allocated
//! when it is made, none while it works; a call does a bounded piece of work, so that a
//! worker can look at its clock between two.
//!
//! Libraries do the work: AWS-LC (`cipher`, `channel`), `lz4_flex` (`lz4`), `zlib-rs` (`deflate`).

pub mod channel;
pub mod cipher;
pub mod deflate;
pub mod lz4;
pub mod stream;

pub use cipher::{Cipher, CipherError, Direction, KeyName};
pub use stream::{Stream, StreamKind};

/// What one call of a stream did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes of the input that are used up.
    pub consumed: usize,
    /// Bytes of the output that were written.
    pub produced: usize,
    /// Nothing will come out any more.
    pub finished: bool,
}

/// The data to be decompressed is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("compressed data is not valid")]
pub struct BadData;
