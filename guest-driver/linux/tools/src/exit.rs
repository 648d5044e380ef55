//! How a command ends: the exit codes of `byway`, so that scripts need to know one table only.
//!
//! | code | meaning |
//! | --- | --- |
//! | 0 | done |
//! | 1 | failed while running |
//! | 2 | wrong usage |
//! | 3 | this guest has no Byway device that can be used |

use std::fmt;
use std::process::ExitCode;

use byway_linux::{Context, Device, Error, KernelError, Reason, TransportError};

/// Slots of a context that a command opens: it holds a few capabilities at a time.
const SLOTS: u32 = 64;

/// What `--help` says of exit codes.
pub const HELP: &str =
    "Exit codes: 0 done; 1 failed while running; 2 wrong usage; 3 no Byway device in this guest.";

/// Why a command did not end with 0.
#[derive(Debug)]
pub enum Failure {
    /// Code 1.
    Failed(String),
    /// Code 2.
    Usage(String),
    /// Code 3.
    NoDevice(String),
}

impl Failure {
    /// Code 1, with what was being done and why that went wrong.
    pub fn while_(doing: &str, why: impl fmt::Display) -> Self {
        Self::Failed(format!("{doing}: {why}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Failed(text) | Self::Usage(text) | Self::NoDevice(text)) = self;
        f.write_str(text)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Self {
        match error.reason() {
            Reason::NoDevice | Reason::NotPermitted | Reason::Version => {
                Self::NoDevice(error.to_string())
            }
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Opens the device and a context.
///
/// # Errors
/// [`Failure::NoDevice`] where there is none.
pub fn context() -> Result<Context, Failure> {
    Ok(Device::open()?.context(SLOTS)?)
}

/// Says on standard error why, and gives the code.
#[must_use]
pub fn end(command: &str, outcome: Result<(), Failure>) -> ExitCode {
    let Err(failure) = outcome else {
        return ExitCode::SUCCESS;
    };
    eprintln!("{command}: {failure}");
    ExitCode::from(match failure {
        Failure::Failed(_) => 1,
        Failure::Usage(_) => 2,
        Failure::NoDevice(_) => 3,
    })
}
