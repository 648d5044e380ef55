//! The device over virtqueues in a memfd, served by hand, turn by turn.

pub(crate) mod driver;

use std::sync::Arc;

use byway_protocols::control::{
    ContextCreateReply, ContextCreateRequest, ContextDestroyRequest, QueueCreateRequest,
    RequestKind,
};
use byway_protocols::event::EventKind;
use byway_protocols::{ConfigSpace, ControlStatus};

use super::{Device, Handle, Poller, Turn};
use crate::control::tests::waits::is_waiting;
use crate::domain::{Core, CoreLimits, Domain, Events};
use crate::epoch::Epochs;
use crate::interface::{Domain as _, DomainError, Quotas};
use crate::iotlb::Invalidations;
use crate::testing::Guest;
use crate::worker::{WorkerConfig, Workers};
use driver::{Driver, INDIRECT, NEXT, SIZE, WRITE};

struct World {
    device: Arc<Device>,
    handle: Handle<()>,
    driver: Driver,
}

impl World {
    /// A device whose driver has started both virtqueues.
    fn new() -> Self {
        let mut world = Self::idle();
        world.driver.attach(&mut world.handle);
        world
    }
    fn idle() -> Self {
        let epochs = Arc::new(Epochs::new(1));
        let invalidations = Arc::new(Invalidations::new(1));
        let workers = Workers::start(
            WorkerConfig::default(),
            Arc::clone(&epochs),
            Arc::clone(&invalidations),
        );
        let limits = CoreLimits {
            slots_max: 16,
            park_us: 200,
            page_response: std::time::Duration::from_millis(200),
            opcodes: [0; 32],
        };
        let core = Arc::new(Core::new(
            epochs,
            invalidations,
            workers.unwrap(),
            limits,
            1,
        ));
        let id = core.next_domain().unwrap();
        let events = Events::new().unwrap();
        let domain = Domain::new(
            Arc::clone(&core),
            id,
            "alice".into(),
            Quotas::default(),
            events,
        );
        let domain = Arc::new(domain);
        core.peers().add(&domain);
        let poller = Arc::new(Poller::new().unwrap());
        let device = Arc::new(Device::new(domain, poller));
        assert!(device.domain().claim());
        Self {
            handle: Handle::new(Arc::clone(&device), ()),
            device,
            driver: Driver::new(&Guest::new(id, 4 << 20)),
        }
    }
    fn serve(&self) {
        while self.device.serve() == Turn::More {}
    }
    /// A request, carried out here.
    fn call(&mut self, kind: RequestKind, body: &[u8]) -> Result<Vec<u8>, ControlStatus> {
        self.driver.post(kind, body);
        self.serve();
        let used = self.driver.control.used().expect("an answer");
        self.driver.reply(used)
    }
    fn query(&mut self) {
        let mut body = [0; 16];
        body[0] = 1;
        self.call(RequestKind::Query, &body).unwrap();
    }
    fn create_context(&mut self) -> Result<Vec<u8>, ControlStatus> {
        let q = ContextCreateRequest { pasid: 0, slots: 2 };
        self.call(RequestKind::ContextCreate, &q.to_bytes())
    }
    /// The driver's chain breaks the rules: it is not used, nothing after it is, and
    /// after a reset all is well.
    fn assert_broken(mut self, what: &str) {
        self.serve();
        assert_eq!(self.driver.control.used(), None, "{what}");
        self.driver.control.publish(0);
        self.serve();
        assert_eq!(self.driver.control.used(), None, "{what}");
        self.handle.reset();
        self.driver.start(&mut self.handle);
        self.query();
    }
    fn is_answered(&mut self) -> bool {
        self.driver.post(RequestKind::Query, &[0; 16]);
        self.serve();
        self.driver.control.used().is_some()
    }
}

#[test]
fn configuration_says_who_is_there() {
    let w = World::idle();
    let mut bytes = [0xff; 12];
    w.handle.read_config(0, &mut bytes);
    let space = ConfigSpace::from_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(&space.magic.to_le_bytes(), b"BYWY");
    assert_eq!(space.version, 1);
    assert_eq!(bytes[8..], [0; 4]);
    let mut part = [0xff; 4];
    w.handle.read_config(6, &mut part);
    assert_eq!(part, [0, 0, 0, 0]);
    w.handle.read_config(u32::MAX, &mut part);
    assert_eq!(part, [0; 4]);
    assert_eq!(w.handle.queue_count(), 2);
}

#[test]
fn features_that_were_not_offered_are_refused() {
    let mut w = World::idle();
    assert_eq!(w.handle.features(), 1 << 32);
    assert!(w.handle.set_features(1 << 32).is_ok());
    let refused = w.handle.set_features(1 << 32 | 1 << 29);
    assert!(matches!(refused, Err(DomainError::BadArgument(_))));
}

#[test]
fn virtqueues_are_checked_at_start() {
    let mut w = World::idle();
    let vring = |w: &World| w.driver.control.vring();
    // No RAM yet.
    let outside = w.handle.start_vring(0, vring(&w));
    assert!(matches!(outside, Err(DomainError::BadArgument(_))));
    w.handle
        .add_region(driver::region(&w.driver.guest))
        .unwrap();
    for bad in [
        |v: &mut crate::interface::Vring| v.size = 0,
        |v: &mut crate::interface::Vring| v.size = 24,
        |v: &mut crate::interface::Vring| v.size = 512,
        |v: &mut crate::interface::Vring| v.desc_table += 8,
        |v: &mut crate::interface::Vring| v.avail_ring += 1,
        |v: &mut crate::interface::Vring| v.used_ring += 2,
        |v: &mut crate::interface::Vring| v.desc_table = 0,
        |v: &mut crate::interface::Vring| v.used_ring = u64::MAX - 3,
    ] {
        let mut v = vring(&w);
        bad(&mut v);
        let refused = w.handle.start_vring(0, v);
        assert!(matches!(refused, Err(DomainError::BadArgument(_))));
    }
    let v = vring(&w);
    assert!(matches!(
        w.handle.start_vring(2, v),
        Err(DomainError::NoSuchQueue(2, 2))
    ));
    let v = vring(&w);
    w.handle.start_vring(0, v).unwrap();
    let v = vring(&w);
    let twice = w.handle.start_vring(0, v);
    assert!(matches!(twice, Err(DomainError::BadArgument(_))));
    assert!(matches!(
        w.handle.stop_vring(2),
        Err(DomainError::NoSuchQueue(2, 2))
    ));
}

#[test]
fn requests_are_answered_in_order_and_interrupt_once() {
    let mut w = World::new();
    w.query();
    assert_eq!(w.driver.control.call.read().unwrap(), 1);
    assert!(w.create_context().is_ok());
    let unknown = w.call(RequestKind::Unbind, &[1; 8]);
    assert_eq!(unknown, Err(ControlStatus::ReservedNotZero));
    assert_eq!(w.driver.control.call.read().unwrap(), 2);
    // VIRTQ_AVAIL_F_NO_INTERRUPT
    let avail = w.driver.control.vring().avail_ring;
    w.driver.guest.write(avail, &[1, 0]);
    assert!(w.create_context().is_ok());
    assert!(w.driver.control.call.read().is_err());
}

#[test]
fn a_chain_may_be_cut_anywhere() {
    let mut w = World::new();
    w.query();
    // A request of 24 bytes in 3 + 13 + 0 + 8, its reply in 1 + 15 + 8.
    w.driver.post(
        RequestKind::ContextCreate,
        &ContextCreateRequest { pasid: 0, slots: 2 }.to_bytes(),
    );
    let (at, room) = (w.driver.buffers, w.driver.buffers + 1024);
    let pieces = [
        (at, 3, 0),
        (at + 3, 13, 0),
        (at, 0, 0),
        (at + 16, 8, 0),
        (room, 1, WRITE),
        (room + 1, 15, WRITE),
        (room + 16, 8, WRITE),
    ];
    for (i, (gpa, len, flags)) in pieces.into_iter().enumerate() {
        let next = if i == pieces.len() - 1 { 0 } else { NEXT };
        let i = i as u16;
        w.driver
            .control
            .descriptor(i, gpa, len, flags | next, i + 1);
    }
    w.serve();
    let used = w.driver.control.used().unwrap();
    assert_eq!(w.driver.reply(used).map(|b| b.len()), Ok(8));
}

#[test]
fn doorbells_and_chains_without_room() {
    let mut w = World::new();
    w.query();
    let at = w.driver.buffers;
    // Nothing readable, with room and without a byte at all.
    w.driver.control.descriptor(3, at, 64, WRITE, 0);
    w.driver.control.publish(3);
    w.driver.control.descriptor(4, at, 0, 0, 0);
    w.driver.control.publish(4);
    w.serve();
    assert_eq!(w.driver.control.used(), Some((3, 0)));
    assert_eq!(w.driver.control.used(), Some((4, 0)));
    // A good request with 15 bytes for its reply is not carried out.
    w.driver.post(
        RequestKind::ContextCreate,
        &ContextCreateRequest { pasid: 0, slots: 2 }.to_bytes(),
    );
    w.driver.control.descriptor(1, at + 1024, 15, WRITE, 0);
    w.serve();
    assert_eq!(w.driver.control.used(), Some((0, 0)));
    assert_eq!(w.device.domain().info().contexts, 0);
    // A longer message than any is answered.
    w.driver.control.descriptor(0, at, 4000, NEXT, 1);
    w.driver.control.descriptor(1, at + 1024, 64, WRITE, 0);
    w.driver.control.publish(0);
    w.serve();
    assert_eq!(w.driver.control.used(), Some((0, 16)));
    let reply = w.driver.guest.read(at + 1024, 16);
    assert_eq!(reply[0], ControlStatus::BadLength as u8);
    assert_eq!(reply[8..], [0; 8], "no tag was read");
}

#[test]
fn a_ring_that_breaks_the_rules_is_served_no_more() {
    let at = |w: &World| w.driver.buffers;
    let mut w = World::new();
    w.driver.control.descriptor(0, at(&w), 32, NEXT, 0);
    w.driver.control.publish(0);
    w.assert_broken("a loop");

    let mut w = World::new();
    w.driver.control.descriptor(0, at(&w), 32, NEXT, SIZE);
    w.driver.control.publish(0);
    w.assert_broken("a next outside the table");

    let mut w = World::new();
    w.driver.control.publish(SIZE);
    w.assert_broken("a head outside the table");

    let w = World::new();
    w.driver.control.set_avail(SIZE + 1);
    w.assert_broken("an index that jumps");

    for (gpa, len) in [(0, 32), (u64::MAX - 8, 16), (1 << 30, u32::MAX)] {
        let mut w = World::new();
        w.driver.control.descriptor(0, gpa, len, 0, 0);
        w.driver.control.publish(0);
        w.assert_broken("a readable buffer outside RAM");
        let mut w = World::new();
        w.driver.control.descriptor(0, at(&w), 32, NEXT, 1);
        w.driver.control.descriptor(1, gpa, len, WRITE, 0);
        w.driver.control.publish(0);
        w.assert_broken("a writable buffer outside RAM");
    }

    let mut w = World::new();
    w.driver.control.descriptor(0, at(&w), 32, NEXT | WRITE, 1);
    w.driver.control.descriptor(1, at(&w), 32, 0, 0);
    w.driver.control.publish(0);
    w.assert_broken("readable after writable");

    // Indirect tables are not offered; one that points at itself ends all the same.
    let mut w = World::new();
    let table = w.driver.control.vring().desc_table;
    w.driver.control.descriptor(0, table, 16, INDIRECT, 0);
    w.driver.control.publish(0);
    w.assert_broken("an indirect table in itself");
}

#[test]
fn a_broken_event_queue_does_not_stop_the_control_queue() {
    let mut w = World::new();
    w.query();
    w.driver
        .events
        .set_avail(w.driver.events.next_avail.wrapping_add(SIZE + 1));
    w.device.domain().events().completion(1);
    w.serve();
    assert_eq!(w.driver.events.used(), None);
    assert!(w.create_context().is_ok());
}

#[test]
fn events_are_numbered_and_losses_told_first() {
    let mut w = World::new();
    let events = Arc::clone(w.device.domain().events());
    events.completion(1);
    events.completion(2);
    w.serve();
    let seen: Vec<_> = std::iter::from_fn(|| w.driver.event()).collect();
    let brief: Vec<_> = seen
        .iter()
        .map(|e| (e.kind, e.object, e.sequence))
        .collect();
    assert_eq!(brief, [(4, 1, 0), (4, 2, 1)]);
    assert_eq!(w.driver.events.call.read().unwrap(), 1, "one for both");

    // More than fit.
    for i in 0..5000 {
        events.completion(i);
    }
    let mut seen = Vec::new();
    while {
        w.serve();
        let before = seen.len();
        seen.extend(std::iter::from_fn(|| w.driver.event()));
        seen.len() > before
    } {}
    assert_eq!(seen[0].kind, EventKind::Lost as u16);
    let lost = seen[0].length;
    assert_eq!(seen.len() as u64 - 1 + lost, 5000);
    // Every lost one took a number.
    assert_eq!(u64::from(seen[0].sequence), 2 + lost);
    for pair in seen.windows(2) {
        assert_eq!(pair[1].sequence, pair[0].sequence + 1);
    }
}

#[test]
fn a_buffer_too_small_for_an_event_comes_back_empty() {
    let mut w = World::idle();
    w.handle
        .add_region(driver::region(&w.driver.guest))
        .unwrap();
    w.handle.start_vring(1, w.driver.events.vring()).unwrap();
    w.driver
        .events
        .descriptor(0, w.driver.buffers, 63, WRITE, 0);
    w.driver.events.publish(0);
    w.driver
        .events
        .descriptor(1, w.driver.buffers, 64, WRITE, 0);
    w.driver.events.publish(1);
    w.device.domain().events().completion(9);
    w.serve();
    assert_eq!(w.driver.events.used(), Some((0, 0)));
    assert_eq!(w.driver.events.used(), Some((1, 64)));
}

#[test]
fn a_paused_device_answers_later() {
    let mut w = World::new();
    w.query();
    w.handle.pause();
    assert!(!w.is_answered());
    w.handle.resume();
    w.serve();
    assert!(w.driver.control.used().is_some());
}

#[test]
fn stopping_a_virtqueue_tells_where_to_go_on() {
    let mut w = World::new();
    w.query();
    w.create_context().unwrap();
    assert_eq!(w.handle.stop_vring(0).unwrap(), 2);
    assert!(!w.is_answered());
    assert_eq!(w.handle.stop_vring(0).unwrap(), 0, "it does not run");
    let vring = crate::interface::Vring {
        base: 2,
        ..w.driver.control.vring()
    };
    w.handle.start_vring(0, vring).unwrap();
    w.serve();
    assert!(w.driver.control.used().is_some());
    assert_eq!(w.device.domain().info().contexts, 1, "nothing was lost");
}

/// A context with so many queues that their end takes longer than a turn.
fn with_many_queues() -> (World, ContextDestroyRequest) {
    const QUEUES: usize = 8000;
    let mut w = World::new();
    w.query();
    let reply = w.create_context().unwrap();
    let context = ContextCreateReply::from_bytes(&reply.try_into().unwrap()).context;
    let place = |bytes| w.driver.guest.alloc(bytes, 64);
    // They may well share a ring: it is the guest's own matter.
    let q = QueueCreateRequest {
        context,
        entries: 2,
        ring: place(128),
        completions: place(64),
        header: place(64),
        ..QueueCreateRequest::default()
    };
    for _ in 0..QUEUES {
        w.call(RequestKind::QueueCreate, &q.to_bytes()).unwrap();
    }
    assert_eq!(w.device.domain().info().queues as usize, QUEUES);
    let reserved4 = 0;
    (w, ContextDestroyRequest { context, reserved4 })
}

#[test]
fn a_request_that_takes_long_leaves_others_their_turns() {
    let (mut w, q) = with_many_queues();
    w.driver.post(RequestKind::ContextDestroy, &q.to_bytes());
    let mut turns = 0;
    loop {
        let has_more = w.device.serve();
        turns += 1;
        if w.driver.control.used().is_some() {
            break;
        }
        assert_eq!(has_more, Turn::More, "it is not over and has no more turns");
    }
    assert!(turns > 1, "all of it in one turn");
    let info = w.device.domain().info();
    assert_eq!((info.queues, info.contexts), (0, 0));
    assert!(w.is_answered(), "the next request");
}

#[test]
fn a_request_under_way_ends_with_its_virtqueue() {
    let (mut w, q) = with_many_queues();
    w.driver.post(RequestKind::ContextDestroy, &q.to_bytes());
    assert_eq!(w.device.serve(), Turn::More);
    assert!(w.driver.control.used().is_none());
    w.handle.stop_vring(0).unwrap();
    assert!(
        w.driver.control.used().is_some(),
        "it was taken and not answered"
    );
    assert_eq!(w.device.domain().info().contexts, 0);

    let (mut w, q) = with_many_queues();
    w.driver.post(RequestKind::ContextDestroy, &q.to_bytes());
    assert_eq!(w.device.serve(), Turn::More);
    w.handle.reset();
    w.driver.start(&mut w.handle);
    w.query();
    assert!(
        w.create_context().is_ok(),
        "the old request was carried out once more"
    );
}

#[test]
fn a_request_under_way_ends_with_the_memory_of_its_virtqueue() {
    let (mut w, q) = with_many_queues();
    w.driver.post(RequestKind::ContextDestroy, &q.to_bytes());
    assert_eq!(w.device.serve(), Turn::More);
    let (start, size) = w.driver.guest.ram();
    w.handle.remove_region(start, size).unwrap();
    // The stop of a virtqueue finishes what is under way, and nothing can be answered any more. On a thread of its own,
    // so that a wait without an end is a failure.
    let (stopped, waits) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        w.handle.stop_vring(0).unwrap();
        let _ = stopped.send(w);
    });
    let mut w = waits
        .recv_timeout(std::time::Duration::from_secs(20))
        .expect("the stop waits for a request that cannot be answered");
    w.driver.attach_again(&mut w.handle);
    w.query();
    assert!(w.create_context().is_ok());
}

#[test]
fn a_wrong_request_to_destroy_ends_nothing() {
    let (mut w, q) = with_many_queues();
    let before = w.device.domain().info();
    let reserved4 = 1;
    let wrong = ContextDestroyRequest { reserved4, ..q };
    assert!(
        w.call(RequestKind::ContextDestroy, &wrong.to_bytes())
            .is_err()
    );
    assert_eq!(w.device.domain().info().queues, before.queues);
}

#[test]
fn virtqueues_in_memory_that_goes_are_broken() {
    let mut w = World::new();
    w.query();
    let (start, size) = w.driver.guest.ram();
    w.handle.remove_region(start, size).unwrap();
    assert!(!w.is_answered());
    assert!(w.handle.remove_region(start, size).is_err());
    w.driver.attach_again(&mut w.handle);
    w.query();
}

#[test]
fn memory_is_unmapped_after_the_last_chunk_that_may_use_it() {
    let mut w = World::new();
    let (start, size) = w.driver.guest.ram();
    let core = Arc::clone(w.device.domain().core());
    let waits = is_waiting(core.epochs(), || {
        w.handle.remove_region(start, size).unwrap();
    });
    assert!(waits);
}

#[test]
fn what_forbids_or_harvests_writes_waits_for_the_last_chunk_and_what_allows_them_for_none() {
    let w = World::new();
    let page = w.driver.guest.alloc(4096, 4096);
    let core = Arc::clone(w.device.domain().core());
    let mut handle = w.handle;
    let mut waits = |verb: fn(&mut Handle<()>, u64) -> Result<(), DomainError>| {
        is_waiting(core.epochs(), || verb(&mut handle, page).unwrap())
    };
    fn log(handle: &mut Handle<()>, on: bool) -> Result<(), DomainError> {
        handle.set_dirty_log(on);
        Ok(())
    }
    assert!(waits(|handle, _| log(handle, true)), "log on");
    assert!(
        waits(|handle, page| handle.harvest_dirty(page, 4096).map(drop)),
        "harvest"
    );
    assert!(!waits(|handle, _| log(handle, false)), "log off");
    assert!(
        waits(|handle, page| handle.protect_region(page, 4096, false)),
        "read-only"
    );
    assert!(
        !waits(|handle, page| handle.protect_region(page, 4096, true)),
        "writable"
    );
    assert!(waits(|handle, page| handle.discard(page, 4096)), "discard");
}

#[test]
fn a_reset_and_the_end_of_a_vmm_wait_for_the_last_chunk() {
    let mut w = World::new();
    let core = Arc::clone(w.device.domain().core());
    assert!(is_waiting(core.epochs(), || w.handle.reset()));
    // Without memory there is nothing else to wait for.
    let (start, size) = w.driver.guest.ram();
    w.handle.remove_region(start, size).unwrap();
    let handle = w.handle;
    assert!(is_waiting(core.epochs(), || drop(handle)));
}

#[test]
fn a_verb_that_holds_the_device_does_not_hold_up_the_server() {
    let w = World::new();
    let signal = w.device.domain().events().signal().try_clone().unwrap();
    let _ = signal.read();
    w.device.domain().events().begin();
    w.device.with_state(|_| {
        // The control thread comes meanwhile: it is turned away at once...
        std::thread::scope(|s| {
            s.spawn(|| assert_eq!(w.device.serve(), Turn::Idle))
                .join()
                .unwrap()
        });
        let _ = signal.read();
    });
    // ... and called back.
    assert_eq!(signal.read().unwrap(), 1);
}

impl Driver {
    fn attach_again(&mut self, device: &mut dyn crate::interface::Domain) {
        device.reset();
        self.attach(device);
    }
}
