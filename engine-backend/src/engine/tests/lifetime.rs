//! Resets, detaching, pauses, lost memory: in the middle of transfers.

use std::sync::Arc;

use byway_protocols::control::RequestKind;
use byway_protocols::event::EventKind;
use byway_protocols::{ControlStatus, Descriptor, Flags, Opcode, Rights, Status};

use super::world::{BUFFER, BUFFER_BYTES, Vm, copy, pair, until};
use crate::interface::{Admin, MemoryRegion};

const BOTH: Rights = Rights(3);

/// Statuses of the copies of [`Vm::begin_copies`].
fn ends(vm: &mut Vm) -> [Status; 2] {
    vm.end_copies().map(|c| c.status().unwrap())
}

#[test]
fn a_reset_of_the_submitter_ends_its_copies() {
    let (_engine, mut alice, mut bob) = pair();
    let (slot, remote) = bob.give_long(&mut alice);
    let instance = alice.queue.instance();
    alice.begin_copies(&bob, remote);
    alice.device.reset();
    bob.assert_untouched();
    assert_eq!(alice.queue.state(), 2);
    // Its own address space goes first, so the one under way may end by that.
    for status in ends(&mut alice) {
        assert!(
            matches!(status, Status::Aborted | Status::Revoked),
            "{status}"
        );
    }
    assert_eq!(bob.driver.wait_event().kind, EventKind::DomainGone as u16);

    // Attached again right away; bob offers anew.
    alice.driver.start(&mut *alice.device);
    alice.open();
    assert_ne!(alice.queue.instance(), instance);
    let offer = bob.offer(slot, alice.id, BOTH).unwrap();
    let remote = alice.accept(offer).unwrap();
    let put = copy((0, BUFFER), (remote, 0), 4096);
    assert_eq!(alice.run_for(&put), Status::Success);
}

#[test]
fn a_reset_of_the_owner_ends_its_peers_copies() {
    let (_engine, mut alice, mut bob) = pair();
    let (_, remote) = bob.give_long(&mut alice);
    alice.begin_copies(&bob, remote);
    bob.device.reset();
    bob.assert_untouched();
    assert_eq!(ends(&mut alice), [Status::Revoked; 2]);
    // The peer is told, slot by slot, and then that it is gone.
    let first = alice.driver.wait_event();
    assert_eq!(first.kind, EventKind::CapabilityOffered as u16);
    assert_eq!(
        alice.driver.wait_event().kind,
        EventKind::CapabilityRevoked as u16
    );
    assert_eq!(alice.driver.wait_event().kind, EventKind::DomainGone as u16);
    // Alice goes on.
    let own = copy((0, BUFFER), (0, BUFFER + 4096), 4096);
    assert_eq!(alice.run_for(&own), Status::Success);
}

#[test]
fn a_vm_that_vanishes_harms_nobody_and_can_come_back() {
    let (engine, mut alice, mut bob) = pair();
    let (_, remote) = bob.give_long(&mut alice);
    alice.begin_copies(&bob, remote);
    let (id, guest) = (bob.id, Arc::clone(&bob.guest));
    drop(bob);
    assert_eq!(ends(&mut alice), [Status::Revoked; 2]);
    let own = copy((0, BUFFER), (0, BUFFER + 4096), 4096);
    assert_eq!(alice.run_for(&own), Status::Success);

    let bob = Vm::on(engine.attach("bob").unwrap(), guest);
    assert_eq!(bob.id, id);
    // What alice still holds is from before, and stays dead.
    let stale = copy((0, BUFFER), (remote, 0), 64);
    assert_eq!(alice.run_for(&stale), Status::Revoked);
}

#[test]
fn queues_in_memory_that_goes_end_and_others_do_not() {
    let (_engine, mut alice, mut bob) = pair();
    let (_, remote) = bob.give_long(&mut alice);
    // Another piece of RAM, with a queue in it.
    let spare = crate::testing::Guest::new(9, 2 << 20);
    let region = MemoryRegion {
        guest_addr: 1 << 40,
        size: 2 << 20,
        file: Arc::clone(spare.file()),
        file_offset: 0,
        writable: true,
        populate: false,
    };
    alice.device.add_region(region).unwrap();
    let q = byway_protocols::control::QueueCreateRequest {
        context: alice.context,
        entries: 16,
        ring: 1 << 40,
        completions: (1 << 40) + 4096,
        header: (1 << 40) + 8192,
        ..Default::default()
    };
    let reply = alice.ask(RequestKind::QueueCreate, &q.to_bytes()).unwrap();
    let doomed = byway_protocols::control::QueueCreateReply::from_bytes(&reply).queue;

    alice.begin_some_copies(&bob, remote);
    alice.device.remove_region(1 << 40, 2 << 20).unwrap();
    while alice.driver.wait_event().kind != EventKind::QueueDead as u16 {}
    assert_eq!(ends(&mut alice), [Status::Success; 2]);
    let state = spare.read_u64(spare.ram().0 + 8192 + 8) as u32;
    assert_eq!(state, 2);
    // It is destroyed as any other.
    let live = std::mem::replace(&mut alice.queue.id, doomed);
    assert_eq!(alice.queue_request(RequestKind::QueueArm), Ok(()));
    assert_eq!(alice.queue_request(RequestKind::QueueDestroy), Ok(()));
    assert_eq!(
        alice.queue_request(RequestKind::QueueDestroy),
        Err(ControlStatus::NoSuchObject)
    );
    alice.queue.id = live;
}

#[test]
fn memory_that_goes_is_not_touched_again() {
    let (_engine, mut alice, mut bob) = pair();
    let (_, remote) = bob.give_long(&mut alice);
    alice.begin_copies(&bob, remote);
    let (start, size) = bob.guest.ram();
    bob.device.remove_region(start, size).unwrap();
    bob.assert_untouched();
    assert_eq!(ends(&mut alice), [Status::RemoteFault; 2]);
}

#[test]
fn a_paused_domain_is_quiet() {
    let (_engine, mut alice, mut bob) = pair();
    let (_, remote) = bob.give_long(&mut alice);
    alice.begin_some_copies(&bob, remote);
    alice.device.pause();
    bob.assert_untouched();
    alice.device.resume();
    assert_eq!(ends(&mut alice), [Status::Success; 2]);
    // A whole stop, as GET_VRING_BASE asks for.
    alice.begin_some_copies(&bob, remote);
    let base = alice.device.stop_vring(0).unwrap();
    bob.assert_untouched();
    let vring = crate::interface::Vring {
        base,
        ..alice.driver.control.vring()
    };
    alice.device.start_vring(0, vring).unwrap();
    assert_eq!(ends(&mut alice), [Status::Success; 2]);
}

#[test]
fn a_destroyed_context_gives_its_queues_back() {
    let (_engine, mut alice, mut bob) = pair();
    let (_, remote) = bob.give_long(&mut alice);
    alice.begin_copies(&bob, remote);
    let context = alice.context;
    alice.destroy_context(context).unwrap();
    bob.assert_untouched();
    assert_eq!(alice.queue.state(), 2);
    assert_eq!(ends(&mut alice), [Status::Aborted; 2]);
    let unbind = byway_protocols::control::UnbindRequest {
        pasid: super::world::PASID,
        reserved4: 0,
    };
    let reply = alice.ask::<0>(RequestKind::Unbind, &unbind.to_bytes());
    assert!(reply.is_ok());
}

#[test]
fn a_truncated_guest_is_detached_and_its_peer_goes_on() {
    let (engine, mut alice, mut bob) = pair();
    let (_, remote) = bob.give_buffer(&mut alice, BOTH);
    alice.fill(0, BUFFER_BYTES, 1);
    // Pages that no worker has touched in this mapping, and that go away.
    bob.guest.file().set_len(4096).unwrap();
    let put = copy((0, BUFFER), (remote, BUFFER_BYTES / 2), 1 << 20);
    let c = alice.run(&put);
    assert_ne!(c.status(), Some(Status::Success), "{c:?}");
    let own = copy((0, BUFFER), (0, BUFFER + 4096), 4096);
    assert_eq!(alice.run_for(&own), Status::Success);
    until("bob is detached", || alice.run_for(&put) == Status::Revoked);
    drop(bob.device);
    assert_eq!(
        alice.run_for(&Descriptor::new(Opcode::Nop, Flags::NONE)),
        Status::Success
    );
    // A VMM that comes with whole memory is served.
    let mut bob = Vm::boot(&engine, "bob");
    let own = copy((0, BUFFER), (0, BUFFER + 4096), 4096);
    assert_eq!(bob.run_for(&own), Status::Success);
}
