//! Ports: PORT_CREATE (SPEC sections 7.8 and 8.2).

use super::Device;
use crate::error::Error;
use crate::hal::Hal;
use crate::handle::CapSlot;
use crate::message;
use crate::transport::Transport;
use byway_protocols::control::PortCreateRequest;

/// A port to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortCreate {
    /// Where it goes; slot 0 means the lowest empty one.
    pub target: CapSlot,
    /// Messages that may wait in it, 1 to 64.
    pub depth: u32,
    /// Longest message in bytes, 1 to 4096.
    pub bytes: u32,
    /// Told to whoever receives what is sent by way of this capability, or of one derived
    /// from it without another badge.
    pub badge: u64,
}

impl<T: Transport, H: Hal> Device<T, H> {
    /// PORT_CREATE: a port for messages, with all rights to it. It is given to peers as
    /// memory is, with [`byway_protocols::Rights::SEND`] or
    /// [`byway_protocols::Rights::RECEIVE`].
    ///
    /// # Errors
    /// The engine refuses a depth or a length out of range, and what exceeds a quota.
    pub fn create_port(&mut self, port: &PortCreate) -> Result<CapSlot, Error> {
        let reply = self.call(&message::PortCreate(PortCreateRequest {
            context: port.target.context.0,
            slot: port.target.slot,
            depth: port.depth,
            bytes: port.bytes,
            badge: port.badge,
        }))?;
        Ok(CapSlot::new(port.target.context, reply.slot))
    }
}
