//! What the threads of one VM share: whether to stop, and how it ended.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::crash::Crash;
use super::kick::Kicks;
use crate::devices::power::PowerSwitch;

/// How a VM ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The guest powered itself off (or asked for a reset, which ends the VM too).
    PoweredOff,
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
            Self::Stopped => f.write_str("stopped"),
            Self::Crashed(crash) => write!(f, "crashed\n{crash}"),
        }
    }
}

/// Shared between the vCPU threads, the power devices and the owner of a VM.
#[derive(Debug)]
pub struct RunState {
    stop: AtomicBool,
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
        // The counter cannot overflow from this, and nobody needs more than readability.
        let _ = self.event.write(1);
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
