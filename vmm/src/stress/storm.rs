//! `storm`: two VMs copy between their processes while each moves, discards, shares and reuses the pages under the
//! copies as fast as it can.
//!
//! A page that was given to another process holds a canary, which the guest kernel and, in turns, the new owner
//! check; every byte that is reported as moved has to be there. Both happen in the guests
//! ([`byway_agent::commands::Storm`]); here they are booted, wired up and told for how long.

use std::time::Duration;

use anyhow::{Context as _, Result};
use byway_agent::Process;
use byway_agent::commands::{CHURN_REUSE_TOO_EARLY, Storm, Tend};
use byway_agent::storm::{DEPTH, REGION_BYTES, SOURCE, SOURCE_BYTES, Violation};

use super::cast::{ALL, APP, Cast, fill, give};
use super::plan::{Clock, Dice, Plan};
use super::report::CaseRow;
use crate::steer::{Guest, PAGE_4K};

/// Length of one storm in the guest, in nanoseconds; between two the new owners look after their pages.
const SLICE_NS: u64 = 100_000_000;
/// Short enough that queues park in the storm too.
const POLLED: Duration = Duration::from_micros(200);

/// One side.
struct Side {
    guest: Guest,
    region: u64,
    /// What its source is filled with.
    seed: u64,
}

impl Side {
    fn boot(cast: &Cast, name: &str, seed: u64) -> Result<Self> {
        // Frames that are given away and those that take their place come on top of the region.
        let guest = cast.boot(name, 4 * REGION_BYTES, u64::from(DEPTH))?;
        let region = guest.alloc(APP, REGION_BYTES, PAGE_4K)?;
        fill(&guest, region + SOURCE, SOURCE_BYTES, seed)?;
        Ok(Self {
            guest,
            region,
            seed,
        })
    }

    /// Storms until the clock says stop.
    fn storm(&self, slot: u16, peer_seed: u64, plan: &Plan<'_>, clock: Clock<'_>) -> CaseRow {
        let mut row = CaseRow::new("storm");
        let mut dice = Dice::new(plan.seed ^ self.seed);
        while !clock.is_over() {
            if let Err(error) = self.slice(slot, peer_seed, plan, dice.roll(), &mut row) {
                row.error(&error);
                break;
            }
        }
        row
    }

    fn slice(
        &self,
        slot: u16,
        peer_seed: u64,
        plan: &Plan<'_>,
        seed: u64,
        row: &mut CaseRow,
    ) -> Result<()> {
        let name = self.guest.name();
        let request = Storm {
            queue: self.guest.queue(APP)?.queue,
            va: self.region,
            slot: u64::from(slot),
            ticks: self.guest.ns_to_ticks(SLICE_NS),
            seed,
            own_seed: self.seed,
            peer_seed,
            flags: if plan.reuse_too_early {
                CHURN_REUSE_TOO_EARLY
            } else {
                0
            },
        };
        let stormed = self.guest.call(APP, request)?;
        row.transfers += stormed.transfers;
        *row.refused.get_or_insert(0) += stormed.faulted;
        *row.changes.get_or_insert(0) += stormed.pages;
        if stormed.violations != 0 {
            let what = Violation::from_raw(stormed.first).map_or("unknown", Violation::text);
            row.violation(format!("{name}: {what} ({:#x})", stormed.detail));
            row.violations += stormed.violations - 1;
        }
        if stormed.given != 0 {
            let tended = self.guest.call(
                Process::Peer,
                Tend {
                    va: stormed.given_va,
                    pages: stormed.given,
                },
            )?;
            if tended.damaged != 0 {
                row.violation(format!(
                    "{name}: the new owner of a page finds it written at {:#x}: {:#x}",
                    tended.at, tended.found
                ));
                row.violations += tended.damaged - 1;
            }
        }
        Ok(())
    }
}

/// Runs the case.
///
/// # Errors
/// When the VMs cannot be made ready.
pub fn run(plan: &Plan<'_>) -> Result<CaseRow> {
    let cast = Cast::new(&["alice", "bob"], POLLED, plan.stop)?;
    let alice = Side::boot(&cast, "alice", 0xa11ce)?;
    let mut bob = Side::boot(&cast, "bob", 0xb0b)?;
    let give_all = |from: &Side, to: &Side| {
        give(&from.guest, &to.guest, from.region, REGION_BYTES, ALL).map(|(_, slot)| slot)
    };
    let of_bob = give_all(&bob, &alice).context("bob gives alice his region")?;
    let of_alice = give_all(&alice, &bob).context("alice gives bob hers")?;
    let clock = plan.start();
    let mut row = std::thread::scope(|scope| {
        let (his, hers) = (bob.seed, alice.seed);
        // A guest is steered by one thread at a time.
        let bob = &mut bob;
        let other = scope.spawn(move || bob.storm(of_alice, hers, plan, clock));
        let mut row = alice.storm(of_bob, his, plan, clock);
        match other.join() {
            Ok(found) => row.absorb(found),
            Err(panic) => std::panic::resume_unwind(panic),
        }
        row
    });
    row.seconds = clock.seconds();
    let domains = cast.engine.stats().domains;
    row.parked_max = domains.iter().map(|domain| domain.parked_max.into()).max();
    Ok(row)
}
