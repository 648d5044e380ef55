//! `kill`: VMs, and VMMs as processes, end at any moment of their transfers, as the owner of the memory and as the
//! submitter; the others go on undisturbed, and every descriptor of theirs ends in a status.
//!
//! An engine that is embedded ends with its VMM. So half of the time what ends is the VM alone, with its vCPUs, its
//! domain and its memory, at once and without the guest's help; the other half ([`vmm`]) the engine is a daemon and
//! the VMM gets SIGKILL.

mod vmm;

pub use vmm::be_killed;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use byway_agent::commands::Ran;
use byway_engine::interface::Admin;
use byway_protocols::{Descriptor, Status};

use super::cast::{ALL, APP, Cast, fill, give, memmove, mismatch, status_of};
use super::plan::{Dice, Plan};
use super::report::CaseRow;
use crate::demo::report::status_name;
use crate::steer::{Guest, PAGE_2M};

/// Bytes of every buffer.
const BUFFER: u64 = 2 << 20;
/// Bytes of a bystander's transfer, at the beginning and at the end of its buffer.
const SHARE: u64 = 1 << 20;
/// Copies in flight towards the dead, or from them.
const DEPTH: u64 = 8;
/// Entries of the queues.
const ENTRIES: u64 = 128;
/// How long an idle queue is polled: less than a bystander's pause.
const POLLED: Duration = Duration::from_micros(500);
/// Pause of the bystander between two exchanges.
const BREATH: Duration = Duration::from_millis(2);

/// A VM with a buffer.
struct Party {
    guest: Guest,
    buffer: u64,
}

impl Party {
    fn boot<E: Admin>(cast: &Cast<E>, name: &str) -> Result<Self> {
        let guest = cast.boot(name, BUFFER, ENTRIES)?;
        let buffer = guest.alloc(APP, BUFFER, PAGE_2M)?;
        Ok(Self { guest, buffer })
    }
}

/// Runs the case.
///
/// # Errors
/// When the VMs, or the processes, cannot be made ready.
pub fn run(plan: &Plan<'_>) -> Result<CaseRow> {
    let half = Plan {
        duration: plan.duration / 2,
        ..*plan
    };
    let mut row = CaseRow {
        killed: Some(0),
        refused: Some(0),
        ..CaseRow::new("kill")
    };
    let cast = Cast::new(&["alice", "bob", "carol", "dave"], POLLED, plan.stop)?;
    let mut couple = Couple::default();
    let round = |dice: &mut Dice, row: &mut CaseRow| couple.round(&cast, dice, row);
    beside_others(&half, &cast, &mut row, round, || ())?;
    drop((couple, cast));
    if !plan.stop.is_set() {
        vmm::run(&half, &mut row)?;
    }
    Ok(row)
}

/// Plays rounds, beside two whose transfers are verified; then has `end` done, before the VMs go.
fn beside_others<E: Admin>(
    plan: &Plan<'_>,
    cast: &Cast<E>,
    row: &mut CaseRow,
    mut round: impl FnMut(&mut Dice, &mut CaseRow) -> Result<()>,
    end: impl FnOnce(),
) -> Result<()> {
    let mut carol = Party::boot(cast, "carol")?;
    let dave = Party::boot(cast, "dave")?;
    let (_, slot) = give(&dave.guest, &carol.guest, dave.buffer, SHARE, ALL)?;
    let mut dice = Dice::new(plan.seed);
    let stop = AtomicBool::new(false);
    let clock = plan.start();
    std::thread::scope(|scope| {
        let (carol, stop) = (&mut carol, &stop);
        let bystander = scope.spawn(move || stand_by(carol, slot, stop));
        while !clock.is_over() && !bystander.is_finished() {
            if let Err(error) = round(&mut dice, row) {
                row.error(&error);
                break;
            }
        }
        row.seconds += clock.seconds();
        stop.store(true, Ordering::Relaxed);
        match bystander.join() {
            Ok(found) => row.absorb(found),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    end();
    Ok(())
}

/// Carol puts patterns into dave's memory, gets them back and compares.
fn stand_by(carol: &mut Party, slot: u16, stop: &AtomicBool) -> CaseRow {
    let mut row = CaseRow::new("kill");
    let mut seed = 1000;
    while !stop.load(Ordering::Relaxed) {
        seed += 1;
        if let Err(error) = exchange(carol, slot, seed, &mut row) {
            row.error(&error.context("a bystander suffers"));
            break;
        }
        // The host's kernel needs a core now and then to take the dead apart: with a vCPU and a worker that never
        // sleep on two cores, each VM's end takes it seconds.
        if carol.guest.sleep().is_ok() {
            std::thread::sleep(BREATH);
        }
    }
    row
}

fn exchange(carol: &Party, slot: u16, seed: u64, row: &mut CaseRow) -> Result<()> {
    let Party { guest, buffer } = carol;
    fill(guest, *buffer, SHARE, seed)?;
    let there = memmove((0, *buffer), (slot, 0), SHARE);
    let back = memmove((slot, 0), (0, buffer + SHARE), SHARE);
    for descriptor in [there, back] {
        let done = guest.execute_one(APP, &descriptor)?;
        match done.status() {
            Some(Status::Success) => row.transfers += 1,
            _ => row.violation(format!(
                "a bystander's transfer ended with {}",
                status_of(&done)
            )),
        }
    }
    if let Some(offset) = mismatch(guest, buffer + SHARE, SHARE, seed)? {
        row.violation(format!("a bystander's byte is wrong at {offset:#x}"));
    }
    Ok(())
}

/// What a survivor's copies to the dead came to, and what the next one comes to.
fn expect_revoked(survivor: &Party, put: &Descriptor, ran: &Ran, row: &mut CaseRow) -> Result<()> {
    let first = ran.first_failure as u8;
    if ran.failures != 0 && first != Status::Revoked as u8 {
        row.violation(format!(
            "a copy to a dead VM ended with {}",
            status_name(first)
        ));
    }
    row.transfers += ran.completed - ran.failures;
    *row.refused.get_or_insert(0) += ran.failures;
    let done = survivor.guest.execute_one(APP, put)?;
    if done.status() != Some(Status::Revoked) || done.bytes_completed != 0 {
        row.violation(format!("a put to the dead ended with {}", status_of(&done)));
    }
    Ok(())
}

/// From now on nothing lands in a survivor's buffer for the dead.
fn expect_nothing_lands(survivor: &Party, dice: &mut Dice, row: &mut CaseRow) -> Result<()> {
    let Party { guest, buffer } = survivor;
    let mark = dice.roll();
    fill(guest, *buffer, BUFFER, mark)?;
    std::thread::sleep(Duration::from_micros(dice.below(2000)));
    if let Some(offset) = mismatch(guest, *buffer, BUFFER, mark)? {
        row.violation(format!("a byte landed for a dead VM at {offset:#x}"));
    }
    Ok(())
}

/// The two that are killed in turns.
#[derive(Default)]
struct Couple {
    alice: Option<Party>,
    bob: Option<Party>,
}

impl Couple {
    fn round(&mut self, cast: &Cast, dice: &mut Dice, row: &mut CaseRow) -> Result<()> {
        let alice = match self.alice.take() {
            Some(alice) => alice,
            None => Party::boot(cast, "alice")?,
        };
        let bob = match self.bob.take() {
            Some(bob) => bob,
            None => Party::boot(cast, "bob")?,
        };
        let (given, held) = give(&bob.guest, &alice.guest, bob.buffer, BUFFER, ALL)?;
        let bytes = (SHARE >> dice.below(8)).max(64);
        let put = memmove((0, alice.buffer), (held, 0), bytes);
        bob.guest.sleep()?;
        let flood = alice.guest.start_flood(APP, &put, DEPTH)?;
        std::thread::sleep(Duration::from_micros(dice.below(4000)));
        *row.killed.get_or_insert(0) += 1;
        if dice.below(2) == 0 {
            drop(bob);
            let ran = alice
                .guest
                .stop_flood(flood)
                .context("alice's copies to the dead")?;
            expect_revoked(&alice, &put, &ran, row)?;
            alice.guest.drop_capability(APP, held)?;
            self.alice = Some(alice);
        } else {
            drop(alice);
            expect_nothing_lands(&bob, dice, row)?;
            bob.guest.revoke(APP, given)?;
            bob.guest.drop_capability(APP, given)?;
            self.bob = Some(bob);
        }
        Ok(())
    }
}
