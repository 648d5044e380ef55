//! Checksums: CRC_GEN, COPY_CRC and CRC64 (SPEC sections 4.14, 4.15 and 4.19).

use byway_protocols::operands::CrcFields;
use byway_protocols::{Completion, Opcode, Status};

use crate::outcome::Failure;
use crate::request::{Address, Request, RequestError, apart, placed};

impl Request {
    /// CRC_GEN: the CRC-32C of `size` bytes at `src`. `seed` is that of the bytes before them, 0
    /// when there are none. See [`Crc32c::of`].
    ///
    /// # Errors
    /// The size is out of range, or the operand wraps.
    pub fn crc(src: Address, size: u64, seed: u32) -> Result<Self, RequestError> {
        let descriptor = placed(Opcode::CrcGen, Some(src), None, size)?;
        Ok(Self(descriptor.with_operands(fields(seed))))
    }

    /// COPY_CRC: copies, and computes the CRC-32C of the very bytes that are written, in one pass.
    /// See [`Crc32c::of`].
    ///
    /// # Errors
    /// The size is out of range, an operand wraps, or the two overlap.
    pub fn copy_crc(
        dst: Address,
        src: Address,
        size: u64,
        seed: u32,
    ) -> Result<Self, RequestError> {
        let descriptor = placed(Opcode::CopyCrc, Some(src), Some(dst), size)?;
        apart((src, size), (dst, size))?;
        Ok(Self(descriptor.with_operands(fields(seed))))
    }

    /// CRC64: the CRC-64/NVME of `size` bytes at `src`; `seed` as for [`Self::crc`]. See
    /// [`Crc64::of`].
    ///
    /// # Errors
    /// The size is out of range, or the operand wraps.
    pub fn crc64(src: Address, size: u64, seed: u64) -> Result<Self, RequestError> {
        let mut descriptor = placed(Opcode::Crc64, Some(src), None, size)?;
        descriptor.op0 = seed;
        Ok(Self(descriptor))
    }
}

fn fields(seed: u32) -> [u8; CrcFields::SIZE] {
    let fields = CrcFields {
        seed,
        ..CrcFields::default()
    };
    fields.to_bytes()
}

/// What the completion of a CRC_GEN or COPY_CRC tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crc32c {
    /// The checksum, with the seed's bytes before.
    pub value: u32,
}

impl Crc32c {
    /// Of a CRC_GEN or COPY_CRC.
    ///
    /// # Errors
    /// It did not succeed.
    pub fn of(completion: &Completion) -> Result<Self, Failure> {
        let completion = Failure::unless(completion, &[Status::Success])?;
        Ok(Self {
            value: completion.op0 as u32,
        })
    }
}

/// What the completion of a CRC64 tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crc64 {
    /// The checksum, with the seed's bytes before.
    pub value: u64,
}

impl Crc64 {
    /// Of a CRC64.
    ///
    /// # Errors
    /// It did not succeed.
    pub fn of(completion: &Completion) -> Result<Self, Failure> {
        let completion = Failure::unless(completion, &[Status::Success])?;
        Ok(Self {
            value: completion.op0,
        })
    }
}
