//! Completion interrupts: a waiter sleeps in `hlt` and is woken; there is one until the queue is re-armed, and none is
//! lost.

use std::time::Duration;

use anyhow::Result;
use byway_agent::commands::{ArmQueue, NextEvent, QueryEngine, WaitSleeping};
use byway_engine::EngineConfig;
use byway_protocols::event::EventKind;
use byway_protocols::{Descriptor, Flags, Opcode, Status};

use super::world::{APP, MIB, PAGE, Party, await_event, batch, engine, memmove, submit, turn};

const COPY: u64 = 16 * MIB;

/// As many as are a tenth of a second on the fastest host, in descriptors of a page.
const COPIES: u64 = PAGE / 64;

/// The same descriptor, with more flags.
fn with(descriptor: Descriptor, flags: Flags) -> Descriptor {
    Descriptor {
        flags_opcode: descriptor.flags_opcode | flags.0,
        ..descriptor
    }
}

#[test]
fn a_sleeper_is_woken() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = engine(EngineConfig::default(), &["alice"])?;
    let alice = Party::boot(&engine, "alice", 2 * COPY + 2 * MIB)?;
    let queue = alice.queue(APP)?.queue;
    let copy = memmove((0, alice.buffer), (0, alice.buffer + COPY), COPY);
    let list: Vec<u8> = (0..COPIES).flat_map(|_| copy.to_bytes()).collect();
    alice.put_by_host(2 * COPY, &list)?;
    let at = |offset: u64| (0, alice.buffer + 2 * COPY + offset);
    // One completion, after all copies: tenths of a second, in which even a busy host lets the guest go to sleep.
    let copies = batch(at(0), at(PAGE), COPIES);
    let copies = with(copies, Flags::REQUEST_INTERRUPT);

    let mut sleeps = 0;
    for round in 0..5 {
        alice.fill(0, COPY, round)?;
        submit(&alice, APP, &[copies])?;
        let halts = alice.exits()?.halt_exits;
        let woken = alice.call(APP, WaitSleeping { queue })?;
        assert_eq!(woken.word0 as u8, Status::Success as u8);
        sleeps += woken.sleeps;
        if woken.sleeps > 0 && alice.exits()?.missing.is_empty() {
            assert!(alice.exits()?.halt_exits > halts, "it did not halt");
        }
        alice.expect(COPY, COPY, round)?;
    }
    assert!(sleeps > 0, "all copies were done before the guest slept");
    Ok(())
}

#[test]
fn one_interrupt_until_re_armed() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = engine(EngineConfig::default(), &["alice"])?;
    let alice = Party::boot(&engine, "alice", 2 * MIB)?;
    let queue = alice.queue(APP)?.queue;
    let quiet = Descriptor::new(Opcode::Nop, Flags::NONE);
    let asking = Descriptor::new(Opcode::Nop, Flags::REQUEST_INTERRUPT);
    // Time for events on their way, and a request behind which none of them can be.
    let no_event = |what: &str| -> Result<()> {
        std::thread::sleep(Duration::from_millis(20));
        alice.call(APP, QueryEngine {})?;
        assert_eq!(alice.call(APP, NextEvent {})?.kind, 0, "{what}");
        Ok(())
    };
    let one_event = |what: &str| -> Result<()> {
        let event = await_event(&alice, EventKind::Completion)?;
        assert_eq!(event.object, queue, "{what}");
        no_event(what)
    };

    alice.execute(APP, &[quiet; 4])?;
    no_event("nobody asked")?;
    // A queue starts armed.
    for _ in 0..4 {
        alice.execute_one(APP, &asking)?;
    }
    one_event("four that asked")?;
    // Three have asked since: arming tells at once.
    alice.call(APP, ArmQueue { queue })?;
    one_event("armed after the fact")?;
    alice.call(APP, ArmQueue { queue })?;
    no_event("armed, and nothing to tell")?;
    alice.execute(APP, &[quiet, asking, quiet])?;
    one_event("armed before")?;
    Ok(())
}
