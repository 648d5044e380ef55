//! The real engine inside this process, serving a queue of an in-memory guest: a place to run the
//! library where there is no VM. Guests get their queues from their kernel instead.

use std::ptr::NonNull;
use std::sync::Arc;

use byway_engine::epoch::Epochs;
use byway_engine::iotlb::Invalidations;
use byway_engine::queue::{QueueParts, WorkQueue};
use byway_engine::testing::{Guest, PageSize, Process, Recorder};
use byway_engine::worker::{WorkerConfig, Workers};
use byway_protocols::{Completion, Descriptor, Rights, RingPosition};
use byway_ring::{Options, Queue, QueueMemory};

/// Virtual address of each process's memory.
pub const LOCAL: u64 = 0x4000_0000;
/// Bytes of it.
pub const BYTES: u64 = 4 << 20;
/// Entries of the queue.
const ENTRIES: u32 = 64;

/// A worker, and two guests with a process each.
pub struct Machine {
    /// Stops when it is dropped, before the guests' memory goes.
    workers: Workers,
    /// The process that submits.
    pub alice: Process,
    /// The process whose memory is in alice's slot [`Self::slot`].
    pub bob: Process,
    /// Alice's slot.
    pub slot: u16,
}

impl Machine {
    /// Starts the worker.
    pub fn start() -> Result<Self, Box<dyn std::error::Error>> {
        let [alice, bob] = [1, 2].map(|id| {
            let process = Process::new(&Guest::new(id, 2 * BYTES + (2 << 20)), 16);
            process.map(LOCAL, BYTES, PageSize::Small);
            process
        });
        let slot = bob.give(&alice, LOCAL, BYTES, Rights::ALL);
        let config = WorkerConfig {
            count: 1,
            cpus: Vec::new(),
            park_us: 1_000_000,
        };
        let epochs = Arc::new(Epochs::new(1));
        let workers = Workers::start(config, epochs, Arc::new(Invalidations::new(1)))?;
        Ok(Self {
            workers,
            alice,
            bob,
            slot,
        })
    }

    /// Creates a work queue of alice's, as her kernel would.
    pub fn queue(&self) -> Result<Queue, Box<dyn std::error::Error>> {
        let guest = self.alice.guest();
        let bytes = [
            u64::from(ENTRIES) * Descriptor::SIZE as u64,
            u64::from(ENTRIES) * Completion::SIZE as u64,
            64,
        ];
        let [ring, completions, header] = bytes.map(|bytes| (guest.alloc(bytes, 64), bytes));
        let span = |(gpa, bytes)| guest.memory().contiguous(gpa, bytes).ok_or("no such RAM");
        let start = RingPosition::new(ENTRIES).ok_or("not a power of two")?;
        let queue = Arc::new(WorkQueue::new(QueueParts {
            // There is no other.
            id: 1,
            domain: guest.id(),
            account: guest.account().clone(),
            context: self.alice.context().clone(),
            entries: start,
            ring: span(ring)?,
            completions: span(completions)?,
            header: span(header)?,
            no_park: true,
            instance: 1,
            sink: Arc::new(Recorder::default()),
        }));
        let host = |(gpa, bytes)| NonNull::new(guest.host(gpa, bytes)).ok_or("no such RAM");
        let memory = QueueMemory {
            ring: host(ring)?.cast(),
            completions: host(completions)?.cast(),
            header: host(header)?.cast(),
            entries: ENTRIES,
        };
        self.workers.attach(queue);
        // SAFETY: fresh zeroed RAM of the guest's, mapped for as long as `self` lives, which callers
        // keep until the queue is gone; there is one queue over it, and the engine beside it.
        Ok(unsafe { Queue::new(memory, Options { no_park: true }) }?)
    }
}
