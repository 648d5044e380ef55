//! Capabilities of a domain: derive, offer, accept, revoke, drop, query.

use std::sync::Arc;

use byway_protocols::control::features;
use byway_protocols::event::EventKind;
use byway_protocols::{ControlStatus, Event, Rights};

use super::Domain;
use super::exchange::Offer;
use super::ports;
use crate::capability::{
    Capability, Charge, DeriveError, Ending, Holder, Key, Link, SlotError, State, Terms, Usage,
};

/// What CAP_DERIVE asks for, its arguments in range.
#[derive(Debug, Clone, Copy)]
pub struct DeriveArguments {
    /// Context that holds the parent.
    pub context: u32,
    /// Its slot; 0 = the context's address space.
    pub slot: u32,
    /// First byte: an address for slot 0, else an offset.
    pub base: u64,
    /// Bytes, not 0.
    pub length: u64,
    /// Some right.
    pub rights: Rights,
    /// Context that receives it.
    pub target_context: u32,
    /// Slot there; 0 = the lowest empty one.
    pub target_slot: u32,
    /// Badge.
    pub badge: u64,
    /// Nanoseconds from now; 0 = no limit.
    pub lifetime_ns: u64,
    /// Bytes; 0 = no limit.
    pub byte_quota: u64,
}

/// What CAP_ACCEPT tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcceptedCapability {
    /// Slot that was filled.
    pub slot: u32,
    /// Rights that came with it.
    pub rights: Rights,
    /// Bytes that it spans.
    pub length: u64,
    /// Badge.
    pub badge: u64,
    /// Domain that owns the memory.
    pub domain: u32,
}

/// What CAP_QUERY tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapabilityReport {
    /// Whether it can be used.
    pub state: State,
    /// Rights.
    pub rights: Rights,
    /// Bytes that it spans.
    pub length: u64,
    /// Badge.
    pub badge: u64,
    /// Depth; 1 for one over one's own memory.
    pub depth: u32,
    /// Domain that owns the memory.
    pub domain: u32,
    /// What it and all below it amount to.
    pub usage: Usage,
}

pub(super) fn derive_status(e: DeriveError) -> ControlStatus {
    match e {
        DeriveError::Bounds => ControlStatus::Bounds,
        DeriveError::MissingRight => ControlStatus::MissingRight,
        DeriveError::Depth => ControlStatus::Depth,
        DeriveError::Revoked => ControlStatus::Revoked,
    }
}

pub(super) fn slot_status(e: SlotError) -> ControlStatus {
    match e {
        SlotError::OutOfRange => ControlStatus::BadArgument,
        SlotError::InUse => ControlStatus::InUse,
        SlotError::Full => ControlStatus::Quota,
    }
}

impl Domain {
    /// CAP_DERIVE; returns the slot that was filled.
    ///
    /// # Errors
    /// As SPEC section 8.2 lists them.
    pub fn derive(&self, wanted: &DeriveArguments) -> Result<u16, ControlStatus> {
        if wanted.lifetime_ns != 0 {
            self.need_feature(features::EXPIRY)?;
        }
        if wanted.byte_quota != 0 {
            self.need_feature(features::BYTE_QUOTA)?;
        }
        if wanted.slot == 0 && wanted.rights.contains(Rights::PINNED) {
            // A promise of its own; others pass on what they were given.
            self.need_feature(features::PINNED)?;
        }
        let parent = self.capability(wanted.context, wanted.slot)?;
        let target = self.context(wanted.target_context)?;
        let slot = target
            .slots()
            .vacancy(wanted.target_slot)
            .map_err(slot_status)?;
        self.need_grant(&parent)?;
        let held = parent
            .derive(
                Terms {
                    base: wanted.base,
                    length: wanted.length,
                    rights: wanted.rights,
                    badge: wanted.badge,
                    lifetime_ns: wanted.lifetime_ns,
                    byte_quota: wanted.byte_quota,
                    links: [None, None],
                },
                Holder::Slot {
                    domain: self.id,
                    context: wanted.target_context,
                    slot,
                },
                Some(self.charge()?),
            )
            .map_err(derive_status)?;
        // The slot is still empty: requests of a domain are carried out one at a time.
        let filled = target.slots().insert(u32::from(slot), held);
        filled.map_err(|(e, _)| slot_status(e))
    }

    /// KEY_LOAD: puts a key with some right into a slot, 0 meaning the lowest empty one;
    /// returns the slot that was filled.
    ///
    /// # Errors
    /// As SPEC section 8.2 lists them.
    pub fn load_key(
        &self,
        context: u32,
        slot: u32,
        key: Key,
        rights: Rights,
        badge: u64,
    ) -> Result<u16, ControlStatus> {
        let root = self.capability(context, 0)?;
        let target = self.context(context)?;
        let slot = target.slots().vacancy(slot).map_err(slot_status)?;
        let holder = Holder::Slot {
            domain: self.id,
            context,
            slot,
        };
        let held = root
            .derive_key(key, rights, badge, holder, Some(self.charge()?))
            .map_err(derive_status)?;
        // The slot is still empty: requests of a domain are carried out one at a time.
        let filled = target.slots().insert(u32::from(slot), held);
        filled.map_err(|(e, _)| slot_status(e))
    }

    /// CAP_OFFER of the capability in `slot`, not 0, to domain `to`, not this one, with
    /// some right; returns the offer's number.
    ///
    /// # Errors
    /// As SPEC section 8.2 lists them, and [`ControlStatus::NoSuchObject`] when the
    /// peer's driver is not there to be told.
    pub fn offer(
        &self,
        context: u32,
        slot: u32,
        to: u32,
        rights: Rights,
        label: u64,
    ) -> Result<u64, ControlStatus> {
        let capability = self.capability(context, slot)?;
        let links = self.links_for(&capability, to)?;
        let peer = self.core.peers().get(to).ok_or(ControlStatus::NoLink)?;
        if !peer.is_ready() {
            return Err(ControlStatus::NoSuchObject);
        }
        self.need_grant(&capability)?;
        for link in links.iter().flatten() {
            let terms = link.terms();
            if !terms.rights.contains(ports::over_link(rights)) {
                return Err(ControlStatus::MissingRight);
            }
            if capability.length() > terms.max_bytes {
                return Err(ControlStatus::Bounds);
            }
        }
        let waiting = self.offered.charge().ok_or(ControlStatus::Quota)?;
        let id = self.core.next_offer();
        let held = capability
            .derive(
                Terms {
                    base: 0,
                    length: capability.length(),
                    rights,
                    badge: capability.badge(),
                    links,
                    ..Terms::default()
                },
                Holder::Offer(id),
                Some(self.charge()?),
            )
            .map_err(derive_status)?;
        let offer = Offer {
            from: self.id,
            to,
            source: (context, slot),
            held,
            _charge: waiting,
        };
        self.core.exchange().add(id, offer);
        if !peer.is_ready() {
            // The peer was reset meanwhile, and may have looked for offers before this
            // one was there.
            drop(self.core.exchange().withdraw(id));
            return Err(ControlStatus::NoSuchObject);
        }
        peer.events().push(Event {
            kind: EventKind::CapabilityOffered as u16,
            object: self.id,
            id,
            label,
            length: capability.length(),
            rights: rights.0,
            ..Event::default()
        });
        Ok(id)
    }

    /// The links that permit giving this capability to `to`: this domain's own, and, for
    /// the memory of a third domain, that one's as well, so that the operator's word
    /// about who may reach whose memory cannot be got round by passing on.
    fn links_for(
        &self,
        capability: &Capability,
        to: u32,
    ) -> Result<[Option<Arc<Link>>; 2], ControlStatus> {
        let need = |from| {
            let link = self.core.peers().link(from, to);
            link.ok_or(ControlStatus::NoLink)
        };
        let owner = capability.owner().domain();
        let own = need(self.id)?;
        let third = match owner != self.id && owner != to {
            true => Some(need(owner)?),
            false => None,
        };
        Ok([Some(own), third])
    }

    /// CAP_ACCEPT of an offer made to this domain, into a slot, 0 meaning the lowest
    /// empty one.
    ///
    /// # Errors
    /// As SPEC section 8.2 lists them; the offer still stands then, unless it was revoked.
    pub fn accept(
        &self,
        offer: u64,
        context: u32,
        slot: u32,
    ) -> Result<AcceptedCapability, ControlStatus> {
        let context = self.context(context)?;
        let slot = context.slots().vacancy(slot).map_err(slot_status)?;
        let exchange = self.core.exchange();
        let offer = exchange
            .accept(offer, self.id)
            .ok_or(ControlStatus::NoSuchObject)?;
        let held = offer.held;
        let accepted = AcceptedCapability {
            slot: u32::from(slot),
            rights: held.rights(),
            length: held.length(),
            badge: held.badge(),
            domain: held.owner().domain(),
        };
        let holder = Holder::Slot {
            domain: self.id,
            context: context.id(),
            slot,
        };
        // A revocation from here on tells this holder; one of before is seen here.
        if !held.set_holder(holder) || held.state() != State::Live {
            return Err(ControlStatus::Revoked);
        }
        let filled = context.slots().insert(u32::from(slot), held);
        filled.map_err(|(e, _)| slot_status(e))?;
        Ok(accepted)
    }

    /// CAP_REVOKE of what a slot, not 0, holds and all below it, or with
    /// `descendants_only` only the latter. Returns after the last access.
    ///
    /// # Errors
    /// As SPEC section 8.2 lists them.
    pub fn revoke(
        &self,
        context: u32,
        slot: u32,
        descendants_only: bool,
    ) -> Result<(), ControlStatus> {
        let capability = self.capability(context, slot)?;
        let owner = capability.owner();
        // Not from afterwards: it may go with the capability.
        let port = capability.port();
        let how = Ending::Revoked { by: self.id };
        let epochs = self.core.epochs();
        let (grave, begun) = if descendants_only {
            let grave = owner.revoke_descendants(&capability, how);
            (grave, epochs.snapshot())
        } else {
            owner.revoke_then(&capability, how, || epochs.snapshot())
        };
        epochs.wait(&begun);
        if let Some(port) = port {
            port.wake();
        }
        // What devices were asked by the right comes before all that they are asked now.
        self.core.workers().endpoints().fence();
        self.outlast_capability(&capability);
        let knows = Holder::Slot {
            domain: self.id,
            context,
            // Slots that hold something fit.
            slot: slot as u16,
        };
        self.core.bury(grave, Some(knows));
        Ok(())
    }

    /// CAP_DROP: empties a slot, not 0. Returns after the last access by way of it.
    ///
    /// # Errors
    /// As SPEC section 8.2 lists them.
    pub fn drop_slot(&self, context: u32, slot: u32) -> Result<(), ControlStatus> {
        let holder = self.slots_of(context, slot)?;
        let held = holder.slots().remove(slot, self.core.epochs());
        let held = held.ok_or(ControlStatus::NoSuchObject)?;
        self.outlast_capability(held.capability());
        // What is only offered yet goes with it; what was accepted lives on.
        drop(
            self.core
                .exchange()
                .withdraw_made(self.id, |source| source == (context, slot)),
        );
        Ok(())
    }

    /// CAP_QUERY of a slot, not 0.
    ///
    /// # Errors
    /// As SPEC section 8.2 lists them.
    pub fn query_capability(
        &self,
        context: u32,
        slot: u32,
    ) -> Result<CapabilityReport, ControlStatus> {
        let capability = self.capability(context, slot)?;
        // Waits for nobody, so bytes of chunks that have not ended are still to be counted.
        Ok(CapabilityReport {
            state: capability.state(),
            rights: capability.rights(),
            length: capability.length(),
            badge: capability.badge(),
            depth: capability.depth(),
            domain: capability.owner().domain(),
            usage: capability.owner().usage(&capability),
        })
    }

    /// The context that has this slot.
    fn slots_of(
        &self,
        context: u32,
        slot: u32,
    ) -> Result<Arc<crate::context::Context>, ControlStatus> {
        let context = self.context(context)?;
        if slot >= context.slots().slots() {
            return Err(ControlStatus::BadArgument);
        }
        Ok(context)
    }

    /// What a slot holds; the root for slot 0.
    pub(super) fn capability(
        &self,
        context: u32,
        slot: u32,
    ) -> Result<Arc<Capability>, ControlStatus> {
        self.slots_of(context, slot)?;
        let tables = self.tables();
        tables
            .contexts
            .capability(context, slot)
            .ok_or(ControlStatus::NoSuchObject)
    }

    /// Over another's memory, deriving and giving need the right to.
    fn need_grant(&self, capability: &Capability) -> Result<(), ControlStatus> {
        let is_own = capability.owner().domain() == self.id;
        if is_own || capability.rights().contains(Rights::GRANT) {
            return Ok(());
        }
        Err(ControlStatus::MissingRight)
    }

    pub(super) fn charge(&self) -> Result<Charge, ControlStatus> {
        self.derived.charge().ok_or(ControlStatus::Quota)
    }
}
