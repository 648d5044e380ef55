//! Everybody at once: guests that give, use, revoke and reset, and an operator who links
//! and unlinks. Nothing hangs, nothing is left behind.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use byway_protocols::control::RequestKind;
use byway_protocols::event::EventKind;
use byway_protocols::{Rights, Status};

use super::world::{BUFFER, Vm, copy, link, pair};
use crate::interface::{Action, Admin};

/// A guest's busy life. Every refusal is fine, as long as it is an answer.
fn live(vm: &mut Vm, peer: u32, stop: &AtomicBool, resets: bool) -> u32 {
    let mut used = 0;
    let mut round = 0u32;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let slot = vm.derive(BUFFER, 1 << 20, Rights::ALL);
        let _ = vm.offer(slot, peer, Rights(3));
        while let Some(event) = vm.driver.event() {
            if event.kind != EventKind::CapabilityOffered as u16 {
                continue;
            }
            let Ok(remote) = vm.accept(event.id) else {
                continue;
            };
            let status = vm.run_for(&copy((0, BUFFER), (remote, 0), 1 << 20));
            used += u32::from(status == Status::Success);
            assert!(
                matches!(status, Status::Success | Status::Revoked),
                "{status}"
            );
            let dropped = vm.slot_request(RequestKind::CapDrop, u32::from(remote));
            assert_eq!(dropped, Ok(()));
        }
        if !round.is_multiple_of(3) {
            vm.revoke(slot).unwrap();
        }
        vm.slot_request(RequestKind::CapDrop, slot).unwrap();
        if resets && round.is_multiple_of(16) {
            vm.device.reset();
            vm.driver.start(&mut *vm.device);
            vm.open();
        }
    }
    used
}

#[test]
fn nobody_waits_for_anybody_for_ever() {
    let (engine, mut alice, mut bob) = pair();
    let (alice_id, bob_id) = (alice.id, bob.id);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = &stop;
        let a = scope.spawn(move || (live(&mut alice, bob_id, stop, false), alice));
        let b = scope.spawn(move || (live(&mut bob, alice_id, stop, true), bob));
        let end = Instant::now() + Duration::from_millis(1500);
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
            let (from, to) = ("alice".to_owned(), "bob".to_owned());
            engine.act(Action::Unlink { from, to }).unwrap();
            link(&engine, "alice", "bob");
            assert_eq!(engine.stats().domains.len(), 2);
        }
        stop.store(true, Ordering::Relaxed);
        let (used_by_alice, alice) = a.join().unwrap();
        let (used_by_bob, bob) = b.join().unwrap();
        assert!(
            used_by_alice + used_by_bob > 10,
            "{used_by_alice} {used_by_bob}"
        );
        drop((alice, bob));
    });
    let stats = engine.stats();
    for row in &stats.domains {
        assert_eq!(
            (row.contexts, row.queues, row.capabilities),
            (0, 0, 0),
            "{row:?}"
        );
    }
    assert_eq!(stats.offers, 0);
    assert!(stats.revokes.count > 10);
}
