//! RAM that changes under transfers: read-only, taken away, given back; and the log of what
//! the engine has written.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;

use byway_protocols::event::EventKind;
use byway_protocols::{Descriptor, Flags, Opcode, Rights, Status, Word0};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::world::{
    BUFFER, BUFFER_BYTES, LONG, PAGE_BYTES, Queue, Vm, copy, create, pair, until_parked,
};
use crate::interface::DomainError;

const PAGE: u64 = 4096;

/// Changes the memory behind bob's long range in the middle of alice's copies to it, by
/// `change`; returns how they ended, after it is sure that nothing is written any more.
fn under_copies(
    change: impl FnOnce(&mut Vm, u64) -> Result<(), DomainError>,
) -> (Vm, Vm, [Status; 2]) {
    let (_engine, mut alice, mut bob) = pair();
    let (_, remote) = bob.give_long(&mut alice);
    alice.begin_copies(&bob, remote);
    let page = bob.page_gpa();
    change(&mut bob, page).unwrap();
    bob.assert_untouched();
    let ended = alice.end_copies();
    (alice, bob, ended.map(|c| c.status().unwrap()))
}

#[test]
fn what_becomes_read_only_is_not_written_again() {
    let (mut alice, mut bob, ended) =
        under_copies(|vm, page| vm.device.protect_region(page, PAGE_BYTES, false));
    assert_eq!(ended, [Status::RemoteFault; 2]);
    // Bob himself is told why; reading goes on.
    let page = bob.page_gpa();
    let put = copy((0, BUFFER), (0, LONG), 64);
    let got = bob.run(&put);
    assert_eq!(got.status(), Some(Status::Stage2Permission));
    assert_eq!(got.fault_addr, LONG);
    let get = copy((0, LONG), (0, BUFFER), 64);
    assert_eq!(bob.run_for(&get), Status::Success);
    bob.device.protect_region(page, PAGE_BYTES, true).unwrap();
    assert_eq!(bob.run_for(&put), Status::Success);
    // Alice was not in the way.
    let own = copy((0, BUFFER), (0, BUFFER + PAGE), PAGE);
    assert_eq!(alice.run_for(&own), Status::Success);
}

#[test]
fn what_is_taken_away_is_not_touched_again_and_can_come_back() {
    let (_, mut bob, ended) = under_copies(|vm, page| vm.device.discard(page, PAGE_BYTES));
    assert_eq!(ended, [Status::RemoteFault; 2]);
    let page = bob.page_gpa();
    let get = copy((0, LONG + PAGE - 1), (0, BUFFER), 64);
    let got = bob.run(&get);
    assert_eq!(got.status(), Some(Status::Stage2Pending));
    assert!(Status::Stage2Pending.is_resumable());
    assert_eq!((got.fault_addr, got.bytes_completed), (LONG + PAGE - 1, 0));
    // One page of 4 KiB comes back: one byte of the transfer is there.
    bob.device.restore(page, PAGE).unwrap();
    let got = bob.run(&get);
    assert_eq!(got.status(), Some(Status::Stage2Pending));
    assert_eq!((got.fault_addr, got.bytes_completed), (LONG + PAGE, 1));
    bob.device.restore(page, PAGE_BYTES).unwrap();
    bob.fill_page(7);
    assert_eq!(bob.run_for(&get), Status::Success);
    assert_eq!(bob.read(0, 64), [7; 64]);
}

#[test]
fn one_small_page_of_a_large_one_goes() {
    let (_engine, mut alice, _bob) = pair();
    alice.fill_page(3);
    let page = alice.page_gpa();
    alice.device.discard(page + 5 * PAGE, PAGE).unwrap();
    let got = alice.run(&copy((0, LONG), (0, BUFFER), PAGE_BYTES));
    assert_eq!(got.status(), Some(Status::Stage2Pending));
    assert_eq!(u64::from(got.bytes_completed), 5 * PAGE);
    assert_eq!(got.fault_addr, LONG + 5 * PAGE);
    let rest = 6 * PAGE;
    let behind = copy((0, LONG + rest), (0, BUFFER + rest), PAGE_BYTES - rest);
    assert_eq!(alice.run_for(&behind), Status::Success);
}

#[test]
fn ranges_that_are_no_part_of_a_region_are_refused() {
    let (_engine, mut alice, _bob) = pair();
    let (start, size) = alice.guest.ram();
    for (gpa, len) in [
        (start + 1, PAGE),
        (start, PAGE - 1),
        (start, 0),
        (start - PAGE, 2 * PAGE),
        (start + size - PAGE, 2 * PAGE),
        (start + size, PAGE),
        (!0xfff, PAGE),
        (start, u64::MAX - PAGE + 1),
    ] {
        assert!(alice.device.discard(gpa, len).is_err(), "{gpa:#x}+{len:#x}");
        assert!(alice.device.restore(gpa, len).is_err(), "{gpa:#x}+{len:#x}");
        for writable in [false, true] {
            let refused = alice.device.protect_region(gpa, len, writable);
            assert!(refused.is_err(), "{gpa:#x}+{len:#x}");
        }
        assert!(alice.device.harvest_dirty(gpa, len).is_err());
    }
    let own = copy((0, BUFFER), (0, BUFFER + PAGE), PAGE);
    assert_eq!(alice.run_for(&own), Status::Success);
}

#[test]
fn queues_whose_rings_go_end_and_the_domain_can_start_anew() {
    for read_only in [false, true] {
        let (_engine, mut alice, mut bob) = pair();
        let header = alice.queue.header & !(PAGE - 1);
        if read_only {
            alice.device.protect_region(header, PAGE, false).unwrap();
        } else {
            alice.device.discard(header, PAGE).unwrap();
        }
        while alice.driver.wait_event().kind != EventKind::QueueDead as u16 {}
        assert_eq!(alice.queue.state(), 2);
        // Not even by asking for it.
        alice.device.restore(header, PAGE).unwrap();
        alice.device.protect_region(header, PAGE, true).unwrap();
        alice.create_queue();
        let own = copy((0, BUFFER), (0, BUFFER + PAGE), PAGE);
        assert_eq!(alice.run_for(&own), Status::Success);
        assert_eq!(bob.run_for(&own), Status::Success);
    }
}

/// Guest-physical pages that the log has, and clears.
fn harvest(vm: &mut Vm) -> BTreeSet<u64> {
    let (start, size) = vm.guest.ram();
    vm.device
        .harvest_dirty(start, size)
        .unwrap()
        .pages()
        .collect()
}

/// All of RAM.
fn snapshot(vm: &Vm) -> Vec<u8> {
    let mut bytes = vec![0; vm.guest.ram().1 as usize];
    vm.guest.file().read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Guest-physical pages that differ.
fn changed(vm: &Vm, before: &[u8]) -> BTreeSet<u64> {
    let (start, _) = vm.guest.ram();
    let now = snapshot(vm);
    let pages = before.chunks(PAGE as usize).zip(now.chunks(PAGE as usize));
    pages
        .enumerate()
        .filter(|(_, (a, b))| a != b)
        .map(|(n, _)| start + n as u64 * PAGE)
        .collect()
}

/// What alice writes to bob, with the pages of bob's buffer that it covers.
#[derive(Debug, Clone)]
enum Write {
    /// Offset in the buffer, bytes, descending when it overlaps upwards.
    Put(u64, u64),
    Fill(u64, u64),
    /// A copy inside bob's buffer, by alice.
    Within(u64, u64, u64),
}

fn write() -> impl Strategy<Value = Write> {
    let (at, len) = (0..BUFFER_BYTES / 2, 1..200_000u64);
    prop_oneof![
        3 => (at.clone(), 1..5000u64).prop_map(|(at, len)| Write::Put(at, len)),
        2 => (at.clone(), len.clone()).prop_map(|(at, len)| Write::Put(at, len)),
        2 => (at.clone(), len.clone()).prop_map(|(at, len)| Write::Fill(at, len)),
        2 => (at, len, 0..100_000u64).prop_map(|(at, len, by)| Write::Within(at, len, by)),
    ]
}

#[test]
fn the_log_has_just_the_pages_that_were_written() {
    let (_engine, mut alice, mut bob) = pair();
    let (_, remote) = bob.give_buffer(&mut alice, Rights(3));
    // No page table of bob's changes from here on: what is marked is data alone.
    for _ in 0..2 {
        let touch = copy((0, BUFFER), (remote, 0), BUFFER_BYTES);
        assert_eq!(alice.run_for(&touch), Status::Success);
    }
    until_parked([&bob.queue], &mut alice);
    bob.device.set_dirty_log(true);
    let buffer = bob.buffer;
    let mut runner = TestRunner::new(Config::with_cases(24));
    let worlds = std::cell::RefCell::new((alice, bob));
    let salt = std::cell::Cell::new(0_u64);
    runner
        .run(&proptest::collection::vec(write(), 1..6), |writes| {
            let (alice, bob) = &mut *worlds.borrow_mut();
            harvest(bob);
            let before = snapshot(bob);
            let mut expected = BTreeSet::new();
            for write in writes {
                salt.set(salt.get() + 1);
                let (d, at, len) = match write {
                    Write::Put(at, len) => (copy((0, BUFFER), (remote, at), len), at, len),
                    Write::Within(at, len, by) => {
                        let to = at + by;
                        (copy((remote, at), (remote, to), len), to, len)
                    }
                    Write::Fill(at, len) => (
                        Descriptor {
                            word0: Word0::new(0, remote, false).0,
                            src: salt.get().wrapping_mul(0x9e37_79b9_7f4a_7c15),
                            dst: at,
                            size: len as u32,
                            ..Descriptor::new(Opcode::Fill, Flags::NONE)
                        },
                        at,
                        len,
                    ),
                };
                alice.fill(0, 4096, salt.get() as u8);
                prop_assert_eq!(alice.run_for(&d), Status::Success);
                let pages = (at / PAGE..=(at + len - 1) / PAGE).map(|p| buffer + p * PAGE);
                expected.extend(pages);
            }
            let logged = harvest(bob);
            prop_assert_eq!(&logged, &expected);
            prop_assert!(changed(bob, &before).is_subset(&logged));
            prop_assert!(harvest(bob).is_empty(), "a harvest clears");
            Ok(())
        })
        .unwrap();
}

/// Rings, headers, virtqueues and page-table bits, too: after everything that a domain can
/// have written, no changed page is unmarked.
#[test]
fn no_page_that_the_engine_wrote_is_unmarked() {
    let (engine, mut alice, mut bob) = pair();
    create(&engine, "carol");
    let mut carol = Vm::boot(&engine, "carol");
    let (_, remote) = bob.give_buffer(&mut alice, Rights(3));
    for vm in [&mut alice, &mut bob] {
        vm.device.set_dirty_log(true);
    }
    let before = [snapshot(&alice), snapshot(&bob)];
    // Page tables of both get A and D bits, alice's ring completions.
    let put = copy((0, BUFFER + 3 * PAGE), (remote, 5 * PAGE), 3 * PAGE);
    assert_eq!(alice.run_for(&put), Status::Success);
    // Virtqueue replies and events.
    bob.revoke(1).unwrap();
    while alice.driver.wait_event().kind != EventKind::CapabilityRevoked as u16 {}
    assert_eq!(alice.run_for(&put), Status::Revoked);
    // A queue's header, by the control thread and by the worker that parks it.
    let another = alice.another_queue(alice.context, Queue::ENTRIES);
    until_parked([&alice.queue, &another, &bob.queue], &mut carol);
    // What the guests themselves wrote is in KVM's log, not in this one.
    for (vm, before) in [&mut alice, &mut bob].into_iter().zip(&before) {
        let (control, events) = (&vm.driver.control, &vm.driver.events);
        let by_guest = [control.drivers_pages(), events.drivers_pages()].concat();
        let mut by_engine = changed(vm, before);
        by_engine.retain(|page| !by_guest.contains(page));
        let logged = harvest(vm);
        assert!(by_engine.is_subset(&logged), "{by_engine:x?} {logged:x?}");
        assert!(!by_engine.is_empty() && logged.len() < 64, "{logged:x?}");
    }
}

#[test]
fn a_log_is_the_vmms_and_ends_when_it_says_so() {
    let (_engine, mut alice, _bob) = pair();
    let (start, size) = alice.guest.ram();
    assert!(alice.device.harvest_dirty(start, size).is_err(), "off");
    alice.device.set_dirty_log(true);
    let own = copy((0, BUFFER), (0, BUFFER + PAGE), PAGE);
    assert_eq!(alice.run_for(&own), Status::Success);
    alice.device.reset();
    alice.driver.start(&mut *alice.device);
    alice.open();
    assert!(harvest(&mut alice).contains(&(alice.buffer + PAGE)));
    // On again: from nothing.
    assert_eq!(alice.run_for(&own), Status::Success);
    alice.device.set_dirty_log(true);
    assert!(!harvest(&mut alice).contains(&(alice.buffer + PAGE)));
    alice.device.set_dirty_log(false);
    assert_eq!(alice.run_for(&own), Status::Success);
    assert!(
        alice.device.harvest_dirty(start, size).is_err(),
        "off again"
    );
}

/// A long copy is logged chunk by chunk, so that each harvest has what came since.
#[test]
fn a_copy_under_way_is_marked_again_and_again() {
    let (_engine, mut alice, mut bob) = pair();
    let (_, remote) = bob.give_long(&mut alice);
    alice.begin_some_copies(&bob, remote);
    let page = bob.page_gpa();
    bob.device.set_dirty_log(true);
    for _ in 0..3 {
        super::world::until("pages are marked", || {
            let logged = bob.device.harvest_dirty(page, PAGE_BYTES).unwrap();
            logged.pages().next().is_some()
        });
    }
    assert_eq!(
        alice.end_copies().map(|c| c.status().unwrap()),
        [Status::Success; 2]
    );
}
