//! Compression and encryption: what `op0` to `op2` of those operations hold, which
//! algorithms there are, and their limits (SPEC sections 4.24 to 4.28, 4.31 and 4.32).

use crate::wire::wire_struct;

/// How COMPRESS and DECOMPRESS represent data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Compression {
    /// One LZ4 block, without a frame; at most [`LZ4_BLOCK_BYTES_MAX`] bytes of data.
    Lz4Block = 1,
    /// An LZ4 frame of independent blocks of at most 64 KiB.
    Lz4Frame = 2,
    /// A raw DEFLATE stream (RFC 1951).
    Deflate = 3,
    /// A zlib stream (RFC 1950).
    Zlib = 4,
}

impl Compression {
    /// Every representation.
    pub const ALL: &'static [Self] = &[Self::Lz4Block, Self::Lz4Frame, Self::Deflate, Self::Zlib];

    /// The representation with this code, or `None`.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Lz4Block),
            2 => Some(Self::Lz4Frame),
            3 => Some(Self::Deflate),
            4 => Some(Self::Zlib),
            _ => None,
        }
    }
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum KeyAlgorithm {
    /// AES-256 in XTS mode (IEEE 1619): two keys of 32 bytes, which must differ.
    AesXts256 = 1,
    /// AES-128 in CBC mode (SP 800-38A), without padding.
    AesCbc128 = 2,
    /// AES-256 in CBC mode, without padding.
    AesCbc256 = 3,
    /// AES-128 in Galois/counter mode (SP 800-38D).
    AesGcm128 = 4,
    /// AES-256 in Galois/counter mode.
    AesGcm256 = 5,
    /// XAES-256-GCM with nonces that the engine counts, for SEAL_COPY and OPEN_COPY alone.
    Channel256 = 6,
}

impl KeyAlgorithm {
    /// Every algorithm.
    pub const ALL: &'static [Self] = &[
        Self::AesXts256,
        Self::AesCbc128,
        Self::AesCbc256,
        Self::AesGcm128,
        Self::AesGcm256,
        Self::Channel256,
    ];

    /// The algorithm with this code, or `None`.
    #[must_use]
    pub const fn from_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::AesXts256),
            2 => Some(Self::AesCbc128),
            3 => Some(Self::AesCbc256),
            4 => Some(Self::AesGcm128),
            5 => Some(Self::AesGcm256),
            6 => Some(Self::Channel256),
            _ => None,
        }
    }

    /// How long its keys are, in bytes.
    #[must_use]
    pub const fn key_bytes(self) -> usize {
        match self {
            Self::AesXts256 => 64,
            Self::AesCbc256 | Self::AesGcm256 | Self::Channel256 => 32,
            Self::AesCbc128 | Self::AesGcm128 => 16,
        }
    }

    /// Whether it authenticates what it encrypts.
    #[must_use]
    pub const fn is_aead(self) -> bool {
        matches!(self, Self::AesGcm128 | Self::AesGcm256 | Self::Channel256)
    }
}

/// `op0` of COMPRESS, DECOMPRESS, ENCRYPT and DECRYPT: bits 0-14 key slot, 16-23
/// [`Compression`] or 0, 24-31 logarithm of XTS's data unit, 32-63 room at the destination
/// in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CodecWord(pub u64);

impl CodecWord {
    /// Must be 0.
    pub const CODEC_RESERVED: u64 = 1 << 15;

    /// For COMPRESS and DECOMPRESS.
    #[must_use]
    pub const fn compression(compression: Compression, capacity: u32) -> Self {
        Self((compression as u64) << 16 | (capacity as u64) << 32)
    }
    /// For ENCRYPT and DECRYPT; bits of a slot above 14 are dropped.
    #[must_use]
    pub const fn key(slot: u16, capacity: u32) -> Self {
        Self((slot & crate::Word0::SLOT_MAX) as u64 | (capacity as u64) << 32)
    }
    /// The same, with data units of `1 << log2` bytes.
    #[must_use]
    pub const fn with_unit(self, log2: u8) -> Self {
        Self(self.0 | (log2 as u64) << 24)
    }
    /// The same, fused with compression.
    #[must_use]
    pub const fn with_compression(self, compression: Compression) -> Self {
        Self(self.0 | (compression as u64) << 16)
    }
    /// Slot of the key.
    #[must_use]
    pub const fn key_slot(self) -> u16 {
        (self.0 & crate::Word0::SLOT_MAX as u64) as u16
    }
    /// Code of a [`Compression`], or 0.
    #[must_use]
    pub const fn compression_code(self) -> u8 {
        (self.0 >> 16) as u8
    }
    /// Logarithm to base 2 of XTS's data unit.
    #[must_use]
    pub const fn unit_log2(self) -> u8 {
        (self.0 >> 24) as u8
    }
    /// Room at the destination, in bytes.
    #[must_use]
    pub const fn capacity(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Most data in a [`Compression::Lz4Block`], in bytes.
pub const LZ4_BLOCK_BYTES_MAX: u32 = 16384;
/// Smallest data unit of XTS, as a logarithm: 512 bytes.
pub const XTS_UNIT_LOG2_MIN: u8 = 9;
/// Largest data unit of XTS, as a logarithm: 64 KiB.
pub const XTS_UNIT_LOG2_MAX: u8 = 16;
/// Most ciphertext of one message that DECRYPT opens under a key of GCM, in bytes.
pub const GCM_OPEN_BYTES_MAX: u32 = 2 << 20;
/// Most additional data of a message, in bytes.
pub const AAD_BYTES_MAX: u32 = 4096;
/// An authentication tag, in bytes.
pub const TAG_BYTES: u32 = 16;
/// Most messages that are ever sealed under one key as it was loaded.
pub const SEAL_MESSAGES_MAX: u64 = 1 << 40;
/// Room for a key in KEY_LOAD, in bytes.
pub const KEY_BYTES_MAX: usize = 64;

wire_struct! {
    /// First 24 bytes of a sealed message: its nonce.
    pub struct SealHeader: 24 align 8 {
        /// Drawn at random when the sealing key was loaded.
        object: [u8; 12] = 0,
        /// 0.
        reserved12: u32 = 12,
        /// Counts messages under that key, from 1.
        number: u64 = 16,
    }
}

/// A key on its way to the engine. Never shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyBytes(pub [u8; KEY_BYTES_MAX]);

impl core::fmt::Debug for KeyBytes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("KeyBytes(..)")
    }
}

impl crate::WireField for KeyBytes {
    const SIZE: usize = KEY_BYTES_MAX;
    const C_TYPE: &'static str = "__u8";
    const C_COUNT: usize = KEY_BYTES_MAX;
    const ZERO: Self = Self([0; KEY_BYTES_MAX]);
    fn read(bytes: &[u8]) -> Self {
        Self(crate::WireField::read(bytes))
    }
    fn write(self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_the_word_keep_apart() {
        let word = CodecWord::key(0x7fff, u32::MAX);
        assert_eq!((word.key_slot(), word.capacity()), (0x7fff, u32::MAX));
        assert_eq!((word.compression_code(), word.unit_log2()), (0, 0));
        assert_eq!(word.0 & CodecWord::CODEC_RESERVED, 0);
        let word = CodecWord::compression(Compression::Zlib, 7).with_unit(0xff);
        assert_eq!((word.key_slot(), word.capacity()), (0, 7));
        assert_eq!((word.compression_code(), word.unit_log2()), (4, 0xff));
    }

    #[test]
    fn codes_are_found_again() {
        for &c in Compression::ALL {
            assert_eq!(Compression::from_code(c as u8), Some(c));
        }
        for &a in KeyAlgorithm::ALL {
            assert_eq!(KeyAlgorithm::from_code(a as u32), Some(a));
            assert!(a.key_bytes() <= KEY_BYTES_MAX);
        }
        assert_eq!(Compression::from_code(0), None);
        assert_eq!(KeyAlgorithm::from_code(0), None);
    }
}
