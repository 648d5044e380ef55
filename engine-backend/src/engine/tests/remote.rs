//! VMs of other processes: the engine behind its sockets, driven by the front end that Byway's
//! own VMM has, and by one that does what QEMU does.

mod front_end;
mod hostile;
mod operator;
mod processes;

use std::path::PathBuf;
use std::sync::Arc;

use byway_protocols::event::EventKind;
use byway_protocols::{Rights, Status};
use tempfile::TempDir;

use super::world::{BUFFER, BUFFER_BYTES, PAGE_BYTES, Vm, copy, link, until};
use crate::Engine;
use crate::daemon::Daemon;
use crate::interface::{Action, Admin, DomainError, MemoryRegion};
use crate::testing::Guest;
use crate::vhost_user::RemoteDomain;

const BOTH: Rights = Rights(3);

/// An engine behind sockets, with alice and bob, linked both ways.
struct World {
    /// First, so that no connection is left when the folder goes.
    daemon: Option<Daemon>,
    engine: Arc<Engine>,
    folder: TempDir,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            daemon: None,
            engine: Arc::new(super::world::engine()),
            folder: tempfile::tempdir().unwrap(),
        };
        world.start();
        world
    }
    /// Starts a daemon with an engine of its own.
    fn start(&mut self) {
        self.engine = Arc::new(super::world::engine());
        let daemon = Daemon::new(Arc::new(Arc::clone(&self.engine)), self.folder.path()).unwrap();
        for name in ["alice", "bob"] {
            let create = Action::CreateDomain {
                name: name.into(),
                quotas: Default::default(),
            };
            daemon.act(create).unwrap();
        }
        link(&self.engine, "alice", "bob");
        link(&self.engine, "bob", "alice");
        self.daemon = Some(daemon);
    }
    fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.sock"))
    }
    fn connect(&self, name: &str) -> Box<RemoteDomain> {
        Box::new(RemoteDomain::connect(&self.socket(name)).unwrap())
    }
    fn boot(&self, name: &str) -> Vm {
        Vm::on(self.connect(name), Guest::new(1, 3 * BUFFER_BYTES))
    }
    fn is_attached(&self, name: &str) -> bool {
        let stats = self.engine.stats();
        stats.domains.iter().any(|d| d.name == name && d.attached)
    }
    fn wait_detached(&self, name: &str) {
        until("it is detached", || !self.is_attached(name));
    }
}

/// Whether copies of `vm` to `peer` through `remote` do what they should.
fn assert_exchange(vm: &mut Vm, peer: &Vm, remote: u16) {
    for (round, size) in [64, 4096, 3 << 20].into_iter().enumerate() {
        let value = round as u8 + 1;
        vm.fill(0, size, value);
        let put = copy((0, BUFFER), (remote, 0), size);
        assert_eq!(vm.run_for(&put), Status::Success);
        assert_eq!(peer.read(0, size), vec![value; size as usize]);
    }
}

/// The region that a guest's RAM is.
fn region(guest: &Guest) -> MemoryRegion {
    crate::device::tests::driver::region(guest)
}

#[test]
fn two_vms_exchange_memory_over_their_sockets() {
    let w = World::new();
    let (mut alice, mut bob) = (w.boot("alice"), w.boot("bob"));
    let slot = bob.derive(BUFFER, BUFFER_BYTES, Rights::ALL);
    let offer = bob.offer(slot, alice.id, BOTH).unwrap();
    let event = alice.driver.wait_event();
    assert_eq!(event.kind, EventKind::CapabilityOffered as u16);
    let remote = alice.accept(offer).unwrap();
    assert_exchange(&mut alice, &bob, remote);
    // An interrupt came through, for a reply and for an event.
    until("interrupts", || {
        alice.driver.control.call.read().is_ok() || alice.driver.events.call.read().is_ok()
    });
    bob.revoke(slot).unwrap();
    let again = copy((0, BUFFER), (remote, 0), 64);
    assert_eq!(alice.run_for(&again), Status::Revoked);
    // Page tables were walked for both, 4 KiB pages and none larger.
    for row in w.engine.stats().domains {
        assert!(
            row.walks_4k > 0 && row.iotlb_misses >= row.walks_4k,
            "{row:?}"
        );
        assert_eq!((row.walks_2m, row.walks_1g), (0, 0), "{row:?}");
    }
}

#[test]
fn large_pages_are_seen_in_the_walks() {
    let w = World::new();
    let (mut alice, mut bob) = (w.boot("alice"), w.boot("bob"));
    let (_, remote) = bob.give_long(&mut alice);
    let get = copy((remote, 0), (0, BUFFER), PAGE_BYTES);
    assert_eq!(alice.run_for(&get), Status::Success);
    let row = |name| {
        let domains = w.engine.stats().domains;
        domains.into_iter().find(|d| d.name == name).unwrap()
    };
    assert!(row("bob").walks_2m > 0, "{:?}", row("bob"));
    assert_eq!(row("bob").walks_4k, 0);
    assert_eq!(row("alice").walks_2m, 0);
}

#[test]
fn a_reset_ends_copies_and_the_device_starts_again() {
    let w = World::new();
    let (mut alice, mut bob) = (w.boot("alice"), w.boot("bob"));
    let (_, remote) = bob.give_long(&mut alice);
    alice.begin_copies(&bob, remote);
    bob.device.reset();
    bob.assert_untouched();
    let ends = alice.end_copies().map(|c| c.status().unwrap());
    assert!(ends.contains(&Status::Revoked), "{ends:?}");
    bob.driver.start(&mut *bob.device);
    bob.open();
    let (_, remote) = bob.give_buffer(&mut alice, BOTH);
    assert_exchange(&mut alice, &bob, remote);
}

#[test]
fn a_paused_domain_is_reached_by_nobody() {
    let w = World::new();
    let (mut alice, mut bob) = (w.boot("alice"), w.boot("bob"));
    let (_, to_bob) = bob.give_long(&mut alice);
    // Its own queues.
    alice.begin_some_copies(&bob, to_bob);
    alice.device.pause();
    bob.assert_untouched();
    alice.device.resume();
    let ends = alice.end_copies().map(|c| c.status().unwrap());
    assert_eq!(ends, [Status::Success; 2]);
    // Its peers'.
    alice.begin_copies(&bob, to_bob);
    bob.device.pause();
    bob.assert_untouched();
    let ends = alice.end_copies().map(|c| c.status().unwrap());
    assert!(ends.iter().all(|end| *end != Status::Success), "{ends:?}");
    bob.device.resume();
    let put = copy((0, BUFFER), (to_bob, 0), 64);
    assert_eq!(alice.run_for(&put), Status::Success);
}

#[test]
fn memory_comes_and_goes_under_transfers() {
    let w = World::new();
    let (mut alice, mut bob) = (w.boot("alice"), w.boot("bob"));
    let (_, remote) = bob.give_long(&mut alice);
    alice.begin_copies(&bob, remote);
    let (start, size) = bob.guest.ram();
    bob.device.remove_region(start, size).unwrap();
    bob.assert_untouched();
    let ends = alice.end_copies().map(|c| c.status().unwrap());
    assert_eq!(ends, [Status::RemoteFault; 2]);
    assert!(bob.device.remove_region(start, size).is_err());
    bob.device.add_region(region(&bob.guest)).unwrap();
    let put = copy((0, BUFFER), (remote, 0), 4096);
    assert_eq!(alice.run_for(&put), Status::Success);
    // Refused, and the connection is as it was.
    let twice = bob.device.add_region(region(&bob.guest));
    assert!(
        matches!(twice, Err(DomainError::BadArgument(_))),
        "{twice:?}"
    );
    assert_eq!(alice.run_for(&put), Status::Success);
}

#[test]
fn what_the_engine_writes_is_in_the_log() {
    let w = World::new();
    let (mut alice, mut bob) = (w.boot("alice"), w.boot("bob"));
    let (_, remote) = bob.give_buffer(&mut alice, BOTH);
    let (start, size) = bob.guest.ram();
    assert!(bob.device.harvest_dirty(start, size).is_err(), "it is off");
    bob.device.set_dirty_log(true);
    // What is written anyway: A and D bits, the rings of virtqueues.
    let put = |offset| copy((0, BUFFER), (remote, offset), 4096);
    assert_eq!(alice.run_for(&put(8192)), Status::Success);
    let first = bob.device.harvest_dirty(start, size).unwrap();
    let buffer = bob.buffer_gpa();
    let page = |offset| buffer + offset;
    assert!(first.pages().any(|gpa| gpa == page(8192)));
    assert!(first.pages().all(|gpa| gpa != page(0)));
    assert_eq!(alice.run_for(&put(0)), Status::Success);
    let second = bob.device.harvest_dirty(start, size).unwrap();
    assert!(second.pages().any(|gpa| gpa == page(0)));
    assert!(second.pages().all(|gpa| gpa != page(8192)), "told twice");
    bob.device.set_dirty_log(false);
    assert!(bob.device.harvest_dirty(start, size).is_err());
    assert_eq!(alice.run_for(&put(0)), Status::Success);
}

#[test]
fn a_vmm_that_goes_harms_nobody_and_another_can_come() {
    let w = World::new();
    let (mut alice, mut bob) = (w.boot("alice"), w.boot("bob"));
    let (_, to_bob) = bob.give_long(&mut alice);
    let (_, to_alice) = alice.give_buffer(&mut bob, BOTH);
    alice.begin_copies(&bob, to_bob);
    let second = RemoteDomain::connect(&w.socket("bob"));
    assert!(matches!(second, Err(DomainError::Gone(_))), "{second:?}");
    // No word of good-bye.
    let (guest, page) = (Arc::clone(&bob.guest), bob.page_gpa());
    drop(bob);
    w.wait_detached("bob");
    let marked = vec![0x5a; PAGE_BYTES as usize];
    guest.write(page, &marked);
    let ends = alice.end_copies().map(|c| c.status().unwrap());
    assert!(ends.contains(&Status::Revoked), "{ends:?}");
    assert_eq!(guest.read(page, PAGE_BYTES), marked);
    let own = copy((0, BUFFER), (0, BUFFER + 4096), 4096);
    assert_eq!(alice.run_for(&own), Status::Success);
    let mut bob = w.boot("bob");
    let put = copy((0, BUFFER), (to_alice, 0), 64);
    assert_eq!(bob.run_for(&put), Status::NoCapability);
    let (_, remote) = bob.give_buffer(&mut alice, BOTH);
    assert_exchange(&mut alice, &bob, remote);
}

#[test]
fn a_domain_that_the_operator_removes_is_gone_for_its_vmm() {
    let w = World::new();
    let (mut alice, bob) = (w.boot("alice"), w.boot("bob"));
    let name = || "bob".to_owned();
    let daemon = w.daemon.as_ref().unwrap();
    daemon.act(Action::RemoveDomain { name: name() }).unwrap();
    assert!(!w.socket("bob").exists());
    let lost = bob.device.lost().unwrap();
    until("bob's VMM hears of it", || lost.read().is_ok());
    let own = copy((0, BUFFER), (0, BUFFER + 4096), 4096);
    assert_eq!(alice.run_for(&own), Status::Success);
    let quotas = Default::default();
    let create_again = Action::CreateDomain {
        name: name(),
        quotas,
    };
    daemon.act(create_again).unwrap();
    let mut bob = w.boot("bob");
    assert_eq!(bob.run_for(&own), Status::Success);
}

#[test]
fn a_vmm_attaches_to_the_next_engine() {
    let mut w = World::new();
    let mut alice = w.boot("alice");
    w.daemon = None;
    assert!(!w.socket("alice").exists(), "sockets are removed");
    let lost = alice.device.lost().unwrap().try_clone().unwrap();
    until("alice's VMM hears of it", || lost.read().is_ok());
    // Nothing hangs, and nothing succeeds.
    assert!(matches!(
        alice.device.stop_vring(0),
        Err(DomainError::Gone(_))
    ));
    assert!(alice.device.reattach().is_err());
    alice.device.reset();
    w.start();
    alice.device.reattach().unwrap();
    alice.driver.start(&mut *alice.device);
    alice.open();
    let mut bob = w.boot("bob");
    let (_, remote) = bob.give_buffer(&mut alice, BOTH);
    assert_exchange(&mut alice, &bob, remote);
}

#[test]
fn two_daemons_do_not_share_a_folder() {
    let w = World::new();
    let engine: Arc<dyn Admin> = Arc::new(super::world::engine());
    let error = Daemon::new(engine, w.folder.path()).map(drop).unwrap_err();
    assert!(error.to_string().contains("another engine"), "{error}");
}
