//! Messages between processes of two VMs: they arrive whole, in order and with the sender's badge; a full port holds
//! its sender back; polled they cause no exit; a receiver that sleeps is interrupted; and a revocation or the end of
//! a VM ends those that wait.

use std::time::Duration;

use anyhow::{Result, ensure};
use byway_agent::GuestState;
use byway_agent::commands::{CreatePort, Revoke, WaitSleeping, capability, capability_slot};
use byway_engine::EngineConfig;
use byway_protocols::control::queue_flags;
use byway_protocols::{Completion, Descriptor, Flags, Opcode, Rights, Status, Word0};
use byway_vmm::steer::RunSpec;

use super::world::{APP, ENTRIES, MIB, Party, assert_ended, collect, engine, submit, turn, until};

/// Bytes of a message.
const BYTES: u64 = 4096;
/// Where messages are received in a buffer; they are sent from its beginning.
const INBOX: u64 = MIB;

fn send(party: &Party, port: u16, offset: u64) -> Descriptor {
    Descriptor {
        word0: Word0::new(0, port, false).0,
        src: party.buffer + offset,
        size: BYTES as u32,
        ..Descriptor::new(Opcode::Send, Flags::NONE)
    }
}

fn receive(party: &Party, port: u16, offset: u64) -> Descriptor {
    Descriptor {
        word0: Word0::new(port, 0, false).0,
        dst: party.buffer + offset,
        size: BYTES as u32,
        ..Descriptor::new(Opcode::Receive, Flags::NONE)
    }
}

fn with(descriptor: Descriptor, flags: Flags) -> Descriptor {
    Descriptor {
        flags_opcode: descriptor.flags_opcode | flags.0,
        ..descriptor
    }
}

/// Two VMs, and a port from the first to the second.
struct Line {
    alice: Party,
    bob: Party,
    /// Alice's slot, with the right to send.
    out: u16,
    /// Bob's own.
    port: u16,
}

impl Line {
    fn lay(config: EngineConfig, depth: u64) -> Result<Self> {
        let engine = engine(config, &["alice", "bob"])?;
        let alice = Party::boot(&engine, "alice", 2 * MIB)?;
        let bob = Party::boot(&engine, "bob", 2 * MIB)?;
        let port = bob.create_port(APP, depth, BYTES)?;
        let given = bob.derive(APP, port, 0, BYTES, Rights::SEND)?;
        let out = bob.pass_on(&alice, given, Rights::SEND)?;
        Ok(Self {
            alice,
            bob,
            out,
            port,
        })
    }

    /// Sends what the pattern of `seed` says, and returns when the port has it.
    fn say(&self, seed: u64) -> Result<()> {
        self.alice.fill(0, BYTES, seed)?;
        let sent = self
            .alice
            .execute_one(APP, &send(&self.alice, self.out, 0))?;
        assert_ended(&sent, Status::Success, "SEND");
        Ok(())
    }

    /// Insists that the oldest message is that of `seed`.
    fn hear(&self, seed: u64) -> Result<Completion> {
        let take = receive(&self.bob, self.port, INBOX);
        let got = self.bob.execute_one(APP, &take)?;
        assert_ended(&got, Status::Success, "RECEIVE");
        self.bob.expect(INBOX, BYTES, seed)?;
        Ok(got)
    }
}

#[test]
fn they_arrive_whole_in_order_and_say_by_which_right_they_came() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let line = Line::lay(EngineConfig::default(), 4)?;
    // Back again by a port of alice's whose badge tells who speaks.
    let target = capability(line.alice.context(APP)?, 0);
    let back = CreatePort {
        target,
        depth: 1,
        bytes: BYTES,
        badge: 0xa11ce,
    };
    let back = line.alice.call(APP, back)?.capability;
    let back = capability_slot(back) as u16;
    let answer = line.alice.pass_on(&line.bob, back, Rights::SEND)?;

    for round in 0..20 {
        for seed in 0..4 {
            line.say(4 * round + seed)?;
        }
        for seed in 0..4 {
            let got = line.hear(4 * round + seed)?;
            assert_eq!(u64::from(got.bytes_completed), BYTES);
        }
        let reply = send(&line.bob, answer, INBOX);
        let sent = line.bob.execute_one(APP, &reply)?;
        assert_ended(&sent, Status::Success, "the answer");
        let take = receive(&line.alice, back, INBOX);
        let got = line.alice.execute_one(APP, &take)?;
        assert_ended(&got, Status::Success, "the answer's RECEIVE");
        assert_eq!(got.op0, 0xa11ce);
        line.alice.expect(INBOX, BYTES, 4 * round + 3)?;
    }

    // Each has one right to the port.
    let own = line
        .alice
        .execute_one(APP, &receive(&line.alice, line.out, INBOX))?;
    assert_ended(&own, Status::MissingRight, "alice may only send");
    Ok(())
}

#[test]
fn a_full_port_holds_its_sender_back() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    // Parked at once, so that it is the port which continues the sender.
    let config = EngineConfig {
        park_us: 1,
        ..EngineConfig::default()
    };
    let line = Line::lay(config, 3)?;
    for seed in 0..8 {
        line.alice.fill(seed * BYTES, BYTES, seed)?;
    }
    let sends: Vec<_> = (0..8)
        .map(|n| send(&line.alice, line.out, n * BYTES))
        .collect();
    submit(&line.alice, APP, &sends)?;
    // A later one would be told that there is no room.
    std::thread::sleep(Duration::from_millis(20));
    for seed in 0..8 {
        line.hear(seed)?;
    }
    for sent in collect(&line.alice, APP, sends.len())? {
        assert_ended(&sent, Status::Success, "held back");
    }
    let empty = with(receive(&line.bob, line.port, INBOX), Flags::NO_WAIT);
    let empty = line.bob.execute_one(APP, &empty)?;
    assert_ended(&empty, Status::NotReady, "none is left");
    Ok(())
}

#[test]
fn polled_they_cause_no_exit() -> Result<()> {
    const COUNT: u64 = 2000;
    let Some(_turn) = turn() else { return Ok(()) };
    let line = Line::lay(EngineConfig::default(), 16)?;
    // On a busy host either vCPU may be off its core for longer than an idle queue is polled.
    for party in [&line.alice, &line.bob] {
        party.create_queue(APP, ENTRIES, u64::from(queue_flags::NO_PARK))?;
    }
    let run = |descriptor| RunSpec {
        descriptor,
        iterations: COUNT,
        depth: 8,
        stride: 0,
        samples: 0,
    };
    let parties = [&line.alice, &line.bob];
    let settled = || -> Result<[u64; 2]> {
        for party in parties {
            party.settle()?;
        }
        Ok(parties.map(|party| party.interrupts()))
    };
    // An interrupt that the host brings long after what it tells of is none of theirs; one that comes every time is.
    const ATTEMPTS: u32 = 10;
    for attempt in 1..=ATTEMPTS {
        let interrupts = settled()?;
        let before = (line.alice.exits()?, line.bob.exits()?);
        let take = receive(&line.bob, line.port, INBOX);
        let receiving = line.bob.start_run(APP, &run(take))?;
        let sent = line.alice.run(APP, &run(send(&line.alice, line.out, 0)))?;
        let received = line.bob.finish_run(receiving)?;
        let after = (line.alice.exits()?, line.bob.exits()?);
        for done in [sent, received] {
            assert_eq!((done.completed, done.failed, done.kicks), (COUNT, 0, 0));
        }
        if settled()? != interrupts && attempt < ATTEMPTS {
            println!("attempt {attempt}: an interrupt came late");
            continue;
        }
        for delta in [after.0.delta(&before.0), after.1.delta(&before.1)] {
            assert!(delta.is_quiet(), "{delta:?}");
        }
        break;
    }
    Ok(())
}

#[test]
fn a_receiver_that_sleeps_is_interrupted() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let line = Line::lay(EngineConfig::default(), 4)?;
    let queue = line.bob.queue(APP)?.queue;
    for seed in 0..3 {
        let take = receive(&line.bob, line.port, INBOX);
        submit(&line.bob, APP, &[with(take, Flags::REQUEST_INTERRUPT)])?;
        let halts = line.bob.exits()?.halt_exits;
        let asleep = line.bob.start(APP, WaitSleeping { queue })?;
        until("bob to sleep", || {
            let now = line.bob.exits()?;
            let halted = now.missing.contains(&"halt_exits") || now.halt_exits > halts;
            let is_asleep = line.bob.mailbox().state() == Some(GuestState::Sleeping);
            Ok((is_asleep && halted).then_some(()))
        })?;
        ensure!(!line.bob.is_answered(&asleep), "nothing was sent yet");
        line.say(seed)?;
        let woken = line.bob.finish(asleep)?;
        assert_eq!(woken.word0 as u8, Status::Success as u8);
        assert!(woken.sleeps > 0, "it did not sleep");
        let now = line.bob.exits()?;
        assert!(now.missing.contains(&"halt_exits") || now.halt_exits > halts);
        line.bob.expect(INBOX, BYTES, seed)?;
    }
    Ok(())
}

#[test]
fn a_revocation_and_the_end_of_a_vm_end_those_that_wait() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let mut line = Line::lay(EngineConfig::default(), 1)?;
    for seed in 0..2 {
        // The first fills the port, the second waits until the right is taken back.
        line.say(seed)?;
        submit(&line.alice, APP, &[send(&line.alice, line.out, 0)])?;
        std::thread::sleep(Duration::from_millis(20));
        let given = line.out;
        let taken_back = Revoke {
            capability: capability(line.bob.context(APP)?, u64::from(line.port)),
            descendants_only: 1,
        };
        line.bob.call(APP, taken_back)?;
        let ended = collect(&line.alice, APP, 1)?;
        assert_ended(&ended[0], Status::Revoked, "it waited");
        let gone = line.alice.execute_one(APP, &send(&line.alice, given, 0))?;
        assert_ended(&gone, Status::Revoked, "the right is gone");
        line.hear(seed)?;
        let again = line.bob.derive(APP, line.port, 0, BYTES, Rights::SEND)?;
        line.out = line.bob.pass_on(&line.alice, again, Rights::SEND)?;
    }
    line.say(9)?;
    submit(&line.alice, APP, &[send(&line.alice, line.out, 0)])?;
    let Line { alice, bob, .. } = line;
    drop(bob);
    let ended = collect(&alice, APP, 1)?;
    assert_ended(&ended[0], Status::Revoked, "the port is gone with its VM");
    Ok(())
}
