//! Page requests from the ring to the driver and back: parked, answered, refused, late,
//! given up.

use byway_protocols::control::{PageResponseRequest, RequestKind, features, page_outcome};
use byway_protocols::event::EventKind;
use byway_protocols::{Completion, ControlStatus, Descriptor, Event, Flags, Rights, Status};

use super::world::{
    BUFFER, BUFFER_BYTES, PASID, Queue, Vm, copy, create, everything, link, range, until,
};
use crate::interface::{Action, Admin, Quotas};
use crate::testing::pte;
use crate::{Engine, EngineConfig};

const PAGE: u64 = 4096;
/// No answer comes by itself in a test that gives one.
const NEVER_MS: u32 = 60_000;

/// Alice and bob, linked both ways, whose drivers answer page requests.
fn pair(page_response_ms: u32, parked: u32) -> (Engine, Vm, Vm) {
    let config = EngineConfig {
        page_response_ms,
        ..EngineConfig::default()
    };
    let engine = Engine::new(config).unwrap();
    let quotas = Quotas {
        parked,
        ..Quotas::default()
    };
    let name = "alice".to_owned();
    engine.act(Action::CreateDomain { name, quotas }).unwrap();
    create(&engine, "bob");
    link(&engine, "alice", "bob");
    link(&engine, "bob", "alice");
    let [alice, bob] = ["alice", "bob"].map(|name| pager(&engine, name));
    (engine, alice, bob)
}

fn pager(engine: &Engine, name: &str) -> Vm {
    let mut vm = Vm::boot(engine, name);
    negotiate(&mut vm, u64::MAX);
    vm
}

/// Starts anew with a driver that can use these features.
fn negotiate(vm: &mut Vm, features: u64) {
    vm.device.reset();
    vm.driver.features = features;
    vm.driver.start(&mut *vm.device);
    vm.open();
}

fn blocking(d: Descriptor) -> Descriptor {
    Descriptor {
        flags_opcode: d.flags_opcode | Flags::BLOCK_ON_FAULT.0,
        ..d
    }
}

fn set_present(vm: &mut Vm, va: u64, present: bool) {
    let bit = |entry| {
        if present {
            entry | pte::P
        } else {
            entry & !pte::P
        }
    };
    vm.process.change_entry(va, bit);
    // Nothing cached may hide it.
    let body = byway_protocols::control::InvalidateRequest::default().to_bytes();
    vm.ask::<8>(RequestKind::Invalidate, &body).unwrap();
}

/// The next page request; other events are passed over.
fn request(vm: &mut Vm) -> Event {
    loop {
        let event = vm.driver.wait_event();
        if event.kind == EventKind::PageRequest as u16 {
            return event;
        }
    }
}

fn respond(vm: &mut Vm, request: u64, outcome: u32) -> Result<(), ControlStatus> {
    let q = PageResponseRequest {
        request,
        outcome,
        reserved12: 0,
    };
    vm.ask::<0>(RequestKind::PageResponse, &q.to_bytes())
        .map(|_| ())
}

fn parked(engine: &Engine) -> u32 {
    engine.stats().domains.iter().map(|d| d.parked).sum()
}

fn ended(c: &Completion) -> (Status, bool, u32, u64) {
    (
        c.status().unwrap(),
        c.is_write_fault(),
        c.bytes_completed,
        c.fault_addr,
    )
}

/// A copy in alice whose destination misses its third page.
const SIZE: u64 = 5 * PAGE;
const TO: u64 = BUFFER + (1 << 20);
const HOLE: u64 = TO + 2 * PAGE;

fn own_copy() -> Descriptor {
    blocking(copy((0, BUFFER), (0, TO), SIZE))
}

#[test]
fn a_missing_page_is_asked_for_and_the_copy_goes_on() {
    let (engine, mut alice, _bob) = pair(NEVER_MS, 8);
    alice.fill(0, SIZE, 0x77);
    set_present(&mut alice, HOLE, false);
    alice.submit(&own_copy());
    let event = request(&mut alice);
    assert_eq!(
        (event.id, event.address, event.rights),
        (u64::from(PASID), HOLE, Rights::WRITE.0)
    );
    assert_eq!((event.object, event.context, event.label), (0, 0, 0));
    until("it is parked", || parked(&engine) == 1);
    assert!(alice.queue.poll().is_none());
    set_present(&mut alice, HOLE, true);
    respond(&mut alice, event.request, page_outcome::RESOLVED).unwrap();
    let c = alice.queue.wait();
    assert_eq!(ended(&c), (Status::Success, false, SIZE as u32, 0));
    assert_eq!(alice.read(TO - BUFFER, SIZE), vec![0x77; SIZE as usize]);
    assert_eq!(parked(&engine), 0);
    assert_eq!(engine.stats().domains[0].parked_max, 1);
}

#[test]
fn each_answer_ends_it_as_specified() {
    let (_engine, mut alice, mut bob) = pair(NEVER_MS, 8);
    let (_, slot) = bob.give_buffer(&mut alice, Rights(3));
    set_present(&mut alice, HOLE, false);
    set_present(&mut bob, HOLE, false);
    let remote = copy((0, BUFFER), (slot, TO - BUFFER), SIZE);
    for (outcome, status) in [
        (page_outcome::REFUSED, Status::PageRefused),
        (page_outcome::RETRY_LATER, Status::Stage1NotPresent),
        (page_outcome::RESOLVED, Status::Stage1NotPresent),
    ] {
        // One that says resolved and does nothing is asked again, but not for ever.
        let times = if outcome == page_outcome::RESOLVED {
            8
        } else {
            1
        };
        alice.submit(&own_copy());
        for _ in 0..times {
            let event = request(&mut alice);
            respond(&mut alice, event.request, outcome).unwrap();
        }
        let c = alice.queue.wait();
        assert_eq!(ended(&c), (status, true, 2 * PAGE as u32, HOLE));

        alice.submit(&remote);
        for _ in 0..times {
            let event = request(&mut bob);
            // Her own address, and nothing about who asks.
            assert_eq!((event.id, event.address), (u64::from(PASID), HOLE));
            assert_eq!((event.object, event.context, event.length), (0, 0, 0));
            respond(&mut bob, event.request, outcome).unwrap();
        }
        let c = alice.queue.wait();
        let offset = HOLE - BUFFER;
        let expected = (Status::RemoteFault, true, 2 * PAGE as u32, offset);
        assert_eq!(ended(&c), expected);
    }
}

#[test]
fn nobody_waits_for_ever() {
    let (engine, mut alice, mut bob) = pair(50, 8);
    let (_, slot) = bob.give_buffer(&mut alice, Rights(3));
    set_present(&mut alice, HOLE, false);
    set_present(&mut bob, HOLE, false);
    let c = alice.run(&own_copy());
    let expected = (Status::PageResponseTimeout, true, 2 * PAGE as u32, HOLE);
    assert_eq!(ended(&c), expected);
    let late = request(&mut alice).request;
    let refused = respond(&mut alice, late, page_outcome::RESOLVED);
    assert_eq!(refused, Err(ControlStatus::NoSuchObject));

    let c = alice.run(&copy((0, BUFFER), (slot, TO - BUFFER), SIZE));
    let offset = HOLE - BUFFER;
    let expected = (Status::RemoteFault, true, 2 * PAGE as u32, offset);
    assert_eq!(ended(&c), expected);
    until("nothing waits", || parked(&engine) == 0);
}

#[test]
fn stale_and_foreign_numbers_are_refused() {
    let (_engine, mut alice, mut bob) = pair(NEVER_MS, 8);
    set_present(&mut alice, HOLE, false);
    alice.submit(&own_copy());
    let event = request(&mut alice);
    let no_such = Err(ControlStatus::NoSuchObject);
    assert_eq!(respond(&mut bob, event.request, 1), no_such);
    assert_eq!(respond(&mut alice, event.request + 1, 1), no_such);
    assert_eq!(respond(&mut alice, u64::MAX, 1), no_such);
    let bad = Err(ControlStatus::BadArgument);
    assert_eq!(respond(&mut alice, event.request, 0), bad);
    assert_eq!(respond(&mut alice, event.request, 4), bad);
    // It waits still.
    respond(&mut alice, event.request, page_outcome::REFUSED).unwrap();
    assert_eq!(alice.queue.wait().status(), Some(Status::PageRefused));
    assert_eq!(respond(&mut alice, event.request, 2), no_such);
}

#[test]
fn without_the_feature_nobody_is_asked() {
    let (_engine, mut alice, mut bob) = pair(NEVER_MS, 8);
    for vm in [&mut alice, &mut bob] {
        negotiate(vm, !features::PAGE_REQUESTS);
        assert_eq!(
            respond(vm, 1, page_outcome::RESOLVED),
            Err(ControlStatus::Unsupported)
        );
    }
    let (_, slot) = bob.give_buffer(&mut alice, Rights(3));
    set_present(&mut alice, HOLE, false);
    set_present(&mut bob, HOLE, false);
    assert_eq!(alice.run_for(&own_copy()), Status::Stage1NotPresent);
    let remote = copy((0, BUFFER), (slot, TO - BUFFER), SIZE);
    assert_eq!(alice.run_for(&remote), Status::RemoteFault);
}

/// Further queues of alice, each with a copy that waits.
fn wait_on_queues(alice: &mut Vm, count: usize, d: &Descriptor) -> Vec<Queue> {
    let mut waiting = Vec::new();
    for _ in 0..count {
        alice.create_queue();
        alice.submit(d);
        let fresh = std::mem::replace(&mut alice.queue, Queue::new(&alice.guest));
        waiting.push(fresh);
    }
    alice.create_queue();
    waiting
}

#[test]
fn the_quota_bounds_what_waits_and_other_queues_go_on() {
    let (engine, mut alice, mut bob) = pair(NEVER_MS, 3);
    let (_, slot) = bob.give_buffer(&mut alice, Rights(3));
    set_present(&mut alice, HOLE, false);
    set_present(&mut bob, HOLE, false);
    let mut waiting = wait_on_queues(&mut alice, 3, &own_copy());
    until("three wait", || parked(&engine) == 3);
    // Beyond the quota as without the flag, and in a peer's memory at once.
    assert_eq!(alice.run_for(&own_copy()), Status::Stage1NotPresent);
    let remote = copy((0, BUFFER), (slot, TO - BUFFER), SIZE);
    assert_eq!(alice.run_for(&remote), Status::RemoteFault);
    assert!(bob.driver.event().is_none(), "bob was asked nothing");
    // Nobody else waits: neither this queue nor bob.
    let whole = copy((0, BUFFER), (0, BUFFER + (4 << 20)), 1 << 20);
    for vm in [&mut alice, &mut bob] {
        assert_eq!(vm.run_for(&whole), Status::Success);
    }
    let requests: Vec<_> = (0..3).map(|_| request(&mut alice).request).collect();
    set_present(&mut alice, HOLE, true);
    for request in requests {
        respond(&mut alice, request, page_outcome::RESOLVED).unwrap();
    }
    for queue in &mut waiting {
        assert_eq!(queue.wait().status(), Some(Status::Success));
    }
    assert_eq!(engine.stats().domains[0].parked_max, 3);
}

#[test]
fn more_requests_than_event_buffers_are_all_told() {
    let (engine, mut alice, _bob) = pair(NEVER_MS, 64);
    set_present(&mut alice, HOLE, false);
    let mut waiting = wait_on_queues(&mut alice, 40, &own_copy());
    until("all wait", || parked(&engine) == 40);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let event = request(&mut alice);
        assert!(seen.insert(event.request));
        respond(&mut alice, event.request, page_outcome::REFUSED).unwrap();
    }
    for queue in &mut waiting {
        assert_eq!(queue.wait().status(), Some(Status::PageRefused));
    }
}

#[test]
fn whatever_ends_a_queue_ends_what_waits_in_it() {
    let aborted = (Status::Aborted, false, 2 * PAGE as u32, 0);
    type End = fn(&mut Vm);
    let ends: [(&str, End); 4] = [
        ("queue", |vm| {
            vm.queue_request(RequestKind::QueueDestroy).unwrap();
        }),
        ("context", |vm| {
            let context = vm.context;
            vm.destroy_context(context).unwrap();
        }),
        ("reset", |vm| vm.device.reset()),
        ("pause and reset", |vm| {
            vm.device.pause();
            vm.device.reset();
        }),
    ];
    for (what, end) in ends {
        let (engine, mut alice, _bob) = pair(NEVER_MS, 8);
        set_present(&mut alice, HOLE, false);
        alice.submit(&own_copy());
        let event = request(&mut alice);
        end(&mut alice);
        let c = alice.queue.poll().expect(what);
        assert_eq!(ended(&c), aborted, "{what}");
        assert_eq!(parked(&engine), 0, "{what}");
        if what == "queue" {
            let refused = respond(&mut alice, event.request, page_outcome::RESOLVED);
            assert_eq!(refused, Err(ControlStatus::NoSuchObject));
        }
    }
    // A VMM that goes takes its waiting descriptors along, and its requests at others.
    let (engine, mut alice, mut bob) = pair(NEVER_MS, 8);
    let (_, slot) = bob.give_buffer(&mut alice, Rights(3));
    set_present(&mut bob, HOLE, false);
    alice.submit(&copy((0, BUFFER), (slot, TO - BUFFER), SIZE));
    let event = request(&mut bob);
    drop(alice);
    until("nobody waits", || parked(&engine) == 0);
    let refused = respond(&mut bob, event.request, page_outcome::RESOLVED);
    assert_eq!(refused, Err(ControlStatus::NoSuchObject));
}

#[test]
fn revocation_does_not_wait_for_what_waits() {
    for outcome in [
        Some(page_outcome::RESOLVED),
        Some(page_outcome::REFUSED),
        None,
    ] {
        let (_engine, mut alice, mut bob) = pair(NEVER_MS, 8);
        let (own, slot) = bob.give_buffer(&mut alice, Rights(3));
        bob.fill(0, BUFFER_BYTES, 0x11);
        alice.fill(0, SIZE, 0x22);
        set_present(&mut bob, HOLE, false);
        alice.submit(&copy((0, BUFFER), (slot, TO - BUFFER), SIZE));
        let event = request(&mut bob);
        // It returns: nothing that waits is in a chunk.
        match outcome {
            Some(outcome) => {
                bob.revoke(own).unwrap();
                set_present(&mut bob, HOLE, true);
                respond(&mut bob, event.request, outcome).unwrap();
            }
            // Her kernel never answers, but goes.
            None => bob.device.reset(),
        }
        let c = alice.queue.wait();
        assert_eq!(ended(&c), (Status::Revoked, false, 2 * PAGE as u32, 0));
        assert_eq!(bob.read(HOLE - BUFFER, PAGE), vec![0x11; PAGE as usize]);
    }
}

/// What waits for a page has no turns; it is found all the same, as often as somebody asks.
#[test]
fn what_waits_for_a_page_is_cancelled() {
    let (engine, mut alice, _bob) = pair(NEVER_MS, 8);
    let id = alice.queue.id;
    let mut another = alice.another_queue(alice.context, 16);
    let nop = Descriptor::new(byway_protocols::Opcode::Nop, Flags::NONE);
    set_present(&mut alice, HOLE, false);
    alice.submit(&own_copy());
    alice.submit(&nop);
    let event = request(&mut alice);
    until("it is parked", || parked(&engine) == 1);
    for _ in 0..50 {
        let c = alice.run_on(&mut another, &range(id, 2, 5));
        assert_eq!(
            ended(&c),
            (Status::Success, false, 0, 0),
            "none that it reaches"
        );
    }
    assert!(alice.queue.poll().is_none());
    let c = alice.run_on(&mut another, &range(id, 0, 1));
    assert_eq!(ended(&c), (Status::Success, false, 1, 0));
    let c = alice.queue.wait();
    assert_eq!(ended(&c), (Status::Aborted, false, 2 * PAGE as u32, 0));
    assert_eq!(
        ended(&alice.queue.wait()).0,
        Status::Success,
        "what was behind it"
    );
    // Its answer is nobody's, and gives the place back that it took.
    set_present(&mut alice, HOLE, true);
    respond(&mut alice, event.request, page_outcome::RESOLVED).unwrap();
    assert_eq!(parked(&engine), 0);
    assert_eq!(ended(&alice.run(&own_copy())).0, Status::Success);
    // Once more, with what is behind it, and the queue ends while two requests of it are open.
    set_present(&mut alice, HOLE, false);
    alice.submit(&own_copy());
    let first = request(&mut alice).request;
    alice.submit(&nop);
    let mut c = Completion::default();
    until("it waits, and is cancelled", || {
        c = alice.run_on(&mut another, &everything(id));
        c.bytes_completed != 0
    });
    assert_eq!(ended(&c), (Status::Success, false, 2, 0));
    assert_eq!(ended(&alice.queue.wait()).2, 2 * PAGE as u32);
    assert_eq!(ended(&alice.queue.wait()), (Status::Aborted, false, 0, 0));
    alice.submit(&own_copy());
    let second = request(&mut alice).request;
    until("both are parked", || parked(&engine) == 2);
    respond(&mut alice, first, page_outcome::RESOLVED).unwrap();
    until("one is parked", || parked(&engine) == 1);
    alice.queue_request(RequestKind::QueueDestroy).unwrap();
    assert_eq!(parked(&engine), 0, "what the queue waits for goes with it");
    assert!(respond(&mut alice, second, page_outcome::RESOLVED).is_err());
}
