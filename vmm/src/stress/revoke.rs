//! `revoke`: bob takes back what alice is using, at any moment of her copies and from any depth of what she derived
//! from it. From the acknowledgement on not one byte lands.

use std::time::Duration;

use anyhow::{Context as _, Result};
use byway_engine::Engine;
use byway_protocols::Status;

use super::cast::{ALL, APP, Cast, fill, give, memmove, mismatch, status_of};
use super::plan::{Dice, Plan};
use super::report::CaseRow;
use crate::demo::report::status_name;
use crate::steer::{Guest, PAGE_2M};

/// Bytes of both buffers.
const BUFFER: u64 = 2 << 20;
/// Longest copy.
const COPY_MAX: u64 = 1 << 20;
/// Copies in flight.
const DEPTH: u64 = 8;
/// Entries of the queues.
const ENTRIES: u64 = 128;
/// Deepest chain below what alice was given; the engine allows 16 levels in all.
const CHAIN_MAX: u64 = 12;
/// How long an idle queue is polled.
const POLLED: Duration = Duration::from_millis(2);

struct Stage {
    alice: Guest,
    bob: Guest,
    alice_buffer: u64,
    bob_buffer: u64,
}

/// Runs the case.
///
/// # Errors
/// When the VMs cannot be made ready.
pub fn run(plan: &Plan<'_>) -> Result<CaseRow> {
    let cast = Cast::new(&["alice", "bob"], POLLED, plan.stop)?;
    let alice = cast.boot("alice", BUFFER, ENTRIES)?;
    let bob = cast.boot("bob", BUFFER, ENTRIES)?;
    let stage = Stage {
        alice_buffer: alice.alloc(APP, BUFFER, PAGE_2M)?,
        bob_buffer: bob.alloc(APP, BUFFER, PAGE_2M)?,
        alice,
        bob,
    };
    let mut dice = Dice::new(plan.seed);
    let mut row = CaseRow {
        revoke_us_max: Some(0.0),
        changes: Some(0),
        refused: Some(0),
        ..CaseRow::new("revoke")
    };
    let clock = plan.start();
    while !clock.is_over() {
        if let Err(error) = stage.round(&cast.engine, &mut dice, &mut row) {
            row.error(&error);
            break;
        }
    }
    row.seconds = clock.seconds();
    Ok(row)
}

impl Stage {
    fn round(&self, engine: &Engine, dice: &mut Dice, row: &mut CaseRow) -> Result<()> {
        let (given, held) = give(&self.bob, &self.alice, self.bob_buffer, BUFFER, ALL)?;
        let mut slots = vec![held];
        for _ in 0..dice.below(CHAIN_MAX + 1) {
            let parent = slots[slots.len() - 1];
            slots.push(self.alice.derive(APP, parent, 0, BUFFER, ALL)?);
        }
        let used = slots[dice.below(slots.len() as u64) as usize];
        let bytes = (COPY_MAX >> dice.below(14)).max(64);
        let at = dice.below(BUFFER - bytes + 1);
        fill(&self.alice, self.alice_buffer, BUFFER, dice.roll())?;
        self.bob.sleep()?;

        let put = memmove((0, self.alice_buffer), (used, at), bytes);
        let flood = self.alice.start_flood(APP, &put, DEPTH)?;
        std::thread::sleep(Duration::from_micros(dice.below(3000)));
        self.bob.revoke(APP, given)?;
        // What lands after this has landed after the acknowledgement.
        let mark = dice.roll();
        fill(&self.bob, self.bob_buffer, BUFFER, mark)?;
        std::thread::sleep(Duration::from_micros(dice.below(1000)));
        if let Some(offset) = mismatch(&self.bob, self.bob_buffer, BUFFER, mark)? {
            row.violation(format!(
                "a byte landed at {offset:#x} after its revocation was acknowledged"
            ));
        }
        self.bob.sleep()?;
        let ran = self.alice.stop_flood(flood).context("alice's copies")?;
        let first = ran.first_failure as u8;
        if ran.failures != 0 && first != Status::Revoked as u8 {
            row.violation(format!("a revoked copy ended with {}", status_name(first)));
        }
        row.transfers += ran.completed - ran.failures;
        *row.refused.get_or_insert(0) += ran.failures;

        for slot in slots {
            let put = memmove((0, self.alice_buffer), (slot, 0), 64);
            let done = self.alice.execute_one(APP, &put)?;
            if done.status() != Some(Status::Revoked) || done.bytes_completed != 0 {
                row.violation(format!(
                    "a capability below a revoked one ended with {} after {} bytes",
                    status_of(&done),
                    done.bytes_completed
                ));
            }
            self.alice.drop_capability(APP, slot)?;
        }
        if let Some(offset) = mismatch(&self.bob, self.bob_buffer, BUFFER, mark)? {
            row.violation(format!(
                "a byte landed at {offset:#x} by a revoked capability"
            ));
        }
        self.bob.drop_capability(APP, given)?;
        let us = engine.stats().revokes.last_ns as f64 / 1000.0;
        row.revoke_us_max = row.revoke_us_max.map(|max| max.max(us));
        *row.changes.get_or_insert(0) += 1;
        Ok(())
    }
}
