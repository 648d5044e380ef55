//! What a queue and a device can do to the backend, one thing at a time.

use byway_protocols::{Descriptor, Opcode, Status};

use super::world::{PAGE, PAGES, VA, World, descriptor, noise};
use super::*;
use crate::backend::Backend;

/// Scattered pages: as many pieces.
const SCATTERED: u64 = VA + PAGES / 2 * PAGE;

fn copy(pages: u64) -> Descriptor {
    Descriptor {
        src: SCATTERED,
        dst: VA,
        size: (pages * PAGE) as u32,
        ..descriptor(Opcode::Memmove, (0, 0))
    }
}

/// Copies pages and checks that they arrived.
fn check_copy(world: &mut World<Dsa<Model>>, pages: u64) {
    world.reset(&noise(3), &[]);
    let completion = world.complete(&copy(pages));
    assert_eq!(completion.status(), Some(Status::Success));
    let [from, to] = [SCATTERED, VA].map(|va| world.alice.read(va, pages * PAGE));
    assert!(from == to, "{:?}", world.backend.stats());
}

fn seen(world: &World<Dsa<Model>>) -> model::Seen {
    world.backend.portal().expect("a device").seen()
}

#[test]
fn the_device_gets_what_is_long_and_software_what_is_short() {
    for entry in ENTRIES {
        let mut world = World::new(calm(entry));
        check_copy(&mut world, 1);
        assert_eq!(seen(&world).executed, 0, "{entry:?}");
        check_copy(&mut world, 16);
        assert_eq!(seen(&world).executed, 16, "{entry:?}");
        assert_eq!(world.backend.stats().done, 16);
        assert_eq!(seen(&world).malformed, 0);
    }
}

#[test]
fn many_pieces_go_as_one_batch_where_the_queue_takes_them() {
    let mut world = World::new(calm(Entry::Enqcmd));
    check_copy(&mut world, 8);
    assert_eq!((seen(&world).taken, seen(&world).batches), (1, 1));
    let mut world = World::new(calm(Entry::Write));
    check_copy(&mut world, 8);
    assert_eq!((seen(&world).taken, seen(&world).batches), (8, 0));
}

#[test]
fn a_dedicated_queue_is_never_overrun() {
    for credits in [1, 2, 5, 16] {
        let without_batches = Features {
            batch_max: 0,
            ..features(Entry::Movdir64b { credits })
        };
        let plan = Plan {
            slow: 200,
            ..Plan::CALM
        };
        let mut world = World::new(dsa(without_batches, plan));
        check_copy(&mut world, 16);
        assert_eq!(seen(&world).overruns, 0, "{credits} credits");
        assert_eq!(seen(&world).executed, 16);
    }
}

#[test]
fn what_a_full_queue_turns_away_is_done_in_software() {
    for entry in [Entry::Enqcmd, Entry::Write] {
        let plan = Plan {
            full: 255,
            ..Plan::CALM
        };
        let mut world = World::new(dsa(features(entry), plan));
        for _ in 0..20 {
            check_copy(&mut world, 8);
        }
        assert!(world.backend.stats().refused > 0, "{entry:?}");
        assert!(world.backend.has_device(), "a full queue is no broken one");
    }
}

#[test]
fn pages_that_are_not_present_are_fetched_by_the_worker() {
    let plan = Plan {
        faults: 255,
        ..Plan::CALM
    };
    let mut world = World::new(dsa(features(Entry::Enqcmd), plan));
    for pages in 2..16 {
        check_copy(&mut world, pages);
    }
    assert!(world.backend.stats().faults > 50);
    assert!(world.backend.has_device());
}

#[test]
fn a_device_that_fails_is_given_up_and_its_work_done_again() {
    let plan = Plan {
        errors: 128,
        ..Plan::CALM
    };
    for entry in ENTRIES {
        let mut world = World::new(dsa(features(entry), plan));
        check_copy(&mut world, 16);
        assert!(!world.backend.has_device());
        check_copy(&mut world, 16);
    }
}

#[test]
fn a_device_that_stops_answering_is_closed_before_its_work_is_done_again() {
    let plan = Plan {
        deaths: 100,
        ..Plan::CALM
    };
    for entry in ENTRIES {
        for seed in 1..8 {
            let mut world = World::new(dsa(features(entry), Plan { seed, ..plan }));
            let mut rounds = 0;
            while world.backend.has_device() {
                check_copy(&mut world, 16);
                rounds += 1;
                assert!(rounds < 200, "{entry:?} {seed}: {:?}", seen(&world));
            }
        }
    }
}

#[test]
fn an_operation_that_the_device_lacks_is_softwares() {
    let lacking = Features {
        operations: Operations::of(&[Opcode::Fill]),
        ..features(Entry::Enqcmd)
    };
    let mut world = World::new(dsa(lacking, Plan::CALM));
    check_copy(&mut world, 16);
    assert_eq!(seen(&world).taken, 0);
    let short = Features {
        transfer_bytes_max: PAGE - 1,
        ..features(Entry::Enqcmd)
    };
    let mut world = World::new(dsa(short, Plan::CALM));
    check_copy(&mut world, 16);
    assert_eq!(seen(&world).taken, 0);
}

#[test]
fn a_later_access_waits_for_what_it_would_meet() {
    use crate::backend::{Hint, Order};
    use crate::memory::HostAddr;

    let mut bytes = vec![1_u8; 3 * 8192];
    bytes[8192..].fill(2);
    bytes[16384..].fill(3);
    let start = bytes.as_mut_ptr().expose_provenance() as u64;
    let part = |i: u64| HostAddr(start + i * 8192);
    let hint = |total| Hint {
        order: Order::Disjoint,
        total,
        cached: false,
    };
    let mut backend = calm(Entry::Enqcmd);
    // SAFETY: parts of one vector, which nobody looks at until `finish`.
    unsafe {
        backend.copy(part(1), part(0), 8192, hint(8192));
        // Reads what the first writes, and is short.
        backend.copy(part(2), part(1), 64, hint(64));
        // Writes what the first reads.
        backend.fill(part(0), 8192, 0, hint(8192));
        assert_eq!(backend.compare_value(part(0), 8192, 0, 8192), None);
    }
    backend.finish();
    assert!(bytes[..8192].iter().all(|&b| b == 0));
    assert!(bytes[8192..16384 + 64].iter().all(|&b| b == 1));
    assert!(bytes[16384 + 64..].iter().all(|&b| b == 3));
}
