//! [`Capability`]: a slot that is filled, and [`Listener`]: where offers come in.

use byway_protocols::Rights;
use core::fmt;

use super::error::Error;
use super::name::Name;
use super::transport::{Accepted, CapabilityInfo, NewCapability, Terms, Transport, Wait};
use crate::request::{Address, Slot};

/// A capability in a slot of one's context. Dropped, the slot is emptied; what was derived from it
/// lives on until it is revoked.
pub struct Capability<T: Transport> {
    handle: T::Capability,
    slot: Slot,
    length: u64,
    rights: Rights,
    badge: u64,
    transport: T,
}

impl<T: Transport> Capability<T> {
    pub(super) fn new(transport: T, new: NewCapability<T::Capability>) -> Self {
        Self {
            handle: new.handle,
            slot: new.slot,
            length: new.length,
            rights: new.rights,
            badge: new.badge,
            transport,
        }
    }

    /// The slot by which descriptors name it.
    pub const fn slot(&self) -> Slot {
        self.slot
    }

    /// Bytes that it spans; 0 of a port or a key.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Its rights.
    pub const fn rights(&self) -> Rights {
        self.rights
    }

    /// Its badge.
    pub const fn badge(&self) -> u64 {
        self.badge
    }

    /// What the transport keeps it by.
    pub const fn handle(&self) -> &T::Capability {
        &self.handle
    }

    /// The byte at `offset`, as an operand.
    pub const fn at(&self, offset: u64) -> Address {
        Address::capability(self.slot, offset)
    }

    /// A narrower capability; `terms.base` is an offset into this one.
    ///
    /// # Errors
    /// The kernel refuses what would widen it, a derivation too deep, and what exceeds a quota.
    pub fn derive(&self, terms: &Terms) -> Result<Self, Error<T::Error>> {
        let new = self.transport.derive(Some(&self.handle), terms);
        Ok(Self::new(
            self.transport.clone(),
            new.map_err(Error::Kernel)?,
        ))
    }

    /// Offers it, with these rights, to a linked domain under a port name.
    ///
    /// # Errors
    /// No link to a domain of that name, or rights that link or capability do not carry.
    pub fn offer(&self, peer: &Name, port: &Name, rights: Rights) -> Result<(), Error<T::Error>> {
        self.transport
            .offer(&self.handle, peer, port, rights)
            .map_err(Error::Kernel)
    }

    /// Ends it and all that was derived from it, in every domain. When this returns `Ok`, no access
    /// under it is in flight or can start. It stays in its slot, revoked, until it is dropped.
    ///
    /// # Errors
    /// Another process made it, or the device is gone.
    pub fn revoke(&self) -> Result<(), Error<T::Error>> {
        self.transport
            .revoke(&self.handle, false)
            .map_err(Error::Kernel)
    }

    /// Ends what was derived from it and spares itself.
    ///
    /// # Errors
    /// As [`Self::revoke`].
    pub fn revoke_descendants(&self) -> Result<(), Error<T::Error>> {
        self.transport
            .revoke(&self.handle, true)
            .map_err(Error::Kernel)
    }

    /// State and use.
    ///
    /// # Errors
    /// The device is gone.
    pub fn query(&self) -> Result<CapabilityInfo, Error<T::Error>> {
        self.transport.query(&self.handle).map_err(Error::Kernel)
    }

    /// Empties the slot, and says whether that worked.
    ///
    /// # Errors
    /// The device is gone; so is the capability then.
    pub fn close(self) -> Result<(), Error<T::Error>> {
        self.transport
            .drop_capability(self.handle)
            .map_err(Error::Kernel)
    }
}

impl<T: Transport> fmt::Debug for Capability<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capability")
            .field("slot", &self.slot)
            .field("length", &self.length)
            .field("rights", &self.rights)
            .field("badge", &self.badge)
            .finish_non_exhaustive()
    }
}

/// Where offers under a port name come in.
pub struct Listener<T: Transport> {
    handle: T::Listener,
    transport: T,
}

impl<T: Transport> fmt::Debug for Listener<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}

impl<T: Transport> Listener<T> {
    pub(super) const fn new(transport: T, handle: T::Listener) -> Self {
        Self { handle, transport }
    }

    /// What the transport keeps it by.
    pub const fn handle(&self) -> &T::Listener {
        &self.handle
    }

    /// Takes the oldest offer; `None` when none came in time.
    ///
    /// # Errors
    /// A signal ended the wait, no slot is empty, the device is gone.
    pub fn accept(&self, wait: Wait) -> Result<Option<Accepted<Capability<T>>>, Error<T::Error>> {
        let accepted = self.transport.accept(&self.handle, wait);
        Ok(accepted.map_err(Error::Kernel)?.map(|accepted| Accepted {
            capability: Capability::new(self.transport.clone(), accepted.capability),
            domain: accepted.domain,
        }))
    }
}
