//! The process's work queues, by number: each is a [`Queue`] of the ring-3 library over memory that
//! the kernel process mapped.
//!
//! Owns them. They outlive a fault of the process, so that a test can fault and go on.

use core::cell::UnsafeCell;

use byway_agent::commands::{CreateQueue, QueueCreated};
use byway_agent::{Failure, Status};
use byway_protocols::control::queue_flags;
use byway_ring::context::{Error, QueueOptions};
use byway_ring::{Context, WorkQueue};

use super::gate::{Gate, GateError};

/// Most queues of a process.
const MAX_QUEUES: usize = 32;
/// Room for 16384 entries each.
const WORDS: usize = 256;

/// A queue of this process.
pub type Queue = WorkQueue<Gate, WORDS>;

struct Entry {
    number: u64,
    context: u64,
    queue: Queue,
}

/// All queues of this process.
pub struct Queues {
    entries: [Option<Entry>; MAX_QUEUES],
}

struct Storage(UnsafeCell<Queues>);

// SAFETY: a process has one thread.
unsafe impl Sync for Storage {}

static QUEUES: Storage = Storage(UnsafeCell::new(Queues {
    entries: [const { None }; MAX_QUEUES],
}));

/// The process's queues.
///
/// # Safety
/// No earlier result is used any more.
pub unsafe fn all() -> &'static mut Queues {
    // SAFETY: the caller's promise.
    unsafe { &mut *QUEUES.0.get() }
}

/// The kernel process's answer, where it was that which went wrong; else a complaint about argument `index`.
pub fn failure(error: Error<GateError>, index: u64, value: u64) -> Failure {
    match error {
        Error::Kernel(GateError(failure)) => failure,
        _ => Failure::argument(index, value),
    }
}

impl Queues {
    /// Has the kernel create a queue, and takes it into use.
    pub fn create(&mut self, request: CreateQueue) -> Result<QueueCreated, Failure> {
        let free = self.entries.iter_mut().find(|entry| entry.is_none());
        let free = free.ok_or(Failure::new(Status::NoMemory, MAX_QUEUES as u64))?;
        let no_park = u64::from(queue_flags::NO_PARK);
        if request.flags & !no_park != 0 {
            return Err(Failure::argument(2, request.flags));
        }
        let entries = u32::try_from(request.entries);
        let options = QueueOptions {
            entries: entries.map_err(|_| Failure::argument(1, request.entries))?,
            no_park: request.flags & no_park != 0,
        };
        // SAFETY: `remove_of` lets go of the queues before the context is closed. What the host program
        // does to their memory through the mailbox is its business.
        let context = Context::new(unsafe { Gate::adopt(request.context) });
        let queue: Queue = context
            .queue(&options)
            .map_err(|error| failure(error, 1, request.entries))?;
        let created = queue.handle().map(|handle| *handle.created());
        let created = created.ok_or(Failure::new(Status::QueueDead, 0))?;
        *free = Some(Entry {
            number: created.queue,
            context: request.context,
            queue,
        });
        Ok(created)
    }

    /// The queue with this number; the youngest, where an older one outlived a reset.
    pub fn get(&mut self, number: u64) -> Result<&mut Queue, Failure> {
        let found = self
            .entries
            .iter_mut()
            .rev()
            .flatten()
            .find(|entry| entry.number == number);
        found
            .map(|entry| &mut entry.queue)
            .ok_or(Failure::argument(0, number))
    }

    /// Lets go of a queue; the kernel is to be asked to destroy it.
    pub fn remove(&mut self, number: u64) {
        self.disown(|entry| entry.number == number);
    }

    /// Lets go of all queues of a context, which is about to end with them.
    pub fn remove_of(&mut self, context: u64) {
        self.disown(|entry| entry.context == context);
    }

    fn disown(&mut self, which: impl Fn(&Entry) -> bool) {
        for slot in &mut self.entries {
            let handle = slot
                .take_if(|entry| which(entry))
                .and_then(|entry| entry.queue.into_handle());
            if let Some(handle) = handle {
                handle.disown();
            }
        }
    }
}
