//! [`Harness`]: one worker on a core of its own, the measuring thread on another.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use byway_engine::epoch::Epochs;
use byway_engine::iotlb::Invalidations;
use byway_engine::testing::Submitter;
use byway_engine::worker::{WorkerConfig, Workers};
use byway_protocols::{Completion, Descriptor, Flags, Opcode, Status};

use super::timed;
use crate::measure::{ThreadLoad, pin};

/// Where processes have their data.
pub const VA: u64 = 0x4000_0000;
/// Looks for a completion between two looks whether a kick is asked for.
const SPINS: u32 = 4096;

/// An engine's moving parts, without a VMM. The measuring thread is bound to a core as long as this lives.
pub struct Harness {
    pub workers: Workers,
    pub epochs: Arc<Epochs>,
    pub invalidations: Arc<Invalidations>,
    worker_core: usize,
    _bound: pin::Bound,
}

impl Harness {
    /// Starts a worker that parks queues which were idle for `park_us` microseconds.
    ///
    /// # Errors
    /// When the host gives no thread or no core.
    pub fn new(park_us: u32) -> Result<Self> {
        let cores = pin::allowed_cores();
        let (Some(&own), Some(&worker)) = (cores.first(), cores.last()) else {
            anyhow::bail!("this process may run on no core");
        };
        let epochs = Arc::new(Epochs::new(1));
        let invalidations = Arc::new(Invalidations::new(1));
        let config = WorkerConfig {
            count: 1,
            cpus: vec![worker],
            park_us,
        };
        let workers = Workers::start(config, epochs.clone(), invalidations.clone())?;
        Ok(Self {
            workers,
            epochs,
            invalidations,
            worker_core: worker,
            _bound: pin::Bound::to(own).context("cannot bind a thread to a core")?,
        })
    }

    /// Has the worker serve a queue.
    pub fn attach(&self, submitter: &Submitter) {
        self.workers.attach(submitter.queue().clone());
    }

    /// The core that the worker is bound to.
    pub fn worker_core(&self) -> usize {
        self.worker_core
    }

    /// Has the worker look at a queue that may be parked.
    pub fn wake(&self, submitter: &Submitter) {
        self.workers.wake(submitter.queue().domain());
    }

    /// What the host did to the worker so far.
    ///
    /// # Errors
    /// When the worker's thread is gone or procfs is not mounted.
    pub fn worker_load(&self) -> Result<ThreadLoad> {
        // Zero until the thread runs.
        let tid = self.workers.stats().first().map_or(0, |stats| stats.tid);
        ensure!(tid != 0, "the worker has not started");
        Ok(ThreadLoad::of(tid)?)
    }

    /// Nanoseconds of each of `count` operations, one at a time.
    ///
    /// # Errors
    /// When one is no success.
    pub fn latencies(
        &self,
        submitter: &mut Submitter,
        descriptor: &Descriptor,
        count: usize,
    ) -> Result<Vec<f64>> {
        (0..count)
            .map(|_| {
                let mut ended = None;
                let ns = timed(|| {
                    submitter.submit(descriptor);
                    ended = Some(self.poll(submitter));
                });
                let ok = ended.is_some_and(|c| c.status() == Some(Status::Success));
                ensure!(ok, "an operation ended with {ended:?}");
                Ok(ns)
            })
            .collect()
    }

    /// Polls for the oldest completion. When it does not come, the host may have kept this thread from submitting for so
    /// long that the queue was parked.
    fn poll(&self, submitter: &mut Submitter) -> Completion {
        let mut spins = 0_u32;
        loop {
            if let Some(completion) = submitter.poll() {
                return completion;
            }
            std::hint::spin_loop();
            spins = spins.wrapping_add(1);
            if spins.is_multiple_of(SPINS) && submitter.needs_kick() {
                self.workers.wake(submitter.queue().domain());
            }
        }
    }

    /// Waits for the oldest completion, kicking where asked.
    ///
    /// # Errors
    /// When it is no success.
    pub fn wait(&self, submitter: &mut Submitter) -> Result<()> {
        if submitter.needs_kick() {
            self.workers.wake(submitter.queue().domain());
        }
        let completion = submitter.wait();
        let ok = completion.status() == Some(Status::Success);
        ensure!(ok, "a copy ended with {completion:?}");
        Ok(())
    }
}

/// A copy of `size` bytes within a process.
pub fn copy(src: u64, dst: u64, size: u32) -> Descriptor {
    Descriptor {
        src,
        dst,
        size,
        ..Descriptor::new(Opcode::Memmove, Flags::NONE)
    }
}
