//! Every call: what goes out, byte for byte, and what comes back.

use super::fake::{FakeDevice, Shared, answer, attached, last_request};
use crate::{
    Accepted, Bind, CapSlot, CapabilityInfo, ContextId, ControlStatus, Derive, DomainId, Error,
    Invalidation, OfferId, PageOutcome, Pasid, Peer, QueueId, Rights, RingAddresses,
};
use byway_protocols::capability::CapabilityState;
use byway_protocols::control::{
    BindRequest, CapAcceptReply, CapAcceptRequest, CapDeriveReply, CapDeriveRequest, CapOfferReply,
    CapOfferRequest, CapQueryReply, CapSlotRequest, ContextCreateReply, ContextCreateRequest,
    ContextDestroyRequest, InvalidateReply, InvalidateRequest, LookupReply, LookupRequest,
    PageResponseRequest, QueueCreateReply, QueueCreateRequest, QueueRequest, RequestKind,
    UnbindRequest, bind_flags, queue_flags,
};
use std::vec::Vec;

/// A device that answers `reply` to everything, the outcome of a call, and the request it made.
fn exchange<R>(
    reply: impl AsRef<[u8]>,
    call: impl FnOnce(&mut FakeDevice) -> Result<R, Error>,
) -> (R, RequestKind, Vec<u8>) {
    let (world, mut device) = attached();
    let reply = reply.as_ref().to_vec();
    answer(&world, move |_, _| (0, reply.clone()));
    let outcome = call(&mut device).unwrap();
    let (kind, body) = last_request(&world);
    (outcome, kind, body)
}

const CONTEXT: ContextId = ContextId(0x11);
const CAP: CapSlot = CapSlot::new(CONTEXT, 5);

#[test]
fn lookup() {
    let reply = LookupReply {
        domain: 4,
        rights_out: 3,
        rights_in: 1,
        ..LookupReply::default()
    };
    let (peer, kind, body) = exchange(reply.to_bytes(), |d| d.lookup("bob"));
    let mut name = [0; 32];
    name[..3].copy_from_slice(b"bob");
    assert_eq!(
        (kind, body),
        (
            RequestKind::Lookup,
            LookupRequest { name }.to_bytes().to_vec()
        )
    );
    let expected = Peer {
        domain: DomainId(4),
        rights_out: Rights::READ | Rights::WRITE,
        rights_in: Rights::READ,
    };
    assert_eq!(peer, expected);

    let (_world, mut device) = attached();
    for bad in ["", "a name that is longer than 32 bytes", "b\0b"] {
        assert_eq!(device.lookup(bad), Err(Error::Name));
    }
}

#[test]
fn bind_and_unbind() {
    let bind = Bind {
        pasid: Pasid(9),
        root: 0x1234_5000,
        levels: 5,
        maxphyaddr: 46,
        nxe: true,
        pages_1g: false,
        no_ad: true,
        invalidation_page: 0,
    };
    let ((), kind, body) = exchange([], |d| d.bind(&bind));
    let expected = BindRequest {
        root: 0x1234_5000,
        pasid: 9,
        levels: 5,
        maxphyaddr: 46,
        flags: bind_flags::NXE | bind_flags::NO_AD,
        ..BindRequest::default()
    };
    assert_eq!(
        (kind, body),
        (RequestKind::Bind, expected.to_bytes().to_vec())
    );
    let one_gig = Bind {
        nxe: false,
        pages_1g: true,
        no_ad: false,
        ..bind
    };
    let ((), _, body) = exchange([], |d| d.bind(&one_gig));
    let expected = BindRequest {
        flags: bind_flags::PAGES_1G,
        ..expected
    };
    assert_eq!(body, expected.to_bytes());

    let ((), kind, body) = exchange([], |d| d.unbind(Pasid(9)));
    let expected = UnbindRequest {
        pasid: 9,
        ..UnbindRequest::default()
    };
    assert_eq!(
        (kind, body),
        (RequestKind::Unbind, expected.to_bytes().to_vec())
    );
}

#[test]
fn contexts() {
    let reply = ContextCreateReply {
        context: 0x11,
        ..ContextCreateReply::default()
    };
    let (context, kind, body) =
        exchange(reply.to_bytes(), |d| d.create_context(Pasid::PHYSICAL, 16));
    let expected = ContextCreateRequest {
        pasid: 0,
        slots: 16,
    };
    assert_eq!(
        (kind, body),
        (RequestKind::ContextCreate, expected.to_bytes().to_vec())
    );
    assert_eq!(context, CONTEXT);

    let ((), kind, body) = exchange([], |d| d.destroy_context(CONTEXT));
    let expected = ContextDestroyRequest {
        context: 0x11,
        ..ContextDestroyRequest::default()
    };
    assert_eq!(
        (kind, body),
        (RequestKind::ContextDestroy, expected.to_bytes().to_vec())
    );
}

#[test]
fn queues() {
    let rings = RingAddresses {
        entries: 64,
        ring: 0x1000,
        completions: 0x2000,
        header: 0x3000,
    };
    let reply = QueueCreateReply {
        queue: 8,
        ..QueueCreateReply::default()
    };
    let (queue, kind, body) = exchange(reply.to_bytes(), |d| d.create_queue(CONTEXT, &rings, true));
    let expected = QueueCreateRequest {
        context: 0x11,
        entries: 64,
        ring: 0x1000,
        completions: 0x2000,
        header: 0x3000,
        flags: queue_flags::NO_PARK,
        ..QueueCreateRequest::default()
    };
    assert_eq!(
        (kind, body),
        (RequestKind::QueueCreate, expected.to_bytes().to_vec())
    );
    assert_eq!(queue, QueueId(8));
    let (_, _, body) = exchange(reply.to_bytes(), |d| d.create_queue(CONTEXT, &rings, false));
    assert_eq!(
        body,
        QueueCreateRequest {
            flags: 0,
            ..expected
        }
        .to_bytes()
    );

    let expected = QueueRequest {
        queue: 8,
        ..QueueRequest::default()
    }
    .to_bytes()
    .to_vec();
    let ((), kind, body) = exchange([], |d| d.destroy_queue(queue));
    assert_eq!((kind, &body), (RequestKind::QueueDestroy, &expected));
    let ((), kind, body) = exchange([], |d| d.arm(queue));
    assert_eq!((kind, &body), (RequestKind::QueueArm, &expected));
}

#[test]
fn a_range_is_pinned_by_a_right_of_its_own() {
    let pinned = Derive::own(CONTEXT, 0x7000, 0x1000, Rights::WRITE).pinned();
    let reply = CapDeriveReply::default().to_bytes();
    let (_, _, body) = exchange(reply, |d| d.derive(&pinned));
    let sent = CapDeriveRequest::from_bytes(&body.try_into().unwrap());
    assert_eq!(
        (sent.rights, sent.base, sent.length),
        (0x202, 0x7000, 0x1000)
    );
}

#[test]
fn derive_offer_accept() {
    let derive = Derive {
        target: CapSlot::new(ContextId(0x22), 7),
        badge: 0xbad9e,
        lifetime_ns: 1_000,
        byte_quota: 2_000,
        ..Derive::own(CONTEXT, 0x7000, 0x900, Rights::READ | Rights::GRANT)
    };
    let reply = CapDeriveReply {
        slot: 7,
        ..CapDeriveReply::default()
    };
    let (slot, kind, body) = exchange(reply.to_bytes(), |d| d.derive(&derive));
    let expected = CapDeriveRequest {
        context: 0x11,
        base: 0x7000,
        length: 0x900,
        rights: 5,
        target_context: 0x22,
        target_slot: 7,
        badge: 0xbad9e,
        lifetime_ns: 1_000,
        byte_quota: 2_000,
        ..CapDeriveRequest::default()
    };
    assert_eq!(
        (kind, body),
        (RequestKind::CapDerive, expected.to_bytes().to_vec())
    );
    assert_eq!(slot, CapSlot::new(ContextId(0x22), 7));

    let reply = CapOfferReply {
        offer: 0x1_0000_0001,
    };
    let (offer, kind, body) = exchange(reply.to_bytes(), |d| {
        d.offer(CAP, DomainId(4), Rights::WRITE, 0x1abe1)
    });
    let expected = CapOfferRequest {
        context: 0x11,
        slot: 5,
        domain: 4,
        rights: 2,
        label: 0x1abe1,
        ..CapOfferRequest::default()
    };
    assert_eq!(
        (kind, body),
        (RequestKind::CapOffer, expected.to_bytes().to_vec())
    );
    assert_eq!(offer, OfferId(0x1_0000_0001));

    let reply = CapAcceptReply {
        slot: 6,
        rights: 2,
        length: 0x900,
        badge: 0xbad9e,
        domain: 3,
        ..CapAcceptReply::default()
    };
    let (accepted, kind, body) = exchange(reply.to_bytes(), |d| {
        d.accept(offer, CapSlot::new(CONTEXT, 6))
    });
    let expected = CapAcceptRequest {
        offer: 0x1_0000_0001,
        context: 0x11,
        slot: 6,
        ..CapAcceptRequest::default()
    };
    assert_eq!(
        (kind, body),
        (RequestKind::CapAccept, expected.to_bytes().to_vec())
    );
    let expected = Accepted {
        slot: CapSlot::new(CONTEXT, 6),
        rights: Rights::WRITE,
        length: 0x900,
        badge: 0xbad9e,
        domain: DomainId(3),
    };
    assert_eq!(accepted, expected);
}

#[test]
fn revoke_drop_query() {
    let request = |flags| {
        CapSlotRequest {
            context: 0x11,
            slot: 5,
            flags,
            ..CapSlotRequest::default()
        }
        .to_bytes()
    };
    let ((), kind, body) = exchange([], |d| d.revoke(CAP));
    assert_eq!((kind, body), (RequestKind::CapRevoke, request(0).to_vec()));
    let ((), kind, body) = exchange([], |d| d.revoke_descendants(CAP));
    assert_eq!((kind, body), (RequestKind::CapRevoke, request(1).to_vec()));
    let ((), kind, body) = exchange([], |d| d.drop_capability(CAP));
    assert_eq!((kind, body), (RequestKind::CapDrop, request(0).to_vec()));

    let reply = CapQueryReply {
        state: 2,
        rights: 1,
        length: 10,
        badge: 11,
        depth: 12,
        domain: 13,
        descendants: 14,
        bytes_read: 15,
        bytes_written: 16,
        ..CapQueryReply::default()
    };
    let (info, kind, body) = exchange(reply.to_bytes(), |d| d.query_capability(CAP));
    assert_eq!((kind, body), (RequestKind::CapQuery, request(0).to_vec()));
    let expected = CapabilityInfo {
        state: CapabilityState::Revoked,
        rights: Rights::READ,
        length: 10,
        badge: 11,
        depth: 12,
        domain: DomainId(13),
        descendants: 14,
        bytes_read: 15,
        bytes_written: 16,
    };
    assert_eq!(info, expected);
}

#[test]
fn answer_page() {
    for (outcome, code) in [
        (PageOutcome::Resolved, 1),
        (PageOutcome::Refused, 2),
        (PageOutcome::RetryLater, 3),
    ] {
        let ((), kind, body) = exchange([], |d| d.answer_page(0x1234, outcome));
        let expected = PageResponseRequest {
            request: 0x1234,
            outcome: code,
            ..PageResponseRequest::default()
        };
        assert_eq!(
            (kind, body),
            (RequestKind::PageResponse, expected.to_bytes().to_vec())
        );
    }
}

#[test]
fn invalidate() {
    let reply = InvalidateReply {
        waited_chunks: 3,
        ..InvalidateReply::default()
    };
    let cases = [
        (Invalidation::Domain, InvalidateRequest::default()),
        (
            Invalidation::Pasid(Pasid(9)),
            InvalidateRequest {
                scope: 1,
                pasid: 9,
                ..InvalidateRequest::default()
            },
        ),
        (
            Invalidation::Range {
                pasid: Pasid(9),
                address: 0x7000,
                pages: 2,
            },
            InvalidateRequest {
                scope: 2,
                pasid: 9,
                address: 0x7000,
                pages: 2,
                ..InvalidateRequest::default()
            },
        ),
    ];
    for (what, expected) in cases {
        let (waited, kind, body) = exchange(reply.to_bytes(), |d| d.invalidate(what));
        assert_eq!(
            (kind, body),
            (RequestKind::Invalidate, expected.to_bytes().to_vec())
        );
        assert_eq!(waited, 3);
    }
}

#[test]
fn a_refusal_is_told_and_breaks_nothing() {
    let (world, mut device) = attached();
    for status in ControlStatus::ALL.iter().skip(1) {
        answer(&world, move |_, _| (*status as u32, Vec::new()));
        assert_eq!(device.lookup("bob"), Err(Error::Refused(*status)));
        assert_eq!(device.revoke(CAP), Err(Error::Refused(*status)));
    }
    // One of a later version is a refusal, too.
    answer(&world, |_, _| (1000, Vec::new()));
    assert_eq!(device.revoke(CAP), Err(Error::RefusedUnknown(1000)));
    answer(&world, |_, _| (0, Vec::new()));
    assert_eq!(device.revoke(CAP), Ok(()));
}

#[test]
fn the_doorbell_is_a_bare_notification() {
    let (world, mut device): (Shared, FakeDevice) = attached();
    let (notified, asked) = (
        world.borrow().notifications.len(),
        world.borrow().requests.len(),
    );
    device.doorbell();
    assert_eq!(world.borrow().notifications[notified..], [0]);
    assert_eq!(
        (world.borrow().requests.len(), world.borrow().waiting(0)),
        (asked, 0)
    );
}

#[test]
fn more_calls_than_any_index_can_count() {
    let (world, mut device) = attached();
    answer(&world, |_, _| (0, 5u64.to_le_bytes().to_vec()));
    for _ in 0..70_000 {
        assert_eq!(device.create_context(Pasid(1), 1).unwrap().0, 5);
        world.borrow_mut().requests.clear();
        world.borrow_mut().notifications.clear();
    }
}
