//! Rate limits that the operator sets for a running VM: they hold for what its processes submit, however idle the
//! workers are, bind nobody else, and are lifted as they were set.

use std::time::Duration;

use anyhow::Result;
use byway_engine::interface::{Action, Admin, Share};
use byway_engine::ops::budget::{CHUNK_BYTES, OPERATION_COST};
use byway_engine::{Engine, EngineConfig};
use byway_protocols::{Descriptor, Flags, Opcode};
use byway_vmm::steer::{RunDone, RunSpec};

use super::world::{APP, KIB, MIB, Party, engine, memmove, turn};

/// Copies of a run.
const COPIES: u64 = 1024;
const DEPTH: u64 = 8;
/// What may be used of a rate at once, in microseconds.
const BURST_US: u32 = 10_000;
/// Time that a run takes at its rate, burst and all, in milliseconds.
const TIME_MS: u64 = 500;
/// Workers look at what an operator has changed every few hundred turns: more than those.
const NOTICED_TURNS: u64 = 2000;

/// Until the worker has noticed, however late it gets a core: `other` has it take so many turns, one after the other.
fn set(engine: &Engine, name: &str, share: Share, other: &Party) -> Result<()> {
    engine.act(Action::Quota {
        name: name.to_owned(),
        share,
    })?;
    let turns = RunSpec {
        descriptor: Descriptor::new(Opcode::Nop, Flags::NONE),
        iterations: NOTICED_TURNS,
        depth: 1,
        stride: 0,
        samples: 0,
    };
    let done = other.run(APP, &turns)?;
    assert_eq!((done.completed, done.failed), (NOTICED_TURNS, 0));
    Ok(())
}

/// Copies of so many bytes within a VM's own memory.
fn copies(party: &Party, bytes: u64) -> RunSpec {
    RunSpec {
        descriptor: memmove((0, party.buffer), (0, party.buffer + MIB), bytes),
        iterations: COPIES,
        depth: DEPTH,
        stride: 0,
        samples: 0,
    }
}

fn assert_whole(done: &RunDone) {
    assert_eq!((done.completed, done.failed), (COPIES, 0), "{done:?}");
}

/// Has a run take less than `bound`, again should the host have kept the VM from its core for as long as that.
fn sooner(bound: &RunDone, what: &str, mut run: impl FnMut() -> Result<RunDone>) -> Result<()> {
    const ATTEMPTS: u32 = 10;
    for attempted in 1..=ATTEMPTS {
        let done = run()?;
        assert_whole(&done);
        if done.ns < bound.ns {
            return Ok(());
        }
        println!("attempt {attempted}: {what} took {} ns", done.ns);
    }
    panic!("{what} always takes as long as {bound:?}");
}

/// Alice is bound to a rate at which her copies of `bytes` bytes take [`TIME_MS`]; bob is not.
fn check(bytes: u64, share: Share) -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = engine(EngineConfig::default(), &["alice", "bob"])?;
    let alice = Party::boot(&engine, "alice", 2 * MIB)?;
    let bob = Party::boot(&engine, "bob", 2 * MIB)?;
    let burst_us = BURST_US;
    set(&engine, "alice", Share { burst_us, ..share }, &bob)?;
    let bound = alice.start_run(APP, &copies(&alice, bytes))?;
    let free = bob.run(APP, &copies(&bob, bytes))?;
    let bound = alice.finish_run(bound)?;
    assert_whole(&bound);
    // What of a run need not wait: the burst, and one chunk, which is not cut short by a rate.
    let chunk = CHUNK_BYTES.div_ceil(OPERATION_COST + bytes);
    let rate = Duration::from_millis(TIME_MS * (COPIES - chunk) / COPIES);
    let least = rate - Duration::from_micros(BURST_US.into());
    let took = Duration::from_nanos(bound.ns);
    assert!(
        took >= least,
        "alice took {took:?}, which is less than {least:?} at her rate"
    );
    let mut free = Some(free);
    sooner(&bound, "bob's run, who has no limit,", || {
        free.take()
            .map_or_else(|| bob.run(APP, &copies(&bob, bytes)), Ok)
    })?;
    set(&engine, "alice", Share::default(), &bob)?;
    sooner(&bound, "alice's run, whose limit was lifted,", || {
        alice.run(APP, &copies(&alice, bytes))
    })
}

#[test]
fn bytes_a_second_bind_their_own_vm_alone() -> Result<()> {
    let bytes = 64 * KIB;
    check(
        bytes,
        Share {
            bytes_per_s: COPIES * bytes * 1000 / TIME_MS,
            ..Share::default()
        },
    )
}

#[test]
fn operations_a_second_bind_their_own_vm_alone() -> Result<()> {
    check(
        64,
        Share {
            operations_per_s: COPIES * 1000 / TIME_MS,
            ..Share::default()
        },
    )
}
