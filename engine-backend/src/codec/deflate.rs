//! DEFLATE and zlib streams by `zlib-rs`.

use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Inflate, InflateFlush, Status};

use super::{BadData, Progress};

/// The fastest level: what matters here is to keep up with memory, and the library writes
/// as it goes, where higher levels collect a block and then encode it in one go.
const LEVEL: i32 = 1;

/// 32 KiB of history, the most that the format has.
const WINDOW_BITS: u8 = 15;

/// A compressor of one representation.
pub struct Compressor {
    deflate: Deflate,
    /// Whether a stream was begun and not ended.
    is_within: bool,
}

impl Compressor {
    /// Allocates all that it will need.
    #[must_use]
    pub fn new(zlib: bool) -> Self {
        let bits = i32::from(WINDOW_BITS);
        Self {
            deflate: Deflate::new_with_config(DeflateConfig {
                level: LEVEL,
                window_bits: if zlib { bits } else { -bits },
                ..DeflateConfig::default()
            }),
            is_within: false,
        }
    }

    /// Forgets what it had, for a new stream.
    ///
    /// The library's own reset leaves a block open that was open, and the next stream would lack
    /// its header: so a stream that was abandoned is ended first, into nowhere. That is as much
    /// work as was left of the input it had taken.
    pub fn reset(&mut self) {
        let mut nowhere = [0; 1024];
        while self.is_within {
            let rest = self.run(&[], true, &mut nowhere);
            if rest.produced == 0 {
                break;
            }
        }
        self.deflate.reset();
        self.is_within = false;
    }

    /// Compresses; `last` says that no input comes after this.
    pub fn run(&mut self, input: &[u8], last: bool, output: &mut [u8]) -> Progress {
        let (read, written) = (self.deflate.total_in(), self.deflate.total_out());
        let flush = if last {
            DeflateFlush::Finish
        } else {
            DeflateFlush::NoFlush
        };
        let status = self.deflate.compress(input, output, flush);
        let finished = status == Ok(Status::StreamEnd);
        self.is_within = !finished;
        Progress {
            consumed: (self.deflate.total_in() - read) as usize,
            produced: (self.deflate.total_out() - written) as usize,
            finished,
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
