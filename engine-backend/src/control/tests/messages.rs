//! The form of messages: lengths, reserved fields, room, order, and plain noise.

use byway_protocols::control::{
    BindRequest, CapAcceptReply, CapAcceptRequest, CapDeriveReply, CapDeriveRequest, CapOfferReply,
    CapOfferRequest, CapQueryReply, CapSlotRequest, ContextCreateReply, ContextCreateRequest,
    ContextDestroyRequest, EndpointOpenReply, EndpointOpenRequest, InvalidateReply,
    InvalidateRequest, KeyLoadReply, KeyLoadRequest, LookupReply, LookupRequest,
    PageResponseRequest, PortCreateReply, PortCreateRequest, QueryReply, QueryRequest,
    QueueCreateReply, QueueCreateRequest, QueueRequest, RequestKind, UnbindRequest, features,
};
use byway_protocols::{ABI_VERSION, ControlStatus, StructLayout};
use proptest::prelude::*;

use super::super::{ReplyHeader, RequestHeader};
use super::World;
use crate::interface::Quotas;

/// Kind, body, size of the reply's body. Independent of the table in the code.
fn table() -> Vec<(RequestKind, StructLayout, usize)> {
    use RequestKind as K;
    vec![
        (K::Query, QueryRequest::LAYOUT, QueryReply::SIZE),
        (K::Lookup, LookupRequest::LAYOUT, LookupReply::SIZE),
        (K::Bind, BindRequest::LAYOUT, 0),
        (K::Unbind, UnbindRequest::LAYOUT, 0),
        (
            K::ContextCreate,
            ContextCreateRequest::LAYOUT,
            ContextCreateReply::SIZE,
        ),
        (K::ContextDestroy, ContextDestroyRequest::LAYOUT, 0),
        (
            K::QueueCreate,
            QueueCreateRequest::LAYOUT,
            QueueCreateReply::SIZE,
        ),
        (K::QueueDestroy, QueueRequest::LAYOUT, 0),
        (K::QueueArm, QueueRequest::LAYOUT, 0),
        (K::CapDerive, CapDeriveRequest::LAYOUT, CapDeriveReply::SIZE),
        (K::CapOffer, CapOfferRequest::LAYOUT, CapOfferReply::SIZE),
        (K::CapAccept, CapAcceptRequest::LAYOUT, CapAcceptReply::SIZE),
        (K::CapRevoke, CapSlotRequest::LAYOUT, 0),
        (K::CapDrop, CapSlotRequest::LAYOUT, 0),
        (K::CapQuery, CapSlotRequest::LAYOUT, CapQueryReply::SIZE),
        (
            K::Invalidate,
            InvalidateRequest::LAYOUT,
            InvalidateReply::SIZE,
        ),
        (K::PageResponse, PageResponseRequest::LAYOUT, 0),
        (K::KeyLoad, KeyLoadRequest::LAYOUT, KeyLoadReply::SIZE),
        (
            K::EndpointOpen,
            EndpointOpenRequest::LAYOUT,
            EndpointOpenReply::SIZE,
        ),
        (
            K::PortCreate,
            PortCreateRequest::LAYOUT,
            PortCreateReply::SIZE,
        ),
    ]
}

#[test]
fn the_table_is_complete() {
    let known = table();
    for kind in RequestKind::ALL {
        let listed = known.iter().any(|(k, ..)| k == kind);
        assert!(listed, "{}", kind.name());
    }
}

#[test]
fn query_comes_first_and_may_be_repeated() {
    let w = World::silent(Quotas::default());
    for (kind, layout, _) in table() {
        if kind != RequestKind::Query {
            let refused = w.alice.send(kind as u16, &vec![0; layout.size], 256);
            assert_eq!(refused, Err(ControlStatus::Version), "{}", kind.name());
        }
    }
    let q = QueryRequest {
        version: 0,
        ..QueryRequest::default()
    };
    let refused: Result<QueryReply, _> = w.alice.ask(RequestKind::Query, &q);
    assert_eq!(refused, Err(ControlStatus::Version));
    assert!(!w.alice.domain.is_ready());

    let q = QueryRequest {
        version: 9,
        features: features::EXPIRY | 1 << 62 | 1 << 63,
        ..QueryRequest::default()
    };
    let first: QueryReply = w.alice.ask(RequestKind::Query, &q).unwrap();
    assert_eq!(first.version, ABI_VERSION);
    assert_eq!(first.features, features::EXPIRY);
    assert_eq!(first.domain, w.alice.domain.id());
    assert_eq!((first.workers, first.slots_max), (1, super::SLOTS_MAX));
    assert_eq!(first.opcodes, [1; 32]);
    assert!(first.name.starts_with(b"alice\0"));
    // Asking for more later changes nothing.
    assert_eq!(w.alice.query(), first);
    assert_ne!(w.bob.query().instance, first.instance);
}

#[test]
fn every_wrong_length_is_refused() {
    let w = World::new();
    for (kind, layout, _) in table() {
        for size in (0..=240).filter(|&s| s != layout.size) {
            let refused = w.alice.send(kind as u16, &vec![0; size], 256);
            assert_eq!(refused, Err(ControlStatus::BadLength), "{}", kind.name());
        }
        // The header says otherwise than the chain.
        let header = RequestHeader {
            kind: kind as u16,
            length: (RequestHeader::SIZE + layout.size + 1) as u32,
            ..RequestHeader::default()
        };
        let request = [&header.to_bytes()[..], &vec![0; layout.size]].concat();
        let refused = w.alice.send_raw(&request, 256);
        assert_eq!(refused, Err(ControlStatus::BadLength));
    }
    // Not even a header, or longer than any message.
    for length in [1, 15, 257, 1000] {
        let refused = w.alice.send_raw(&vec![1; length], 256);
        assert_eq!(refused, Err(ControlStatus::BadLength));
    }
}

#[test]
fn every_reserved_bit_is_checked() {
    let w = World::new();
    for (kind, layout, _) in table() {
        let mut bits = 0;
        for (i, field) in layout.fields.iter().enumerate() {
            let end = layout.fields.get(i + 1).map_or(layout.size, |f| f.offset);
            if !field.name.starts_with("reserved") {
                continue;
            }
            for bit in 8 * field.offset..8 * end {
                let mut body = vec![0; layout.size];
                body[bit / 8] |= 1 << (bit % 8);
                let refused = w.alice.send(kind as u16, &body, 256);
                assert_eq!(
                    refused,
                    Err(ControlStatus::ReservedNotZero),
                    "{}.{} bit {bit}",
                    kind.name(),
                    field.name
                );
                bits += 1;
            }
        }
        for bit in 0..16 {
            let header = RequestHeader {
                kind: kind as u16,
                reserved2: 1 << bit,
                length: (RequestHeader::SIZE + layout.size) as u32,
                tag: 1,
            };
            let request = [&header.to_bytes()[..], &vec![0; layout.size]].concat();
            let refused = w.alice.send_raw(&request, 256);
            assert_eq!(refused, Err(ControlStatus::ReservedNotZero));
        }
        let expected = layout.fields.iter().any(|f| f.name.starts_with("reserved"));
        assert_eq!(bits != 0, expected);
    }
}

#[test]
fn nothing_is_done_without_room_for_its_reply() {
    let w = World::new();
    let q = ContextCreateRequest { pasid: 0, slots: 2 }.to_bytes();
    let kind = RequestKind::ContextCreate as u16;
    let needed = ReplyHeader::SIZE + ContextCreateReply::SIZE;
    for room in ReplyHeader::SIZE..needed {
        assert_eq!(w.alice.send(kind, &q, room), Err(ControlStatus::BadLength));
    }
    assert_eq!(w.alice.domain.info().contexts, 0);
    assert!(w.alice.send(kind, &q, needed).is_ok());
    assert_eq!(w.alice.domain.info().contexts, 1);
    for (kind, layout, reply) in table() {
        if reply != 0 {
            let room = ReplyHeader::SIZE + reply - 1;
            let refused = w.alice.send(kind as u16, &vec![0; layout.size], room);
            assert_eq!(refused, Err(ControlStatus::BadLength), "{}", kind.name());
        }
    }
}

#[test]
fn unknown_requests() {
    let w = World::silent(Quotas::default());
    for kind in [0, 19, 100, 0xffff] {
        let refused = w.alice.send(kind, &[0; 8], 256);
        assert_eq!(refused, Err(ControlStatus::UnknownRequest));
    }
}

/// A body whose fields are often small numbers, so that some of it means something.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![
        4 => 0..4u32,
        1 => (1u32 << 18..(1 << 18) + 64).prop_map(|n| n << 12),
        1 => any::<u32>(),
    ];
    prop::collection::vec(field, 16)
        .prop_map(|f| f.into_iter().flat_map(u32::to_le_bytes).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn noise_does_no_harm(requests in prop::collection::vec((0..20u16, body(), any::<bool>()), 1..60)) {
        let w = World::new();
        w.link_all();
        let mine = w.alice.context();
        let his = w.bob.context();
        let slot = w.bob.own(his, 4096, byway_protocols::Rights::ALL);
        w.bob.give(his, slot, &w.alice, mine, byway_protocols::Rights::READ);
        for (kind, body, right_length) in &requests {
            let size = table()
                .iter()
                .find(|(k, ..)| *k as u16 == *kind)
                .map_or(8, |(_, layout, _)| layout.size);
            let size = if *right_length { size } else { body.len() };
            // Replies are well-formed: `send` checks that.
            let _ = w.alice.send(*kind, &body[..size.min(body.len())], 256);
        }
        w.alice.domain.reset();
        w.reap();
        // Bob has lost nothing but what was given to alice.
        prop_assert_eq!(w.bob.look(his, slot).unwrap().state, 1);
        prop_assert_eq!(w.bob.look(his, slot).unwrap().descendants, 0);
        let info = w.alice.domain.info();
        prop_assert_eq!((info.contexts, info.queues, info.capabilities), (0, 0, 0));
    }

    #[test]
    fn raw_noise_is_answered(request in prop::collection::vec(any::<u8>(), 0..300), room in 16..300usize) {
        let w = World::silent(Quotas::default());
        let handled = super::super::handle(&w.alice.domain, &request, room);
        prop_assert!((16..=room).contains(&handled.reply.bytes().len()));
    }
}
