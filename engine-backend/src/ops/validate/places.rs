//! Operations on one place: TRANSLATION_FETCH, CACHE_FLUSH, ATOMIC64 and SIGNAL.

use byway_protocols::operands::{AtomicFields, atomic_kind, fetch_intent};
use byway_protocols::{Descriptor, Flags, Status};

use super::{
    FAULTS, WRITES, any, common, dst_operand, no_dst, no_src, put, src_operand, transfer_size,
};
use crate::ops::Operation;
use crate::ops::atomic::{Atomic, Change};
use crate::ops::fetch::Fetch;
use crate::ops::flush::CacheFlush;
use crate::ops::rare::Rare;
use crate::ops::signal::Signal;

/// Bytes of what ATOMIC64 and SIGNAL work on.
const WORD: u32 = 8;

/// TRANSLATION_FETCH.
#[inline(always)]
pub(super) fn fetch(d: &Descriptor, into: &mut Operation) -> Result<(), Status> {
    let write = u64::from(fetch_intent::WRITE);
    let unused = d.status_array | no_dst(d) | d.op0 & !write | d.op1 | d.op2;
    common(d, FAULTS, unused)?;
    put(
        into,
        Operation::Rare(Rare::Fetch(Fetch {
            src: src_operand(d),
            size: transfer_size(d)?,
            write: d.op0 == write,
            done: 0,
        })),
    );
    Ok(())
}

/// CACHE_FLUSH.
#[inline(always)]
pub(super) fn flush(d: &Descriptor, into: &mut Operation) -> Result<(), Status> {
    let unused = d.status_array | no_src(d) | d.op0 | d.op1 | d.op2;
    common(d, WRITES, unused)?;
    put(
        into,
        Operation::Rare(Rare::CacheFlush(CacheFlush {
            dst: dst_operand(d),
            size: transfer_size(d)?,
            keep: d.flags().contains(Flags::CACHE_CONTROL),
            done: 0,
        })),
    );
    Ok(())
}

/// 8 bytes, aligned.
fn word(d: &Descriptor) -> Result<(), Status> {
    if d.size != WORD {
        return Err(Status::BadSize);
    }
    if !d.dst.is_multiple_of(WORD.into()) {
        return Err(Status::AddressAlignment);
    }
    Ok(())
}

/// ATOMIC64.
#[inline(always)]
pub(super) fn atomic(d: &Descriptor, into: &mut Operation) -> Result<(), Status> {
    let fields = AtomicFields::from_bytes(&d.operands());
    let operand = fields.operand;
    let (change, uses_compare) = match fields.kind {
        atomic_kind::FETCH_ADD => (Some(Change::Add(operand)), false),
        atomic_kind::SWAP => (Some(Change::Swap(operand)), false),
        atomic_kind::COMPARE_SWAP => {
            let current = fields.compare;
            let new = operand;
            (Some(Change::CompareSwap { current, new }), true)
        }
        _ => (None, true),
    };
    let mut unused = d.status_array | no_src(d) | any(&fields.reserved17);
    if !uses_compare {
        unused |= fields.compare;
    }
    common(d, FAULTS, unused | u64::from(change.is_none()))?;
    word(d)?;
    let change = change.ok_or(Status::ReservedNotZero)?;
    put(
        into,
        Operation::Rare(Rare::Atomic(Atomic {
            dst: dst_operand(d),
            change,
        })),
    );
    Ok(())
}

/// SIGNAL.
#[inline(always)]
pub(super) fn signal(d: &Descriptor, into: &mut Operation) -> Result<(), Status> {
    common(d, FAULTS, d.status_array | no_src(d) | d.op1 | d.op2)?;
    word(d)?;
    put(
        into,
        Operation::Rare(Rare::Signal(Signal {
            dst: dst_operand(d),
            value: d.op0,
        })),
    );
    Ok(())
}
