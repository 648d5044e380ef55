//! The guest resets its device in mid-transfer: what was outstanding ends in 62, its peers find what it gave revoked,
//! and everything can be set up anew.

use anyhow::{Result, ensure};
use byway_agent::commands::{DestroyQueue, DeviceReset, QueryEngine, QueueState};
use byway_engine::EngineConfig;
use byway_protocols::event::EventKind;
use byway_protocols::{Descriptor, Status};

use super::world::{
    APP, ENTRIES, MIB, Party, RW, assert_ended, await_event, capability_is, collect, engine,
    memmove, submit, turn,
};

const COPY: u64 = 16 * MIB;
const COPIES: usize = 24;
const MARK: u8 = 0x33;

#[test]
fn everything_ends_and_begins_anew() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = engine(EngineConfig::default(), &["alice", "bob"])?;
    let alice = Party::boot(&engine, "alice", COPY)?;
    let bob = Party::boot(&engine, "bob", COPY)?;

    let mut cut_short = 0;
    for round in 0..4 {
        let (given, slot) = bob.give(&alice, 0, COPY, RW)?;
        let (_, of_alice) = alice.give(&bob, 0, COPY, RW)?;
        let old = alice.queue(APP)?.queue;
        let instance = alice.call(APP, QueryEngine {})?.instance;
        alice.fill(0, COPY, round)?;
        let put = memmove((0, alice.buffer), (slot, 0), COPY);
        let puts: Vec<Descriptor> = vec![put; COPIES];

        submit(&alice, APP, &puts)?;
        let reset = alice.call(APP, DeviceReset {})?;
        // Not a byte lands from here on.
        bob.mark(MARK)?;
        assert_ne!(reset.instance, instance);
        assert_eq!(alice.call(APP, QueueState { queue: old })?.alive, 0);
        for done in collect(&alice, APP, COPIES)? {
            match done.status() {
                Some(Status::Success) => ensure!(u64::from(done.bytes_completed) == COPY),
                Some(Status::Aborted) => cut_short += 1,
                _ => panic!("{done:?}"),
            }
        }

        await_event(&bob, EventKind::DomainGone)?;
        let own = capability_is(&bob, given)?;
        assert_eq!((own.state, own.descendants), (1, 0), "bob's own");
        assert_eq!(capability_is(&bob, of_alice)?.state, 2, "alice's");
        let get = memmove((of_alice, 0), (0, bob.buffer), 4096);
        assert_ended(&bob.execute_one(APP, &get)?, Status::Revoked, "alice's");
        assert_eq!(bob.first_not(MARK)?, None, "a byte landed after the reset");
        bob.drop_capability(APP, of_alice)?;
        bob.drop_capability(APP, given)?;

        alice.call(APP, DestroyQueue { queue: old })?;
        alice.open_context(APP)?;
        alice.create_queue(APP, ENTRIES, 0)?;
        let (given, slot) = bob.give(&alice, 0, COPY, RW)?;
        let put = memmove((0, alice.buffer), (slot, 0), COPY);
        let done = alice.execute_one(APP, &put)?;
        assert_ended(&done, Status::Success, "after the reset");
        bob.expect(0, COPY, round)?;
        bob.drop_capability(APP, given)?;
        alice.drop_capability(APP, slot)?;
    }
    ensure!(cut_short > 0, "every reset came when all was done");
    Ok(())
}
