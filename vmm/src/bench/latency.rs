//! Small puts held against the cache-line round trip of the same two cores, in alternating windows.

use std::time::Duration;

use anyhow::{Context as _, Result};
use byway_agent::Process;

use super::quiet::{Quiet, Watch};
use super::report::Row;
use crate::measure::Quantiles;
use crate::steer::{Direction, RunSpec, Stage};

/// Windows of each kind in one round. Short, so that most of them see nothing of what else the host does.
const WINDOWS: u32 = 60;
/// Round trips per ping-pong window.
const PINGS: u64 = 2_000;
/// Puts per window, one at a time.
const ALONE: u64 = 1_500;
/// Of so many windows with puts alone one keeps each latency. Reading the clock twice for each put takes as long as a part
/// of it, and the round trips that the others are held against are not timed one by one either.
const SAMPLED: u32 = 4;
/// Puts per window, 64 in flight.
const DEEP: u64 = 6_000;
/// Size of a put in bytes.
const SIZE: u64 = 64;

/// What the windows gave: medians over quiet windows, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub struct SmallPuts {
    /// Cache-line round trip.
    pub pingpong_ns: f64,
    /// Mean time of a put alone, in the median window.
    pub alone_ns: f64,
    /// Mean time per put with 64 in flight, in the median window.
    pub deep_ns: f64,
}

/// Measures `rounds` rounds of [`WINDOWS`] windows of each kind.
///
/// # Errors
/// When a guest does not do as told, or a transfer fails.
pub fn measure(stage: &Stage, rounds: u32, rows: &mut Vec<Row>) -> Result<Quiet<SmallPuts>> {
    let mut pingpong = Watch::default();
    let mut alone = Watch::default();
    let mut deep = Watch::default();
    let mut samples = Vec::new();
    let put = |iterations, depth, samples| RunSpec {
        descriptor: Direction::Put.descriptor(stage, SIZE),
        iterations,
        depth,
        stride: SIZE,
        samples,
    };
    for _ in 0..rounds {
        for window in stage.ping_pong(WINDOWS, PINGS)? {
            pingpong.add(window.ns, &window.before, &window.after);
        }
        let mut expected = Duration::ZERO;
        for window in 0..WINDOWS {
            stage.wake_queue()?;
            let mut run = |keep| {
                let done = stage
                    .alice
                    .run_undisturbed(Process::App, &put(ALONE, 1, keep), expected)
                    .context("64 B puts alone")?;
                expected = Duration::from_nanos(done.ns);
                anyhow::Ok(done)
            };
            if window.is_multiple_of(SAMPLED) {
                samples.extend(run(ALONE)?.samples_ns);
                continue;
            }
            alone.window(stage, || {
                let done = run(0)?;
                Ok(done.ns as f64 / done.completed.max(1) as f64)
            })?;
        }
        let mut expected = Duration::ZERO;
        for _ in 0..WINDOWS {
            stage.wake_queue()?;
            deep.window(stage, || {
                let done = stage
                    .alice
                    .run_undisturbed(Process::App, &put(DEEP, 64, 0), expected)
                    .context("64 B puts, 64 in flight")?;
                expected = Duration::from_nanos(done.ns);
                Ok(done.ns as f64 / done.completed.max(1) as f64)
            })?;
        }
    }
    let samples = Quantiles::new(samples);
    rows.push(Row {
        case: "cache-line round trip".to_owned(),
        p50_ns: pingpong.median(),
        disturbed_share: Some(pingpong.disturbed_share()),
        ..Row::default()
    });
    rows.push(Row {
        case: "put".to_owned(),
        size: SIZE,
        depth: 1,
        p50_ns: Some(samples.p50() as f64),
        p99_ns: Some(samples.p99() as f64),
        ops_per_s: alone.median().map(|ns| 1e9 / ns),
        gbps: alone.median().map(|ns| SIZE as f64 / ns),
        samples: Some(samples.len() as u64),
        disturbed_share: Some(alone.disturbed_share()),
        ..Row::default()
    });
    rows.push(Row {
        case: "put".to_owned(),
        size: SIZE,
        depth: 64,
        ops_per_s: deep.median().map(|ns| 1e9 / ns),
        gbps: deep.median().map(|ns| SIZE as f64 / ns),
        disturbed_share: Some(deep.disturbed_share()),
        ..Row::default()
    });
    Ok(pingpong
        .quiet("cache-line round trip")
        .and(alone.quiet("64 B put alone"), |pingpong_ns, alone_ns| {
            SmallPuts {
                pingpong_ns,
                alone_ns,
                deep_ns: 0.0,
            }
        })
        .and(deep.quiet("64 B put, 64 in flight"), |puts, deep_ns| {
            SmallPuts { deep_ns, ..puts }
        }))
}
