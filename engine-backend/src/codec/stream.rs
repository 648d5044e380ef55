//! [`Stream`]: compression and decompression of every representation behind one call.

use byway_protocols::codec::Compression;

use super::deflate::{Compressor, Decompressor};
use super::lz4::{DecodeError, Decoder, ENCODED_MAX, Encoder};
use super::{BadData, Progress};

/// What a stream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// Makes this of data.
    Compress(Compression),
    /// Makes data of this.
    Decompress(Compression),
}

/// Why a stream stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamError {
    /// What is to be decompressed is not valid, or ends too early.
    BadData,
    /// It is longer than its representation allows.
    TooLong,
}

impl From<BadData> for StreamError {
    fn from(_: BadData) -> Self {
        Self::BadData
    }
}

/// All compressors and decompressors, one of them at work.
pub struct Stream {
    kind: StreamKind,
    encoder: Encoder,
    decoder: Decoder,
    compressor: Compressor,
    decompressor: Decompressor,
}

impl Default for Stream {
    fn default() -> Self {
        Self::new()
    }
}

impl Stream {
    /// Allocates all that it will need.
    #[must_use]
    pub fn new() -> Self {
        Self {
            kind: StreamKind::Compress(Compression::Lz4Block),
            encoder: Encoder::new(),
            decoder: Decoder::new(),
            compressor: Compressor::new(),
            decompressor: Decompressor::new(),
        }
    }

    /// Forgets what it had and starts anew.
    pub fn start(&mut self, kind: StreamKind) {
        self.kind = kind;
        match kind {
            StreamKind::Compress(Compression::Lz4Block) => self.encoder.reset(false),
            StreamKind::Compress(Compression::Lz4Frame) => self.encoder.reset(true),
            StreamKind::Compress(Compression::Deflate) => self.compressor.reset(false),
            StreamKind::Compress(Compression::Zlib) => self.compressor.reset(true),
            StreamKind::Decompress(Compression::Lz4Block) => self.decoder.reset(false),
            StreamKind::Decompress(Compression::Lz4Frame) => self.decoder.reset(true),
            StreamKind::Decompress(Compression::Deflate) => self.decompressor.reset(false),
            StreamKind::Decompress(Compression::Zlib) => self.decompressor.reset(true),
        }
    }

    /// Whether it has use for input. If not, it has output waiting.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        match self.kind {
            StreamKind::Compress(Compression::Lz4Block | Compression::Lz4Frame) => {
                self.encoder.wants_input()
            }
            StreamKind::Decompress(Compression::Lz4Block | Compression::Lz4Frame) => {
                self.decoder.wants_input()
            }
            _ => true,
        }
    }

    /// How much input one call should get, in bytes: so much that it pays, so little that
    /// it stays a fraction of a chunk's time.
    #[must_use]
    pub fn input_bytes(&self) -> usize {
        match self.kind {
            StreamKind::Compress(Compression::Deflate | Compression::Zlib) => 2 << 10,
            StreamKind::Decompress(Compression::Deflate | Compression::Zlib) => {
                self.decompressor.input_bytes()
            }
            StreamKind::Decompress(_) => self.decoder.input_bytes(),
            _ => 16 << 10,
        }
    }

    /// How much output one call should have room for, in bytes.
    #[must_use]
    pub fn output_bytes(&self) -> usize {
        match self.kind {
            StreamKind::Decompress(Compression::Deflate | Compression::Zlib) => {
                Decompressor::OUTPUT_BYTES
            }
            StreamKind::Compress(Compression::Lz4Block | Compression::Lz4Frame) => ENCODED_MAX,
            _ => 16 << 10,
        }
    }

    /// What a call cost, in bytes of a plain copy.
    #[must_use]
    pub fn cost(&self, progress: &Progress) -> u64 {
        let (consumed, produced) = (progress.consumed as u64, progress.produced as u64);
        match self.kind {
            StreamKind::Compress(Compression::Deflate | Compression::Zlib) => 8 * consumed,
            StreamKind::Compress(_) => 4 * consumed + produced,
            StreamKind::Decompress(Compression::Deflate | Compression::Zlib) => {
                4 * (consumed + produced)
            }
            StreamKind::Decompress(_) => consumed + produced,
        }
    }

    /// Goes on: takes some of the input and gives some output. `last` says that no input
    /// comes after this. A call that neither consumes nor produces anything, though it had
    /// both input (or `last`) and room, would do so for ever: the data ended too early.
    ///
    /// # Errors
    /// See [`StreamError`].
    pub fn run(
        &mut self,
        input: &[u8],
        last: bool,
        output: &mut [u8],
    ) -> Result<Progress, StreamError> {
        match self.kind {
            StreamKind::Compress(Compression::Lz4Block | Compression::Lz4Frame) => {
                Ok(self.encoder.run(input, last, output))
            }
            StreamKind::Compress(Compression::Deflate | Compression::Zlib) => {
                Ok(self.compressor.run(input, last, output))
            }
            StreamKind::Decompress(Compression::Lz4Block | Compression::Lz4Frame) => self
                .decoder
                .run(input, last, output)
                .map_err(|error| match error {
                    DecodeError::Bad => StreamError::BadData,
                    DecodeError::TooLong => StreamError::TooLong,
                }),
            StreamKind::Decompress(Compression::Deflate | Compression::Zlib) => {
                Ok(self.decompressor.run(input, output)?)
            }
        }
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
