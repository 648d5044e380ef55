//! Revocation in mid-copy: bob takes back what alice is using; when his request is acknowledged, not one
//! byte lands any more, through the capability or through any derived from it.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use byway_agent::Process;
use byway_agent::commands::FillPattern;
use byway_protocols::{Rights, Status};

use super::report::{RefusalRow, status_name};
use crate::bench::quiet::let_revoke;
use crate::steer::{Direction, Stage};

/// Revocations during copies.
const ROUNDS: u32 = 20;
/// Copies under way or waiting when the capability is taken back.
const COPIES: usize = 48;

/// What the rounds showed.
#[derive(Debug, Default)]
pub struct Revocations {
    /// Slowest of those that the host left alone, in microseconds.
    pub us_max: Option<f64>,
    /// Slowest of the others: a thread that was waited for, or that waited, had no core for a while.
    pub us_max_disturbed: Option<f64>,
    /// How many others there were.
    pub disturbed: u32,
    /// Refusals after the fact.
    pub refused: Vec<RefusalRow>,
    /// Transfers that alice made meanwhile.
    pub transfers: u64,
}

impl Revocations {
    fn add(&mut self, us: f64, is_quiet: bool) {
        let max = if is_quiet {
            &mut self.us_max
        } else {
            self.disturbed += 1;
            &mut self.us_max_disturbed
        };
        *max = Some(max.map_or(us, |earlier| earlier.max(us)));
    }
}

/// Runs the rounds. Leaves alice without a capability.
///
/// # Errors
/// When a byte lands after an acknowledgement, or a revoked capability still works.
pub fn rounds(stage: &mut Stage, mut progress: impl FnMut(u32, u32)) -> Result<Revocations> {
    let mut found = Revocations::default();
    for round in 0..ROUNDS {
        one(stage, round, &mut found).with_context(|| format!("round {}", round + 1))?;
        progress(round + 1, ROUNDS);
    }
    Ok(found)
}

fn one(stage: &mut Stage, round: u32, found: &mut Revocations) -> Result<()> {
    let derived = stage.alice.derive(
        Process::App,
        stage.slot,
        0,
        stage.buffer_bytes,
        Rights::WRITE,
    )?;
    stage.alice.call(
        Process::App,
        FillPattern {
            va: stage.alice_buffer,
            len: stage.buffer_bytes,
            seed: u64::from(round),
        },
    )?;
    let put = Direction::Put.descriptor(stage, stage.buffer_bytes);
    stage.wake_queue()?;
    let first = stage.alice.submit(Process::App, &[put; COPIES])?;
    // What bob does, and the engine's control thread after him, must not wait for a core on which alice spins.
    stage.alice.sleep()?;
    stage.bob.settle()?;
    std::thread::sleep(Duration::from_millis(2));
    let count = stage.engine.stats().revokes.count;
    let before = stage.worker_load()?;
    stage.bob.revoke(Process::App, stage.bob_slot)?;
    let after = stage.worker_load()?;
    let latest = stage.engine.stats().revokes;
    ensure!(
        latest.count == count + 1,
        "the engine timed {} revocations",
        latest.count - count
    );
    let is_quiet = let_revoke(&before, &after, &latest);
    found.add(latest.last_ns as f64 / 1000.0, is_quiet);
    let at_once = stage
        .bob
        .checksum(Process::App, stage.bob_buffer, stage.buffer_bytes)?;
    let ended = stage.alice.collect(Process::App, first, COPIES)?;
    let good = ended
        .iter()
        .take_while(|c| c.status() == Some(Status::Success))
        .count();
    for completion in &ended[good..] {
        ensure!(
            completion.status() == Some(Status::Revoked),
            "alice's copies ended with {} instead of a revoked capability",
            status_name(completion.status)
        );
    }
    ensure!(
        good < COPIES,
        "alice's copies were over before the capability was revoked"
    );
    found.transfers += good as u64;

    // She goes on trying, by the capability and by the derived one.
    stage.alice.call(
        Process::App,
        FillPattern {
            va: stage.alice_buffer,
            len: stage.buffer_bytes,
            seed: u64::MAX - u64::from(round),
        },
    )?;
    for (what, slot) in [
        ("a revoked capability", stage.slot),
        ("a capability derived from a revoked one", derived),
    ] {
        let mut put = Direction::Put.descriptor(stage, 4096);
        put.word0 = byway_protocols::Word0::new(0, slot, false).0;
        let completion = stage.alice.execute_one(Process::App, &put)?;
        if completion.status() != Some(Status::Revoked) || completion.bytes_completed != 0 {
            bail!("{what} ended in {}", status_name(completion.status));
        }
        if round == 0 {
            found.refused.push(RefusalRow {
                what: what.to_owned(),
                status: status_name(completion.status),
            });
        }
        stage.alice.drop_capability(Process::App, slot)?;
    }
    let later = stage
        .bob
        .checksum(Process::App, stage.bob_buffer, stage.buffer_bytes)?;
    ensure!(
        at_once == later,
        "bytes landed in bob's memory after the acknowledgement"
    );

    stage.give_again()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_disturbed_is_told_apart() {
        let mut found = Revocations::default();
        found.add(6756.0, false);
        assert_eq!((found.us_max, found.us_max_disturbed), (None, Some(6756.0)));
        for us in [12.0, 21.0, 3.0] {
            found.add(us, true);
        }
        found.add(80.0, false);
        assert_eq!(found.us_max, Some(21.0));
        assert_eq!((found.disturbed, found.us_max_disturbed), (2, Some(6756.0)));
    }
}
