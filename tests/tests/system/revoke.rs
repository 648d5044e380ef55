//! Revocation in mid-copy: once it is acknowledged not one byte lands, by the capability or by any derived or passed
//! on from it; what does not descend from it goes on.

use std::time::Duration;

use anyhow::Result;
use byway_agent::commands::{self, capability};
use byway_engine::EngineConfig;
use byway_protocols::Status;
use byway_protocols::event::EventKind;
use byway_vmm::demo::report::status_name;
use byway_vmm::steer::RunSpec;

use super::world::{
    APP, MIB, Party, RW, RWG, assert_ended, await_event, capability_is, engine, memmove, turn,
    until,
};

const COPY: u64 = 16 * MIB;
const DEPTH: u64 = 4;
const MARK: u8 = 0x5a;

/// An endless run of copies from `party`'s buffer.
fn copies(party: &Party, slot: u16) -> RunSpec {
    RunSpec {
        descriptor: memmove((0, party.buffer), (slot, 0), COPY),
        iterations: u64::MAX,
        depth: DEPTH,
        stride: 0,
        samples: 0,
    }
}

#[test]
fn nothing_lands_after_the_acknowledgement_by_any_descendant() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = engine(EngineConfig::default(), &["alice", "bob", "carol"])?;
    let alice = Party::boot(&engine, "alice", COPY)?;
    let bob = Party::boot(&engine, "bob", COPY)?;
    let carol = Party::boot(&engine, "carol", COPY)?;
    // Their bytes differ everywhere, so that bob's buffer changes for as long as either lands.
    alice.fill(0, COPY, 1)?;
    carol.fill(0, COPY, 2)?;

    let (sibling, to_sibling) = bob.give(&alice, 0, COPY, RW)?;
    for round in 0..3 {
        let (given, slot) = bob.give(&alice, 0, COPY, RWG)?;
        let narrow = alice.derive(APP, slot, 0, 4096, RW)?;
        let deep = alice.derive(APP, slot, 0, COPY, RWG)?;
        let carols = alice.pass_on(&carol, deep, RW)?;
        assert_eq!(capability_is(&bob, given)?.descendants, 4);
        bob.mark(MARK)?;

        let runs = [(&alice, slot), (&carol, carols)];
        let [by_alice, by_carol] = runs.map(|(party, slot)| {
            bob.sleep()?;
            party.start_run(APP, &copies(party, slot))
        });
        let (by_alice, by_carol) = (by_alice?, by_carol?);
        // In the middle of it: at another place each time.
        let place = COPY / 4 * (round + 1) - 1;
        until("copies in bob's buffer", || {
            Ok((bob.see(place, 1)? != [MARK]).then_some(()))
        })?;

        bob.revoke(APP, given)?;
        let at_once = bob.see(0, COPY)?;
        std::thread::sleep(Duration::from_millis(20));
        assert!(bob.see(0, COPY)? == at_once, "bytes landed, round {round}");
        assert_eq!(
            bob.checksum(APP, bob.buffer, COPY)?,
            byway_agent::checksum::checksum(&at_once)
        );
        // A byte that equals the one before it would not have been seen.
        bob.mark(MARK)?;

        for (party, running) in [(&alice, by_alice), (&carol, by_carol)] {
            let done = party.finish_run(running)?;
            assert_eq!(
                status_name(done.first_bad_status),
                status_name(Status::Revoked as u8),
                "{}",
                party.name()
            );
            assert!((1..=DEPTH).contains(&done.failed), "{done:?}");
        }
        for (party, dead) in [
            (&alice, slot),
            (&alice, narrow),
            (&alice, deep),
            (&carol, carols),
        ] {
            let put = memmove((0, party.buffer), (dead, 0), 4096);
            let done = party.execute_one(APP, &put)?;
            assert_ended(&done, Status::Revoked, party.name());
            assert_eq!(done.bytes_completed, 0);
            assert_eq!(capability_is(party, dead)?.state, 2);
            party.drop_capability(APP, dead)?;
        }
        await_event(&carol, EventKind::CapabilityRevoked)?;
        bob.drop_capability(APP, given)?;
        assert_eq!(bob.first_not(MARK)?, None, "bytes landed, round {round}");
    }

    // The other right over the same bytes has seen nothing of all that.
    let put = memmove((0, alice.buffer), (to_sibling, 0), COPY);
    let done = alice.execute_one(APP, &put)?;
    assert_ended(&done, Status::Success, "by the sibling");
    bob.expect(0, COPY, 1)?;
    assert_eq!(capability_is(&bob, sibling)?.state, 1);
    Ok(())
}

#[test]
fn who_revokes_in_the_middle_ends_what_is_below() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = engine(EngineConfig::default(), &["alice", "bob", "carol"])?;
    let alice = Party::boot(&engine, "alice", 2 * MIB)?;
    let bob = Party::boot(&engine, "bob", 2 * MIB)?;
    let carol = Party::boot(&engine, "carol", 2 * MIB)?;
    let (given, slot) = bob.give(&alice, 0, MIB, RWG)?;
    let carols = alice.pass_on(&carol, slot, RW)?;

    let below_only = commands::Revoke {
        capability: capability(alice.context(APP)?, u64::from(slot)),
        descendants_only: 1,
    };
    alice.call(APP, below_only)?;
    let put =
        |party: &Party, slot| party.execute_one(APP, &memmove((0, party.buffer), (slot, 0), MIB));
    assert_ended(&put(&carol, carols)?, Status::Revoked, "below");
    assert_ended(&put(&alice, slot)?, Status::Success, "spared");
    carol.drop_capability(APP, carols)?;

    let carols = alice.pass_on(&carol, slot, RW)?;
    assert_ended(&put(&carol, carols)?, Status::Success, "passed on again");
    alice.revoke(APP, slot)?;
    assert_ended(&put(&carol, carols)?, Status::Revoked, "below");
    assert_ended(&put(&alice, slot)?, Status::Revoked, "itself");
    let own = capability_is(&bob, given)?;
    assert_eq!((own.state, own.descendants), (1, 0), "above");
    Ok(())
}
