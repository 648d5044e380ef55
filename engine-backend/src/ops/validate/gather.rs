//! Operations with more than two operands: DUALCAST, XOR and COPY_SG.

use byway_protocols::operands::{
    CopySgFields, DualcastFields, SEGMENTS_MAX, Segment, XOR_SOURCES_MAX, XOR_SOURCES_MIN,
    XorFields,
};
use byway_protocols::{Descriptor, Flags, Status};

use super::{
    FAULTS, WRITES, any, beyond_slot, common, dst_operand, put, src_operand, transfer_size,
};
use crate::ops::Operation;
use crate::ops::chunk::Operand;
use crate::ops::copy_rows::CopyRows;
use crate::ops::copy_sg::{CopySg, Side};
use crate::ops::dualcast::Dualcast;
use crate::ops::rare::Rare;
use crate::ops::xor::Xor;

/// Bits in which the two destinations of DUALCAST must agree.
const PAGE_OFFSET: u64 = 0xfff;

/// DUALCAST.
#[inline(always)]
pub(super) fn dualcast(d: &Descriptor, into: &mut Operation) -> Result<(), Status> {
    let fields = DualcastFields::from_bytes(&d.operands());
    let unused = any(&fields.reserved8)
        | beyond_slot(fields.second_slot)
        | u64::from(fields.reserved22)
        | d.status_array;
    common(d, WRITES, unused)?;
    let size = transfer_size(d)?;
    if (d.dst ^ fields.second) & PAGE_OFFSET != 0 {
        return Err(Status::BadDualcast);
    }
    let second = Operand {
        slot: fields.second_slot,
        addr: fields.second,
    };
    put(
        into,
        Operation::Rare(Rare::Dualcast(Dualcast {
            src: src_operand(d),
            dst: [dst_operand(d), second],
            size,
            cached: d.flags().contains(Flags::CACHE_CONTROL),
            done: 0,
        })),
    );
    Ok(())
}

/// XOR.
#[inline(always)]
pub(super) fn xor(d: &Descriptor, into: &mut Operation) -> Result<(), Status> {
    let fields = XorFields::from_bytes(&d.operands());
    common(d, FAULTS, d.status_array | any(&fields.reserved2))?;
    let size = transfer_size(d)?;
    if !(XOR_SOURCES_MIN..=XOR_SOURCES_MAX).contains(&fields.count) {
        return Err(Status::BadCount);
    }
    list(d.src)?;
    put(
        into,
        Operation::Rare(Rare::Xor(Xor {
            list: src_operand(d),
            count: fields.count,
            dst: dst_operand(d),
            size,
            done: 0,
        })),
    );
    Ok(())
}

/// Lists are aligned to their elements.
fn list(addr: u64) -> Result<(), Status> {
    if addr.is_multiple_of(Segment::SIZE as u64) {
        Ok(())
    } else {
        Err(Status::ListAlignment)
    }
}

/// COPY_SG: of rows when they have a length, else of lists.
#[inline(always)]
pub(super) fn copy_sg(d: &Descriptor, into: &mut Operation) -> Result<(), Status> {
    let copy = if has_rows(d) {
        Rare::CopyRows(copy_rows(d)?)
    } else {
        Rare::CopySg(copy_lists(d)?)
    };
    put(into, Operation::Rare(copy));
    Ok(())
}

/// Whether a descriptor with the code of COPY_SG asks for rows, and not for lists.
#[inline(always)]
pub(in crate::ops) fn has_rows(d: &Descriptor) -> bool {
    CopySgFields::from_bytes(&d.operands()).row_bytes != 0
}

/// The copy of lists that it asks for, which is one of those.
///
/// # Errors
/// As SPEC section 4.21 says.
#[inline(always)]
pub(in crate::ops) fn copy_lists(d: &Descriptor) -> Result<CopySg, Status> {
    lists(d, &CopySgFields::from_bytes(&d.operands()))
}

/// The same of rows.
///
/// # Errors
/// As above.
#[inline(always)]
pub(in crate::ops) fn copy_rows(d: &Descriptor) -> Result<CopyRows, Status> {
    rows(d, &CopySgFields::from_bytes(&d.operands()))
}

#[inline(always)]
fn rows(d: &Descriptor, fields: &CopySgFields) -> Result<CopyRows, Status> {
    let unused = u64::from(fields.src_count | fields.dst_count);
    common(d, WRITES, d.status_array | unused)?;
    let size = transfer_size(d)?;
    if !size.is_multiple_of(fields.row_bytes) {
        return Err(Status::BadSize);
    }
    Ok(CopyRows {
        src: src_operand(d),
        dst: dst_operand(d),
        row: fields.row_bytes,
        src_stride: fields.src_stride,
        dst_stride: fields.dst_stride,
        size,
        cached: d.flags().contains(Flags::CACHE_CONTROL),
        done: 0,
    })
}

#[inline(always)]
fn lists(d: &Descriptor, fields: &CopySgFields) -> Result<CopySg, Status> {
    let unused = fields.src_stride | fields.dst_stride;
    common(d, WRITES, d.status_array | unused)?;
    let size = transfer_size(d)?;
    let counts = [fields.src_count, fields.dst_count];
    if counts == [0, 0] || counts.into_iter().any(|count| count > SEGMENTS_MAX) {
        return Err(Status::BadCount);
    }
    let side = |operand: Operand, count| {
        if count != 0 {
            list(operand.addr)?;
        }
        Ok(Side {
            list: operand,
            count,
            next: 0,
            segment: operand,
            left: if count == 0 { size } else { 0 },
        })
    };
    Ok(CopySg {
        src: side(src_operand(d), fields.src_count)?,
        dst: side(dst_operand(d), fields.dst_count)?,
        size,
        cached: d.flags().contains(Flags::CACHE_CONTROL),
        done: 0,
    })
}
