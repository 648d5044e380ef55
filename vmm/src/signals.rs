//! Ctrl-C and SIGTERM for commands that take their time: the first has them stop what they started, the second
//! ends the process.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{SigId, flag, low_level};
use thiserror::Error;

/// What a command ends with that was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("interrupted: everything that was started is stopped, and there is no result")]
pub struct Interrupted;

/// A flag that others set to have somebody stop.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Whether to go on.
    ///
    /// # Errors
    /// Once told to stop.
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.is_set() {
            return Err(Interrupted);
        }
        Ok(())
    }

    /// Whether told to stop.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Tells to stop.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Ctrl-C and SIGTERM as a [`Stop`], until dropped. A second one ends the process at once with code 1.
#[derive(Debug)]
pub struct StopOnSignal {
    stop: Stop,
    ids: Vec<SigId>,
}

impl StopOnSignal {
    /// Takes the signals over.
    ///
    /// # Errors
    /// When the host refuses a handler.
    pub fn install() -> std::io::Result<Self> {
        let stop = Stop::default();
        let mut ids = Vec::new();
        for signal in [SIGINT, SIGTERM] {
            // The order matters: the first signal finds the flag clear and sets it.
            ids.push(flag::register_conditional_shutdown(
                signal,
                1,
                Arc::clone(&stop.0),
            )?);
            ids.push(flag::register(signal, Arc::clone(&stop.0))?);
        }
        Ok(Self { stop, ids })
    }

    /// Set by the first signal.
    #[must_use]
    pub fn stop(&self) -> &Stop {
        &self.stop
    }
}

impl Drop for StopOnSignal {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            low_level::unregister(id);
        }
    }
}

/// Ctrl-C and SIGTERM as something to wait for, until dropped: readable since the first. A second
/// one ends the process at once with code 1.
#[derive(Debug)]
pub struct SignalSocket {
    receiver: UnixStream,
    _stop: StopOnSignal,
    ids: Vec<SigId>,
}

impl SignalSocket {
    /// Takes the signals over.
    ///
    /// # Errors
    /// When the host refuses a socket pair or a handler.
    pub fn install() -> std::io::Result<Self> {
        let (receiver, sender) = UnixStream::pair()?;
        let stop = StopOnSignal::install()?;
        let ids = [SIGINT, SIGTERM].map(|signal| {
            let sender = sender.try_clone()?;
            low_level::pipe::register(signal, sender)
        });
        Ok(Self {
            receiver,
            _stop: stop,
            ids: ids.into_iter().collect::<Result<_, _>>()?,
        })
    }
}

impl AsFd for SignalSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}

impl Drop for SignalSocket {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            low_level::unregister(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_copies_of_a_flag_are_one() {
        let stop = Stop::default();
        let copy = stop.clone();
        assert_eq!(copy.check(), Ok(()));
        stop.set();
        assert_eq!(copy.check(), Err(Interrupted));
    }
}
