//! KEY_LOAD: what goes out, and that it does not stay in memory that the device reads.

use super::fake::{answer, attached, last_request};
use crate::device::REQUEST;
use crate::{CapSlot, ContextId, KeyLoad, Rights};
use byway_protocols::codec::{KeyAlgorithm, KeyBytes};
use byway_protocols::config::CONTROL_QUEUE;
use byway_protocols::control::{KeyLoadReply, KeyLoadRequest, RequestKind};
use std::vec::Vec;

#[test]
fn a_key_goes_out_and_is_wiped() {
    let (world, mut device) = attached();
    let reply = KeyLoadReply {
        slot: 7,
        ..KeyLoadReply::default()
    };
    answer(&world, move |_, _| (0, reply.to_bytes().to_vec()));
    let key: Vec<u8> = (1..=32).collect();
    let load = KeyLoad {
        target: CapSlot::new(ContextId(0x11), 0),
        algorithm: KeyAlgorithm::AesGcm256,
        key: &key,
        rights: Rights::ENCRYPT | Rights::GRANT,
        badge: 0xbad9e,
    };
    let slot = device.load_key(&load).unwrap();
    assert_eq!(slot, CapSlot::new(ContextId(0x11), 7));
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(&key);
    let expected = KeyLoadRequest {
        context: 0x11,
        algorithm: 5,
        length: 32,
        rights: 12,
        badge: 0xbad9e,
        key: KeyBytes(bytes),
        ..KeyLoadRequest::default()
    };
    let (kind, body) = last_request(&world);
    assert_eq!(
        (kind, body),
        (RequestKind::KeyLoad, expected.to_bytes().to_vec())
    );
    let page = world.borrow().queue_page(usize::from(CONTROL_QUEUE));
    let left = world.borrow().read::<112>(page + REQUEST as u64);
    assert_eq!(left, [0; 112]);
}
