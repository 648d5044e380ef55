//! What all sections need: pinned threads, a worker, descriptors, percentiles.

use std::sync::Arc;
use std::time::Instant;

use byway_engine::epoch::Epochs;
use byway_engine::iotlb::Invalidations;
use byway_engine::testing::Submitter;
use byway_engine::worker::{WorkerConfig, Workers};
use byway_protocols::{Descriptor, Flags, Opcode};

/// Where processes have their data.
pub const VA: u64 = 0x4000_0000;

const SUBMITTER_CPU: usize = 0;
const WORKER_CPU: usize = 1;

/// One worker on a processor of its own, and the caller on another.
pub struct Bench {
    pub workers: Workers,
    pub epochs: Arc<Epochs>,
    pub invalidations: Arc<Invalidations>,
}

impl Bench {
    pub fn new(park_us: u32) -> Self {
        let epochs = Arc::new(Epochs::new(1));
        let invalidations = Arc::new(Invalidations::new(1));
        let config = WorkerConfig {
            count: 1,
            cpus: vec![WORKER_CPU],
            park_us,
        };
        let workers = Workers::start(config, epochs.clone(), invalidations.clone());
        pin(SUBMITTER_CPU);
        Self {
            workers: workers.expect("a worker"),
            epochs,
            invalidations,
        }
    }
    pub fn attach(&self, submitter: &Submitter) {
        self.workers.attach(submitter.queue().clone());
    }
    /// Waits for the oldest completion, kicking where asked.
    pub fn wait(&self, submitter: &mut Submitter) {
        if submitter.needs_kick() {
            self.workers.wake(submitter.queue().domain());
        }
        assert_eq!(submitter.wait().status, 1);
    }
}

/// Pins the calling thread, if there is such a processor.
fn pin(cpu: usize) {
    // SAFETY: plain data, this thread alone.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
    }
}

pub fn copy(src: u64, dst: u64, size: u32) -> Descriptor {
    Descriptor {
        src,
        dst,
        size,
        ..Descriptor::new(Opcode::Memmove, Flags::NONE)
    }
}

/// Nanoseconds that `f` takes.
pub fn timed(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_nanos() as f64
}

/// The sample below which a part `p` of all lie.
pub fn percentile(samples: &mut [f64], p: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let at = (samples.len() as f64 * p) as usize;
    samples[at.min(samples.len() - 1)]
}

/// Nanoseconds of each of `count` operations, one at a time.
pub fn latencies(submitter: &mut Submitter, descriptor: &Descriptor, count: usize) -> Vec<f64> {
    (0..count)
        .map(|_| {
            timed(|| {
                submitter.submit(descriptor);
                let completion = loop {
                    match submitter.poll() {
                        Some(completion) => break completion,
                        None => std::hint::spin_loop(),
                    }
                };
                assert_eq!(completion.status, 1, "{completion:?}");
            })
        })
        .collect()
}
