//! CREATE_DELTA and APPLY_DELTA.

use byway_protocols::operands::{ApplyDeltaFields, CreateDeltaFields, DELTA_BYTES_MAX, DeltaEntry};
use byway_protocols::{Descriptor, Status};

use super::{FAULTS, any, beyond_slot, common, dst_operand, put, src_operand};
use crate::ops::Operation;
use crate::ops::apply_delta::ApplyDelta;
use crate::ops::chunk::Operand;
use crate::ops::create_delta::CreateDelta;
use crate::ops::rare::Rare;

/// What operands are aligned to and compared by, in bytes.
const WORD: u32 = 8;
/// Bytes of an entry of a record.
const ENTRY: u32 = DeltaEntry::SIZE as u32;

/// Whole words, as many as an entry can name.
fn words(d: &Descriptor) -> Result<u32, Status> {
    if d.size == 0 || d.size > DELTA_BYTES_MAX || !d.size.is_multiple_of(WORD) {
        return Err(Status::BadSize);
    }
    Ok(d.size)
}

fn aligned(addresses: u64) -> Result<(), Status> {
    if addresses.is_multiple_of(WORD.into()) {
        Ok(())
    } else {
        Err(Status::AddressAlignment)
    }
}

fn entries(bytes: u32) -> Result<u32, Status> {
    let most = DELTA_BYTES_MAX / WORD * ENTRY;
    if bytes == 0 || bytes > most || !bytes.is_multiple_of(ENTRY) {
        return Err(Status::BadDeltaSize);
    }
    Ok(bytes)
}

/// CREATE_DELTA.
#[inline(always)]
pub(super) fn create(d: &Descriptor, into: &mut Operation) -> Result<(), Status> {
    let fields = CreateDeltaFields::from_bytes(&d.operands());
    let unused = any(&fields.reserved12)
        | beyond_slot(fields.delta_slot)
        | u64::from(fields.reserved22)
        | d.status_array;
    common(d, FAULTS, unused)?;
    let size = words(d)?;
    let room = entries(fields.delta_bytes_max)?;
    aligned(d.src | d.dst | fields.delta)?;
    put(
        into,
        Operation::Rare(Rare::CreateDelta(CreateDelta {
            src: [src_operand(d), dst_operand(d)],
            delta: Operand {
                slot: fields.delta_slot,
                addr: fields.delta,
            },
            size,
            room,
            done: 0,
            written: 0,
        })),
    );
    Ok(())
}

/// APPLY_DELTA.
#[inline(always)]
pub(super) fn apply(d: &Descriptor, into: &mut Operation) -> Result<(), Status> {
    let fields = ApplyDeltaFields::from_bytes(&d.operands());
    common(d, FAULTS, d.status_array | any(&fields.reserved4))?;
    let size = words(d)?;
    let delta_bytes = entries(fields.delta_bytes)?;
    // Not the record: its rest after a fault may start at any entry.
    aligned(d.dst)?;
    put(
        into,
        Operation::Rare(Rare::ApplyDelta(ApplyDelta {
            delta: src_operand(d),
            dst: dst_operand(d),
            size,
            delta_bytes,
            done: 0,
            lowest: 0,
        })),
    );
    Ok(())
}
