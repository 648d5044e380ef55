//! Throughput over sizes and depths, both directions, and the large put held against the host's best memcpy.

use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use byway_agent::Process;

use super::quiet::{Quiet, Watch};
use super::report::Row;
use crate::measure::memcpy::{BestCopy, Ranges};
use crate::measure::pin;
use crate::steer::{Direction, RunSpec, Stage};

/// Bytes of the transfer that is compared with memcpy.
const LARGE: u64 = 1 << 20;
/// Seed of what is moved.
const SEED: u64 = 0x1a5e;
/// Transfers per window of the comparison.
const REPEAT: u64 = 32;
/// Rest before a window, awake: what the host does after threads slept and woke (grace periods, mostly) is over by then.
const REST: Duration = Duration::from_millis(30);

/// Rows for sizes and depths.
///
/// # Errors
/// When a guest does not do as told, or a transfer fails.
pub fn sweep(stage: &Stage, quick: bool, rows: &mut Vec<Row>) -> Result<()> {
    for direction in Direction::BOTH {
        stage.fill_source(direction, SEED)?;
    }
    let sizes: &[u64] = if quick {
        &[4 << 10, 64 << 10, 1 << 20, 16 << 20]
    } else {
        &[
            256,
            1 << 10,
            4 << 10,
            16 << 10,
            64 << 10,
            256 << 10,
            1 << 20,
            4 << 20,
            16 << 20,
        ]
    };
    for &size in sizes {
        for direction in Direction::BOTH {
            for depth in [1, 32] {
                let count = (stage.buffer_bytes.min(16 << 20) / size).max(1);
                let passes = ((256 << 20) / (count * size)).clamp(1, 16);
                stage.wake_queue()?;
                let mut ns = 0;
                let mut expected = Duration::ZERO;
                for _ in 0..passes {
                    let done = stage
                        .alice
                        .run_undisturbed(
                            Process::App,
                            &RunSpec {
                                descriptor: direction.descriptor(stage, size),
                                iterations: count,
                                depth: depth.min(count),
                                stride: size,
                                samples: 0,
                            },
                            expected,
                        )
                        .with_context(|| format!("{} of {size} bytes", direction.name()))?;
                    expected = Duration::from_nanos(done.ns);
                    ns += done.ns;
                }
                let operations = (passes * count) as f64;
                rows.push(Row {
                    case: direction.name().to_owned(),
                    size,
                    depth,
                    gbps: Some(operations * size as f64 / ns.max(1) as f64),
                    ops_per_s: Some(operations * 1e9 / ns.max(1) as f64),
                    ..Row::default()
                });
            }
        }
    }
    Ok(())
}

/// 1 MiB puts over the best host memcpy: same size, same pages, same core, windows in turn.
///
/// # Errors
/// When a guest does not do as told, or the host lacks memory.
pub fn against_memcpy(stage: &Stage, windows: u32, rows: &mut Vec<Row>) -> Result<Quiet<f64>> {
    let dst = stage.bob.host_page_2m(Process::App, stage.bob_buffer)?;
    let src = stage.alice.host_page_2m(Process::App, stage.alice_buffer)?;
    stage.bob.sleep()?;
    // SAFETY: a page of 2 MiB each, in two VMs' RAM, which lives as long as the stage.
    let ranges = unsafe { Ranges::new(dst, src, LARGE as usize) };
    // Zeroes are cheaper to move on some hosts; the host's own buffers hold none either.
    stage.fill_source(Direction::Put, SEED)?;
    let put = |iterations, expected| {
        let spec = RunSpec {
            descriptor: Direction::Put.descriptor(stage, LARGE),
            iterations,
            depth: 2,
            stride: 0,
            samples: 0,
        };
        stage.alice.run_undisturbed(Process::App, &spec, expected)
    };
    let mut puts = Watch::default();
    let mut ratios = Watch::default();
    let mut best = BestCopy {
        kernel: "none",
        gbps: 0.0,
    };
    let mut expected = Duration::ZERO;
    let mut host_copy = move || ranges.best_copy(REPEAT as usize, 1);
    on_core(stage.engine_core, &mut host_copy, |host_copy| {
        for _ in 0..windows {
            // The worker has left its core.
            stage.quiesce();
            let host = host_copy()?;
            if host.gbps > best.gbps {
                best = host;
            }
            // Wakes the worker.
            put(4, Duration::ZERO)?;
            std::thread::sleep(REST);
            // Fetches the buffers, as the host's first passes do.
            put(REPEAT, expected)?;
            let before = stage.worker_load()?;
            let done = put(REPEAT, expected)?;
            expected = Duration::from_nanos(done.ns);
            let after = stage.worker_load()?;
            let gbps = (done.completed * LARGE) as f64 / done.ns.max(1) as f64;
            puts.add(gbps, &before, &after);
            ratios.add(gbps / host.gbps, &before, &after);
        }
        Ok(())
    })?;
    rows.push(Row {
        case: "host memcpy".to_owned(),
        size: LARGE,
        depth: 1,
        gbps: Some(best.gbps),
        note: Some(best.kernel.to_owned()),
        ..Row::default()
    });
    rows.push(Row {
        case: "put, same buffers".to_owned(),
        size: LARGE,
        depth: 2,
        gbps: puts.median(),
        disturbed_share: Some(puts.disturbed_share()),
        ..Row::default()
    });
    Ok(ratios.quiet("1 MiB put over memcpy"))
}

/// Gives `steer` a way to have `work` done on one thread, bound to core `core`, that lives as long as it does: a host
/// that starts and ends threads is busy with that for milliseconds afterwards.
pub(super) fn on_core<T: Send, R>(
    core: usize,
    work: &mut (impl FnMut() -> T + Send),
    steer: impl FnOnce(&dyn Fn() -> Result<T>) -> Result<R>,
) -> Result<R> {
    std::thread::scope(|scope| {
        let (ask, asked) = mpsc::channel::<()>();
        let (answer, answered) = mpsc::channel();
        let thread = scope.spawn(move || -> Result<()> {
            pin::pin_current_thread(core)?;
            while asked.recv().is_ok() && answer.send(work()).is_ok() {}
            Ok(())
        });
        let outcome = steer(&|| {
            ask.send(())
                .ok()
                .and_then(|()| answered.recv().ok())
                .context("the thread on the engine's core has ended")
        });
        drop(ask);
        let ended = thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // Why it ended is worth more than that it did.
        ended.and(outcome)
    })
}
