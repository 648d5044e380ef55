//! Endpoints of a domain: open (SPEC section 7.9). All else is as for any capability.

use std::sync::Arc;

use byway_protocols::{ControlStatus, Rights};

use super::Domain;
use super::capabilities::{derive_status, slot_status};
use crate::capability::{Holder, Terms};
use crate::endpoint::device::Geometry;

/// What ENDPOINT_OPEN tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenedEndpoint {
    /// Slot that was filled.
    pub slot: u16,
    /// Rights that came with it.
    pub rights: Rights,
    /// Bytes that it spans.
    pub length: u64,
    /// What its device is.
    pub geometry: Geometry,
}

impl Domain {
    /// ENDPOINT_OPEN of the endpoint of this name, into a slot, 0 meaning the lowest empty one.
    ///
    /// # Errors
    /// As SPEC section 8.2 lists them.
    pub fn open_endpoint(
        &self,
        context: u32,
        slot: u32,
        name: &str,
        badge: u64,
    ) -> Result<OpenedEndpoint, ControlStatus> {
        let root = self.capability(context, 0)?;
        let target = self.context(context)?;
        let slot = target.slots().vacancy(slot).map_err(slot_status)?;
        let endpoints = self.core.workers().endpoints();
        // No such endpoint, and one that is not for this domain, are the same to it.
        let endpoint = endpoints.find(name).ok_or(ControlStatus::NoSuchObject)?;
        let grant = endpoint.grant(self.id).filter(|g| g.read || g.write);
        // A device that is trusted with its memory need not be one whose blocks it may use.
        let grant = grant.ok_or(ControlStatus::NoSuchObject)?;
        let is_there = endpoint.attachment().is_some_and(|a| !a.is_gone());
        if !is_there {
            return Err(ControlStatus::NoSuchObject);
        }
        self.core.workers().prepare_for_devices();
        let mut rights = Rights::GRANT;
        if grant.read {
            rights = rights | Rights::BLOCK_READ;
        }
        if grant.write {
            rights = rights | Rights::BLOCK_WRITE;
        }
        let geometry = *endpoint.geometry();
        let holder = Holder::Slot {
            domain: self.id,
            context,
            slot,
        };
        let terms = Terms {
            base: grant.first,
            length: grant.bytes,
            rights,
            badge,
            links: [Some(Arc::clone(&grant.link)), None],
            ..Terms::default()
        };
        let held = root
            .derive_blocks(endpoint, terms, holder, Some(self.charge()?))
            .map_err(derive_status)?;
        // The slot is still empty: requests of a domain are carried out one at a time.
        let filled = target.slots().insert(u32::from(slot), held);
        filled.map_err(|(e, _)| slot_status(e))?;
        Ok(OpenedEndpoint {
            slot,
            rights,
            length: grant.bytes,
            geometry,
        })
    }
}
