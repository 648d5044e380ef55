//! Latency of revocation while copies of 1 GiB run on populated memory.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use byway_agent::Process;
use byway_protocols::Status;

use super::quiet::{Quiet, Watch, let_revoke};
use super::report::Row;
use crate::measure::Quantiles;
use crate::steer::{Direction, Stage};

/// Copies under way or waiting when the capability is taken back.
const COPIES: usize = 2;

/// Measures `rounds` revocations, each in the middle of a put of the whole buffer; once more from the beginning if the host
/// disturbed too many, at most `passes` times. Each pass that was taken has a row.
///
/// # Errors
/// When a guest does not do as told, or a revoked capability still works.
pub fn measure(
    stage: &mut Stage,
    rounds: u32,
    passes: u32,
    rows: &mut Vec<Row>,
    mut progress: impl FnMut(),
) -> Result<Quiet<f64>> {
    let mut found = pass(stage, rounds, rows, &mut progress)?;
    for _ in 1..passes {
        if matches!(found, Quiet::Measured(_)) {
            break;
        }
        // None of the disturbed pass's values is kept: what counts is one whole pass.
        found = pass(stage, rounds, rows, || ())?;
    }
    Ok(found)
}

fn pass(
    stage: &mut Stage,
    rounds: u32,
    rows: &mut Vec<Row>,
    mut progress: impl FnMut(),
) -> Result<Quiet<f64>> {
    let mut watch = Watch::default();
    let seen = |stage: &Stage| stage.engine.stats().revokes;
    for round in 0..rounds {
        let put = Direction::Put.descriptor(stage, stage.buffer_bytes);
        stage.wake_queue()?;
        let first = stage.alice.submit(Process::App, &[put; COPIES])?;
        // What bob does, and the engine's control thread after him, must not wait for a core on which alice spins.
        stage.alice.sleep()?;
        stage.bob.settle()?;
        // Not in step with the chunks of the copy.
        std::thread::sleep(Duration::from_micros(u64::from(
            300 + (round * 7919) % 1500,
        )));
        let count = seen(stage).count;
        let before = stage.worker_load()?;
        stage.bob.revoke(Process::App, stage.bob_slot)?;
        let after = stage.worker_load()?;
        let ended = stage.alice.collect(Process::App, first, COPIES)?;
        for completion in &ended {
            ensure!(
                completion.status() == Some(Status::Revoked),
                "the copy ended with status {:#04x} instead of a revoked capability",
                completion.status
            );
        }
        // A worker that had no core did not come so far.
        let in_the_middle = (1..put.size).contains(&ended[0].bytes_completed);
        let latest = seen(stage);
        ensure!(
            latest.count == count + 1,
            "the engine timed {} revocations",
            latest.count - count
        );
        let calm = let_revoke(&before, &after, &latest);
        watch.count(latest.last_ns as f64 / 1000.0, in_the_middle && calm);
        stage.alice.drop_capability(Process::App, stage.slot)?;
        stage
            .give_again()
            .with_context(|| format!("after round {round}"))?;
        progress();
    }
    let micros = Quantiles::new(
        watch
            .values()
            .iter()
            .map(|us| (us * 1000.0) as u64)
            .collect(),
    );
    rows.push(Row {
        case: "revoke during copies".to_owned(),
        size: stage.buffer_bytes,
        depth: 1,
        p50_ns: Some(micros.p50() as f64),
        p99_ns: Some(micros.p99() as f64),
        samples: Some(u64::from(rounds)),
        disturbed_share: Some(watch.disturbed_share()),
        note: Some(format!(
            "p99.9 {:.1} us, max {:.1} us",
            micros.p999() as f64 / 1e3,
            micros.max() as f64 / 1e3
        )),
        ..Row::default()
    });
    Ok(match watch.quiet("revocation") {
        Quiet::Measured(_) => Quiet::Measured(micros.p999() as f64 / 1000.0),
        Quiet::NotMeasured(why) => Quiet::NotMeasured(why),
    })
}
