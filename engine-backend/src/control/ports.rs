//! PORT_CREATE.

use byway_protocols::ControlStatus;
use byway_protocols::control::{PortCreateReply, PortCreateRequest};
use byway_protocols::port::{PORT_DEPTH_MAX, PORT_MESSAGE_MAX};

use crate::domain::Domain;

pub(super) fn create(
    domain: &Domain,
    q: &PortCreateRequest,
) -> Result<PortCreateReply, ControlStatus> {
    let is_deep = (1..=PORT_DEPTH_MAX).contains(&q.depth);
    if !is_deep || !(1..=PORT_MESSAGE_MAX).contains(&q.bytes) {
        return Err(ControlStatus::BadArgument);
    }
    let slot = domain.create_port(q.context, q.slot, q.depth, q.bytes, q.badge)?;
    Ok(PortCreateReply {
        slot: u32::from(slot),
        reserved4: 0,
    })
}
