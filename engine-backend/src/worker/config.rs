//! How workers are set up.

/// Settings of the workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerConfig {
    /// Threads; 1 to [`crate::epoch::WORKERS_MAX`].
    pub count: usize,
    /// Processors that worker 0, 1, … are pinned to; those without one float.
    pub cpus: Vec<usize>,
    /// How long a queue is polled without finding work before it is parked, in
    /// microseconds.
    pub park_us: u32,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            count: 1,
            cpus: Vec::new(),
            park_us: 200,
        }
    }
}
