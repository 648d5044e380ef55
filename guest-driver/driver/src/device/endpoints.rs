//! Endpoints: ENDPOINT_OPEN (SPEC sections 7.9 and 8.2).

use super::{Device, Name};
use crate::error::Error;
use crate::hal::Hal;
use crate::handle::CapSlot;
use crate::message;
use crate::transport::Transport;
use byway_protocols::Rights;
use byway_protocols::control::EndpointOpenRequest;

/// A capability to blocks of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// Where it is.
    pub slot: CapSlot,
    /// What it allows.
    pub rights: Rights,
    /// Bytes that it spans.
    pub length: u64,
    /// Bytes of a block: what offsets and sizes are multiples of.
    pub block_bytes: u32,
    /// Bits of [`byway_protocols::operands::endpoint_features`].
    pub features: u32,
}

impl<T: Transport, H: Hal> Device<T, H> {
    /// ENDPOINT_OPEN: what the operator granted of the endpoint `name`, into `target`; slot 0
    /// means the lowest empty one. `badge` is told to whoever accepts it.
    ///
    /// # Errors
    /// The engine refuses a name that it does not know or that was granted to others, and what
    /// exceeds a quota.
    pub fn open_endpoint(
        &mut self,
        target: CapSlot,
        name: Name,
        badge: u64,
    ) -> Result<Blocks, Error> {
        let reply = self.call(&message::EndpointOpen(EndpointOpenRequest {
            context: target.context.0,
            slot: target.slot,
            badge,
            name: name.bytes(),
            reserved48: 0,
        }))?;
        Ok(Blocks {
            slot: CapSlot::new(target.context, reply.slot),
            rights: Rights(reply.rights),
            length: reply.length,
            block_bytes: reply.block_bytes,
            features: reply.features,
        })
    }
}
