//! Everybody at once: guests that give, use, revoke and reset, and an operator who links
//! and unlinks. Nothing hangs, nothing is left behind.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use byway_protocols::control::RequestKind;
use byway_protocols::event::EventKind;
use byway_protocols::{Rights, Status};

use super::world::{BUFFER, Vm, copy, link, pair};
use crate::device::tests::driver::PATIENCE;
use crate::interface::{Action, Admin};

/// Resets of one guest at most: each takes some of its RAM for new virtqueues.
const RESETS: u32 = 50;

/// A guest's busy life. Every refusal is fine, as long as it is an answer.
fn live(vm: &mut Vm, peer: u32, used: &AtomicU32, stop: &AtomicBool, mut resets: u32) {
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
            assert!(
                matches!(status, Status::Success | Status::Revoked),
                "{status}"
            );
            used.fetch_add(u32::from(status == Status::Success), Ordering::Relaxed);
            let dropped = vm.slot_request(RequestKind::CapDrop, u32::from(remote));
            assert_eq!(dropped, Ok(()));
        }
        if !round.is_multiple_of(3) {
            vm.revoke(slot).unwrap();
        }
        vm.slot_request(RequestKind::CapDrop, slot).unwrap();
        if resets > 0 && round.is_multiple_of(16) {
            resets -= 1;
            vm.device.reset();
            vm.driver.start(&mut *vm.device);
            vm.open();
        }
    }
}

#[test]
fn nobody_waits_for_anybody_for_ever() {
    let (engine, mut alice, mut bob) = pair();
    let (alice_id, bob_id) = (alice.id, bob.id);
    let stop = AtomicBool::new(false);
    let used = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let (stop, used) = (&stop, &used);
        let a = scope.spawn(move || live(&mut alice, bob_id, used, stop, 0));
        let b = scope.spawn(move || live(&mut bob, alice_id, used, stop, RESETS));
        let start = Instant::now();
        let is_enough = || {
            let used = used.load(Ordering::Relaxed) > 10 && engine.stats().revokes.count > 10;
            used && start.elapsed() > Duration::from_millis(1500)
        };
        while !is_enough() && !a.is_finished() && !b.is_finished() {
            if start.elapsed() > PATIENCE {
                stop.store(true, Ordering::Relaxed);
                panic!("nobody gets anywhere");
            }
            std::thread::sleep(Duration::from_millis(20));
            let (from, to) = ("alice".to_owned(), "bob".to_owned());
            engine.act(Action::Unlink { from, to }).unwrap();
            link(&engine, "alice", "bob");
        }
        stop.store(true, Ordering::Relaxed);
        a.join().unwrap();
        b.join().unwrap();
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
}
