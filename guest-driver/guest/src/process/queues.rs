//! The process's work queues, by number: each is a [`Queue`] of the ring-3 library over memory that
//! the kernel process mapped.
//!
//! Owns them. They outlive a fault of the process, so that a test can fault and go on.

use core::cell::UnsafeCell;
use core::ptr::{NonNull, with_exposed_provenance_mut};

use byway_agent::commands::{CreateQueue, QueueCreated};
use byway_agent::{Failure, Status};
use byway_protocols::control::queue_flags;
use byway_ring::{Options, QueueMemory};

use super::call::kernel;

/// Most queues of a process.
const MAX_QUEUES: usize = 32;
/// Room for 16384 entries each.
const WORDS: usize = 256;

/// A queue of this process.
pub type Queue = byway_ring::Queue<WORDS>;

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

/// What the kernel process mapped at `address`.
fn mapped<T>(address: u64) -> Option<NonNull<T>> {
    NonNull::new(with_exposed_provenance_mut(address as usize))
}

impl Queues {
    /// Has the kernel create a queue, and takes it into use.
    pub fn create(&mut self, request: CreateQueue) -> Result<QueueCreated, Failure> {
        let free = self.entries.iter_mut().find(|entry| entry.is_none());
        let free = free.ok_or(Failure::new(Status::NoMemory, MAX_QUEUES as u64))?;
        let created = kernel(request)?;
        let bad = Failure::argument(1, request.entries);
        let memory = QueueMemory {
            ring: mapped(created.ring).ok_or(bad)?,
            completions: mapped(created.completions).ok_or(bad)?,
            header: mapped(created.header).ok_or(bad)?,
            entries: u32::try_from(request.entries).map_err(|_| bad)?,
        };
        let no_park = request.flags & u64::from(queue_flags::NO_PARK) != 0;
        // SAFETY: the kernel mapped the areas, zeroed, for this process alone, and unmaps them
        // after `remove` only. What the host program does to them through the mailbox is its
        // business.
        let queue = unsafe { Queue::new(memory, Options { no_park }) }.map_err(|_| bad)?;
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

    /// Lets go of a queue.
    pub fn remove(&mut self, number: u64) {
        self.retain(|entry| entry.number != number);
    }

    /// Lets go of all queues of a context.
    pub fn remove_of(&mut self, context: u64) {
        self.retain(|entry| entry.context != context);
    }

    fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        for slot in &mut self.entries {
            if slot.as_ref().is_some_and(|entry| !keep(entry)) {
                *slot = None;
            }
        }
    }
}
