//! A 64-byte copy with one queue registered, and with thousands that are idle.

use std::time::Duration;

use anyhow::Result;
use byway_engine::testing::{Guest, PageSize, Process, Submitter};

use super::harness::{Harness, VA, copy};
use super::percentile;
use crate::bench::quiet::{Quiet, Watch};
use crate::bench::report::Row;

/// Idle queues in the crowd.
const IDLE: usize = 16_384;
/// Copies in a window.
const WINDOW: usize = 1000;
/// Queues that are idle for so long are parked, in microseconds.
const PARK_US: u32 = 2000;

/// One queue that works, in an engine of its own with others that do not.
struct Crowd {
    harness: Harness,
    submitter: Submitter,
    _process: Process,
    _idle: Vec<Submitter>,
}

impl Crowd {
    fn new(idle: usize) -> Result<Self> {
        let harness = Harness::new(PARK_US)?;
        let guest = Guest::sealed(1, 64 << 20);
        let process = Process::new(&guest, 2);
        process.map(VA, 2 << 20, PageSize::Large);
        let idle: Vec<Submitter> = (0..idle)
            .map(|_| {
                let submitter = Submitter::new(&process, 2, false);
                harness.attach(&submitter);
                submitter
            })
            .collect();
        while !idle.iter().all(Submitter::needs_kick) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let submitter = Submitter::new(&process, 128, false);
        harness.attach(&submitter);
        Ok(Self {
            harness,
            submitter,
            _process: process,
            _idle: idle,
        })
    }

    /// The median of a window's latencies, in nanoseconds.
    fn window(&mut self, watch: &mut Watch) -> Result<()> {
        let small = copy(VA, VA + 4096, 64);
        // Wakes the queue, and the processor's caches.
        self.submitter.submit(&small);
        self.harness.wait(&mut self.submitter)?;
        self.harness
            .latencies(&mut self.submitter, &small, WINDOW / 10)?;
        let before = self.harness.worker_load()?;
        // It was polled the moment before.
        self.submitter.submit(&small);
        self.harness.wait(&mut self.submitter)?;
        let mut samples = self
            .harness
            .latencies(&mut self.submitter, &small, WINDOW)?;
        watch.add(
            percentile(&mut samples, 0.5),
            &before,
            &self.harness.worker_load()?,
        );
        Ok(())
    }
}

/// Rows for a lone queue and for one beside [`IDLE`] idle ones, and the ratio of the latencies.
///
/// # Errors
/// When a copy fails or the worker cannot be observed.
pub fn measure(quick: bool, rows: &mut Vec<Row>) -> Result<Quiet<f64>> {
    let windows = if quick { 40 } else { 200 };
    // One after the other, not in turns: two workers would share the core.
    let take = |idle: usize| -> Result<Watch> {
        let mut crowd = Crowd::new(idle)?;
        let mut watch = Watch::default();
        for _ in 0..windows {
            crowd.window(&mut watch)?;
        }
        Ok(watch)
    };
    // The lone one before and after: a host that changes its pace between the two is seen.
    let before = take(0)?;
    let crowded = take(IDLE)?;
    let after = take(0)?;
    for (case, watch) in [
        ("copy, no queue idle", &before),
        ("copy, 16,384 queues idle", &crowded),
        ("copy, no queue idle (again)", &after),
    ] {
        rows.push(Row {
            case: case.to_owned(),
            size: 64,
            depth: 1,
            p50_ns: watch.median(),
            samples: Some(watch.values().len() as u64 * WINDOW as u64),
            disturbed_share: Some(watch.disturbed_share()),
            ..Row::default()
        });
    }
    let lone = before
        .quiet("a copy beside no idle queue")
        .and(after.quiet("a copy beside no idle queue"), f64::midpoint);
    let crowded = crowded.quiet("a copy beside 16,384 idle queues");
    Ok(lone.and(crowded, |lone, crowded| crowded / lone))
}
