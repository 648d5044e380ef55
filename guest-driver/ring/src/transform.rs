//! Requests that compress and encrypt (SPEC sections 4.24 to 4.28).

use byway_protocols::codec::{CodecWord, Compression};
use byway_protocols::{Descriptor, Opcode};

use crate::request::{Address, Request, RequestError, Slot, sized};

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
    /// # Errors
    /// The size or the room is out of range, or an operand wraps.
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
    /// As [`Self::compress`].
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
    /// As [`Self::compress`].
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
    /// As [`Self::compress`].
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

    fn stream(
        opcode: Opcode,
        dst: (Address, u64),
        src: (Address, u64),
        compression: Compression,
    ) -> Result<Self, RequestError> {
        let (mut descriptor, room) = operands(opcode, dst, src)?;
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
    let mut descriptor = sized(opcode, Some(src), None, size)?;
    // The room is checked as if it were the size: it must not wrap either.
    let with_room = sized(opcode, None, Some(dst), room)?;
    descriptor.word0 |= with_room.word0;
    descriptor.src = src.addr;
    descriptor.dst = dst.addr;
    Ok((descriptor, with_room.size))
}
