//! The operations on T10 protection information: one set of fields, of which each uses
//! the source's half, the destination's, or both.

use byway_protocols::operands::{DifFields, dif_destination_flags, dif_flags};
use byway_protocols::{Descriptor, Status};

use super::{FAULTS, any, common, dst_operand, no_dst, no_src, put, src_operand, transfer_size};
use crate::ops::Operation;
use crate::ops::chunk::Operand;
use crate::ops::dif::{Dif, Kind, Tags, block_bytes};
use crate::ops::rare::Rare;

/// Flags of the block and its guard.
const FORM: u8 = dif_flags::BLOCK_MASK | dif_flags::INVERT_CRC_SEED | dif_flags::INVERT_CRC_RESULT;
/// Flags of information that does not come from a source.
const NEW: u8 = dif_destination_flags::APP_TAG_INCREMENTS | dif_destination_flags::REF_TAG_FIXED;
/// Flags of information that replaces another.
const REPLACED: u8 = NEW
    | dif_destination_flags::APP_TAG_PASS
    | dif_destination_flags::GUARD_PASS
    | dif_destination_flags::REF_TAG_PASS;

/// Bytes of information behind a block.
const INFORMATION: u32 = 8;

/// What of the fields an operation uses.
struct Uses {
    kind: Kind,
    checks: bool,
    /// Destination flags that it takes, if it makes information.
    makes: Option<u8>,
    /// Bits that must be 0 because an operand does not exist.
    absent: u64,
    first: Operand,
}

fn dif(d: &Descriptor, uses: Uses, into: &mut Operation) -> Result<(), Status> {
    let fields = DifFields::from_bytes(&d.operands());
    let check = Tags {
        flags: fields.source_flags,
        app_mask: fields.source_app_mask,
        app_tag: fields.source_app_tag,
        ref_tag: fields.source_ref_tag,
    };
    let make = Tags {
        flags: fields.destination_flags,
        app_mask: fields.destination_app_mask,
        app_tag: fields.destination_app_tag,
        ref_tag: fields.destination_ref_tag,
    };
    let mut unused = d.status_array | uses.absent;
    unused |= u64::from(fields.flags & !FORM) | any(&fields.reserved3);
    if !uses.checks {
        unused |= check.bits();
    }
    unused |= match uses.makes {
        None => make.bits(),
        Some(flags) => u64::from(fields.destination_flags & !flags),
    };
    common(d, FAULTS, unused)?;
    let size = transfer_size(d)?;
    let behind = if uses.kind.is_interleaved() {
        INFORMATION
    } else {
        0
    };
    if !size.is_multiple_of(block_bytes(fields.flags) + behind) {
        return Err(Status::BadSize);
    }
    put(
        into,
        Operation::Rare(Rare::Dif(Dif {
            kind: uses.kind,
            flags: fields.flags,
            first: uses.first,
            second: dst_operand(d),
            size,
            done: 0,
            check,
            make,
        })),
    );
    Ok(())
}

/// DIF_CHECK.
#[inline(always)]
pub(super) fn check(d: &Descriptor, into: &mut Operation) -> Result<(), Status> {
    let uses = Uses {
        kind: Kind::Check,
        checks: true,
        makes: None,
        absent: no_dst(d),
        first: src_operand(d),
    };
    dif(d, uses, into)
}

/// DIF_INSERT.
#[inline(always)]
pub(super) fn insert(d: &Descriptor, into: &mut Operation) -> Result<(), Status> {
    let uses = Uses {
        kind: Kind::Insert,
        checks: false,
        makes: Some(NEW),
        absent: 0,
        first: src_operand(d),
    };
    dif(d, uses, into)
}

/// DIF_STRIP.
#[inline(always)]
pub(super) fn strip(d: &Descriptor, into: &mut Operation) -> Result<(), Status> {
    let uses = Uses {
        kind: Kind::Strip,
        checks: true,
        makes: None,
        absent: 0,
        first: src_operand(d),
    };
    dif(d, uses, into)
}

/// DIF_UPDATE.
#[inline(always)]
pub(super) fn update(d: &Descriptor, into: &mut Operation) -> Result<(), Status> {
    let uses = Uses {
        kind: Kind::Update,
        checks: true,
        makes: Some(REPLACED),
        absent: 0,
        first: src_operand(d),
    };
    dif(d, uses, into)
}

/// DIF_GEN: the blocks are the destination, and there is no source.
#[inline(always)]
pub(super) fn generate(d: &Descriptor, into: &mut Operation) -> Result<(), Status> {
    let uses = Uses {
        kind: Kind::Generate,
        checks: false,
        makes: Some(NEW),
        absent: no_src(d),
        first: dst_operand(d),
    };
    dif(d, uses, into)
}

/// DIX_GEN.
#[inline(always)]
pub(super) fn generate_apart(d: &Descriptor, into: &mut Operation) -> Result<(), Status> {
    let uses = Uses {
        kind: Kind::GenerateApart,
        checks: false,
        makes: Some(NEW),
        absent: 0,
        first: src_operand(d),
    };
    dif(d, uses, into)
}

/// DIX_VERIFY.
#[inline(always)]
pub(super) fn verify_apart(d: &Descriptor, into: &mut Operation) -> Result<(), Status> {
    let uses = Uses {
        kind: Kind::VerifyApart,
        checks: true,
        makes: None,
        absent: 0,
        first: src_operand(d),
    };
    dif(d, uses, into)
}
