//! DEVICE_TRANSFER, and descriptors that it is chained to.

use byway_protocols::operands::{DeviceFields, device_flags, device_operation};
use byway_protocols::{Descriptor, Opcode, Status};

use super::{
    TRANSFORMS, any, common, dst_operand, dst_slot, no_dst, no_src, operation, put, src_operand,
    transfer_size,
};
use crate::ops::Operation;
use crate::ops::chunk::Operand;
use crate::ops::device::{Device, Kind, Wanted};
use crate::ops::transform::Transform;

#[cold]
#[inline(always)]
pub(super) fn transfer(d: &Descriptor, into: &mut Operation) -> Result<(), Status> {
    let fields = DeviceFields::from_bytes(&d.operands());
    let kind = match fields.operation {
        device_operation::READ => Some(Kind::Read),
        device_operation::WRITE => Some(Kind::Write),
        device_operation::COPY => Some(Kind::Copy),
        device_operation::COMPARE => Some(Kind::Compare),
        device_operation::FLUSH => Some(Kind::Flush),
        device_operation::DISCARD => Some(Kind::Discard),
        device_operation::WRITE_ZEROES => Some(Kind::WriteZeroes),
        _ => None,
    };
    let is_read = kind == Some(Kind::Read);
    let is_write = kind == Some(Kind::Write);
    let allowed = match kind {
        Some(Kind::Read) => device_flags::CHECK_CRC,
        Some(Kind::Write) => device_flags::GIVE_CRC,
        _ => 0,
    };
    let has_crc = is_read && fields.flags & device_flags::CHECK_CRC != 0;
    let operands = match kind {
        Some(Kind::Read) if fields.chain != 0 => no_dst(d),
        Some(Kind::Write) if fields.chain != 0 => no_src(d),
        Some(Kind::Flush) => no_src(d) | d.dst,
        Some(Kind::Discard | Kind::WriteZeroes) => no_src(d),
        _ => 0,
    };
    let unused = u64::from(kind.is_none())
        | u64::from(fields.flags & !allowed)
        | u64::from(fields.reserved2)
        | any(&fields.reserved16)
        | if has_crc { 0 } else { fields.crc.into() }
        | if is_read || is_write { 0 } else { fields.chain };
    common(d, TRANSFORMS, d.status_array | unused | operands)?;
    let kind = kind.ok_or(Status::ReservedNotZero)?;
    let size = match kind {
        Kind::Flush if d.size == 0 => 0,
        Kind::Flush => return Err(Status::BadSize),
        _ => transfer_size(d)?,
    };
    if !fields.chain.is_multiple_of(Descriptor::SIZE as u64) {
        return Err(Status::ListAlignment);
    }
    debug_assert!(fields.chain == 0 || is_write || dst_slot(d) == 0);
    let device = Device::new(Wanted {
        kind,
        src: src_operand(d),
        dst: dst_operand(d),
        size,
        crc: has_crc.then_some(fields.crc),
        sum: fields.flags & device_flags::GIVE_CRC != 0,
        chain: fields.chain,
        cached: d.flags().contains(byway_protocols::Flags::CACHE_CONTROL),
    });
    put(into, Operation::Device(device));
    Ok(())
}

/// Checks a private copy of a chained descriptor, whose source is `src`.
///
/// # Errors
/// As for one of a batch; 10 for operations that cannot be chained.
#[cold]
pub(in crate::ops) fn chained(d: &Descriptor, src: Operand) -> Result<Transform, Status> {
    let can_be = [Opcode::Decrypt, Opcode::Decompress, Opcode::OpenCopy];
    Ok(transform(d, can_be, no_src(d))?.of(src))
}

/// The same of one that makes what is written, to `dst`.
///
/// # Errors
/// As [`chained`].
#[cold]
pub(in crate::ops) fn chained_before(d: &Descriptor, dst: Operand) -> Result<Transform, Status> {
    let can_be = [Opcode::Encrypt, Opcode::Compress, Opcode::SealCopy];
    Ok(transform(d, can_be, no_dst(d))?.into(dst))
}

/// One of three operations, with nothing in the operand that is not its own.
fn transform(d: &Descriptor, can_be: [Opcode; 3], not_its_own: u64) -> Result<Transform, Status> {
    if !Opcode::from_code(d.code()).is_some_and(|opcode| can_be.contains(&opcode)) {
        return Err(Status::BadOpcode);
    }
    if not_its_own | u64::from(d.slots().phase()) != 0 {
        return Err(Status::ReservedNotZero);
    }
    let mut stage = Operation::Nothing;
    operation(d, &mut stage)?;
    match stage {
        Operation::Transform(transform) => Ok(transform),
        _ => Err(Status::BadOpcode),
    }
}
