//! DEFLATE and zlib streams by `zlib-rs`.

use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Inflate, InflateFlush, Status};

use super::{BadData, Progress};

/// The fastest level: what matters here is to keep up with memory, and the library writes
/// as it goes, where higher levels collect a block and then encode it in one go.
const LEVEL: i32 = 1;

/// 32 KiB of history, the most that the format has.
const WINDOW_BITS: u8 = 15;

/// A compressor of one representation.
pub struct Compressor(Deflate);

impl Compressor {
    /// Allocates all that it will need.
    #[must_use]
    pub fn new(zlib: bool) -> Self {
        let bits = i32::from(WINDOW_BITS);
        Self(Deflate::new_with_config(DeflateConfig {
            level: LEVEL,
            window_bits: if zlib { bits } else { -bits },
            ..DeflateConfig::default()
        }))
    }

    /// Forgets what it had, for a new stream.
    pub fn reset(&mut self) {
        self.0.reset();
    }

    /// Compresses; `last` says that no input comes after this.
    pub fn run(&mut self, input: &[u8], last: bool, output: &mut [u8]) -> Progress {
        let (read, written) = (self.0.total_in(), self.0.total_out());
        let flush = if last {
            DeflateFlush::Finish
        } else {
            DeflateFlush::NoFlush
        };
        let status = self.0.compress(input, output, flush);
        Progress {
            consumed: (self.0.total_in() - read) as usize,
            produced: (self.0.total_out() - written) as usize,
            finished: status == Ok(Status::StreamEnd),
        }
    }
}

/// A decompressor of both representations.
pub struct Decompressor(Inflate);

impl Default for Decompressor {
    fn default() -> Self {
        Self::new()
    }
}

impl Decompressor {
    /// Allocates all that it will need.
    #[must_use]
    pub fn new() -> Self {
        Self(Inflate::new(false, WINDOW_BITS))
    }

    /// Forgets what it had, for a new stream.
    pub fn reset(&mut self, zlib: bool) {
        self.0.reset(zlib);
    }

    /// Decompresses.
    ///
    /// # Errors
    /// The stream is not valid, or needs a dictionary.
    pub fn run(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress, BadData> {
        let (read, written) = (self.0.total_in(), self.0.total_out());
        let status = self.0.decompress(input, output, InflateFlush::NoFlush);
        Ok(Progress {
            consumed: (self.0.total_in() - read) as usize,
            produced: (self.0.total_out() - written) as usize,
            finished: status.map_err(|_| BadData)? == Status::StreamEnd,
        })
    }
}
