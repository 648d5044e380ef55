//! What drivers do: introduce themselves, open contexts and queues, give, take and leave.

use byway_protocols::control::{
    BindRequest, CapAcceptRequest, CapDeriveRequest, CapOfferRequest, CapSlotRequest,
    ContextCreateRequest, QueryRequest, QueueCreateRequest, RequestKind,
};

use super::Seeds;
use crate::control::{body_layout, step};

/// A request of a side: its kind's place in the list, then its body.
fn request(side: u8, kind: RequestKind, body: &[u8]) -> Vec<u8> {
    let place = RequestKind::ALL.iter().position(|k| *k == kind);
    let mut input = vec![step::REQUEST, side, place.unwrap_or(0) as u8];
    input.extend(body);
    input
}

/// A side's first words, and a context over its own memory.
fn open(side: u8) -> Vec<u8> {
    let query = QueryRequest {
        version: 1,
        features: u64::MAX,
        ..QueryRequest::default()
    };
    let context = ContextCreateRequest { pasid: 0, slots: 8 };
    [
        request(side, RequestKind::Query, &query.to_bytes()),
        request(side, RequestKind::ContextCreate, &context.to_bytes()),
    ]
    .concat()
}

/// Alice gives bob some memory; it comes to lie in his slot 1.
fn give() -> Vec<u8> {
    let derive = CapDeriveRequest {
        length: 4096,
        rights: 7,
        ..CapDeriveRequest::default()
    };
    let offer = CapOfferRequest {
        slot: 1,
        domain: 2,
        rights: 3,
        ..CapOfferRequest::default()
    };
    [
        open(0),
        open(1),
        request(0, RequestKind::CapDerive, &derive.to_bytes()),
        request(0, RequestKind::CapOffer, &offer.to_bytes()),
        request(
            1,
            RequestKind::CapAccept,
            &CapAcceptRequest::default().to_bytes(),
        ),
    ]
    .concat()
}

pub(super) fn seeds() -> Seeds {
    let slot = CapSlotRequest {
        slot: 1,
        ..CapSlotRequest::default()
    }
    .to_bytes();
    let bind = BindRequest {
        root: 3,
        pasid: 5,
        levels: 1,
        maxphyaddr: 16,
        ..BindRequest::default()
    };
    let queue = QueueCreateRequest {
        entries: 3,
        ring: 1,
        completions: 2,
        header: 3,
        ..QueueCreateRequest::default()
    };
    let each: Vec<u8> = RequestKind::ALL
        .iter()
        .filter_map(|kind| Some((kind, body_layout(*kind)?)))
        .flat_map(|(kind, layout)| request(0, *kind, &vec![1; layout.size]))
        .collect();
    vec![
        ("open", open(0)),
        ("give", give()),
        (
            "give-and-revoke",
            [
                give(),
                request(1, RequestKind::CapQuery, &slot),
                request(0, RequestKind::CapRevoke, &slot),
                request(1, RequestKind::CapQuery, &slot),
                request(1, RequestKind::CapDrop, &slot),
            ]
            .concat(),
        ),
        ("give-and-reset", [give(), vec![step::RESET, 0]].concat()),
        (
            "give-and-unlink",
            [give(), vec![step::LINK, 0, 1, 0]].concat(),
        ),
        (
            "bind",
            [open(0), request(0, RequestKind::Bind, &bind.to_bytes())].concat(),
        ),
        (
            "queue",
            [
                open(2),
                request(2, RequestKind::QueueCreate, &queue.to_bytes()),
            ]
            .concat(),
        ),
        ("each", [open(0), each.clone()].concat()),
        ("each-before-query", each),
        ("odd", vec![step::ODD_REQUEST, 0, 1, 0, 200, 16, 1, 0, 0, 0]),
        ("raw", [vec![step::RAW, 1, 20], vec![0x55; 20]].concat()),
    ]
}
