//! Parking: an idle queue asks for a doorbell, is woken by it, and loses no descriptor, a thousand times over.

use std::time::Duration;

use anyhow::{Context as _, Result};
use byway_agent::Process;
use byway_agent::commands::{Poll, Submit};
use byway_engine::EngineConfig;
use byway_protocols::control::queue_flags;
use byway_protocols::{Descriptor, Flags, Opcode, QueueHeader, Status};
use byway_vmm::steer::Guest;
use vm_memory::{Bytes, GuestAddress};

use super::world::{APP, ENTRIES, MIB, Party, assert_ended, engine, turn, until};

const PARK_US: u32 = 20;
const ROUNDS: u32 = 1000;

fn config() -> EngineConfig {
    EngineConfig {
        park_us: PARK_US,
        ..EngineConfig::default()
    }
}

/// The queue's header, as the host sees it in guest RAM.
pub fn header(guest: &Guest, process: Process) -> Result<QueueHeader> {
    let at = guest.queue(process)?.gpa;
    let mut bytes = [0; QueueHeader::SIZE];
    let memory = guest.vm().ram().memory();
    memory.read_slice(&mut bytes, GuestAddress(at))?;
    Ok(QueueHeader::from_bytes(&bytes))
}

/// One NOP; returns how many doorbells it took.
fn nop(alice: &Party) -> Result<u64> {
    let queue = alice.queue(APP)?.queue;
    let nop = Descriptor::new(Opcode::Nop, Flags::NONE);
    let mut channel = alice.mailbox().channel(APP);
    channel.bulk_write(0, &nop.to_bytes());
    let submitted = alice.call(APP, Submit { queue, count: 1 })?;
    let poll = Poll {
        queue,
        max: 1,
        ticks: alice.ns_to_ticks(10_000_000_000),
    };
    let polled = alice.call(APP, poll)?;
    assert_eq!(
        (submitted.count, polled.count, polled.outstanding),
        (1, 1, 0),
        "a descriptor was lost"
    );
    Ok(submitted.kicks)
}

#[test]
fn a_thousand_wake_ups_lose_none() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = engine(config(), &["alice"])?;
    let alice = Party::boot(&engine, "alice", 2 * MIB)?;
    let first = header(&alice, APP)?.taken;
    for round in 1..=ROUNDS {
        until("the queue to park", || {
            Ok((header(&alice, APP)?.need_kick == 1).then_some(()))
        })?;
        assert_eq!(nop(&alice)?, 1, "round {round}");
    }
    // The count in the header is brought up to date when the queue parks.
    until("the queue to park", || {
        Ok((header(&alice, APP)?.need_kick == 1).then_some(()))
    })?;
    assert_eq!(header(&alice, APP)?.taken.wrapping_sub(first), ROUNDS);
    Ok(())
}

#[test]
fn submitting_around_the_moment_of_parking_loses_none() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = engine(config(), &["alice"])?;
    let alice = Party::boot(&engine, "alice", 2 * MIB)?;
    let mut kicks = 0;
    for round in 0..ROUNDS {
        // Spins, since a nap is longer than the queue takes to park.
        let pause = Duration::from_nanos(u64::from(round) * 61 % (2000 * u64::from(PARK_US)));
        let started = std::time::Instant::now();
        while started.elapsed() < pause {
            std::hint::spin_loop();
        }
        kicks += nop(&alice)?;
    }
    assert!(kicks <= u64::from(ROUNDS));
    Ok(())
}

#[test]
fn a_queue_that_never_parks_asks_for_nothing() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = engine(config(), &["alice"])?;
    let alice = Party::boot(&engine, "alice", 2 * MIB)?;
    alice.open_context(Process::Peer)?;
    alice.create_queue(Process::Peer, ENTRIES, u64::from(queue_flags::NO_PARK))?;
    for _ in 0..20 {
        std::thread::sleep(Duration::from_micros(50 * u64::from(PARK_US)));
        assert_eq!(header(&alice, Process::Peer)?.need_kick, 0);
        let nop = Descriptor::new(Opcode::Nop, Flags::NONE);
        let done = alice.execute(Process::Peer, &[nop])?;
        assert_ended(done.first().context("one")?, Status::Success, "a NOP");
    }
    Ok(())
}
