//! What a running VM can be told from outside: by the console's escape keys, by the API socket, by
//! signals.
//!
//! A [`Vm`](crate::vm::Vm) belongs to the loop that supervises it, and to nobody else. Whoever wants something of it holds a
//! [`VmHandle`], which carries what is to be done to that loop and brings the answer back. So
//! no verb meets a VM that is just being rebuilt, and none needs a lock of its own.

mod requests;

pub use requests::{Act, Request, Requests, VmHandle, channel};

use serde::{Deserialize, Serialize};

use crate::vm::VmError;

/// Where a VM is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmState {
    /// Built, not started.
    Built,
    /// Its vCPUs run.
    Running,
    /// Its vCPUs stand still, and the engine does nothing for it, until it is resumed.
    Paused,
    /// It has ended: powered off, stopped or crashed.
    Ended,
    /// Its process is there and does not answer, so that nobody knows: it is being built still, or hangs. In a jail only.
    Silent,
}

impl std::fmt::Display for VmState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Built => "built",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Ended => "ended",
            Self::Silent => "silent",
        })
    }
}

/// Why a verb was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody supervises the VM any more.
    #[error("VM {0:?} is gone: its `byway run` is about to end")]
    Gone(String),
    /// The VM is not in a state for it.
    #[error("VM {name:?} cannot be asked to {verb} while it is {state}")]
    State {
        /// The VM.
        name: String,
        /// What was asked.
        verb: &'static str,
        /// What it is.
        state: VmState,
    },
    /// It was to be started, and was not.
    #[error("{0}")]
    Start(String),
    /// It was tried and failed.
    #[error(transparent)]
    Vm(#[from] VmError),
}
