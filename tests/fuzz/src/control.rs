//! Control messages: any requests of three domains' drivers, linked with each other.
//!
//! Whatever they send, in whatever order: every request has a reply that fits the room and
//! is well formed, nothing happens before QUERY, no quota is exceeded, what was revoked
//! reads so; and when all domains are reset nothing is left behind.

mod fields;
mod world;

use std::cell::RefCell;

use byway_engine::control::handle;
use byway_protocols::ControlStatus;
use byway_protocols::capability::CapabilityState;
use byway_protocols::control::{
    CapQueryReply, CapSlotRequest, ReplyHeader, RequestHeader, RequestKind,
};

use crate::input::Input;
use fields::Known;
use world::World;

pub(crate) use fields::body_layout;

/// Steps of one input at most.
const STEPS_MAX: u32 = 64;
/// Longest raw body, in bytes: more than any request has.
const BODY_MAX: u8 = 255;
/// Bytes for a reply that the driver usually has.
const ROOM: usize = 256;

/// What an input does in one step; each begins with the number of a domain.
pub(crate) mod step {
    /// A request with a right header: its kind's place in [`super::RequestKind::ALL`],
    /// then its body, fields that name objects brought into range.
    pub(crate) const REQUEST: u8 = 0;
    /// A request with a right header: kind (u16), room (u8), length of the body, body.
    pub(crate) const ODD_REQUEST: u8 = 1;
    /// Any bytes: length, bytes.
    pub(crate) const RAW: u8 = 2;
    /// Reset.
    pub(crate) const RESET: u8 = 3;
    /// The operator sets the link from here: to whom, rights; no rights remove it.
    pub(crate) const LINK: u8 = 4;
    /// How many there are.
    pub(crate) const KINDS: usize = 5;
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Runs one input.
pub fn run(data: &[u8]) {
    WORLD.with_borrow_mut(|place| {
        // Taken out, so that a panic leaves no half-used world behind.
        let world = place.take().unwrap_or_else(World::new);
        live(&world, data);
        world.end();
        *place = Some(world);
    });
}

fn live(world: &World, data: &[u8]) {
    let mut input = Input::new(data);
    let mut known = Known::default();
    for _ in 0..STEPS_MAX {
        if !input.has_more() {
            break;
        }
        let kind = input.below(step::KINDS) as u8;
        let side = input.below(world::SIDES);
        match kind {
            step::REQUEST => {
                let kind = RequestKind::ALL[input.below(RequestKind::ALL.len())];
                let Some(layout) = body_layout(kind) else {
                    continue;
                };
                let mut body = input.take(layout.size).to_vec();
                body.resize(layout.size, 0);
                known.bring_into_range(kind, layout, side, &mut body);
                let reply = request(world, side, kind as u16, &body, ROOM);
                if let Ok(reply) = reply {
                    known.learn(kind, side, &reply);
                    check_revoked(world, side, kind, &body);
                }
            }
            step::ODD_REQUEST => {
                let kind = input.u16();
                let room = ReplyHeader::SIZE + usize::from(input.u8());
                let length = usize::from(input.u8() & BODY_MAX);
                // A refusal is as good.
                let _ = request(world, side, kind, input.take(length), room);
            }
            step::RAW => {
                let length = usize::from(input.u8());
                let reply = handle(world.domain(side), input.take(length), ROOM).reply;
                check_reply(reply.bytes(), ROOM);
            }
            step::RESET => world.domain(side).reset(),
            _ => world.link(side, input.below(world::SIDES), u32::from(input.u8())),
        }
        world.check_quotas();
    }
}

/// Sends a body under a right header; the body of the reply.
fn request(
    world: &World,
    side: usize,
    kind: u16,
    body: &[u8],
    room: usize,
) -> Result<Vec<u8>, ControlStatus> {
    const TAG: u64 = 0x7461_6774_6167_7461;
    let header = RequestHeader {
        kind,
        length: (RequestHeader::SIZE + body.len()) as u32,
        tag: TAG,
        ..RequestHeader::default()
    };
    let domain = world.domain(side);
    let was_ready = domain.is_ready();
    let bytes = [&header.to_bytes()[..], body].concat();
    let handled = handle(domain, &bytes, room);
    let (header, body) = check_reply(handled.reply.bytes(), room);
    assert!(header.tag == TAG || header.status != ControlStatus::Ok as u32);
    match ControlStatus::from_code(header.status) {
        Some(ControlStatus::Ok) => {
            let is_query = kind == RequestKind::Query as u16;
            assert!(was_ready || is_query, "request {kind} before QUERY");
            Ok(body.to_vec())
        }
        Some(status) => Err(status),
        None => panic!("status {} of request {kind}", header.status),
    }
}

/// Splits a reply into header and body.
fn check_reply(bytes: &[u8], room: usize) -> (ReplyHeader, &[u8]) {
    assert!(bytes.len() <= room, "a reply of {} bytes", bytes.len());
    let Some((header, body)) = bytes.split_first_chunk() else {
        panic!("a reply of {} bytes", bytes.len());
    };
    let header = ReplyHeader::from_bytes(header);
    assert_eq!(header.length as usize, bytes.len());
    assert!(ControlStatus::from_code(header.status).is_some());
    if header.status != ControlStatus::Ok as u32 {
        assert!(body.is_empty(), "a failure has no body");
    }
    (header, body)
}

/// What CAP_REVOKE has ended reads so.
fn check_revoked(world: &World, side: usize, kind: RequestKind, body: &[u8]) {
    let Ok(body) = body.try_into() else { return };
    let revoke = CapSlotRequest::from_bytes(body);
    if kind != RequestKind::CapRevoke || revoke.flags != 0 {
        return;
    }
    let query = CapSlotRequest { flags: 0, ..revoke };
    let code = RequestKind::CapQuery as u16;
    let reply = request(world, side, code, &query.to_bytes(), ROOM);
    // The slot may be empty: whoever revokes lets go as well.
    if let Some(reply) = reply.ok().and_then(|r| r.try_into().ok()) {
        let state = CapQueryReply::from_bytes(&reply).state;
        assert_eq!(state, CapabilityState::Revoked as u32, "{revoke:?}");
    }
}
