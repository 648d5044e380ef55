//! Checksums over memory: the library, and what it need not do over memory of guests.

use crc_fast::{CrcAlgorithm, Digest};

use super::fold::Powers;

/// A checksum that can be taken. Its values are as standards write them, the register inverted at both ends.
pub(super) trait Checksum {
    /// The library's name of it.
    const ALGORITHM: CrcAlgorithm;
    /// Bits of the register.
    const BITS: u32;
    /// The polynomial, without its highest power.
    const POLYNOMIAL: u64;
    /// For folding.
    const POWERS: &'static Powers = &Powers::of(Self::BITS, Self::POLYNOMIAL);
}

/// CRC-32C (RFC 3720).
pub(super) struct Crc32c;

impl Checksum for Crc32c {
    const ALGORITHM: CrcAlgorithm = CrcAlgorithm::Crc32Iscsi;
    const BITS: u32 = 32;
    const POLYNOMIAL: u64 = 0x1edc_6f41;
}

/// CRC-64/NVME.
pub(super) struct Crc64Nvme;

impl Checksum for Crc64Nvme {
    const ALGORITHM: CrcAlgorithm = CrcAlgorithm::Crc64Nvme;
    const BITS: u32 = 64;
    const POLYNOMIAL: u64 = 0xad93_d235_94c9_3659;
}

/// The register after bytes of which `value` is the checksum; 0 before the first.
pub(super) fn register<C: Checksum>(value: u64) -> u64 {
    !value & (u64::MAX >> (64 - C::BITS))
}

/// The checksum that a register stands for.
pub(super) fn value<C: Checksum>(register: u64) -> u64 {
    // It is inverted at both ends.
    self::register::<C>(register)
}

/// A checksum over private memory that goes on from a register. Cheap to make; holds no memory of its own.
pub(super) fn after<C: Checksum>(register: u64) -> Digest {
    Digest::new_with_init_state(C::ALGORITHM, register)
}
