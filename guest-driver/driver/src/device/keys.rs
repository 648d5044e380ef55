//! Keys: KEY_LOAD (SPEC sections 7.7 and 8.2).

use super::{Device, REQUEST};
use crate::error::Error;
use crate::hal::Hal;
use crate::handle::CapSlot;
use crate::message;
use crate::transport::Transport;
use byway_protocols::Rights;
use byway_protocols::codec::{KEY_BYTES_MAX, KeyAlgorithm, KeyBytes};
use byway_protocols::control::{KeyLoadRequest, RequestHeader};

/// A key to be loaded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyLoad<'k> {
    /// Where it goes; slot 0 means the lowest empty one.
    pub target: CapSlot,
    /// What it is for.
    pub algorithm: KeyAlgorithm,
    /// As many bytes as the algorithm's keys have.
    pub key: &'k [u8],
    /// Of [`Rights::ENCRYPT`], [`Rights::DECRYPT`] and [`Rights::GRANT`].
    pub rights: Rights,
    /// Reported to whoever accepts it.
    pub badge: u64,
}

impl core::fmt::Debug for KeyLoad<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("KeyLoad")
            .field("target", &self.target)
            .field("algorithm", &self.algorithm)
            .field("rights", &self.rights)
            .field("badge", &self.badge)
            .finish_non_exhaustive()
    }
}

impl<T: Transport, H: Hal> Device<T, H> {
    /// KEY_LOAD (SPEC sections 7.7 and 8.2): puts a key into a slot. The engine has a copy of its
    /// own when this returns, and what the device read is overwritten; the caller's own bytes are
    /// the caller's to wipe.
    ///
    /// # Errors
    /// The engine refuses keys of another length than the algorithm's, rights that a key does not
    /// have, and what exceeds a quota.
    pub fn load_key(&mut self, load: &KeyLoad<'_>) -> Result<CapSlot, Error> {
        let mut key = [0; KEY_BYTES_MAX];
        let used = load.key.len().min(KEY_BYTES_MAX);
        key[..used].copy_from_slice(&load.key[..used]);
        let reply = self.call(&message::KeyLoad(KeyLoadRequest {
            context: load.target.context.0,
            slot: load.target.slot,
            algorithm: load.algorithm as u32,
            length: u32::try_from(load.key.len()).unwrap_or(u32::MAX),
            rights: load.rights.0,
            badge: load.badge,
            key: KeyBytes(key),
            ..KeyLoadRequest::default()
        }));
        let wiped = [0; RequestHeader::SIZE + KeyLoadRequest::SIZE];
        self.control_dma.write(REQUEST, &wiped);
        Ok(CapSlot::new(load.target.context, reply?.slot))
    }
}
