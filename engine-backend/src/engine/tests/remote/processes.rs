//! Real processes that are killed: the test program runs itself again, and the same test, which is
//! told by its environment, plays their part there.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use byway_protocols::{Rights, Status};

use super::{BOTH, World, assert_exchange};
use crate::daemon::Daemon;
use crate::engine::tests::world::{BUFFER, BUFFER_BYTES, LONG, LONG_BYTES, Vm, copy, until};
use crate::interface::{Action, Admin, Domain, DomainError};
use crate::testing::Guest;
use crate::vhost_user::{RemoteDomain, connect_within};

/// Says in which folder a program that was started again plays its part.
const FOLDER: &str = "BYWAY_TEST_FOLDER";

/// The folder, in a program that was started again.
fn part() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(Into::into)
}

/// Another process that plays its part in the test `test`, in this folder.
struct Other(Child);

impl Other {
    fn start(test: &str, folder: &Path) -> Self {
        let test = format!("engine::tests::remote::processes::{test}");
        let child = Command::new(std::env::current_exe().unwrap())
            .args([&test, "--exact", "--nocapture"])
            .env(FOLDER, folder)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
    fn signal(&self, signal: i32) {
        // SAFETY: takes two numbers; the child was not waited for, so the first is its own.
        assert_eq!(unsafe { libc::kill(self.0.id() as i32, signal) }, 0);
    }
    /// Stops it; none of its threads runs any more.
    fn stop(&self) {
        self.signal(libc::SIGSTOP);
        let tasks = format!("/proc/{}/task", self.0.id());
        let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
            // After the name, which ends with the last parenthesis.
            stat.rsplit_once(") ").unwrap().1.starts_with('T')
        };
        until("all its threads are stopped", || {
            std::fs::read_dir(&tasks).unwrap().all(is_stopped)
        });
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

/// Bob, until it is killed.
fn be_a_vmm(folder: &Path) -> ! {
    let socket = folder.join("bob.sock");
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
    if let Some(folder) = part() {
        be_a_vmm(&folder);
    }
    let w = World::new();
    let mut alice = w.boot("alice");
    let other = Other::start("a_vmm_that_is_killed_harms_nobody", w.folder.path());
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

/// An engine, until it is killed.
fn be_an_engine(folder: &Path) -> ! {
    let engine: Arc<dyn Admin> = Arc::new(crate::engine::tests::world::engine());
    let daemon = Daemon::new(engine, folder).unwrap();
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
    const THIS: &str = "an_engine_that_is_killed_leaves_nobody_waiting";
    if let Some(folder) = part() {
        be_an_engine(&folder);
    }
    let folder = tempfile::tempdir().unwrap();
    let other = Other::start(THIS, folder.path());
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
    let _other = Other::start(THIS, folder.path());
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

#[test]
fn an_engine_that_is_stopped_is_not_waited_for_for_ever() {
    const THIS: &str = "an_engine_that_is_stopped_is_not_waited_for_for_ever";
    const PATIENCE: Duration = Duration::from_millis(300);
    if let Some(folder) = part() {
        be_an_engine(&folder);
    }
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("alice.sock");
    let other = Other::start(THIS, folder.path());
    until("the engine answers", || {
        RemoteDomain::connect(&socket).is_ok()
    });
    let mut device = None;
    until("the former front end is gone", || {
        device = RemoteDomain::connect_patiently(&socket, PATIENCE).ok();
        device.is_some()
    });
    let mut device = device.unwrap();
    other.stop();
    let stuck = device.stop_vring(0);
    assert!(matches!(stuck, Ok(0)), "what never ran needs no answer");
    let stuck = device.set_features(1 << 32).unwrap_err().to_string();
    assert!(stuck.contains("has not answered within 300ms"), "{stuck}");
    until("its VMM hears of it", || {
        device.lost().unwrap().read().is_ok()
    });
    // Nor is it when it is tried again: the kernel takes the connection, and nobody else.
    let stuck = device.reattach().unwrap_err().to_string();
    assert!(stuck.contains("has not answered within 300ms"), "{stuck}");
    // Nor when so many have tried that the kernel takes no more.
    let mut queued = Vec::new();
    let full = loop {
        match connect_within(&socket, PATIENCE) {
            Ok(one) => queued.push(one),
            Err(error) => break error,
        }
        assert!(queued.len() < 1000, "a queue without an end");
    };
    assert_eq!(full.kind(), std::io::ErrorKind::TimedOut, "{full}");
    // On a thread of its own, so that a wait without an end is a failure.
    let (told, tells) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let stuck = device.reattach().unwrap_err().to_string();
        let _ = told.send((stuck, device));
    });
    let told = tells.recv_timeout(Duration::from_secs(20));
    let (stuck, mut device) = told.expect("it waits for a place in the queue");
    assert!(
        stuck.contains("nobody has accepted within 300ms"),
        "{stuck}"
    );
    drop(queued);
    other.signal(libc::SIGCONT);
    until("it is attached again", || device.reattach().is_ok());
}
