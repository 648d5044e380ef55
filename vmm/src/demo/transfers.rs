//! The sweep over sizes: put and get by virtual address, every byte verified by the process that
//! received it, latency and throughput timed in ring 3.

use anyhow::{Context as _, Result, ensure};
use byway_agent::Process;

use super::exits::Witness;
use super::report::{SizeRow, bytes_name};
use crate::measure::Quantiles;
use crate::steer::{Direction, RunSpec, Stage};

/// Sizes of the sweep in bytes.
pub const SIZES: [u64; 10] = [
    64,
    256,
    1 << 10,
    4 << 10,
    16 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
    4 << 20,
    16 << 20,
];
/// Rounds over the whole buffer per size and direction; the first is timed one transfer at a time.
/// 10 sizes x 7 rounds x 16 MiB make 1.09 GiB in each direction.
pub const ROUNDS: u64 = 7;
/// Transfers in flight in the other rounds.
const DEPTH: u64 = 32;

/// What the sweep added up to.
#[derive(Debug, Default)]
pub struct Sweep {
    /// A row per size and direction.
    pub rows: Vec<SizeRow>,
    /// Transfers made.
    pub transfers: u64,
    /// Bytes moved and verified.
    pub bytes: u64,
}

/// Runs the whole sweep; `progress` is told the bytes verified so far.
///
/// # Errors
/// When a byte is wrong, a transfer ends in another status than success, or a guest stops answering.
pub fn sweep(stage: &Stage, witness: &mut Witness, mut progress: impl FnMut(u64)) -> Result<Sweep> {
    let mut sweep = Sweep::default();
    for size in SIZES {
        for direction in Direction::BOTH {
            let row = one_size(stage, witness, size, direction, &mut sweep, &mut progress)
                .with_context(|| format!("{} of {}", direction.name(), bytes_name(size)))?;
            sweep.rows.push(row);
        }
    }
    Ok(sweep)
}

fn one_size(
    stage: &Stage,
    witness: &mut Witness,
    size: u64,
    direction: Direction,
    sweep: &mut Sweep,
    progress: &mut impl FnMut(u64),
) -> Result<SizeRow> {
    let count = stage.buffer_bytes / size;
    let mut latency = Vec::new();
    let mut ticks = 0;
    let mut timed_bytes = 0;
    for round in 0..ROUNDS {
        // A seed of its own for every round, so that a stale byte cannot pass for a fresh one.
        let seed = size << 16 | round << 1 | u64::from(direction == Direction::Get);
        let alone = round == 0;
        stage.fill_source(direction, seed)?;
        let spec = RunSpec {
            descriptor: direction.descriptor(stage, size),
            iterations: count,
            depth: if alone { 1 } else { DEPTH.min(count) },
            stride: size,
            samples: if alone { count.min(65_536) } else { 0 },
        };
        let done = witness.window(stage, |stage| stage.alice.run(Process::App, &spec))?;
        ensure!(
            done.completed == count && done.failed == 0,
            "{} of {count} transfers completed, {} of them not with success (first status {:#04x})",
            done.completed,
            done.failed,
            done.first_bad_status
        );
        stage.verify_destination(direction, seed)?;
        if alone {
            latency = done.samples_ns;
        } else {
            ticks += done.ns;
            timed_bytes += stage.buffer_bytes;
        }
        sweep.transfers += count;
        sweep.bytes += stage.buffer_bytes;
        progress(sweep.bytes);
    }
    let latency = Quantiles::new(latency);
    Ok(SizeRow {
        bytes: size,
        direction: direction.name().to_owned(),
        gbps: timed_bytes as f64 / ticks.max(1) as f64,
        p50_ns: latency.p50(),
        p99_ns: latency.p99(),
    })
}
