//! What the threads of one VM share: whether to stop or to stand still, and how it ended.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::crash::Crash;
use super::kick::Kicks;
use crate::devices::power::PowerSwitch;

/// How a VM ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The guest powered itself off.
    PoweredOff,
    /// The guest or the host wants it to start anew.
    Reset,
    /// The host stopped it.
    Stopped,
    /// A vCPU could not go on.
    Crashed(Box<Crash>),
}

impl Outcome {
    /// Whether the VM ended as somebody wanted it to.
    pub fn is_clean(&self) -> bool {
        !matches!(self, Self::Crashed(_))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoweredOff => f.write_str("powered off"),
            Self::Reset => f.write_str("was reset"),
            Self::Stopped => f.write_str("stopped"),
            Self::Crashed(crash) => write!(f, "crashed\n{crash}"),
        }
    }
}

/// Of a VM that is paused, or about to be.
#[derive(Debug, Default)]
struct Rest {
    wanted: bool,
    /// vCPU threads that stand still.
    resting: usize,
}

/// Shared between the vCPU threads, the power devices and the owner of a VM.
#[derive(Debug)]
pub struct RunState {
    stop: AtomicBool,
    /// What vCPU threads look at between two runs; `rest` is what counts.
    rests: AtomicBool,
    rest: Mutex<Rest>,
    /// Told of every change of `rest` and of the end.
    rested: Condvar,
    outcome: Mutex<Option<Outcome>>,
    ended: Condvar,
    event: EventFd,
    /// vCPU threads that can be kicked.
    pub(super) kicks: Kicks,
}

impl RunState {
    /// The state of a VM that has not ended.
    ///
    /// # Errors
    /// When the host has no eventfd left.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            stop: AtomicBool::new(false),
            rests: AtomicBool::new(false),
            rest: Mutex::default(),
            rested: Condvar::new(),
            outcome: Mutex::new(None),
            ended: Condvar::new(),
            event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            kicks: Kicks::default(),
        })
    }

    /// Whether vCPU threads shall leave.
    pub fn must_stop(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Ends the VM: the first outcome stands, all vCPU threads are told to leave.
    pub fn end(&self, outcome: Outcome) {
        {
            let mut slot = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
            slot.get_or_insert(outcome);
        }
        // Before the kick: a kicked thread must find the flag set.
        self.stop.store(true, Ordering::SeqCst);
        self.kicks.kick_all();
        self.ended.notify_all();
        // Under the lock, so that nobody is between a look at the flag and its sleep.
        drop(self.lock_rest());
        self.rested.notify_all();
        // The counter cannot overflow from this, and nobody needs more than readability.
        let _ = self.event.write(1);
    }

    /// Has every vCPU thread stand still; returns when all do, or the VM has ended.
    pub fn pause(&self) {
        let mut rest = self.lock_rest();
        rest.wanted = true;
        // Before the kick: a kicked thread must find the flag set.
        self.rests.store(true, Ordering::SeqCst);
        self.kicks.kick_all();
        while rest.resting < self.kicks.count() && !self.must_stop() {
            rest = self
                .rested
                .wait(rest)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets them go on.
    pub fn resume(&self) {
        let mut rest = self.lock_rest();
        rest.wanted = false;
        self.rests.store(false, Ordering::SeqCst);
        drop(rest);
        self.rested.notify_all();
    }

    /// Whether vCPU threads stand still or are about to.
    pub fn is_paused(&self) -> bool {
        self.rests.load(Ordering::SeqCst)
    }

    /// Stands still on the calling vCPU thread, which has entered itself with `kicks`, until the VM goes on or ends.
    pub(super) fn rest(&self) {
        let mut rest = self.lock_rest();
        rest.resting += 1;
        self.rested.notify_all();
        while rest.wanted && !self.must_stop() {
            rest = self
                .rested
                .wait(rest)
                .unwrap_or_else(PoisonError::into_inner);
        }
        rest.resting -= 1;
    }

    fn lock_rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the VM ended, if it did.
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until the VM has ended, at most `limit` long when one is given.
    pub fn wait(&self, limit: Option<Duration>) -> Option<Outcome> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut slot = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        while slot.is_none() {
            slot = match deadline {
                None => self
                    .ended
                    .wait(slot)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    self.ended
                        .wait_timeout(slot, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
        slot.clone()
    }

    /// Becomes readable when the VM has ended.
    pub fn event(&self) -> &EventFd {
        &self.event
    }
}

impl PowerSwitch for std::sync::Arc<RunState> {
    fn power_off(&self) {
        self.end(Outcome::PoweredOff);
    }

    fn reset(&self) {
        self.end(Outcome::Reset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn the_first_outcome_stands() {
        let state = RunState::new().unwrap();
        assert!(state.outcome().is_none() && !state.must_stop());
        state.end(Outcome::PoweredOff);
        state.end(Outcome::Stopped);
        assert!(matches!(state.outcome(), Some(Outcome::PoweredOff)));
        assert!(state.must_stop());
        assert!(state.event().read().is_ok());
    }

    #[test]
    fn waiting_ends_with_the_vm_or_with_the_limit() {
        let state = Arc::new(RunState::new().unwrap());
        assert!(state.wait(Some(Duration::from_millis(5))).is_none());
        let waiter = std::thread::spawn({
            let state = Arc::clone(&state);
            move || state.wait(None)
        });
        state.end(Outcome::Stopped);
        assert!(matches!(waiter.join().unwrap(), Some(Outcome::Stopped)));
    }
}
