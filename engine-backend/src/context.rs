//! Contexts: what one guest process opened, as a worker sees it.
//!
//! A [`Context`] names the address space and the capabilities that the descriptors of
//! its queues may use. [`Context::resolve`] is the one gate between a descriptor's
//! operand and the memory behind it: everything a worker touches came through it,
//! in the same chunk.

use std::sync::Arc;

use byway_protocols::{Rights, Status};

use crate::address_space::AddressSpace;
use crate::capability::{Capability, SlotTable};
use crate::epoch::ChunkGuard;

/// A process's address space and capability table. Owned by its domain; queues share it.
#[derive(Debug)]
pub struct Context {
    id: u32,
    domain: u32,
    space: Arc<AddressSpace>,
    slots: SlotTable,
}

/// An operand that may be accessed until the end of the chunk.
#[derive(Debug, Clone, Copy)]
pub struct Target<'g> {
    /// The address space to translate in.
    pub space: &'g AddressSpace,
    /// First byte, an address in that space.
    pub addr: u64,
    /// What slot offset 0 is in that space: `addr - base` is what the submitter wrote.
    pub base: u64,
    /// Whether the memory belongs to the submitter's own domain. Faults in any other
    /// are reported as [`Status::RemoteFault`], without address or cause.
    pub own: bool,
    capability: Option<&'g Capability>,
}

impl Target<'_> {
    /// Counts bytes moved through the operand's capability, once they were.
    #[inline(always)]
    pub fn account(&self, read: u64, written: u64) {
        if let Some(capability) = self.capability {
            capability.account(read, written);
        }
    }
}

impl Context {
    /// A context of domain `domain` with `slots` slots, slot 0 included, all empty.
    #[must_use]
    pub fn new(id: u32, domain: u32, space: Arc<AddressSpace>, slots: u32) -> Self {
        Self {
            id,
            domain,
            space,
            slots: SlotTable::new(slots),
        }
    }
    /// Its number, engine-wide.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }
    /// Its domain's number.
    #[must_use]
    pub fn domain(&self) -> u32 {
        self.domain
    }
    /// What slot 0 means.
    #[must_use]
    #[inline]
    pub fn space(&self) -> &Arc<AddressSpace> {
        &self.space
    }
    /// Its capabilities.
    #[must_use]
    pub fn slots(&self) -> &SlotTable {
        &self.slots
    }

    /// Checks that the context may access `len` bytes from `addr` of slot `slot` with
    /// the rights `need`, at this moment, and says where they are. What it returns
    /// holds for the chunk of `guard`.
    ///
    /// # Errors
    /// [`Status::NoCapability`], [`Status::Revoked`] (or expired, or used up),
    /// [`Status::MissingRight`], [`Status::Bounds`] (a range that wraps included).
    #[inline(always)]
    pub fn resolve<'g>(
        &'g self,
        guard: &'g ChunkGuard<'_>,
        slot: u16,
        addr: u64,
        len: u64,
        need: Rights,
    ) -> Result<Target<'g>, Status> {
        if slot != 0 {
            return self.resolve_capability(guard, slot, addr, len, need);
        }
        if !self.space.is_alive() {
            return Err(Status::Revoked);
        }
        if addr.checked_add(len.saturating_sub(1)).is_none() {
            return Err(Status::Bounds);
        }
        Ok(Target {
            space: &self.space,
            addr,
            base: 0,
            own: true,
            capability: None,
        })
    }

    #[inline]
    fn resolve_capability<'g>(
        &'g self,
        guard: &'g ChunkGuard<'_>,
        slot: u16,
        offset: u64,
        len: u64,
        need: Rights,
    ) -> Result<Target<'g>, Status> {
        let capability = self.slots.get(guard, slot).ok_or(Status::NoCapability)?;
        if !capability.is_valid() || !capability.space().is_alive() {
            return Err(Status::Revoked);
        }
        if !capability.rights().contains(need) {
            return Err(Status::MissingRight);
        }
        if offset
            .checked_add(len)
            .is_none_or(|end| end > capability.length())
        {
            return Err(Status::Bounds);
        }
        if !capability.within_limits(len) {
            return Err(Status::Revoked);
        }
        Ok(Target {
            space: capability.space(),
            // In range: base + length does not wrap and offset is not above length.
            addr: capability.base() + offset,
            base: capability.base(),
            own: capability.owner().domain() == self.domain,
            capability: Some(capability),
        })
    }
}
