//! PORT_CREATE: what goes out.

use super::fake::{answer, attached, last_request};
use crate::{CapSlot, ContextId, PortCreate};
use byway_protocols::control::{PortCreateReply, PortCreateRequest, RequestKind};

#[test]
fn a_port_is_asked_for_and_its_slot_comes_back() {
    let (world, mut device) = attached();
    let reply = PortCreateReply {
        slot: 7,
        ..PortCreateReply::default()
    };
    answer(&world, move |_, _| (0, reply.to_bytes().to_vec()));
    let port = PortCreate {
        target: CapSlot::new(ContextId(0x11), 5),
        depth: 8,
        bytes: 256,
        badge: 0xbad9e,
    };
    let slot = device.create_port(&port).unwrap();
    assert_eq!(slot, CapSlot::new(ContextId(0x11), 7));
    let expected = PortCreateRequest {
        context: 0x11,
        slot: 5,
        depth: 8,
        bytes: 256,
        badge: 0xbad9e,
    };
    let sent = (RequestKind::PortCreate, expected.to_bytes().to_vec());
    assert_eq!(last_request(&world), sent);
}
