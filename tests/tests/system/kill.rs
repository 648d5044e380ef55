//! Killing a VM in mid-transfer harms nobody else: every descriptor of the survivors ends in a status, no byte
//! lands for the dead, and its name can be used again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use byway_engine::{Engine, EngineConfig};
use byway_protocols::Status;
use byway_protocols::event::EventKind;
use byway_vmm::demo::report::status_name;
use byway_vmm::steer::{RunSpec, Running};

use super::world::{
    APP, MIB, Party, RW, RWG, assert_ended, await_event, capability_is, engine, memmove, turn,
    until,
};

/// One copy, and the buffer it goes to.
const COPY: u64 = 16 * MIB;
/// Copies in flight at once.
const DEPTH: u64 = 8;
/// Where the third VM's share of the survivor's buffer begins, and its size.
const SHARE: (u64, u64) = (COPY, MIB);
const MARK: u8 = 0xa5;

/// A third VM that puts patterns into the survivor's memory, gets them back and compares, until it is told to stop.
struct Bystander {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<Result<Party>>,
}

impl Bystander {
    fn start(carol: Party, slot: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let rounds = Arc::new(AtomicU64::new(0));
        let (told, count) = (Arc::clone(&stop), Arc::clone(&rounds));
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                let seed = 1000 + count.load(Ordering::Relaxed);
                carol.fill(0, SHARE.1, seed)?;
                let there = memmove((0, carol.buffer), (slot, 0), SHARE.1);
                let back = memmove((slot, 0), (0, carol.buffer + SHARE.1), SHARE.1);
                for descriptor in [there, back] {
                    let done = carol.execute_one(APP, &descriptor)?;
                    assert_ended(&done, Status::Success, "the bystander's transfer");
                }
                carol.expect(SHARE.1, SHARE.1, seed)?;
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(carol)
        });
        Self {
            stop,
            rounds,
            thread,
        }
    }

    /// Waits until a round that began after now was right.
    fn goes_on(&self) -> Result<()> {
        let seen = self.rounds.load(Ordering::Relaxed);
        until("the bystander's transfers", || {
            let enough = self.rounds.load(Ordering::Relaxed) >= seen + 2;
            Ok((enough || self.thread.is_finished()).then_some(()))
        })
    }

    /// Insists that all were right.
    fn end(self) -> Result<Party> {
        self.goes_on()?;
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the bystander panicked")
    }
}

/// Alice, bob and carol.
fn cast() -> Result<(Engine, Party, Party, Party)> {
    let engine = engine(EngineConfig::default(), &["alice", "bob", "carol"])?;
    let alice = Party::boot(&engine, "alice", COPY + 2 * MIB)?;
    let bob = Party::boot(&engine, "bob", COPY + 2 * MIB)?;
    let carol = Party::boot(&engine, "carol", 2 * MIB)?;
    Ok((engine, alice, bob, carol))
}

/// Alice copies her buffer to bob's without end; returns once bytes arrive.
fn copy_without_end(alice: &Party, bob: &Party, slot: u16) -> Result<Running> {
    alice.fill(0, COPY, 7)?;
    let spec = RunSpec {
        descriptor: memmove((0, alice.buffer), (slot, 0), COPY),
        iterations: u64::MAX,
        depth: DEPTH,
        stride: 0,
        samples: 0,
    };
    bob.sleep()?;
    let running = alice.start_run(APP, &spec)?;
    until("bytes in bob's buffer", || {
        Ok((bob.see(0, 8)? != [0; 8]).then_some(()))
    })?;
    Ok(running)
}

/// The whole way once more, between VMs that know nothing of each other yet.
fn exchange(alice: &Party, bob: &Party, seed: u64) -> Result<()> {
    let (_, slot) = bob.give(alice, 0, COPY, RW)?;
    alice.fill(0, COPY, seed)?;
    let put = memmove((0, alice.buffer), (slot, 0), COPY);
    let done = alice.execute_one(APP, &put)?;
    assert_ended(&done, Status::Success, "a put between new acquaintances");
    bob.expect(0, COPY, seed)
}

#[test]
fn the_owner_dies_under_the_copies() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let (engine, alice, bob, carol) = cast()?;
    let (_, to_alice) = alice.give(&carol, SHARE.0, SHARE.1, RW)?;
    let (_, slot) = bob.give(&alice, 0, COPY, RWG)?;
    let derived = alice.derive(APP, slot, 0, 4096, RW)?;

    let running = copy_without_end(&alice, &bob, slot)?;
    let bystander = Bystander::start(carol, to_alice);
    bystander.goes_on()?;
    drop(bob);

    // The run ends at its first failure, when nothing is outstanding any more.
    let done = alice
        .finish_run(running)
        .context("alice's copies to the dead")?;
    assert_eq!(
        status_name(done.first_bad_status),
        status_name(Status::Revoked as u8)
    );
    assert!((1..=DEPTH).contains(&done.failed), "{done:?}");
    let gone = await_event(&alice, EventKind::DomainGone)?;
    assert_ne!(gone.object, 0);
    for dead in [slot, derived] {
        let put = memmove((0, alice.buffer), (dead, 0), 4096);
        let done = alice.execute_one(APP, &put)?;
        assert_ended(&done, Status::Revoked, "a put to the dead");
        assert_eq!(done.bytes_completed, 0);
        assert_eq!(capability_is(&alice, dead)?.state, 2);
    }
    let carol = bystander.end()?;

    // The name is free again; what the dead had given does not come back with it.
    let bob = Party::boot(&engine, "bob", COPY + 2 * MIB)?;
    exchange(&alice, &bob, 8)?;
    let put = memmove((0, alice.buffer), (slot, 0), 4096);
    let done = alice.execute_one(APP, &put)?;
    assert_ended(&done, Status::Revoked, "by the old capability");
    drop(carol);
    Ok(())
}

#[test]
fn the_submitter_dies_under_its_copies() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let (engine, alice, bob, carol) = cast()?;
    let (_, to_bob) = bob.give(&carol, SHARE.0, SHARE.1, RW)?;
    let (given, slot) = bob.give(&alice, 0, COPY, RWG)?;
    let (_, of_alice) = alice.give(&bob, 0, COPY, RW)?;

    // What she still has in flight when she goes, `run` will never tell.
    let _running = copy_without_end(&alice, &bob, slot)?;
    let bystander = Bystander::start(carol, to_bob);
    bystander.goes_on()?;
    drop(alice);

    // From now on nothing lands for her, in the part that was hers alone.
    let marks = vec![MARK; COPY as usize];
    bob.put_by_host(0, &marks)?;
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(bob.see(0, COPY)?, marks, "a byte landed for a dead VM");

    await_event(&bob, EventKind::DomainGone)?;
    let get = memmove((of_alice, 0), (0, bob.buffer), 4096);
    let done = bob.execute_one(APP, &get)?;
    assert_ended(&done, Status::Revoked, "a get from the dead");
    assert_eq!(done.bytes_completed, 0);
    // His own right is his; nobody is below it any more.
    let own = capability_is(&bob, given)?;
    assert_eq!((own.state, own.descendants), (1, 0));
    let carol = bystander.end()?;

    let alice = Party::boot(&engine, "alice", COPY + 2 * MIB)?;
    exchange(&alice, &bob, 9)?;
    exchange(&bob, &alice, 10)?;
    drop(carol);
    Ok(())
}
