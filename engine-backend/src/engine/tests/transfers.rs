//! From QUERY to the bytes, and the refusals on the way.

use byway_protocols::control::RequestKind;
use byway_protocols::event::EventKind;
use byway_protocols::{ControlStatus, Descriptor, Flags, Opcode, Rights, Status};

use super::world::{BUFFER, BUFFER_BYTES, Vm, copy, create, engine, pair, until, until_parked};

const READ: Rights = Rights::READ;
const BOTH: Rights = Rights(3);

#[test]
fn two_vms_put_and_get_until_revoked() {
    let (engine, mut alice, mut bob) = pair();
    let slot = bob.derive(BUFFER, BUFFER_BYTES, Rights::ALL);
    let offer = bob.offer(slot, alice.id, BOTH).unwrap();
    let event = alice.driver.wait_event();
    assert_eq!(event.kind, EventKind::CapabilityOffered as u16);
    assert_eq!((event.object, event.id), (bob.id, offer));
    let remote = alice.accept(event.id).unwrap();

    for (round, size) in [64, 4096, 100_000, 3 << 20].into_iter().enumerate() {
        let value = round as u8 + 1;
        let at = 12_345 * round as u64;
        alice.fill(0, size, value);
        let put = copy((0, BUFFER), (remote, at), size);
        assert_eq!(alice.run_for(&put), Status::Success);
        assert_eq!(bob.read(at, size), vec![value; size as usize]);
        let get = copy((remote, at), (0, BUFFER + (8 << 20)), size);
        assert_eq!(alice.run_for(&get), Status::Success);
        assert_eq!(alice.read(8 << 20, size), vec![value; size as usize]);
    }

    // One byte past the end, a wrap, no capability, too far a slot.
    let before = bob.read(0, BUFFER_BYTES);
    alice.fill(0, 4096, 0xee);
    let mine = (0, BUFFER);
    for (to, size, status) in [
        ((remote, BUFFER_BYTES - 63), 64, Status::Bounds),
        ((remote, u64::MAX - 31), 64, Status::Bounds),
        ((remote + 1, 0), 64, Status::NoCapability),
        ((0x7fff, 0), 64, Status::NoCapability),
    ] {
        assert_eq!(alice.run_for(&copy(mine, to, size)), status);
    }

    bob.revoke(slot).unwrap();
    let refused = alice.run(&copy(mine, (remote, 0), 4096));
    assert_eq!(refused.status(), Some(Status::Revoked));
    assert_eq!(refused.bytes_completed, 0);
    assert_eq!(bob.read(0, BUFFER_BYTES), before, "nothing has moved");
    let event = alice.driver.wait_event();
    assert_eq!(event.kind, EventKind::CapabilityRevoked as u16);
    assert_eq!(
        (event.context, event.id),
        (alice.context, u64::from(remote))
    );
    alice
        .slot_request(RequestKind::CapDrop, u32::from(remote))
        .unwrap();
    assert_eq!(
        alice.run_for(&copy(mine, (remote, 0), 64)),
        Status::NoCapability
    );

    let stats = engine.stats();
    assert_eq!(stats.revokes.count, 1);
    assert!(stats.revokes.last_ns > 0);
    let row = &stats.domains[0];
    assert_eq!(
        (row.name.as_str(), row.contexts, row.queues),
        ("alice", 1, 1)
    );
    until("counters are published", || {
        let row = &engine.stats().domains[0];
        row.descriptors == 14 && row.failures == 6
    });
}

#[test]
fn rights_hold_in_both_directions() {
    let (_engine, mut alice, mut bob) = pair();
    let (_, readable) = bob.give_buffer(&mut alice, READ);
    let (_, writable) = bob.give_buffer(&mut alice, Rights::WRITE);
    bob.fill(0, 64, 7);
    let mine = (0, BUFFER);
    assert_eq!(
        alice.run_for(&copy((readable, 0), mine, 64)),
        Status::Success
    );
    assert_eq!(
        alice.run_for(&copy(mine, (readable, 0), 64)),
        Status::MissingRight
    );
    assert_eq!(
        alice.run_for(&copy((writable, 0), mine, 64)),
        Status::MissingRight
    );
    assert_eq!(
        alice.run_for(&copy(mine, (writable, 64), 64)),
        Status::Success
    );
    assert_eq!(bob.read(0, 128), [7; 128]);
}

#[test]
fn a_peers_fault_tells_neither_address_nor_cause() {
    let (_engine, mut alice, mut bob) = pair();
    let slot = bob.derive(BUFFER, BUFFER_BYTES + 4096, Rights::ALL);
    let offer = bob.offer(slot, alice.id, BOTH).unwrap();
    let remote = alice.accept(offer).unwrap();
    // Behind bob's buffer nothing is mapped.
    let c = alice.run(&copy((0, BUFFER), (remote, BUFFER_BYTES - 4096), 8192));
    assert_eq!(c.status(), Some(Status::RemoteFault));
    assert_eq!(c.fault_addr, BUFFER_BYTES);
    assert_eq!(c.bytes_completed, 4096);
    let c = alice.run(&copy((0, BUFFER + BUFFER_BYTES), (remote, 0), 64));
    assert_eq!(c.status(), Some(Status::Stage1NotPresent));
    assert_eq!(c.fault_addr, BUFFER + BUFFER_BYTES);
}

#[test]
fn without_a_link_there_is_nobody() {
    let engine = engine();
    create(&engine, "alice");
    create(&engine, "bob");
    let mut alice = Vm::boot(&engine, "alice");
    let bob = Vm::boot(&engine, "bob");
    let slot = alice.derive(BUFFER, 64, Rights::ALL);
    assert_eq!(alice.offer(slot, bob.id, READ), Err(ControlStatus::NoLink));
}

#[test]
fn a_parked_queue_is_woken_by_a_kick() {
    let (_engine, mut alice, mut bob) = pair();
    for _ in 0..3 {
        until_parked([&alice.queue], &mut bob);
        // Not a byte moves before the kick...
        alice
            .queue
            .publish(&Descriptor::new(Opcode::Nop, Flags::NONE));
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert!(alice.queue.poll().is_none());
        // ... which is a bare notification.
        alice.driver.control.kick();
        assert_eq!(alice.queue.wait().status(), Some(Status::Success));
    }
}

#[test]
fn completions_interrupt_once_until_armed() {
    let (_engine, mut alice, _bob) = pair();
    let nop = Descriptor::new(Opcode::Nop, Flags::REQUEST_INTERRUPT);
    alice.run(&nop);
    let event = alice.driver.wait_event();
    assert_eq!(event.kind, EventKind::Completion as u16);
    assert_eq!(event.object, alice.queue.id);
    alice.run(&nop);
    std::thread::sleep(std::time::Duration::from_millis(5));
    assert_eq!(alice.driver.event(), None);
    alice.queue_request(RequestKind::QueueArm).unwrap();
    alice.run(&nop);
    assert_eq!(alice.driver.wait_event().object, alice.queue.id);
}

#[test]
fn a_revocation_in_mid_copy_stops_it() {
    let (_engine, mut alice, mut bob) = pair();
    for round in 0..10 {
        let (slot, remote) = bob.give_long(&mut alice);
        alice.begin_copies(&bob, remote);
        std::thread::sleep(std::time::Duration::from_micros(100 * round));
        bob.revoke(slot).unwrap();
        let after = bob.page();
        bob.assert_untouched();
        let [first, second] = alice.end_copies();
        assert_eq!(first.status(), Some(Status::Revoked));
        assert_eq!(second.status(), Some(Status::Revoked));
        assert_eq!(second.bytes_completed, 0);
        // What the completion says was done, was done.
        let done = (first.bytes_completed as usize).min(after.len());
        assert!(after[..done].iter().all(|&b| b == 1));
        assert!(alice.queue.is_idle());
        let drop = alice.slot_request(RequestKind::CapDrop, u32::from(remote));
        drop.unwrap();
        bob.slot_request(RequestKind::CapDrop, slot).unwrap();
    }
}
