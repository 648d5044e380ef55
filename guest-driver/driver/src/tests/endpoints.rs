//! ENDPOINT_OPEN: what goes out and what comes back.

use super::fake::{answer, attached, last_request};
use crate::{Blocks, CapSlot, ContextId, Name, Rights};
use byway_protocols::control::{EndpointOpenReply, EndpointOpenRequest, RequestKind};

#[test]
fn blocks_are_asked_for_by_name() {
    let (world, mut device) = attached();
    let reply = EndpointOpenReply {
        slot: 7,
        rights: Rights::BLOCK.0,
        length: 1 << 20,
        block_bytes: 512,
        features: 5,
        reserved24: 0,
    };
    answer(&world, move |_, _| (0, reply.to_bytes().to_vec()));
    let name = Name::new("disk").unwrap();
    let target = CapSlot::new(ContextId(0x11), 0);
    let opened = device.open_endpoint(target, name, 9).unwrap();
    let expected = Blocks {
        slot: CapSlot::new(ContextId(0x11), 7),
        rights: Rights::BLOCK,
        length: 1 << 20,
        block_bytes: 512,
        features: 5,
    };
    assert_eq!(opened, expected);
    let mut padded = [0; 32];
    padded[..4].copy_from_slice(b"disk");
    let request = EndpointOpenRequest {
        context: 0x11,
        slot: 0,
        badge: 9,
        name: padded,
        reserved48: 0,
    };
    let sent = (RequestKind::EndpointOpen, request.to_bytes().to_vec());
    assert_eq!(last_request(&world), sent);
}
