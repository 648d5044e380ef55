//! Capabilities: LOOKUP and CAP_* (SPEC sections 7 and 8).

use super::Device;
use crate::error::{Broken, Error};
use crate::hal::Hal;
use crate::handle::{CapSlot, ContextId, DomainId, OfferId};
use crate::message;
use crate::transport::Transport;
use byway_protocols::Rights;
use byway_protocols::capability::CapabilityState;
use byway_protocols::control::{
    CapAcceptRequest, CapDeriveRequest, CapOfferRequest, CapSlotRequest, LookupRequest,
    revoke_flags,
};

/// A linked domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its number.
    pub domain: DomainId,
    /// Rights that may be given to it.
    pub rights_out: Rights,
    /// Rights that it may give.
    pub rights_in: Rights,
}

/// A narrower capability to make from one that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Derive {
    /// The parent; slot 0 is the context's own address space.
    pub parent: CapSlot,
    /// First byte: a virtual address for slot 0, else an offset into the parent.
    pub base: u64,
    /// Bytes, not 0.
    pub length: u64,
    /// A subset of the parent's rights.
    pub rights: Rights,
    /// Where it goes; slot 0 means the lowest empty one.
    pub target: CapSlot,
    /// Reported to whoever uses it.
    pub badge: u64,
    /// Lifetime in nanoseconds from now; 0 = none.
    pub lifetime_ns: u64,
    /// Bytes that may be moved through it; 0 = no limit.
    pub byte_quota: u64,
}

impl Derive {
    /// From the address space of `context` into its lowest empty slot, with no badge and no limit.
    #[must_use]
    pub const fn own(context: ContextId, base: u64, length: u64, rights: Rights) -> Self {
        Self {
            parent: CapSlot::own(context),
            base,
            length,
            rights,
            target: CapSlot::own(context),
            badge: 0,
            lifetime_ns: 0,
            byte_quota: 0,
        }
    }
}

/// A capability that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Where it is.
    pub slot: CapSlot,
    /// Rights that came with it.
    pub rights: Rights,
    /// Bytes that it spans.
    pub length: u64,
    /// Badge.
    pub badge: u64,
    /// Domain that owns the memory.
    pub domain: DomainId,
}

/// State and use of a capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapabilityInfo {
    /// Usable or not.
    pub state: CapabilityState,
    /// Its rights.
    pub rights: Rights,
    /// Bytes that it spans.
    pub length: u64,
    /// Badge.
    pub badge: u64,
    /// Depth in the derivation tree, 1 for one over one's own memory.
    pub depth: u32,
    /// Domain that owns the memory.
    pub domain: DomainId,
    /// Capabilities alive below it.
    pub descendants: u64,
    /// Bytes read through it and all below.
    pub bytes_read: u64,
    /// Bytes written through it and all below.
    pub bytes_written: u64,
}

impl Derive {
    /// The same with the right PINNED (SPEC section 7.10): devices that the operator trusts may reach the memory.
    ///
    /// By this the kernel promises that each address of the range means the same page, which nothing else gets,
    /// until [`Device::revoke`] of the capability has returned `Ok`: not until it is dropped or has expired, and not when the answer was
    /// [`ControlStatus::DeviceHolds`](byway_protocols::ControlStatus::DeviceHolds). If the process can change what is
    /// mapped there, the kernel revokes before it lets it.
    #[must_use]
    pub const fn pinned(self) -> Self {
        Self {
            rights: self.rights.union(Rights::PINNED),
            ..self
        }
    }
}

impl<T: Transport, H: Hal> Device<T, H> {
    /// LOOKUP (SPEC section 8.2): the number of a linked domain and what the link allows.
    ///
    /// # Errors
    /// [`Error::Name`]; or the engine knows no link to such a domain.
    pub fn lookup(&mut self, name: &str) -> Result<Peer, Error> {
        let name = super::Name::new(name).ok_or(Error::Name)?.bytes();
        let reply = self.call(&message::Lookup(LookupRequest { name }))?;
        Ok(Peer {
            domain: DomainId(reply.domain),
            rights_out: self.rights(reply.rights_out)?,
            rights_in: self.rights(reply.rights_in)?,
        })
    }

    /// CAP_DERIVE (SPEC sections 7.2 and 8.2): fills a slot with a narrower capability.
    ///
    /// # Errors
    /// The engine refuses what would widen it, a derivation too deep, and what exceeds a quota.
    pub fn derive(&mut self, derive: &Derive) -> Result<CapSlot, Error> {
        let reply = self.call(&message::CapDerive(CapDeriveRequest {
            context: derive.parent.context.0,
            slot: derive.parent.slot,
            base: derive.base,
            length: derive.length,
            rights: derive.rights.0,
            target_context: derive.target.context.0,
            target_slot: derive.target.slot,
            badge: derive.badge,
            lifetime_ns: derive.lifetime_ns,
            byte_quota: derive.byte_quota,
            ..CapDeriveRequest::default()
        }))?;
        Ok(CapSlot::new(derive.target.context, reply.slot))
    }

    /// CAP_OFFER (SPEC sections 7.3 and 8.2): offers a capability to a linked domain under a label
    /// that the peer sees.
    ///
    /// # Errors
    /// The engine refuses without a link, and rights that link or capability do not carry.
    pub fn offer(
        &mut self,
        capability: CapSlot,
        peer: DomainId,
        rights: Rights,
        label: u64,
    ) -> Result<OfferId, Error> {
        let reply = self.call(&message::CapOffer(CapOfferRequest {
            context: capability.context.0,
            slot: capability.slot,
            domain: peer.0,
            rights: rights.0,
            label,
            ..CapOfferRequest::default()
        }))?;
        Ok(OfferId(reply.offer))
    }

    /// CAP_ACCEPT (SPEC sections 7.3 and 8.2): takes an offer into a slot; slot 0 means the lowest
    /// empty one.
    ///
    /// # Errors
    /// The engine refuses an offer that is not made to this domain, or no more.
    pub fn accept(&mut self, offer: OfferId, target: CapSlot) -> Result<Accepted, Error> {
        let reply = self.call(&message::CapAccept(CapAcceptRequest {
            offer: offer.0,
            context: target.context.0,
            slot: target.slot,
            ..CapAcceptRequest::default()
        }))?;
        Ok(Accepted {
            slot: CapSlot::new(target.context, reply.slot),
            rights: self.rights(reply.rights)?,
            length: reply.length,
            badge: reply.badge,
            domain: DomainId(reply.domain),
        })
    }

    /// CAP_REVOKE (SPEC sections 7.4 and 8.2): ends a capability and all that was derived from it,
    /// in every domain. When this returns, no access under it is in flight or can start. Of memory that is pinned
    /// it may take as long as a device does that reaches it.
    ///
    /// # Errors
    /// The engine refuses an empty slot. [`ControlStatus::DeviceHolds`](byway_protocols::ControlStatus::DeviceHolds): the right has ended,
    /// but a device that has not answered in its time may still reach pinned memory; to be asked again.
    pub fn revoke(&mut self, capability: CapSlot) -> Result<(), Error> {
        self.call(&message::CapRevoke(slot_request(capability, 0)))
    }

    /// CAP_REVOKE (SPEC sections 7.4 and 8.2) of what was derived from a capability, sparing
    /// itself.
    ///
    /// # Errors
    /// The engine refuses an empty slot.
    pub fn revoke_descendants(&mut self, capability: CapSlot) -> Result<(), Error> {
        let request = slot_request(capability, revoke_flags::DESCENDANTS_ONLY);
        self.call(&message::CapRevoke(request))
    }

    /// CAP_DROP (SPEC sections 7 and 8.2): empties a slot. What was derived from it lives on.
    ///
    /// # Errors
    /// The engine refuses an empty slot.
    pub fn drop_capability(&mut self, capability: CapSlot) -> Result<(), Error> {
        self.call(&message::CapDrop(slot_request(capability, 0)))
    }

    /// CAP_QUERY (SPEC sections 7 and 8.2): state and use of a capability.
    ///
    /// # Errors
    /// The engine refuses an empty slot.
    pub fn query_capability(&mut self, capability: CapSlot) -> Result<CapabilityInfo, Error> {
        let reply = self.call(&message::CapQuery(slot_request(capability, 0)))?;
        let state = match reply.state {
            1 => CapabilityState::Live,
            2 => CapabilityState::Revoked,
            3 => CapabilityState::Expired,
            _ => return Err(self.break_off(Broken::Reply)),
        };
        Ok(CapabilityInfo {
            state,
            rights: self.rights(reply.rights)?,
            length: reply.length,
            badge: reply.badge,
            depth: reply.depth,
            domain: DomainId(reply.domain),
            descendants: reply.descendants,
            bytes_read: reply.bytes_read,
            bytes_written: reply.bytes_written,
        })
    }

    /// Rights out of a reply; bits that the ABI does not have show a broken device.
    fn rights(&mut self, bits: u32) -> Result<Rights, Error> {
        Rights::from_bits(bits).ok_or_else(|| self.break_off(Broken::Reply))
    }

    /// Notes that the device is broken.
    pub(super) fn break_off(&mut self, how: Broken) -> Error {
        self.broken = Some(how);
        how.into()
    }
}

fn slot_request(capability: CapSlot, flags: u32) -> CapSlotRequest {
    CapSlotRequest {
        context: capability.context.0,
        slot: capability.slot,
        flags,
        ..CapSlotRequest::default()
    }
}
