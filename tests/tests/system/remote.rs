//! VMs whose engine is another process: everything that they do with an embedded one, and that process
//! killed under their transfers.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Result, ensure};
use byway_agent::commands::DeviceReset;
use byway_engine::EngineConfig;
use byway_engine::daemon::{Daemon, RemoteEngine};
use byway_engine::interface::{Action, Admin};
use byway_protocols::event::EventKind;
use byway_protocols::{Descriptor, Status};
use tempfile::TempDir;

use super::world::{
    APP, ENTRIES, MIB, Party, RW, assert_ended, await_event, collect, confined, engine, memmove,
    submit, turn, until,
};

const COPY: u64 = 16 * MIB;
const COPIES: usize = 24;
const PAGE: u64 = 4096;
const MARK: u8 = 0x3c;
/// Says in which folder this program, started again, is an engine.
const FOLDER: &str = "BYWAY_TEST_FOLDER";
/// The test that it is then told to run, which is the engine instead.
const ITS_TEST: &str = "remote::an_engine_that_is_killed_leaves_nobody_waiting";

/// An engine in a process of its own: this program, started again.
pub struct Engine {
    child: Child,
    remote: RemoteEngine,
}

impl Engine {
    pub fn start(folder: &TempDir) -> Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .args([ITS_TEST, "--exact", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::null())
            .spawn()?;
        let this = Self {
            child,
            remote: RemoteEngine::new(folder.path()),
        };
        until("the engine to be ready", || {
            Ok(this.remote.ask(&Action::List).ok())
        })?;
        Ok(this)
    }
    pub fn remote(&self) -> &RemoteEngine {
        &self.remote
    }
    /// `kill -9`.
    fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An engine for alice and bob, until it is killed.
fn be_an_engine(folder: &Path) -> Result<()> {
    let names = ["alice", "bob"];
    // As `byway engine` is: whatever a VM has of it, it has from threads behind their filters.
    confined(byway_vmm::daemon::confine)?;
    let engine: Arc<dyn Admin> = Arc::new(engine(EngineConfig::default(), &[])?);
    let daemon = Daemon::new(engine, folder)?;
    for name in names {
        let name = name.to_owned();
        let quotas = Default::default();
        daemon.act(Action::CreateDomain { name, quotas })?;
    }
    for (from, to) in [(names[0], names[1]), (names[1], names[0])] {
        let link = serde_json::json!({
            "action": "link", "from": from, "to": to,
            "read": true, "write": true, "grant": true, "keys": true,
        });
        daemon.act(serde_json::from_value(link)?)?;
    }
    // Last: who finds the operator's socket finds everything.
    let _operator = daemon.serve_operator()?;
    loop {
        std::thread::park();
    }
}

fn exchange(alice: &Party, bob: &Party, seed: u64) -> Result<()> {
    let (given, slot) = bob.give(alice, 0, COPY, RW)?;
    alice.fill(0, COPY, seed)?;
    let put = memmove((0, alice.buffer), (slot, 0), COPY);
    assert_ended(&alice.execute_one(APP, &put)?, Status::Success, "a put");
    bob.expect(0, COPY, seed)?;
    bob.drop_capability(APP, given)?;
    alice.drop_capability(APP, slot)
}

#[test]
fn vms_attach_to_an_engine_of_another_process() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let engine = Engine::start(&folder)?;
    let alice = Party::boot(&engine.remote, "alice", COPY)?;
    let mut bob = Party::boot(&engine.remote, "bob", COPY)?;
    exchange(&alice, &bob, 1)?;

    // What the engine writes is in the merged log.
    let (_, slot) = bob.give(&alice, 0, COPY, RW)?;
    bob.vm_mut().set_dirty_log(true)?;
    let put = memmove((0, alice.buffer), (slot, 0), MIB);
    assert_ended(&alice.execute_one(APP, &put)?, Status::Success, "a put");
    let dirty = bob.vm_mut().harvest_dirty()?;
    let first = bob.frame(0);
    for page in (first..first + MIB).step_by(PAGE as usize) {
        let marked = dirty.iter().any(|bits| bits.pages().any(|gpa| gpa == page));
        ensure!(marked, "page {page:#x} was written and is not marked");
    }
    bob.vm_mut().set_dirty_log(false)?;

    // Memory comes and goes while copies are under way.
    let puts: Vec<Descriptor> = vec![memmove((0, alice.buffer), (slot, 0), COPY); COPIES];
    submit(&alice, APP, &puts)?;
    const HIGH: u64 = 1 << 40;
    bob.vm_mut().add_memory(HIGH, 2 * MIB)?;
    bob.vm_mut().remove_memory(HIGH, 2 * MIB)?;
    for done in collect(&alice, APP, COPIES)? {
        assert_ended(&done, Status::Success, "beside memory that comes and goes");
    }

    // A reset in mid-transfer.
    submit(&alice, APP, &puts)?;
    bob.call(APP, DeviceReset {})?;
    bob.mark(MARK)?;
    let mut cut_short = 0;
    for done in collect(&alice, APP, COPIES)? {
        cut_short += usize::from(done.status() != Some(Status::Success));
    }
    ensure!(cut_short > 0, "the reset came when all was done");
    ensure!(bob.first_not(MARK)?.is_none(), "a byte landed after it");
    await_event(&alice, EventKind::DomainGone)?;
    bob.open_context(APP)?;
    bob.create_queue(APP, ENTRIES, 0)?;
    exchange(&alice, &bob, 2)
}

#[test]
fn an_engine_that_is_killed_leaves_nobody_waiting() -> Result<()> {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return be_an_engine(folder.as_ref());
    }
    let Some(_turn) = turn() else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let engine = Engine::start(&folder)?;
    let alice = Party::boot(&engine.remote, "alice", COPY)?;
    let bob = Party::boot(&engine.remote, "bob", COPY)?;
    let (_, slot) = bob.give(&alice, 0, COPY, RW)?;
    alice.fill(0, COPY, 1)?;
    let puts: Vec<Descriptor> = vec![memmove((0, alice.buffer), (slot, 0), COPY); COPIES];
    submit(&alice, APP, &puts)?;
    engine.kill()?;
    for vm in [&alice, &bob] {
        until("the VMM to hear of it", || {
            Ok(vm.vm().engine_is_lost().then_some(()))
        })?;
        vm.vm().report_lost_engine();
        ensure!(vm.vm().reattach().is_err(), "nobody is there");
    }
    let engine = Engine::start(&folder)?;
    for vm in [&alice, &bob] {
        vm.vm().reattach()?;
        vm.call(APP, DeviceReset {})?;
    }
    // The library ends what the engine did not live to end.
    let mut aborted = 0;
    for done in collect(&alice, APP, COPIES)? {
        match done.status() {
            Some(Status::Success) => {}
            Some(Status::Aborted) => aborted += 1,
            _ => panic!("{done:?}"),
        }
    }
    ensure!(aborted > 0, "it was killed when all was done");
    for vm in [&alice, &bob] {
        vm.open_context(APP)?;
        vm.create_queue(APP, ENTRIES, 0)?;
    }
    exchange(&alice, &bob, 3)?;
    drop(engine);
    Ok(())
}
