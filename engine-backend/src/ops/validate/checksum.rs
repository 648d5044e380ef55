//! CRC_GEN, COPY_CRC and CRC64.

use byway_protocols::{Descriptor, Flags, Status};

use super::{FAULTS, MOVES, common, dst_operand, no_dst, put, src_operand, transfer_size};
use crate::ops::Operation;
use crate::ops::crc::Crc;
use crate::ops::crc64::Crc64;
use crate::ops::rare::Rare;

/// The seed of a CRC-32C: [`CrcFields`](byway_protocols::operands::CrcFields), taken from the words in which it came. Bytes that
/// were made of words, and are looked at as other words, go through memory.
#[inline(always)]
fn seed(d: &Descriptor) -> u32 {
    d.op0 as u32
}

/// What must be 0 beside it.
#[inline(always)]
fn beside_seed(d: &Descriptor) -> u64 {
    d.op0 >> 32 | d.op1 | d.op2
}

/// CRC_GEN.
///
/// # Errors
/// 11-13, 19.
#[inline(always)]
pub fn crc_gen(d: &Descriptor) -> Result<Crc, Status> {
    common(d, FAULTS, d.status_array | no_dst(d) | beside_seed(d))?;
    Ok(Crc {
        src: src_operand(d),
        dst: None,
        size: transfer_size(d)?,
        cached: false,
        strict: false,
        done: 0,
        crc: seed(d),
    })
}

pub(super) fn crc(d: &Descriptor, into: &mut Operation) -> Result<(), Status> {
    put(into, Operation::Rare(Rare::Crc(crc_gen(d)?)));
    Ok(())
}

/// COPY_CRC.
pub(super) fn copy_crc(d: &Descriptor, into: &mut Operation) -> Result<(), Status> {
    common(d, MOVES, d.status_array | beside_seed(d))?;
    put(
        into,
        Operation::Rare(Rare::Crc(Crc {
            src: src_operand(d),
            dst: Some(dst_operand(d)),
            size: transfer_size(d)?,
            cached: d.flags().contains(Flags::CACHE_CONTROL),
            strict: d.flags().contains(Flags::STRICT_ORDER),
            done: 0,
            crc: seed(d),
        })),
    );
    Ok(())
}

/// CRC64; its seed is all of `op0`.
///
/// # Errors
/// 11-13, 19.
#[inline(always)]
pub fn crc64_gen(d: &Descriptor) -> Result<Crc64, Status> {
    common(d, FAULTS, d.status_array | no_dst(d) | d.op1 | d.op2)?;
    Ok(Crc64 {
        src: src_operand(d),
        size: transfer_size(d)?,
        done: 0,
        crc: d.op0,
    })
}

pub(super) fn crc64(d: &Descriptor, into: &mut Operation) -> Result<(), Status> {
    put(into, Operation::Rare(Rare::Crc64(crc64_gen(d)?)));
    Ok(())
}
