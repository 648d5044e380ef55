//! Requests that compress, encrypt and seal (SPEC sections 4.24 to 4.28, 4.31 and 4.32).

use byway_protocols::codec::{
    AAD_BYTES_MAX, CodecWord, Compression, GCM_OPEN_BYTES_MAX, LZ4_BLOCK_BYTES_MAX, SealHeader,
    TAG_BYTES, XTS_UNIT_LOG2_MAX, XTS_UNIT_LOG2_MIN,
};
use byway_protocols::{Descriptor, Opcode};

use crate::request::{Address, Request, RequestError, Slot, apart, sized, transfer_bytes};

/// Bytes of a block of AES.
const BLOCK: u32 = 16;
/// Most bytes of an LZ4 block without a frame: its data if that does not compress, with the lengths
/// and the token.
const LZ4_BLOCK_COMPRESSED_MAX: u32 = LZ4_BLOCK_BYTES_MAX + LZ4_BLOCK_BYTES_MAX / 255 + 16;

/// Bytes that sealing puts around a message: a header and a tag.
const SEAL_BYTES: u32 = SealHeader::SIZE as u32 + TAG_BYTES;

/// How ENCRYPT and DECRYPT work, beside the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// With a key of XTS.
    Xts {
        /// Logarithm of the data unit, 9 to 16.
        unit_log2: u8,
        /// Tweak of the first data unit.
        tweak: u128,
    },
    /// With a key of CBC.
    Cbc {
        /// Initialisation vector.
        iv: [u8; 16],
    },
    /// With a key of GCM.
    Gcm {
        /// Never the same twice under one key.
        nonce: [u8; 12],
        /// Bytes of additional data that the source begins with, at most 4096.
        additional: u32,
        /// Compress before, decompress after.
        fused: Option<Compression>,
    },
}

impl Mode {
    /// Bytes of `op1` and `op2`.
    fn iv(&self) -> [u8; 16] {
        match *self {
            Self::Xts { tweak, .. } => tweak.to_le_bytes(),
            Self::Cbc { iv } => iv,
            Self::Gcm {
                nonce, additional, ..
            } => {
                let mut iv = [0; 16];
                iv[..12].copy_from_slice(&nonce);
                iv[12..].copy_from_slice(&additional.to_le_bytes());
                iv
            }
        }
    }

    /// Of XTS and CBC: whole units or blocks, as many bytes out as in, in place or apart.
    fn check_blocks(&self, dst: (Address, u64), src: (Address, u64)) -> Result<(), RequestError> {
        let size = src.1;
        if let Self::Xts { unit_log2, .. } = *self {
            if !(XTS_UNIT_LOG2_MIN..=XTS_UNIT_LOG2_MAX).contains(&unit_log2) {
                return Err(RequestError::Unit(unit_log2));
            }
            let unit = 1 << unit_log2;
            if (1..u64::from(BLOCK)).contains(&(size % u64::from(unit))) {
                return Err(RequestError::LastUnit { size, unit });
            }
        } else if !size.is_multiple_of(BLOCK.into()) {
            return Err(RequestError::SizeMultiple { size, unit: BLOCK });
        }
        if src.0 != dst.0 {
            apart(src, (dst.0, size))?;
        }
        has_room(dst.1, size)
    }

    /// Of GCM: additional data, text, and of what is opened a tag.
    fn check_message(
        &self,
        opcode: Opcode,
        dst: (Address, u64),
        src: (Address, u64),
    ) -> Result<(), RequestError> {
        let Self::Gcm {
            additional, fused, ..
        } = *self
        else {
            return Ok(());
        };
        if additional > AAD_BYTES_MAX {
            return Err(RequestError::Additional(additional));
        }
        let opens = opcode == Opcode::Decrypt;
        let (tag_in, tag_out) = if opens {
            (TAG_BYTES, 0)
        } else {
            (0, TAG_BYTES)
        };
        let min = additional + tag_in;
        let size = src.1;
        let body = size
            .checked_sub(min.into())
            .ok_or(RequestError::SizeMin { size, min })?;
        if opens {
            at_most(body, Some(GCM_OPEN_BYTES_MAX))?;
        }
        let stream = if opens {
            Opcode::Decompress
        } else {
            Opcode::Compress
        };
        at_most(
            body,
            fused.and_then(|compression| stream_max(stream, compression)),
        )?;
        apart(src, dst)?;
        let text = if fused.is_none() { body } else { 0 };
        has_room(dst.1, text + u64::from(tag_out))
    }

    fn word(&self, key: Slot, room: u32) -> CodecWord {
        let word = CodecWord::key(key.number(), room);
        match *self {
            Self::Xts { unit_log2, .. } => word.with_unit(unit_log2),
            Self::Gcm {
                fused: Some(compression),
                ..
            } => word.with_compression(compression),
            _ => word,
        }
    }
}

impl Request {
    /// COMPRESS: compresses `size` bytes at `src` into at most `room` bytes at `dst`.
    ///
    /// See [`Transformed::of`](crate::Transformed::of).
    ///
    /// # Errors
    /// The size or the room is out of range, an operand wraps, or source and room overlap. An LZ4
    /// block takes 16384 bytes at most.
    pub fn compress(
        dst: Address,
        room: u64,
        src: Address,
        size: u64,
        compression: Compression,
    ) -> Result<Self, RequestError> {
        Self::stream(Opcode::Compress, (dst, room), (src, size), compression)
    }

    /// DECOMPRESS: the inverse.
    ///
    /// # Errors
    /// As [`Self::compress`]. An LZ4 block has 16464 bytes at most.
    pub fn decompress(
        dst: Address,
        room: u64,
        src: Address,
        size: u64,
        compression: Compression,
    ) -> Result<Self, RequestError> {
        Self::stream(Opcode::Decompress, (dst, room), (src, size), compression)
    }

    /// ENCRYPT: encrypts `size` bytes at `src` with the key in slot `key` into at most `room`
    /// bytes at `dst`.
    ///
    /// # Errors
    /// As [`Self::compress`]; the key's slot is 0; or what the mode asks of sizes does not hold: of
    /// XTS data units of 512 bytes to 64 KiB and 16 bytes or more in the last, of CBC a multiple of
    /// 16, of GCM additional data up to 4096 bytes; and room for what comes out. XTS and CBC may
    /// work in place: then source and destination are the same.
    pub fn encrypt(
        dst: Address,
        room: u64,
        src: Address,
        size: u64,
        key: Slot,
        mode: &Mode,
    ) -> Result<Self, RequestError> {
        Self::crypt(Opcode::Encrypt, (dst, room), (src, size), key, mode)
    }

    /// DECRYPT: the inverse.
    ///
    /// # Errors
    /// As [`Self::encrypt`]; a message of GCM has its tag and 2 MiB of ciphertext at most.
    pub fn decrypt(
        dst: Address,
        room: u64,
        src: Address,
        size: u64,
        key: Slot,
        mode: &Mode,
    ) -> Result<Self, RequestError> {
        Self::crypt(Opcode::Decrypt, (dst, room), (src, size), key, mode)
    }

    /// SEAL_COPY: copies `size` bytes at `src` to `dst` and seals them on the way, with the channel key in slot `key`; what
    /// comes out has 40 bytes more. Whoever opens it has to name the same `label`.
    ///
    /// See [`Sealed::of`](crate::Sealed::of), which gives the message's number too.
    ///
    /// # Errors
    /// The size is not 1 byte to 2 MiB, the key's slot is 0, an operand wraps, or the two overlap.
    pub fn seal_copy(
        dst: Address,
        src: Address,
        size: u64,
        key: Slot,
        label: u64,
    ) -> Result<Self, RequestError> {
        at_most(size, Some(GCM_OPEN_BYTES_MAX))?;
        let room = size + u64::from(SEAL_BYTES);
        Self::channel(Opcode::SealCopy, (dst, room), (src, size), key, [0, label])
    }

    /// OPEN_COPY: verifies the sealed message of `size` bytes at `src`, header and tag included, and copies what it says
    /// to `dst`: 40 bytes less. One whose number is below `lowest` is refused, with nothing written.
    ///
    /// # Errors
    /// The size is not 40 bytes to 40 bytes above 2 MiB; as [`Self::seal_copy`].
    pub fn open_copy(
        dst: Address,
        src: Address,
        size: u64,
        key: Slot,
        lowest: u64,
        label: u64,
    ) -> Result<Self, RequestError> {
        let text = size
            .checked_sub(SEAL_BYTES.into())
            .ok_or(RequestError::SizeMin {
                size,
                min: SEAL_BYTES,
            })?;
        at_most(size, Some(GCM_OPEN_BYTES_MAX + SEAL_BYTES))?;
        // A message may be empty; room for one may not.
        let dst = (dst, text.max(1));
        Self::channel(Opcode::OpenCopy, dst, (src, size), key, [lowest, label])
    }

    fn channel(
        opcode: Opcode,
        dst: (Address, u64),
        src: (Address, u64),
        key: Slot,
        [lowest, label]: [u64; 2],
    ) -> Result<Self, RequestError> {
        let (mut descriptor, room) = operands(opcode, dst, src)?;
        if key == Slot::OWN {
            return Err(RequestError::KeySlot);
        }
        apart(src, dst)?;
        descriptor.op0 = CodecWord::key(key.number(), room).0;
        descriptor.op1 = lowest;
        descriptor.op2 = label;
        Ok(Self(descriptor))
    }

    fn stream(
        opcode: Opcode,
        dst: (Address, u64),
        src: (Address, u64),
        compression: Compression,
    ) -> Result<Self, RequestError> {
        let (mut descriptor, room) = operands(opcode, dst, src)?;
        at_most(src.1, stream_max(opcode, compression))?;
        apart(src, dst)?;
        descriptor.op0 = CodecWord::compression(compression, room).0;
        Ok(Self(descriptor))
    }

    fn crypt(
        opcode: Opcode,
        dst: (Address, u64),
        src: (Address, u64),
        key: Slot,
        mode: &Mode,
    ) -> Result<Self, RequestError> {
        let (mut descriptor, room) = operands(opcode, dst, src)?;
        if key == Slot::OWN {
            return Err(RequestError::KeySlot);
        }
        match mode {
            Mode::Xts { .. } | Mode::Cbc { .. } => mode.check_blocks(dst, src)?,
            Mode::Gcm { .. } => mode.check_message(opcode, dst, src)?,
        }
        descriptor.op0 = mode.word(key, room).0;
        let iv = u128::from_le_bytes(mode.iv());
        descriptor.op1 = iv as u64;
        descriptor.op2 = (iv >> 64) as u64;
        Ok(Self(descriptor))
    }
}

/// A descriptor with both operands, and the room as it fits the word.
fn operands(
    opcode: Opcode,
    (dst, room): (Address, u64),
    (src, size): (Address, u64),
) -> Result<(Descriptor, u32), RequestError> {
    for bytes in [size, room] {
        transfer_bytes(bytes)?;
    }
    let mut descriptor = sized(opcode, Some(src), None, size)?;
    // The room is checked as if it were the size: it must not wrap either.
    let with_room = sized(opcode, None, Some(dst), room)?;
    descriptor.word0 |= with_room.word0;
    descriptor.src = src.addr;
    descriptor.dst = dst.addr;
    Ok((descriptor, with_room.size))
}

/// Most bytes that go into a stream of this representation; `None`: any number.
const fn stream_max(opcode: Opcode, compression: Compression) -> Option<u32> {
    match (compression, opcode) {
        (Compression::Lz4Block, Opcode::Compress) => Some(LZ4_BLOCK_BYTES_MAX),
        (Compression::Lz4Block, _) => Some(LZ4_BLOCK_COMPRESSED_MAX),
        _ => None,
    }
}

fn at_most(size: u64, max: Option<u32>) -> Result<(), RequestError> {
    match max {
        Some(max) if size > u64::from(max) => Err(RequestError::SizeMax { size, max }),
        _ => Ok(()),
    }
}

fn has_room(room: u64, least: u64) -> Result<(), RequestError> {
    if room < least {
        return Err(RequestError::Room { room, least });
    }
    Ok(())
}
