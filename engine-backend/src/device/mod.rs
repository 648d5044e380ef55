//! The virtio device of a domain: two virtqueues in front of [`crate::domain`].
//!
//! A [`Device`] is shared by the VMM, which drives it through [`Handle`]
//! ([`crate::interface::Domain`]), and the control thread, which serves its virtqueues.
//! Its lock serialises the two, so everything that one domain asks for happens one
//! after the other.
//!
//! The control thread never waits for that lock, since a verb may hold it for long: it
//! goes on to the next device and is told to come back.

mod handle;
mod poller;
mod ram;
mod regions;
mod serve;
mod vring;

#[cfg(test)]
pub(crate) mod tests;

pub use handle::Handle;
pub use poller::{Poller, Source};
pub use serve::Turn;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use byway_protocols::Event;
use byway_protocols::config::QUEUE_COUNT;

use crate::domain::Domain;
use ram::Ram;
use serve::{Held, Request};
use vring::Running;

/// A domain with its virtqueues.
#[derive(Debug)]
pub struct Device {
    domain: Arc<Domain>,
    poller: Arc<Poller>,
    state: Mutex<State>,
    /// The control thread found the lock taken.
    missed: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    ram: Ram,
    vrings: [Option<Running>; QUEUE_COUNT as usize],
    /// The VMM has paused it.
    paused: bool,
    /// The VMM has stopped the control virtqueue.
    stopped: bool,
    /// The workers were told to serve none of its queues.
    quiet: bool,
    features: u64,
    /// A request of which a part is done; the next in turn.
    unfinished: Option<Request>,
    /// A request that is done but for what devices still reach; none is begun before it is answered.
    held: Option<Held>,
    /// An event that waits for a buffer.
    pending: Option<Event>,
    /// Number of the next event.
    sequence: u32,
    /// The operator has removed the domain; the handle is an empty shell.
    removed: bool,
}

impl Device {
    /// A device that nobody is attached to.
    #[must_use]
    pub fn new(domain: Arc<Domain>, poller: Arc<Poller>) -> Self {
        Self {
            domain,
            poller,
            state: Mutex::default(),
            missed: AtomicBool::new(false),
        }
    }
    /// The domain behind it.
    #[must_use]
    pub fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }

    /// Takes everything away from the guest and its VMM: afterwards it is as it was when
    /// announced. `forever` also makes a handle that is still there useless.
    pub fn detach(&self, forever: bool) {
        self.with_state(|state| {
            state.removed |= forever;
            state.paused = false;
            self.reset(state);
            for (gpa, size) in self.domain.memory().regions() {
                // Gone meanwhile is as good.
                let _ = self.take_region(state, gpa, size);
            }
            self.domain.forget_memory();
        });
    }

    /// Runs a verb with the state, and has the control thread come back if it was
    /// turned away meanwhile.
    fn with_state<R>(&self, verb: impl FnOnce(&mut State) -> R) -> R {
        let result = verb(&mut self.lock());
        if self.missed.swap(false, Ordering::SeqCst) {
            self.domain.events().poke();
        }
        result
    }

    /// The state, for the control thread; `None` when a verb holds it, which will poke
    /// the domain's events when it is done.
    fn try_state(&self) -> Option<MutexGuard<'_, State>> {
        if let Some(state) = self.try_lock() {
            return Some(state);
        }
        // The verb looks at the mark after it has let go: either it sees it, or it let go
        // before and the second attempt succeeds.
        self.missed.swap(true, Ordering::SeqCst);
        self.try_lock()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A verb that panicked half-way leaves a device that can still be reset, which is
        // what its VMM does next; nothing here is unsafe with a half-done verb.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
    fn try_lock(&self) -> Option<MutexGuard<'_, State>> {
        match self.state.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(e)) => Some(e.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}
