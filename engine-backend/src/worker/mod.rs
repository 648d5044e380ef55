//! Workers: the threads that poll work queues and carry descriptors out.

mod config;

use std::sync::Arc;

pub use config::WorkerConfig;

use crate::epoch::Epochs;
use crate::iotlb::{Invalidations, IotlbStats};
use crate::queue::WorkQueue;

/// Why workers cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A number of workers that cannot be had.
    #[error("{asked} workers: expected 1 to {max}")]
    Count {
        /// Asked for.
        asked: usize,
        /// Most that there can be.
        max: usize,
    },
    /// The host started no thread.
    #[error("cannot start worker thread {index}")]
    Spawn {
        /// Which.
        index: usize,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
}

/// What one worker has done since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WorkerStats {
    /// Thread number on the host, for `/proc/self/task/<tid>/schedstat`.
    pub tid: i32,
    /// Descriptors completed.
    pub descriptors: u64,
    /// Bytes touched by them.
    pub bytes: u64,
    /// Chunks.
    pub chunks: u64,
    /// Times that it slept.
    pub sleeps: u64,
    /// Its IOTLB.
    pub iotlb: IotlbStats,
}

/// All workers of an engine. Dropping it stops them; queues still attached are
/// aborted.
#[derive(Debug)]
pub struct Workers {}

impl Workers {
    /// Starts the threads. `epochs` and `invalidations` have room for as many.
    ///
    /// # Errors
    /// See [`WorkerError`].
    pub fn start(
        _config: WorkerConfig,
        _epochs: Arc<Epochs>,
        _invalidations: Arc<Invalidations>,
    ) -> Result<Self, WorkerError> {
        Ok(Self {})
    }
    /// Hands a queue to the worker with the fewest; it is polled from now on. Never
    /// blocks for longer than a chunk.
    pub fn attach(&self, _queue: Arc<WorkQueue>) {}
    /// Takes a queue away. When this returns its worker has forgotten it, descriptors
    /// in flight and those published before have ended in status 62, and the header
    /// says dead. Nothing happens when it is not attached.
    pub fn detach(&self, _queue: u32) {}
    /// The doorbell: the domain's parked queues are looked at. Never blocks.
    pub fn wake(&self, _domain: u32) {}
    /// Stops serving the domain's queues between two chunks; returns when it is quiet.
    /// Queues attached later are not served either.
    pub fn pause_domain(&self, _domain: u32) {}
    /// Serves them again.
    pub fn resume_domain(&self, _domain: u32) {}
    /// What each worker has done.
    #[must_use]
    pub fn stats(&self) -> Vec<WorkerStats> {
        Vec::new()
    }
}
