//! DEFLATE and zlib streams by `zlib-rs`.

use zlib_rs::adler32::adler32;
use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Inflate, InflateFlush, Status};

use super::{BadData, Progress};

/// The fastest level: what matters here is to keep up with memory, and the library writes
/// as it goes, where higher levels collect a block and then encode it in one go.
const LEVEL: i32 = 1;

/// 32 KiB of history, the most that the format has.
const WINDOW_BITS: u8 = 15;

/// What a zlib stream begins with: DEFLATE, the largest window, made at the lowest levels, no dictionary.
const ZLIB_HEAD: [u8; 2] = [0x78, 0x01];

/// Adler-32 of nothing.
const EMPTY_SUM: u32 = 1;

/// What a zlib stream has around DEFLATE, on its way out.
#[derive(Debug, Default)]
struct Edge {
    bytes: [u8; 4],
    at: usize,
    end: usize,
}

impl Edge {
    fn new(content: &[u8]) -> Self {
        let mut edge = Self::default();
        edge.bytes[..content.len()].copy_from_slice(content);
        edge.end = content.len();
        edge
    }
    fn is_empty(&self) -> bool {
        self.at == self.end
    }
    /// Hands over what `output` has room for.
    fn emit(&mut self, output: &mut [u8]) -> usize {
        let len = output.len().min(self.end - self.at);
        output[..len].copy_from_slice(&self.bytes[self.at..self.at + len]);
        self.at += len;
        len
    }
}

/// A compressor of both representations. A state of the library's is of one of them for ever, and takes a third of a
/// MiB, so that what zlib has around DEFLATE is made here.
pub struct Compressor {
    deflate: Deflate,
    /// Whether a stream was begun and not ended.
    is_within: bool,
    /// Adler-32 of what came in; `None` where nothing is put around.
    sum: Option<u32>,
    edge: Edge,
}

impl Default for Compressor {
    fn default() -> Self {
        Self::new()
    }
}

impl Compressor {
    /// Allocates all that it will need.
    #[must_use]
    pub fn new() -> Self {
        Self {
            deflate: Deflate::new_with_config(DeflateConfig {
                level: LEVEL,
                window_bits: -i32::from(WINDOW_BITS),
                ..DeflateConfig::default()
            }),
            is_within: false,
            sum: None,
            edge: Edge::default(),
        }
    }

    /// Forgets what it had, for a new stream.
    ///
    /// The library's own reset leaves a block open that was open, and the next stream would lack
    /// its header: so a stream that was abandoned is ended first, into nowhere. That is as much
    /// work as was left of the input it had taken.
    pub fn reset(&mut self, zlib: bool) {
        let mut nowhere = [0; 1024];
        while self.is_within {
            let rest = self.deflate(&[], true, &mut nowhere);
            if rest.produced == 0 {
                break;
            }
        }
        self.deflate.reset();
        self.is_within = false;
        self.sum = zlib.then_some(EMPTY_SUM);
        self.edge = Edge::new(if zlib { &ZLIB_HEAD } else { &[] });
    }

    /// Compresses; `last` says that no input comes after this.
    pub fn run(&mut self, input: &[u8], last: bool, output: &mut [u8]) -> Progress {
        let mut progress = Progress {
            produced: self.edge.emit(output),
            ..Progress::default()
        };
        if self.deflate_has_ended() {
            progress.finished = self.edge.is_empty();
            return progress;
        }
        if progress.produced == output.len() {
            return progress;
        }
        let body = self.deflate(input, last, &mut output[progress.produced..]);
        progress.consumed = body.consumed;
        progress.produced += body.produced;
        if let Some(sum) = &mut self.sum {
            *sum = adler32(*sum, &input[..body.consumed]);
        }
        if body.finished {
            if let Some(sum) = self.sum {
                self.edge = Edge::new(&sum.to_be_bytes());
            }
            progress.produced += self.edge.emit(&mut output[progress.produced..]);
            progress.finished = self.edge.is_empty();
        }
        progress
    }

    /// Whether nothing is left but the end of what is around.
    fn deflate_has_ended(&self) -> bool {
        !self.is_within && self.deflate.total_out() != 0
    }

    fn deflate(&mut self, input: &[u8], last: bool, output: &mut [u8]) -> Progress {
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

/// Output that a call of a decompressor should come to, in bytes.
const CALL_BYTES: usize = 8 << 10;

/// Least and most input of a call, in bytes.
const INPUT_MIN: usize = 256;
const INPUT_MAX: usize = 4 << 10;

/// A decompressor of both representations.
///
/// The library goes fast until the input or the room for output ends soon, and from there on carefully: over the last bytes of input, or
/// over as many of output as the longest match has, which are a thirtieth of a call's. So a call gets as much input as comes to
/// 8 KiB, as far as the call before tells, and more room than that.
pub struct Decompressor {
    inflate: Inflate,
    input_bytes: usize,
}

impl Default for Decompressor {
    fn default() -> Self {
        Self::new()
    }
}

impl Decompressor {
    /// Most output of a call, in bytes.
    pub const OUTPUT_BYTES: usize = 2 * CALL_BYTES;

    /// Allocates all that it will need.
    #[must_use]
    pub fn new() -> Self {
        Self {
            inflate: Inflate::new(false, WINDOW_BITS),
            input_bytes: INPUT_MAX / 2,
        }
    }

    /// Forgets what it had, for a new stream.
    pub fn reset(&mut self, zlib: bool) {
        self.inflate.reset(zlib);
        self.input_bytes = INPUT_MAX / 2;
    }

    /// How much input a call should get, in bytes.
    #[must_use]
    pub fn input_bytes(&self) -> usize {
        self.input_bytes
    }

    /// Decompresses.
    ///
    /// # Errors
    /// The stream is not valid, or needs a dictionary.
    pub fn run(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress, BadData> {
        let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
        let status = (self.inflate).decompress(input, output, InflateFlush::NoFlush);
        let consumed = (self.inflate.total_in() - read) as usize;
        let produced = (self.inflate.total_out() - written) as usize;
        let wanted = CALL_BYTES * consumed / produced.max(1);
        self.input_bytes = wanted.clamp(INPUT_MIN, INPUT_MAX);
        Ok(Progress {
            consumed,
            produced,
            finished: status.map_err(|_| BadData)? == Status::StreamEnd,
        })
    }
}
