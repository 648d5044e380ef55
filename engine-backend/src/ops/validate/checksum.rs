//! CRC_GEN, COPY_CRC and CRC64.

use byway_protocols::operands::CrcFields;
use byway_protocols::{Descriptor, Flags, Status};

use super::{FAULTS, MOVES, any, common, dst_operand, no_dst, put, src_operand, transfer_size};
use crate::ops::Operation;
use crate::ops::crc::Crc;
use crate::ops::crc64::Crc64;
use crate::ops::rare::Rare;

/// CRC_GEN.
///
/// # Errors
/// 11-13, 19.
#[inline(always)]
pub fn crc_gen(d: &Descriptor) -> Result<Crc, Status> {
    let fields = CrcFields::from_bytes(&d.operands());
    let unused = d.status_array | no_dst(d) | any(&fields.reserved4);
    common(d, FAULTS, unused)?;
    Ok(Crc {
        src: src_operand(d),
        dst: None,
        size: transfer_size(d)?,
        cached: false,
        strict: false,
        done: 0,
        crc: fields.seed,
    })
}

pub(super) fn crc(d: &Descriptor, into: &mut Operation) -> Result<(), Status> {
    put(into, Operation::Rare(Rare::Crc(crc_gen(d)?)));
    Ok(())
}

/// COPY_CRC.
pub(super) fn copy_crc(d: &Descriptor, into: &mut Operation) -> Result<(), Status> {
    let fields = CrcFields::from_bytes(&d.operands());
    common(d, MOVES, d.status_array | any(&fields.reserved4))?;
    put(
        into,
        Operation::Rare(Rare::Crc(Crc {
            src: src_operand(d),
            dst: Some(dst_operand(d)),
            size: transfer_size(d)?,
            cached: d.flags().contains(Flags::CACHE_CONTROL),
            strict: d.flags().contains(Flags::STRICT_ORDER),
            done: 0,
            crc: fields.seed,
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
