//! CAP_DERIVE, CAP_OFFER, CAP_ACCEPT, CAP_REVOKE, CAP_DROP, CAP_QUERY.

use byway_protocols::capability::CapabilityState;
use byway_protocols::control::{
    CapAcceptReply, CapAcceptRequest, CapDeriveReply, CapDeriveRequest, CapOfferReply,
    CapOfferRequest, CapQueryReply, CapSlotRequest, revoke_flags,
};
use byway_protocols::{ControlStatus, Rights};

use crate::capability::State;
use crate::domain::{DeriveArguments, Domain};

pub(super) fn derive(
    domain: &Domain,
    q: &CapDeriveRequest,
) -> Result<CapDeriveReply, ControlStatus> {
    let rights = decode_rights(q.rights)?;
    if q.length == 0 {
        return Err(ControlStatus::BadArgument);
    }
    let slot = domain.derive(&DeriveArguments {
        context: q.context,
        slot: q.slot,
        base: q.base,
        length: q.length,
        rights,
        target_context: q.target_context,
        target_slot: q.target_slot,
        badge: q.badge,
        lifetime_ns: q.lifetime_ns,
        byte_quota: q.byte_quota,
    })?;
    Ok(CapDeriveReply {
        slot: u32::from(slot),
        reserved4: 0,
    })
}

pub(super) fn offer(domain: &Domain, q: &CapOfferRequest) -> Result<CapOfferReply, ControlStatus> {
    let rights = decode_rights(q.rights)?;
    if q.slot == 0 || q.domain == domain.id() {
        return Err(ControlStatus::BadArgument);
    }
    let offer = domain.offer(q.context, q.slot, q.domain, rights, q.label)?;
    Ok(CapOfferReply { offer })
}

pub(super) fn accept(
    domain: &Domain,
    q: &CapAcceptRequest,
) -> Result<CapAcceptReply, ControlStatus> {
    let accepted = domain.accept(q.offer, q.context, q.slot)?;
    Ok(CapAcceptReply {
        slot: accepted.slot,
        rights: accepted.rights.0,
        length: accepted.length,
        badge: accepted.badge,
        domain: accepted.domain,
        reserved28: 0,
    })
}

pub(super) fn revoke(domain: &Domain, q: &CapSlotRequest) -> Result<(), ControlStatus> {
    check_slot(q, revoke_flags::DESCENDANTS_ONLY)?;
    let descendants_only = q.flags & revoke_flags::DESCENDANTS_ONLY != 0;
    domain.revoke(q.context, q.slot, descendants_only)
}

pub(super) fn drop_slot(domain: &Domain, q: &CapSlotRequest) -> Result<(), ControlStatus> {
    check_slot(q, 0)?;
    domain.drop_slot(q.context, q.slot)
}

pub(super) fn query(domain: &Domain, q: &CapSlotRequest) -> Result<CapQueryReply, ControlStatus> {
    check_slot(q, 0)?;
    let report = domain.query_capability(q.context, q.slot)?;
    let state = match report.state {
        State::Live => CapabilityState::Live,
        State::Revoked => CapabilityState::Revoked,
        State::Expired => CapabilityState::Expired,
    };
    Ok(CapQueryReply {
        state: state as u32,
        rights: report.rights.0,
        length: report.length,
        badge: report.badge,
        depth: report.depth,
        domain: report.domain,
        descendants: report.usage.descendants,
        bytes_read: report.usage.traffic.read,
        bytes_written: report.usage.traffic.written,
        reserved56: 0,
    })
}

/// Slot 0 is the context's address space, no capability.
fn check_slot(q: &CapSlotRequest, flags: u32) -> Result<(), ControlStatus> {
    if q.slot == 0 || q.flags & !flags != 0 {
        return Err(ControlStatus::BadArgument);
    }
    Ok(())
}

/// Rights that can be given: known ones, and some.
fn decode_rights(bits: u32) -> Result<Rights, ControlStatus> {
    Rights::from_bits(bits)
        .filter(|&rights| rights != Rights::NONE)
        .ok_or(ControlStatus::BadArgument)
}
