//! LZ4 blocks by `lz4_flex`, alone or in frames, as state machines.
//!
//! Frames here have independent blocks of at most 64 KiB of data, so that a call handles
//! one block at most. What is given piece by piece is collected until a block is whole.

use std::hash::Hasher as _;

use lz4_flex::block::{
    CompressTable, DecompressError, compress_into_with_table, decompress_into,
    get_maximum_output_size,
};
use twox_hash::XxHash32;

use super::{BadData, Progress};

/// Data in a block that the encoder makes, in bytes; [`byway_protocols::codec`] says so.
pub const ENCODER_BLOCK: usize = byway_protocols::codec::LZ4_BLOCK_BYTES_MAX as usize;
/// Most bytes of a single block's compressed form.
pub const SINGLE_BLOCK_MAX: usize = ENCODER_BLOCK + ENCODER_BLOCK / 255 + 16;
/// Most data in a block of a frame that the decoder takes, in bytes.
const DECODER_BLOCK: usize = 64 << 10;

const MAGIC: u32 = 0x184d_2204;
const VERSION: u8 = 0b0100_0000;
const INDEPENDENT: u8 = 0b0010_0000;
const BLOCK_CHECKSUMS: u8 = 0b0001_0000;
const CONTENT_SIZE: u8 = 0b0000_1000;
const CONTENT_CHECKSUM: u8 = 0b0000_0100;
/// Blocks of 64 KiB, the smallest limit that a frame can name.
const BLOCKS_64K: u8 = 4 << 4;
/// A block's size with this bit is that of data that is not compressed.
const STORED: u32 = 1 << 31;
/// Magic, FLG, BD and the header's checksum.
const HEADER_BYTES: usize = 7;
/// A block's size.
const SIZE_BYTES: usize = 4;
/// Most input that a call asks for: a block as the encoder makes them, its checksum, and the next one's size.
const INPUT_MAX: usize = ENCODER_BLOCK + 4 + SIZE_BYTES;

/// Most bytes of what the encoder makes of a block, with a frame's header before and its end behind it.
pub const ENCODED_MAX: usize =
    HEADER_BYTES + SIZE_BYTES + get_maximum_output_size(ENCODER_BLOCK) + SIZE_BYTES;

/// What a decoder found wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// The data is not valid.
    Bad,
    /// A block without a frame holds more than [`ENCODER_BLOCK`] bytes.
    TooLong,
}

impl From<BadData> for DecodeError {
    fn from(_: BadData) -> Self {
        Self::Bad
    }
}

/// Bytes on their way out.
#[derive(Debug)]
struct Pending {
    bytes: Box<[u8]>,
    at: usize,
    end: usize,
}

impl Pending {
    fn new(room: usize) -> Self {
        Self {
            bytes: vec![0; room].into_boxed_slice(),
            at: 0,
            end: 0,
        }
    }
    fn clear(&mut self) {
        (self.at, self.end) = (0, 0);
    }
    fn is_empty(&self) -> bool {
        self.at == self.end
    }
    fn push(&mut self, bytes: &[u8]) {
        store(&mut self.bytes[self.end..][..bytes.len()], bytes);
        self.end += bytes.len();
    }
    /// Hands over what `output` has room for.
    fn emit(&mut self, output: &mut [u8]) -> usize {
        let len = output.len().min(self.end - self.at);
        store(&mut output[..len], &self.bytes[self.at..self.at + len]);
        self.at += len;
        if self.is_empty() {
            self.clear();
        }
        len
    }
}

/// Compresses into a frame, or into one block.
///
/// A block that the input has whole is compressed from there, and to the output at once where that has room for the largest
/// that it may become ([`ENCODED_MAX`]): so data in pieces of [`ENCODER_BLOCK`] is copied nowhere in between.
pub struct Encoder {
    framed: bool,
    table: CompressTable,
    block: Box<[u8]>,
    have: usize,
    out: Pending,
    started: bool,
    ended: bool,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// Allocates all that it will need.
    #[must_use]
    pub fn new() -> Self {
        Self {
            framed: true,
            table: CompressTable::small(),
            block: vec![0; ENCODER_BLOCK].into_boxed_slice(),
            have: 0,
            out: Pending::new(ENCODED_MAX),
            started: false,
            ended: false,
        }
    }

    /// Forgets what it had, for a new frame, or else one block.
    pub fn reset(&mut self, framed: bool) {
        self.framed = framed;
        self.have = 0;
        self.out.clear();
        (self.started, self.ended) = (false, false);
    }

    /// Whether it has use for input.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.out.is_empty() && !self.ended
    }

    /// Compresses at most one block; `last` says that no input comes after this. One block
    /// without a frame must not get more than [`ENCODER_BLOCK`] bytes in all.
    pub fn run(&mut self, input: &[u8], last: bool, output: &mut [u8]) -> Progress {
        let mut progress = Progress::default();
        if self.wants_input() {
            let taken = input.len().min(ENCODER_BLOCK - self.have);
            let is_last = last && taken == input.len();
            let is_whole = is_last || (self.framed && self.have + taken == ENCODER_BLOCK);
            progress.consumed = taken;
            if is_whole && self.have == 0 {
                progress.produced = self.encode(&input[..taken], is_last, output);
            } else {
                store(&mut self.block[self.have..][..taken], &input[..taken]);
                self.have += taken;
                if is_whole {
                    let block = std::mem::take(&mut self.block);
                    progress.produced = self.encode(&block[..self.have], is_last, output);
                    self.block = block;
                    self.have = 0;
                }
            }
        }
        if progress.produced == 0 {
            progress.produced = self.out.emit(output);
        }
        progress.finished = self.ended && self.out.is_empty();
        progress
    }

    /// Makes a block of the data, with what goes before it and behind it: in the output, if there is room for whatever it may
    /// become, or else to be handed over piece by piece; how many bytes went to the output.
    fn encode(&mut self, data: &[u8], last: bool, output: &mut [u8]) -> usize {
        if output.len() >= ENCODED_MAX {
            return self.encode_into(data, last, output);
        }
        let mut pending = std::mem::take(&mut self.out.bytes);
        self.out.end = self.encode_into(data, last, &mut pending);
        self.out.bytes = pending;
        0
    }

    fn encode_into(&mut self, data: &[u8], last: bool, output: &mut [u8]) -> usize {
        let mut end = 0;
        let mut push = |bytes: &[u8]| {
            output[end..][..bytes.len()].copy_from_slice(bytes);
            end += bytes.len();
        };
        if self.framed && !self.started {
            self.started = true;
            let descriptor = [VERSION | INDEPENDENT, BLOCKS_64K];
            push(&MAGIC.to_le_bytes());
            push(&descriptor);
            push(&[header_checksum(&descriptor)]);
        }
        if !data.is_empty() || !self.framed {
            end += self.compress(data, &mut output[end..]);
        }
        if last {
            self.ended = true;
            if self.framed {
                output[end..][..SIZE_BYTES].fill(0);
                end += SIZE_BYTES;
            }
        }
        end
    }

    /// A block, behind its size if there is a frame; its length.
    fn compress(&mut self, data: &[u8], output: &mut [u8]) -> usize {
        let (size, block) = output.split_at_mut(if self.framed { SIZE_BYTES } else { 0 });
        // It cannot fail: there is room for the worst case.
        let mut len = compress_into_with_table(data, block, &mut self.table)
            .expect("room for the largest output");
        if self.framed {
            let mut field = len as u32;
            if len >= data.len() {
                len = data.len();
                field = STORED | len as u32;
                store(&mut block[..len], data);
            }
            size.copy_from_slice(&field.to_le_bytes());
        }
        size.len() + len
    }
}

/// A copy from one buffer in the first cache to another, `to.len()` bytes of each. The C library hands long ones to `rep movsb`, which
/// on some processors takes ten times as long where the destination lies a few bytes behind the source in its page, as it does behind
/// a block's size: so none of its copies here is a long one.
fn store(to: &mut [u8], from: &[u8]) {
    const PART: usize = 1 << 10;
    let parts = to.chunks_mut(PART).zip(from.chunks(PART));
    parts.for_each(|(to, from)| to.copy_from_slice(from));
}

/// What a decoder collects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// One block without a frame, of as many bytes as come.
    Single,
    /// Magic, FLG and BD.
    Header,
    /// The header's optional field and checksum.
    HeaderRest,
    /// A block's size, or the mark of the end.
    Size,
    /// A block with its checksum.
    Block {
        /// Bytes of the block.
        bytes: usize,
        /// It is not compressed.
        stored: bool,
    },
    /// The content's checksum.
    Checksum,
    /// Nothing: the frame has ended.
    End,
}

/// Decompresses a frame, or one block.
///
/// A part that the input has whole is taken from there, and a block's data goes to the output at once where that has room
/// for it: so a frame of this module's encoder, given in pieces of [`Decoder::input_bytes`], is copied nowhere in between.
pub struct Decoder {
    part: Part,
    flags: u8,
    /// A block of this frame was too long for the output.
    is_large: bool,
    have: usize,
    need: usize,
    collected: Box<[u8]>,
    out: Pending,
    hash: XxHash32,
    total: u64,
    promised: Option<u64>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// Allocates all that it will need.
    #[must_use]
    pub fn new() -> Self {
        Self {
            part: Part::End,
            flags: 0,
            is_large: false,
            have: 0,
            need: 0,
            collected: vec![0; DECODER_BLOCK + 4].into_boxed_slice(),
            out: Pending::new(DECODER_BLOCK),
            hash: XxHash32::with_seed(0),
            total: 0,
            promised: None,
        }
    }

    /// Forgets what it had, for a new frame, or else one block.
    pub fn reset(&mut self, framed: bool) {
        self.out.clear();
        self.hash = XxHash32::with_seed(0);
        (self.total, self.promised, self.is_large) = (0, None, false);
        if framed {
            self.collect(Part::Header, HEADER_BYTES - 1);
        } else {
            self.collect(Part::Single, SINGLE_BLOCK_MAX);
        }
    }

    /// Whether it has use for input.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.out.is_empty() && self.part != Part::End
    }

    /// How much input the next call has a use for, in bytes: the rest of a block and the size of the one behind it, or as
    /// much as a block may have.
    #[must_use]
    pub fn input_bytes(&self) -> usize {
        match self.part {
            Part::Block { .. } => (self.need - self.have + SIZE_BYTES).min(INPUT_MAX),
            _ => ENCODER_BLOCK,
        }
    }

    /// Decompresses at most one block; `last` says that no input comes after this.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn run(
        &mut self,
        input: &[u8],
        last: bool,
        output: &mut [u8],
    ) -> Result<Progress, DecodeError> {
        let mut progress = Progress::default();
        // What has no data, headers and sizes, is passed over in one go.
        while self.wants_input() && progress.produced == 0 {
            let rest = &input[progress.consumed..];
            let (taken, produced) = self.take(rest, last, output)?;
            progress.consumed += taken;
            progress.produced = produced.unwrap_or(0);
            if produced.is_none() {
                break;
            }
        }
        if progress.produced == 0 {
            progress.produced = self.out.emit(output);
        }
        // The next block's size, so that its length is known when it is asked for. What is wrong with it is told by the next
        // call: this one has something to give.
        let rest = &input[progress.consumed..];
        if (self.part, self.have) == (Part::Size, 0)
            && self.wants_input()
            && rest.len() >= self.need
            && let Ok((taken, _)) = self.take(rest, last, &mut [])
        {
            progress.consumed += taken;
        }
        progress.finished = self.part == Part::End && self.out.is_empty();
        Ok(progress)
    }

    /// Takes what the current part needs of the input; how much that was, and how many bytes went to the output if the
    /// part is whole.
    fn take(
        &mut self,
        input: &[u8],
        last: bool,
        output: &mut [u8],
    ) -> Result<(usize, Option<usize>), DecodeError> {
        let taken = input.len().min(self.need - self.have);
        let is_whole = match self.part {
            Part::Single => last && taken == input.len(),
            _ => self.have + taken == self.need,
        };
        if self.have == 0 && is_whole {
            let produced = self.advance(&input[..taken], output)?;
            return Ok((taken, Some(produced)));
        }
        store(&mut self.collected[self.have..][..taken], &input[..taken]);
        self.have += taken;
        if !is_whole {
            return Ok((taken, None));
        }
        let collected = std::mem::take(&mut self.collected);
        let produced = self.advance(&collected[..self.have], output);
        self.collected = collected;
        Ok((taken, Some(produced?)))
    }

    fn collect(&mut self, part: Part, need: usize) {
        self.part = part;
        self.have = 0;
        self.need = need;
    }

    /// Acts on a part that is whole; how many bytes went to the output.
    fn advance(&mut self, data: &[u8], output: &mut [u8]) -> Result<usize, DecodeError> {
        match self.part {
            Part::Single => {
                self.collect(Part::End, 0);
                self.decode(data, ENCODER_BLOCK, output)
                    .map_err(|error| match error {
                        DecompressError::OutputTooSmall { .. } => DecodeError::TooLong,
                        _ => DecodeError::Bad,
                    })
            }
            Part::Header => {
                let [m0, m1, m2, m3, flags, limit] = *field(data);
                let wanted = VERSION | INDEPENDENT;
                let optional = BLOCK_CHECKSUMS | CONTENT_SIZE | CONTENT_CHECKSUM;
                if u32::from_le_bytes([m0, m1, m2, m3]) != MAGIC
                    || flags & !optional != wanted
                    || limit != BLOCKS_64K
                {
                    return Err(DecodeError::Bad);
                }
                self.flags = flags;
                let size = if flags & CONTENT_SIZE != 0 { 8 } else { 0 };
                self.collect(Part::HeaderRest, size + 1);
                Ok(0)
            }
            Part::HeaderRest => {
                let (size, checksum) = data.split_at(data.len() - 1);
                let mut fields = [self.flags, BLOCKS_64K, 0, 0, 0, 0, 0, 0, 0, 0];
                fields[2..][..size.len()].copy_from_slice(size);
                if [header_checksum(&fields[..2 + size.len()])] != checksum {
                    return Err(DecodeError::Bad);
                }
                self.promised = size.try_into().ok().map(u64::from_le_bytes);
                self.collect(Part::Size, SIZE_BYTES);
                Ok(0)
            }
            Part::Size => {
                self.size(u32::from_le_bytes(*field(data)))?;
                Ok(0)
            }
            Part::Block { bytes, stored } => {
                self.collect(Part::Size, SIZE_BYTES);
                self.block(data.split_at(bytes), stored, output)
            }
            Part::Checksum => {
                if u32::from_le_bytes(*field(data)) != self.hash.finish_32() {
                    return Err(DecodeError::Bad);
                }
                self.collect(Part::End, 0);
                Ok(0)
            }
            Part::End => Ok(0),
        }
    }

    fn size(&mut self, size: u32) -> Result<(), DecodeError> {
        if size == 0 {
            if self.promised.is_some_and(|bytes| bytes != self.total) {
                return Err(DecodeError::Bad);
            }
            match self.flags & CONTENT_CHECKSUM {
                0 => self.collect(Part::End, 0),
                _ => self.collect(Part::Checksum, 4),
            }
            return Ok(());
        }
        let stored = size & STORED != 0;
        let bytes = (size & !STORED) as usize;
        if bytes > DECODER_BLOCK {
            return Err(DecodeError::Bad);
        }
        let checksum = if self.flags & BLOCK_CHECKSUMS != 0 {
            4
        } else {
            0
        };
        self.collect(Part::Block { bytes, stored }, bytes + checksum);
        Ok(())
    }

    /// Decompresses a block, with its checksum behind it if there is one; how many bytes went to the output.
    fn block(
        &mut self,
        (data, checksum): (&[u8], &[u8]),
        stored: bool,
        output: &mut [u8],
    ) -> Result<usize, DecodeError> {
        if let Ok(checksum) = checksum.try_into()
            && u32::from_le_bytes(checksum) != XxHash32::oneshot(0, data)
        {
            return Err(DecodeError::Bad);
        }
        let produced = if !stored {
            self.decode(data, DECODER_BLOCK, output)
                .map_err(|_| DecodeError::Bad)?
        } else if let Some(output) = output.get_mut(..data.len()) {
            store(output, data);
            data.len()
        } else {
            self.out.push(data);
            0
        };
        let made = match produced {
            0 => &self.out.bytes[..self.out.end],
            _ => &output[..produced],
        };
        self.total += made.len() as u64;
        if self.flags & CONTENT_CHECKSUM != 0 {
            self.hash.write(made);
        }
        Ok(produced)
    }

    /// Decompresses a block of `most` bytes at most: into the output, if it fits there, or else to be handed over piece by
    /// piece; how many bytes went to the output.
    fn decode(
        &mut self,
        data: &[u8],
        most: usize,
        output: &mut [u8],
    ) -> Result<usize, DecompressError> {
        if !self.is_large {
            let room = output.len().min(most);
            match decompress(data, &mut output[..room]) {
                Err(DecompressError::OutputTooSmall { .. }) if room < most => self.is_large = true,
                result => return result,
            }
        }
        self.out.end = decompress(data, &mut self.out.bytes[..most])?;
        Ok(0)
    }
}

/// The library, called at one place alone: what it is called with everywhere - no dictionary, a slice that begins at 0 - is known inside of
/// it then.
#[inline(never)]
fn decompress(data: &[u8], output: &mut [u8]) -> Result<usize, DecompressError> {
    decompress_into(data, output)
}

/// The bytes of a part that has `N` of them.
fn field<const N: usize>(data: &[u8]) -> &[u8; N] {
    // No part is looked at before it is whole.
    data.first_chunk().unwrap_or(&[0; N])
}

fn header_checksum(fields: &[u8]) -> u8 {
    (XxHash32::oneshot(0, fields) >> 8) as u8
}

#[cfg(test)]
mod tests;
