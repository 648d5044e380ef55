//! Exit codes of the `byway` command. Scripts depend on them: they are part of its interface.
//!
//! | code | meaning |
//! | --- | --- |
//! | 0 | it did what it was asked to do |
//! | 1 | it failed while running: a guest crashed, a check did not hold, Ctrl-C came before the result |
//! | 2 | it was called wrongly or its configuration is wrong; nothing was started |
//! | 3 | this host lacks something that it needs, KVM as a rule; nothing was started |
//! | 159 | `byway engine`: a thread made a system call that its filter denies ([`crate::seccomp::DENIED_CODE`]) |

use std::error::Error;
use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use crate::host::NoKvm;
use crate::vm::VmError;

/// Why a command did not end with 0.
#[derive(Debug)]
pub enum Failure {
    /// Code 1.
    Failed(Box<dyn Error + Send + Sync>),
    /// Code 2.
    Usage(Box<dyn Error + Send + Sync>),
    /// Code 3.
    Host(Box<dyn Error + Send + Sync>),
}

impl Failure {
    /// Code 1, with a cause.
    pub fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed(error.into())
    }

    /// Code 2, with a cause.
    pub fn usage(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Usage(error.into())
    }

    /// Code 3, with a cause.
    pub fn host(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Host(error.into())
    }

    /// The process' exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Host(_) => 3,
        }
    }
}

/// The whole chain of causes on one line.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Failed(error) | Self::Usage(error) | Self::Host(error)) = self;
        write!(f, "{error}")?;
        let mut cause = error.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl Error for Failure {}

/// A place that was asked for and cannot be: wrong usage, wherever in a chain of causes it stands.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct WrongPlace {
    /// What cannot be done there.
    pub what: String,
    /// What the host said.
    #[source]
    pub source: io::Error,
}

/// Sees to it that results can go to a file, before the work begins that they come from. What is there stays until there
/// is something to put in its place.
///
/// # Errors
/// It cannot be written.
pub fn can_be_written(path: &Path) -> Result<(), WrongPlace> {
    let opened = OpenOptions::new().append(true).create(true).open(path);
    opened.map(drop).map_err(|source| WrongPlace {
        what: format!("cannot write {}", path.display()),
        source,
    })
}

impl From<NoKvm> for Failure {
    fn from(error: NoKvm) -> Self {
        Self::host(error)
    }
}

/// Commands that collect causes with `anyhow` keep their code: what a VM or the host refused
/// somewhere down the chain decides, and anything else is a failure while running.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let code = error.chain().find_map(|cause| {
            if cause.is::<NoKvm>() {
                return Some(3);
            }
            if cause.is::<WrongPlace>() {
                return Some(2);
            }
            cause.downcast_ref().map(VmError::exit_code)
        });
        match code {
            Some(3) => Self::Host(error.into()),
            Some(2) => Self::Usage(error.into()),
            _ => Self::Failed(error.into()),
        }
    }
}

impl VmError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::NoKvm(_) => 3,
            Self::Tap(error) if error.is_hosts() => 3,
            Self::Config(_) | Self::Load(_) | Self::Disk(_) | Self::Tap(_) => 2,
            _ => 1,
        }
    }
}

impl From<VmError> for Failure {
    fn from(error: VmError) -> Self {
        match error.exit_code() {
            3 => Self::host(error),
            2 => Self::usage(error),
            _ => Self::failed(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_what_the_documentation_says() {
        assert_eq!(Failure::failed("x").code(), 1);
        assert_eq!(Failure::usage("x").code(), 2);
        assert_eq!(Failure::from(NoKvm::Absent).code(), 3);
        assert_eq!(Failure::from(VmError::NoKvm(NoKvm::Forbidden)).code(), 3);
        assert_eq!(Failure::from(VmError::Config(String::new())).code(), 2);
    }

    #[test]
    fn the_code_survives_added_context() {
        let lack = VmError::NoKvm(NoKvm::Absent);
        let error = anyhow::Error::from(lack).context("cannot build VM alice");
        assert_eq!(Failure::from(error).code(), 3);
        let wrong = anyhow::Error::from(VmError::Config("x".to_owned())).context("alice");
        assert_eq!(Failure::from(wrong).code(), 2);
        let nowhere = can_be_written(Path::new("/nowhere/at/all")).unwrap_err();
        let error = anyhow::Error::from(nowhere).context("no results");
        assert_eq!(Failure::from(error).code(), 2);
        assert_eq!(Failure::from(anyhow::anyhow!("other")).code(), 1);
    }

    #[test]
    fn causes_follow_on_the_same_line() {
        let failure = Failure::failed(VmError::Host {
            what: "do it",
            source: std::io::Error::other("because"),
        });
        assert_eq!(failure.to_string(), "cannot do it: because");
    }
}
