//! Exits per polled transfer, by the witness that the demo uses.

use anyhow::{Result, ensure};
use byway_agent::Process;

use super::quiet::Quiet;
use super::report::Row;
use crate::demo::exits::Witness;
use crate::steer::{Direction, RunSpec, Stage};

/// Transfers per window.
const TRANSFERS: u64 = 200_000;
/// Windows.
const WINDOWS: u64 = 5;

/// Counts exits over polled 64 B puts.
///
/// # Errors
/// When a guest does not do as told, or a transfer fails.
pub fn measure(stage: &Stage, rows: &mut Vec<Row>) -> Result<Quiet<f64>> {
    let mut witness = Witness::proven(stage)?;
    for _ in 0..WINDOWS {
        let spec = RunSpec {
            descriptor: Direction::Put.descriptor(stage, 64),
            iterations: TRANSFERS,
            depth: 16,
            stride: 64,
            samples: 0,
        };
        let done = witness.window(stage, |stage| stage.alice.run(Process::App, &spec))?;
        ensure!(
            done.failed == 0 && done.completed == TRANSFERS,
            "a put failed: {:#04x}",
            done.first_bad_status
        );
    }
    let report = witness.close(stage)?;
    let Some(caused) = report.caused_by_transfers() else {
        return Ok(Quiet::NotMeasured(format!(
            "exits per transfer: {}",
            report.witness_lacks.join("; ")
        )));
    };
    let figure = |value: Option<u64>| value.unwrap_or_default();
    let per_op = caused as f64 / (TRANSFERS * WINDOWS) as f64;
    rows.push(Row {
        case: "exits of polled puts".to_owned(),
        size: 64,
        depth: 16,
        exits_per_op: Some(per_op),
        samples: Some(TRANSFERS * WINDOWS),
        note: Some(format!(
            "{} to user space, {} in all of which {} host interrupts, {} other in an equal idle spin",
            figure(report.userspace),
            figure(report.total),
            figure(report.irq),
            figure(report.other_idle_same_time)
        )),
        ..Row::default()
    });
    Ok(Quiet::Measured(per_op))
}
