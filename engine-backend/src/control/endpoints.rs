//! ENDPOINT_OPEN.

use byway_protocols::ControlStatus;
use byway_protocols::control::{EndpointOpenReply, EndpointOpenRequest, features};
use byway_protocols::operands::endpoint_features;

use super::query::decode_name;
use crate::domain::Domain;

pub(super) fn open(
    domain: &Domain,
    q: &EndpointOpenRequest,
) -> Result<EndpointOpenReply, ControlStatus> {
    domain.need_feature(features::ENDPOINTS)?;
    let name = decode_name(&q.name).ok_or(ControlStatus::BadArgument)?;
    let opened = domain.open_endpoint(q.context, q.slot, name, q.badge)?;
    let geometry = &opened.geometry;
    let can = [
        (geometry.flush, endpoint_features::FLUSH),
        (geometry.discard, endpoint_features::DISCARD),
        (geometry.write_zeroes, endpoint_features::WRITE_ZEROES),
    ];
    let features = can
        .into_iter()
        .filter_map(|(can, bit)| can.then_some(bit))
        .fold(0, |all, bit| all | bit);
    Ok(EndpointOpenReply {
        slot: u32::from(opened.slot),
        rights: opened.rights.0,
        length: opened.length,
        block_bytes: geometry.block_bytes,
        features,
        reserved24: 0,
    })
}
