//! A delta update of a remote region: bob holds version 1 of a table, alice versions 1 and 2. Her process
//! records the differences and has them applied to bob's memory: what crosses over is the record, not the
//! table.
//!
//!     cargo run --release -p byway-examples --bin delta_update

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use byway_agent::commands::FillPattern;
use byway_examples::{APP, execute, on_two_vms, own, remote};
use byway_ring::{Delta, Difference, Done, Request};
use byway_vmm::steer::Stage;

/// Bytes of the table: as many as one descriptor compares.
const TABLE: u64 = 512 << 10;
/// Words that change between the versions.
const CHANGES: u64 = 1000;

fn main() -> ExitCode {
    on_two_vms(delta_update)
}

fn delta_update(stage: &mut Stage) -> Result<()> {
    let (alice, bob) = (&stage.alice, &stage.bob);
    let old = stage.alice_buffer;
    let new = old + TABLE;
    let record = new + TABLE;

    // Version 1 on both sides, each made by its own guest.
    for (guest, va) in [(alice, old), (alice, new), (bob, stage.bob_buffer)] {
        let (len, seed) = (TABLE, 1);
        guest.call(APP, FillPattern { va, len, seed })?;
    }
    // Version 2: rows here and there.
    for change in 0..CHANGES {
        let word = change * 7919 % (TABLE / 8);
        alice.write(APP, new + 8 * word, &(!change).to_le_bytes())?;
    }
    let stale = bob.checksum(APP, stage.bob_buffer, TABLE)?;

    let room = Request::delta_room(TABLE);
    let create = Request::create_delta(own(record), room, own(old), own(new), TABLE)?;
    let delta = Delta::of(&execute(alice, create)?)?;
    ensure!(
        delta.difference == Difference::Recorded,
        "the versions are said to be equal"
    );
    let bytes = u64::from(delta.record_bytes);

    let apply = Request::apply_delta(remote(stage, 0)?, TABLE, own(record), bytes)?;
    let applied = Done::of(&execute(alice, apply)?).context("applying the record")?;
    ensure!(
        u64::from(applied.bytes) == bytes,
        "{} of {bytes} bytes applied",
        applied.bytes
    );

    // Each guest says what it holds.
    let wanted = alice.checksum(APP, new, TABLE)?;
    let found = bob.checksum(APP, stage.bob_buffer, TABLE)?;
    ensure!(stale != wanted, "the versions were to differ");
    ensure!(found == wanted, "bob's table is not version 2");
    ensure!(
        bytes == 10 * CHANGES,
        "a record of {bytes} bytes for {CHANGES} words"
    );
    println!("bob's table of {TABLE} bytes updated by a record of {bytes}");
    Ok(())
}
