//! What can go wrong between an application and its kernel, and how a descriptor ended.

use byway_protocols::{Completion, ControlStatus, Status};
use core::fmt;

use super::region::OutOfRange;
use crate::error::{QueueError, SubmitError};
use crate::request::RequestError;

/// Why a kernel did not do what it was asked, whatever the guest. What to do depends on this, not on
/// the numbers that the transport has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// An argument is out of range, or a reserved field is not 0.
    BadArgument,
    /// What was named is not there, or no more.
    NoSuchObject,
    /// A number, slot or name is in use, or the object is still used by another.
    InUse,
    /// The domain's quota, or a table of the kernel, is used up.
    Quota,
    /// No link to that domain.
    NoLink,
    /// The capability or the link lacks the right.
    MissingRight,
    /// The range is outside the capability.
    Bounds,
    /// The capability was revoked.
    Revoked,
    /// Derivation deeper than the limit.
    Depth,
    /// This engine, or this kernel, does not offer that.
    Unsupported,
    /// No version of the ABI that both sides speak.
    Version,
    /// The host or the kernel lacks a resource.
    HostFailure,
    /// There is no device, or no more.
    NoDevice,
    /// No answer in time.
    TimedOut,
    /// The process may not: another process's context, or no access to the device.
    NotPermitted,
    /// Nothing is there yet, and the call was not to wait.
    WouldBlock,
    /// A signal ended the wait.
    Interrupted,
    /// Anything else; the transport's error says more.
    Other,
}

impl Reason {
    /// What a control status of the engine means (SPEC section 8.1).
    #[must_use]
    pub const fn of_control(status: ControlStatus) -> Self {
        match status {
            ControlStatus::Ok | ControlStatus::UnknownRequest => Self::Other,
            ControlStatus::BadLength
            | ControlStatus::ReservedNotZero
            | ControlStatus::BadArgument
            | ControlStatus::RootOutsideRam
            | ControlStatus::RingOutsideRam => Self::BadArgument,
            ControlStatus::NoSuchObject => Self::NoSuchObject,
            ControlStatus::InUse | ControlStatus::Busy => Self::InUse,
            ControlStatus::Quota => Self::Quota,
            ControlStatus::NoLink => Self::NoLink,
            ControlStatus::MissingRight => Self::MissingRight,
            ControlStatus::Bounds => Self::Bounds,
            ControlStatus::Revoked => Self::Revoked,
            ControlStatus::Depth => Self::Depth,
            ControlStatus::Unsupported => Self::Unsupported,
            ControlStatus::Version => Self::Version,
            ControlStatus::HostFailure | ControlStatus::DeviceHolds => Self::HostFailure,
        }
    }
}

/// An error of a transport.
pub trait TransportError: core::error::Error {
    /// What it means, in terms that all transports share.
    fn reason(&self) -> Reason;
}

/// How a descriptor ended that did not do what was asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Its completion.
    pub completion: Completion,
}

impl Ended {
    /// Its status, or `None` for a code that this version does not know.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        self.completion.status()
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Completion {
            status: code,
            bytes_completed,
            fault_addr,
            ..
        } = self.completion;
        match self.status() {
            Some(status) => write!(f, "the engine ended it with status {status}")?,
            None => write!(f, "the engine ended it with unknown status {code:#04x}")?,
        }
        if fault_addr != 0 {
            let access = match code & Status::WRITE_FAULT {
                0 => "reading",
                _ => "writing",
            };
            write!(f, " {access} at {fault_addr:#x}")?;
        }
        write!(f, " after {bytes_completed} bytes")
    }
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ended({self})")
    }
}

impl core::error::Error for Ended {}

/// Why an operation of [`super::Context`], [`super::Capability`] or [`super::WorkQueue`] failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error<E> {
    /// The kernel refused, or could not.
    Kernel(E),
    /// The kernel's queue does not fit this type.
    Queue(QueueError),
    /// The request is malformed.
    Request(RequestError),
    /// The queue is full or dead.
    Submit(SubmitError),
    /// The engine ended a descriptor otherwise than asked.
    Ended(Ended),
    /// A range outside the memory that was given.
    OutOfRange(OutOfRange),
}

impl<E> Error<E> {
    /// The status of the descriptor that failed, when that is what went wrong.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        match self {
            Self::Ended(ended) => ended.status(),
            _ => None,
        }
    }
}

impl<E: TransportError> Error<E> {
    /// Why the kernel refused, when that is what went wrong.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Kernel(error) => Some(error.reason()),
            _ => None,
        }
    }
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(error) => error.fmt(f),
            Self::Queue(error) => error.fmt(f),
            Self::Request(error) => error.fmt(f),
            Self::Submit(error) => error.fmt(f),
            Self::Ended(ended) => ended.fmt(f),
            Self::OutOfRange(error) => error.fmt(f),
        }
    }
}

impl<E: core::error::Error> core::error::Error for Error<E> {}

macro_rules! from {
    ($($variant:ident($error:ty)),*) => {$(
        impl<E> From<$error> for Error<E> {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        }
    )*};
}
from!(
    Queue(QueueError),
    Request(RequestError),
    Submit(SubmitError),
    Ended(Ended),
    OutOfRange(OutOfRange)
);
