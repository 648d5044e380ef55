//! A VM with two vCPUs, a process on each: both submit at the same time; page tables change on one vCPU under the
//! transfers of the other; a process ends, or the device is reset, while the other goes on.

use anyhow::{Context as _, Result};
use byway_agent::Process;
use byway_agent::commands::{
    CHURN_BREAK_SHARE, CHURN_MOVE, CHURN_REUSE_TOO_EARLY, CHURN_SHARE, Churn, ComparePattern,
    Derive, DestroyQueue, DeviceReset, FillPattern, NO_MISMATCH, Ran, capability, capability_slot,
};
use byway_engine::{Engine, EngineConfig};
use byway_protocols::Status;
use byway_vmm::steer::{Guest, GuestSpec, PAGE_2M, PAGE_4K};

use super::world::{ENTRIES, KIB, MIB, PAGE, RW, assert_ended, engine, memmove, turn, until};

const APP: Process = Process::App;
const PEER: Process = Process::Peer;
/// Bytes of each process's buffer.
const BYTES: u64 = 2 * MIB;
/// Bytes of a copy.
const COPY: u64 = 64 * KIB;
const DEPTH: u64 = 8;

/// A VM, with a buffer of each process.
struct Pair {
    vm: Guest,
    app: u64,
    peer: u64,
    engine: Engine,
}

impl Pair {
    /// With so many workers: each queue has one of its own, if there are two.
    fn boot(workers: u32) -> Result<Self> {
        let config = EngineConfig {
            workers,
            ..EngineConfig::default()
        };
        let engine = engine(config, &["alice"])?;
        let spec = GuestSpec {
            name: "alice".to_owned(),
            memory_bytes: 96 * MIB,
            pin: None,
            cpus: 2,
        };
        let vm = Guest::boot(&spec, &engine)?;
        open(&vm, APP)?;
        open(&vm, PEER)?;
        let app = vm.alloc(APP, BYTES, PAGE_4K)?;
        let peer = vm.alloc(PEER, BYTES, PAGE_2M)?;
        Ok(Self {
            vm,
            app,
            peer,
            engine,
        })
    }

    /// Gives `to` a capability over `from`'s buffer, through the kernel that both have.
    fn share(&self, from: Process, to: Process) -> Result<u16> {
        let request = Derive {
            parent: capability(self.vm.context(from)?, 0),
            target: capability(self.vm.context(to)?, 0),
            base: self.buffer(from),
            length: BYTES,
            rights: u64::from(RW.0),
            badge: 0,
            lifetime_ns: 0,
            byte_quota: 0,
        };
        let derived = self.vm.call(from, request)?;
        Ok(capability_slot(derived.capability) as u16)
    }

    fn buffer(&self, process: Process) -> u64 {
        match process {
            APP => self.app,
            PEER => self.peer,
        }
    }

    fn fill(&self, process: Process, offset: u64, len: u64, seed: u64) -> Result<()> {
        let va = self.buffer(process) + offset;
        self.vm.call(process, FillPattern { va, len, seed })?;
        Ok(())
    }

    fn holds(&self, process: Process, offset: u64, len: u64, seed: u64) -> Result<bool> {
        let va = self.buffer(process) + offset;
        let compared = self.vm.call(process, ComparePattern { va, len, seed })?;
        Ok(compared.mismatch == NO_MISMATCH)
    }
}

fn open(vm: &Guest, process: Process) -> Result<()> {
    vm.open_context(process)?;
    vm.create_queue(process, ENTRIES, 0)
}

/// The status of the first descriptor that failed, whatever the fault's direction; success when none did.
fn first_failure(ran: &Ran) -> u8 {
    match ran.failures {
        0 => Status::Success as u8,
        _ => ran.first_failure as u8 & !Status::WRITE_FAULT,
    }
}

#[test]
fn processes_on_two_vcpus_submit_at_the_same_time() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    submit_at_the_same_time(1)
}

#[test]
fn processes_on_two_vcpus_are_served_by_two_workers() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    submit_at_the_same_time(2)
}

fn submit_at_the_same_time(workers: u32) -> Result<()> {
    let pair = Pair::boot(workers)?;
    let half = BYTES / 2;
    for (process, seed) in [(APP, 1), (PEER, 2)] {
        pair.fill(process, 0, half, seed)?;
    }
    // The peer's command lasts until it is told to stop: what the app does meanwhile, it does beside it.
    let theirs = memmove((0, pair.peer), (0, pair.peer + half), COPY);
    let flood = pair.vm.start_flood(PEER, &theirs, DEPTH)?;
    for offset in (0..half).step_by(COPY as usize) {
        let (src, dst) = (pair.app + offset, pair.app + half + offset);
        let done = pair
            .vm
            .execute_one(APP, &memmove((0, src), (0, dst), COPY))?;
        assert_ended(&done, Status::Success, "beside the peer's");
    }
    assert!(
        !pair.vm.is_answered(&flood),
        "the peer went on all the time"
    );
    assert!(pair.holds(APP, half, half, 1)?);
    let ran = pair.vm.stop_flood(flood)?;
    assert_eq!(first_failure(&ran), Status::Success as u8);
    assert!(ran.completed > 0);
    assert!(pair.holds(PEER, half, COPY, 2)?);
    let served = pair.engine.stats().workers;
    assert!(
        served.iter().all(|worker| worker.descriptors > 0),
        "{served:?}"
    );
    Ok(())
}

/// Churns the app's pages on one vCPU under the peer's copies on the other; frames that were damaged.
fn churn(pair: &Pair, rounds: u64, flags: u64) -> Result<u64> {
    const PAGES: u64 = 16;
    let mut damaged = 0;
    for round in 0..rounds {
        let action = [CHURN_MOVE, CHURN_SHARE, CHURN_BREAK_SHARE][round as usize % 3];
        let first = round / 3 * PAGES % (COPY / PAGE);
        let request = Churn {
            va: pair.app + BYTES / 2 + first * PAGE,
            pages: PAGES,
            action,
            flags,
        };
        damaged += pair.vm.call(APP, request)?.damaged;
    }
    Ok(damaged)
}

#[test]
fn pages_move_on_one_vcpu_under_the_transfers_of_the_other() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    pages_move(1)
}

/// Invalidations have to reach a worker other than that of whoever sends them.
#[test]
fn pages_move_under_the_transfers_of_two_workers() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    pages_move(2)
}

fn pages_move(workers: u32) -> Result<()> {
    let pair = Pair::boot(workers)?;
    let slot = pair.share(APP, PEER)?;
    pair.fill(APP, 0, BYTES, 1)?;
    pair.fill(PEER, 0, BYTES, 2)?;
    let put = memmove((0, pair.peer), (slot, BYTES / 2), COPY);

    let flood = pair.vm.start_flood(PEER, &put, DEPTH)?;
    let damaged = churn(&pair, 600, 0)?;
    let ran = pair.vm.stop_flood(flood)?;
    assert_eq!(damaged, 0, "a frame was written after it was given away");
    let explained = [
        Status::Success,
        Status::Stage1NotPresent,
        Status::Stage1Permission,
    ];
    let explained = explained.map(|status| status as u8);
    assert!(explained.contains(&first_failure(&ran)), "{ran:?}");
    assert!(ran.completed > ran.failures, "no copy got through");
    // The one half was only in the neighbourhood; in the other stands what the last copy brought.
    assert!(pair.holds(APP, 0, BYTES / 2, 1)?);
    let last = pair.vm.execute_one(PEER, &put)?;
    assert_ended(&last, Status::Success, "with all at rest");
    assert!(pair.holds(APP, BYTES / 2, COPY, 2)?);

    // Whoever reuses frames before the engine has let go of them finds them written.
    let flood = pair.vm.start_flood(PEER, &put, DEPTH)?;
    until("a frame that was reused too early", || {
        let damaged = churn(&pair, 30, CHURN_REUSE_TOO_EARLY)?;
        Ok((damaged != 0).then_some(()))
    })?;
    pair.vm.stop_flood(flood)?;
    Ok(())
}

#[test]
fn a_process_ends_with_work_in_flight_and_the_other_goes_on() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let pair = Pair::boot(1)?;
    let half = BYTES / 2;
    let own = memmove((0, pair.app), (0, pair.app + half), COPY);
    pair.fill(APP, 0, half, 1)?;
    let flood = pair.vm.start_flood(APP, &own, DEPTH)?;
    let theirs = memmove((0, pair.peer), (0, pair.peer + half), half);
    for seed in 0..5 {
        pair.vm.submit(PEER, &[theirs; 32])?;
        pair.vm.close_context(PEER)?;
        open(&pair.vm, PEER).context("the same PASID again")?;
        pair.fill(PEER, 0, half, seed)?;
        let done = pair.vm.execute_one(PEER, &theirs)?;
        assert_ended(&done, Status::Success, "in the new context");
        assert!(pair.holds(PEER, half, half, seed)?);
    }
    let ran = pair.vm.stop_flood(flood)?;
    assert_eq!(first_failure(&ran), Status::Success as u8);
    assert!(pair.holds(APP, half, COPY, 1)?);
    Ok(())
}

#[test]
fn the_device_is_reset_under_the_load_of_both() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let pair = Pair::boot(1)?;
    let half = BYTES / 2;
    for seed in 0..3 {
        let copies = |process| {
            let buffer = pair.buffer(process);
            memmove((0, buffer), (0, buffer + half), half)
        };
        let flood = pair.vm.start_flood(PEER, &copies(PEER), DEPTH)?;
        pair.vm.submit(APP, &[copies(APP); 32])?;
        pair.vm.call(APP, DeviceReset {})?;
        // Its queue is gone, and it is told so.
        let ended = pair.vm.finish(flood);
        assert!(ended.is_err(), "{ended:?}");
        for process in [APP, PEER] {
            let queue = pair.vm.queue(process)?.queue;
            pair.vm.call(process, DestroyQueue { queue })?;
            open(&pair.vm, process)?;
            pair.fill(process, 0, half, seed)?;
            let done = pair.vm.execute_one(process, &copies(process))?;
            assert_ended(&done, Status::Success, "after the reset");
            assert!(pair.holds(process, half, half, seed)?);
        }
    }
    Ok(())
}
