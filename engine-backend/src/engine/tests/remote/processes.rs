//! Real processes that are killed: the test program runs itself again in their part.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use byway_protocols::{Rights, Status};

use super::{BOTH, World, assert_exchange};
use crate::daemon::Daemon;
use crate::engine::tests::world::{BUFFER, BUFFER_BYTES, LONG, LONG_BYTES, Vm, copy, until};
use crate::interface::{Action, Admin, DomainError};
use crate::testing::Guest;
use crate::vhost_user::RemoteDomain;

/// Says in which folder a program that was started again plays its part.
const FOLDER: &str = "BYWAY_TEST_FOLDER";

/// Another process that plays the part of the test `part`, in this folder.
struct Other(Child);

impl Other {
    fn start(part: &str, folder: &Path) -> Self {
        let part = format!("engine::tests::remote::processes::{part}");
        let child = Command::new(std::env::current_exe().unwrap())
            .args([&part, "--exact", "--ignored", "--nocapture"])
            .env(FOLDER, folder)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
    /// `kill -9`, and proof that it still ran.
    fn kill(mut self) {
        self.0.kill().unwrap();
        assert_eq!(self.0.wait().unwrap().signal(), Some(libc::SIGKILL));
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "a part of a_vmm_that_is_killed_harms_nobody, in a process of its own"]
fn part_of_a_vmm() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let socket = Path::new(&folder).join("bob.sock");
    let device = RemoteDomain::connect(&socket).unwrap();
    let mut bob = Vm::on(Box::new(device), Guest::new(1, 3 * BUFFER_BYTES));
    let event = bob.driver.wait_event();
    let remote = bob.accept(event.id).unwrap();
    bob.fill_page(0x11);
    loop {
        bob.run(&copy((0, LONG), (remote, 0), LONG_BYTES));
    }
}

#[test]
fn a_vmm_that_is_killed_harms_nobody() {
    let w = World::new();
    let mut alice = w.boot("alice");
    let other = Other::start("part_of_a_vmm", w.folder.path());
    until("bob's VMM attaches", || w.is_attached("bob"));
    let slot = alice.derive(LONG, LONG_BYTES, Rights::ALL);
    let bob = w.engine.stats().domains[1].id;
    until("bob is told of an offer", || {
        alice.offer(slot, bob, BOTH).is_ok()
    });
    alice.fill_page(0);
    until("copies of bob's land", || alice.page()[0] == 0x11);
    other.kill();
    w.wait_detached("bob");
    alice.assert_untouched();
    let own = copy((0, BUFFER), (0, BUFFER + 4096), 4096);
    assert_eq!(alice.run_for(&own), Status::Success);
    let mut bob = w.boot("bob");
    let (_, remote) = bob.give_buffer(&mut alice, BOTH);
    assert_exchange(&mut alice, &bob, remote);
}

#[test]
#[ignore = "a part of an_engine_that_is_killed_leaves_nobody_waiting, in a process of its own"]
fn part_of_an_engine() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let engine: Arc<dyn Admin> = Arc::new(crate::engine::tests::world::engine());
    let daemon = Daemon::new(engine, Path::new(&folder)).unwrap();
    for name in ["alice", "bob"] {
        let create = Action::CreateDomain {
            name: name.into(),
            quotas: Default::default(),
        };
        daemon.act(create).unwrap();
    }
    for (from, to) in [("alice", "bob"), ("bob", "alice")] {
        let link = serde_json::json!({
            "action": "link", "from": from, "to": to, "read": true, "write": true, "grant": true
        });
        daemon.act(serde_json::from_value(link).unwrap()).unwrap();
    }
    loop {
        std::thread::park();
    }
}

#[test]
fn an_engine_that_is_killed_leaves_nobody_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let other = Other::start("part_of_an_engine", folder.path());
    let connect = |name: &str| {
        let socket = folder.path().join(format!("{name}.sock"));
        let mut device = None;
        until("the engine answers", || {
            device = RemoteDomain::connect(&socket).ok();
            device.is_some()
        });
        Box::new(device.unwrap())
    };
    let boot = |name| Vm::on(connect(name), Guest::new(1, 3 * BUFFER_BYTES));
    let (mut alice, mut bob) = (boot("alice"), boot("bob"));
    // The links come after the sockets.
    let slot = bob.derive(LONG, LONG_BYTES, Rights::ALL);
    let mut offer = None;
    until("the link is there", || {
        offer = bob.offer(slot, alice.id, BOTH).ok();
        offer.is_some()
    });
    let remote = alice.accept(offer.unwrap()).unwrap();
    alice.begin_copies(&bob, remote);
    other.kill();
    for vm in [&alice, &bob] {
        let lost = vm.device.lost().unwrap();
        until("its VMM hears of it", || lost.read().is_ok());
    }
    // Nobody writes any more, and no verb hangs.
    bob.assert_untouched();
    for vm in [&mut alice, &mut bob] {
        let stopped = vm.device.stop_vring(0);
        assert!(matches!(stopped, Err(DomainError::Gone(_))), "{stopped:?}");
    }
    // The next engine takes over the sockets that this one left behind.
    let _other = Other::start("part_of_an_engine", folder.path());
    for vm in [&mut alice, &mut bob] {
        until("it is attached again", || vm.device.reattach().is_ok());
        vm.driver.start(&mut *vm.device);
        vm.open();
    }
    let slot = bob.derive(BUFFER, BUFFER_BYTES, Rights::ALL);
    let mut offer = None;
    until("the link is there", || {
        offer = bob.offer(slot, alice.id, BOTH).ok();
        offer.is_some()
    });
    let remote = alice.accept(offer.unwrap()).unwrap();
    assert_exchange(&mut alice, &bob, remote);
}
