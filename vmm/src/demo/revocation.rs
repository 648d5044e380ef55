//! Revocation in mid-copy: bob takes back what alice is using; when his request is acknowledged, not one
//! byte lands any more, through the capability or through any derived from it.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use byway_agent::Process;
use byway_agent::commands::FillPattern;
use byway_protocols::{Rights, Status};

use super::report::{RefusalRow, status_name};
use crate::steer::{Direction, RunSpec, Stage};

/// Revocations during copies.
const ROUNDS: u32 = 20;

/// What the rounds showed.
#[derive(Debug, Default)]
pub struct Revocations {
    /// Slowest, in microseconds.
    pub us_max: f64,
    /// Refusals after the fact.
    pub refused: Vec<RefusalRow>,
    /// Transfers that alice made meanwhile.
    pub transfers: u64,
}

/// Runs the rounds. Leaves alice without a capability.
///
/// # Errors
/// When a byte lands after an acknowledgement, or a revoked capability still works.
pub fn rounds(stage: &mut Stage, mut progress: impl FnMut(u32, u32)) -> Result<Revocations> {
    let mut found = Revocations::default();
    let earlier = usize::try_from(stage.engine.stats().revokes.count)?;
    for round in 0..ROUNDS {
        one(stage, round, &mut found).with_context(|| format!("round {}", round + 1))?;
        progress(round + 1, ROUNDS);
    }
    let slowest = stage
        .engine
        .revoke_latencies_ns()
        .into_iter()
        .skip(earlier)
        .max();
    found.us_max = slowest.unwrap_or(0) as f64 / 1000.0;
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
    let spec = RunSpec {
        descriptor: Direction::Put.descriptor(stage, stage.buffer_bytes),
        iterations: 1_000_000,
        depth: 4,
        stride: 0,
        samples: 0,
    };
    stage.alice.call(
        Process::App,
        FillPattern {
            va: stage.alice_buffer,
            len: stage.buffer_bytes,
            seed: u64::from(round),
        },
    )?;
    let running = stage.alice.start_run(Process::App, &spec)?;
    std::thread::sleep(Duration::from_millis(2));
    stage.bob.revoke(Process::App, stage.bob_slot)?;
    let at_once = stage
        .bob
        .checksum(Process::App, stage.bob_buffer, stage.buffer_bytes)?;
    // Alice's run stops at its first failure.
    let done = stage.alice.finish_run(running)?;
    ensure!(
        done.first_bad_status == Status::Revoked as u8,
        "alice's copies ended with {} instead of a revoked capability",
        status_name(done.first_bad_status)
    );
    found.transfers += done.completed - done.failed;

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
