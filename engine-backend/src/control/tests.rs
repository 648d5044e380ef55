//! Control requests against domains with RAM and workers, without virtqueues.

mod capabilities;
mod keys;
mod messages;
mod objects;
pub(crate) mod waits;

use std::sync::Arc;

use byway_protocols::control::{
    CapAcceptReply, CapAcceptRequest, CapDeriveReply, CapDeriveRequest, CapOfferReply,
    CapOfferRequest, CapQueryReply, CapSlotRequest, ContextCreateReply, ContextCreateRequest,
    QueryReply, QueryRequest, RequestKind,
};
use byway_protocols::event::EventKind;
use byway_protocols::{ControlStatus, Event, Rights};

use super::message::Message;
use super::{ReplyHeader, RequestHeader, handle};
use crate::capability::LinkTerms;
use crate::domain::{Core, CoreLimits, Domain, Events};
use crate::epoch::Epochs;
use crate::interface::{MemoryRegion, Quotas};
use crate::iotlb::Invalidations;
use crate::testing::Guest;
use crate::worker::{WorkerConfig, Workers};

/// Slots that a context of these tests may have.
const SLOTS_MAX: u32 = 40;

/// An engine without threads of its own but one worker, and three domains.
struct World {
    core: Arc<Core>,
    alice: Side,
    bob: Side,
    carol: Side,
}

/// A domain and its RAM.
struct Side {
    domain: Arc<Domain>,
    guest: Arc<Guest>,
}

impl World {
    fn new() -> Self {
        Self::with_quotas(Quotas::default())
    }
    fn with_quotas(quotas: Quotas) -> Self {
        let world = Self::silent(quotas);
        for side in [&world.alice, &world.bob, &world.carol] {
            side.query();
        }
        world
    }
    /// Nobody has sent QUERY yet.
    fn silent(quotas: Quotas) -> Self {
        let epochs = Arc::new(Epochs::new(1));
        let invalidations = Arc::new(Invalidations::new(1));
        let workers = Workers::start(
            WorkerConfig::default(),
            Arc::clone(&epochs),
            Arc::clone(&invalidations),
        );
        let limits = CoreLimits {
            slots_max: SLOTS_MAX,
            park_us: 200,
            page_response: std::time::Duration::from_millis(200),
            opcodes: [1; 32],
        };
        let core = Core::new(epochs, invalidations, workers.unwrap(), limits, 77);
        let core = Arc::new(core);
        let side = |name| Side::new(&core, name, quotas.clone());
        Self {
            alice: side("alice"),
            bob: side("bob"),
            carol: side("carol"),
            core,
        }
    }
    fn link(&self, from: &Side, to: &Side, rights: Rights, max_bytes: u64) {
        let (from, to) = (from.domain.id(), to.domain.id());
        let terms = LinkTerms { rights, max_bytes };
        let narrowed = self.core.peers().set_link(from, to, terms);
        self.core.end_links(narrowed.as_slice());
    }
    fn unlink(&self, from: &Side, to: &Side) {
        let link = self
            .core
            .peers()
            .remove_link(from.domain.id(), to.domain.id());
        self.core.end_links(link.as_slice());
    }
    /// Links all domains with each other, with all rights.
    fn link_all(&self) {
        let sides = [&self.alice, &self.bob, &self.carol];
        for from in sides {
            for to in sides {
                if from.domain.id() != to.domain.id() {
                    self.link(from, to, Rights::ALL, u64::MAX);
                }
            }
        }
    }
    fn reap(&self) {
        while !self.core.reap() {}
    }
}

impl Side {
    fn new(core: &Arc<Core>, name: &str, quotas: Quotas) -> Self {
        let id = core.next_domain().unwrap();
        let events = Events::new().unwrap();
        let domain = Domain::new(Arc::clone(core), id, name.to_owned(), quotas, events);
        let domain = Arc::new(domain);
        core.peers().add(&domain);
        let guest = Guest::new(id, 4 << 20);
        let (guest_addr, size) = guest.ram();
        domain
            .memory()
            .add_region(MemoryRegion {
                guest_addr,
                size,
                file: Arc::clone(guest.file()),
                file_offset: 0,
                writable: true,
                populate: false,
            })
            .unwrap();
        Self { domain, guest }
    }

    fn ask<Q: Message, A: Message>(&self, kind: RequestKind, q: &Q) -> Result<A, ControlStatus> {
        let mut body = vec![0; Q::SIZE];
        q.encode(&mut body);
        let reply = self.send(kind as u16, &body, 256)?;
        assert_eq!(reply.len(), A::SIZE, "{}", kind.name());
        Ok(A::from_slice(&reply).unwrap())
    }
    fn do_it<Q: Message>(&self, kind: RequestKind, q: &Q) -> Result<(), ControlStatus> {
        self.ask(kind, q)
    }
    /// Sends a body under a right header, and checks the reply's header.
    fn send(&self, kind: u16, body: &[u8], room: usize) -> Result<Vec<u8>, ControlStatus> {
        let header = RequestHeader {
            kind,
            length: (RequestHeader::SIZE + body.len()) as u32,
            tag: 0xfeed_f00d,
            ..RequestHeader::default()
        };
        let request = [&header.to_bytes()[..], body].concat();
        self.send_raw(&request, room)
    }
    fn send_raw(&self, request: &[u8], room: usize) -> Result<Vec<u8>, ControlStatus> {
        let handled = handle(&self.domain, request, room);
        let bytes = handled.reply.bytes();
        assert!(bytes.len() <= room);
        let (header, body) = bytes.split_first_chunk().unwrap();
        let header = ReplyHeader::from_bytes(header);
        assert_eq!(header.length as usize, bytes.len());
        match ControlStatus::from_code(header.status).unwrap() {
            ControlStatus::Ok => {
                assert_eq!(header.tag, 0xfeed_f00d);
                Ok(body.to_vec())
            }
            status => {
                assert!(body.is_empty(), "a failure has no body");
                Err(status)
            }
        }
    }

    // ---- shorthands ----

    fn query(&self) -> QueryReply {
        let q = QueryRequest {
            version: 1,
            features: u64::MAX,
            ..QueryRequest::default()
        };
        self.ask(RequestKind::Query, &q).unwrap()
    }
    /// A context over guest-physical memory.
    fn context(&self) -> u32 {
        let q = ContextCreateRequest { pasid: 0, slots: 8 };
        let reply: ContextCreateReply = self.ask(RequestKind::ContextCreate, &q).unwrap();
        reply.context
    }
    fn derive(&self, q: &CapDeriveRequest) -> Result<u32, ControlStatus> {
        let reply: CapDeriveReply = self.ask(RequestKind::CapDerive, q)?;
        Ok(reply.slot)
    }
    /// A capability over `length` bytes of one's own memory.
    fn own(&self, context: u32, length: u64, rights: Rights) -> u32 {
        let q = CapDeriveRequest {
            length,
            rights: rights.0,
            ..within(context, 0)
        };
        self.derive(&q).unwrap()
    }
    fn offer(
        &self,
        context: u32,
        slot: u32,
        to: &Side,
        rights: Rights,
    ) -> Result<u64, ControlStatus> {
        let q = CapOfferRequest {
            context,
            slot,
            domain: to.domain.id(),
            rights: rights.0,
            label: 5,
            ..CapOfferRequest::default()
        };
        let reply: CapOfferReply = self.ask(RequestKind::CapOffer, &q)?;
        Ok(reply.offer)
    }
    fn accept(&self, offer: u64, context: u32, slot: u32) -> Result<CapAcceptReply, ControlStatus> {
        let q = CapAcceptRequest {
            offer,
            context,
            slot,
            ..CapAcceptRequest::default()
        };
        self.ask(RequestKind::CapAccept, &q)
    }
    /// Gives what `slot` holds to a context of another domain; returns the slot there.
    fn give(&self, context: u32, slot: u32, to: &Side, there: u32, rights: Rights) -> u32 {
        let offer = self.offer(context, slot, to, rights).unwrap();
        to.accept(offer, there, 0).unwrap().slot
    }
    fn slot_request(
        &self,
        kind: RequestKind,
        context: u32,
        slot: u32,
        flags: u32,
    ) -> Result<(), ControlStatus> {
        self.do_it(kind, &slot_of(context, slot, flags))
    }
    fn revoke(&self, context: u32, slot: u32) -> Result<(), ControlStatus> {
        self.slot_request(RequestKind::CapRevoke, context, slot, 0)
    }
    fn drop_slot(&self, context: u32, slot: u32) -> Result<(), ControlStatus> {
        self.slot_request(RequestKind::CapDrop, context, slot, 0)
    }
    fn look(&self, context: u32, slot: u32) -> Result<CapQueryReply, ControlStatus> {
        self.ask(RequestKind::CapQuery, &slot_of(context, slot, 0))
    }
    /// Events that wait, without their numbers.
    fn events(&self) -> Vec<Event> {
        std::iter::from_fn(|| self.domain.events().pop()).collect()
    }
    fn events_of(&self, kind: EventKind) -> Vec<Event> {
        let mut events = self.events();
        events.retain(|e| e.kind == kind as u16);
        events
    }
}

fn slot_of(context: u32, slot: u32, flags: u32) -> CapSlotRequest {
    CapSlotRequest {
        context,
        slot,
        flags,
        reserved12: 0,
    }
}

/// CAP_DERIVE of 64 readable bytes of a slot within one context.
fn within(context: u32, slot: u32) -> CapDeriveRequest {
    CapDeriveRequest {
        context,
        slot,
        length: 64,
        rights: Rights::READ.0,
        target_context: context,
        ..CapDeriveRequest::default()
    }
}
