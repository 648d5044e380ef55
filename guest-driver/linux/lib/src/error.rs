//! [`Error`]: what a call to the kernel failed with.

use std::fmt;
use std::io;

use byway_ring::context::{Reason, TransportError};

/// A call to the kernel, and its errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Error {
    /// Name of the call: of an ioctl as the header has it, or of a system call.
    pub call: &'static str,
    /// Its errno.
    pub errno: i32,
}

/// Name of the call that opens the device: what is missing then is the device itself.
pub(crate) const OPEN: &str = "open /dev/byway";

impl Error {
    /// The error that the last system call left.
    pub(crate) fn last(call: &'static str) -> Self {
        Self {
            call,
            // Of the last system call, so there is one.
            errno: io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or(libc::EIO),
        }
    }

    /// What the user can do about it.
    fn advice(&self) -> &'static str {
        match self.reason() {
            Reason::NoDevice if self.call == OPEN => {
                "; is the module loaded (`modprobe byway`), and has the VM a Byway device?"
            }
            Reason::NoDevice => "; the device is gone or was reset: open it again",
            Reason::NotPermitted if self.call == OPEN => {
                "; /dev/byway belongs to root and its group"
            }
            Reason::NoLink => "; the host's operator has to link the two domains (`byway link`)",
            Reason::NotPermitted => {
                "; it belongs to another process, or was bound before fork or exec"
            }
            _ => "",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = io::Error::from_raw_os_error(self.errno);
        write!(f, "{}: {text}{}", self.call, self.advice())
    }
}

impl std::error::Error for Error {}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::from_raw_os_error(error.errno)
    }
}

impl TransportError for Error {
    /// The header's table of errno values, read backwards, and what Linux itself answers.
    fn reason(&self) -> Reason {
        match self.errno {
            libc::EACCES | libc::EPERM if self.call == OPEN => Reason::NotPermitted,
            libc::ENOENT | libc::ENXIO if self.call == OPEN => Reason::NoDevice,
            libc::EINVAL | libc::EBADF | libc::EBADFD | libc::EFAULT => Reason::BadArgument,
            libc::ENOENT => Reason::NoSuchObject,
            libc::EBUSY | libc::EADDRINUSE => Reason::InUse,
            libc::ENOSPC | libc::EDQUOT | libc::EMFILE | libc::ENFILE => Reason::Quota,
            libc::EHOSTUNREACH => Reason::NoLink,
            libc::EACCES => Reason::MissingRight,
            libc::ERANGE => Reason::Bounds,
            libc::EKEYREVOKED => Reason::Revoked,
            libc::ELOOP => Reason::Depth,
            libc::EOPNOTSUPP | libc::ENOTTY => Reason::Unsupported,
            libc::EPROTONOSUPPORT => Reason::Version,
            libc::EIO | libc::ENOMEM => Reason::HostFailure,
            libc::ENODEV => Reason::NoDevice,
            libc::ETIMEDOUT => Reason::TimedOut,
            libc::EPERM | libc::EXDEV => Reason::NotPermitted,
            libc::EAGAIN => Reason::WouldBlock,
            libc::EINTR => Reason::Interrupted,
            _ => Reason::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_of_the_engine_is_told_apart() {
        let reason = |errno| Error { call: "x", errno }.reason();
        for (errno, expected) in [
            (libc::EINVAL, Reason::BadArgument),
            (libc::ENOENT, Reason::NoSuchObject),
            (libc::EBUSY, Reason::InUse),
            (libc::ENOSPC, Reason::Quota),
            (libc::EHOSTUNREACH, Reason::NoLink),
            (libc::EACCES, Reason::MissingRight),
            (libc::ERANGE, Reason::Bounds),
            (libc::EKEYREVOKED, Reason::Revoked),
            (libc::ELOOP, Reason::Depth),
            (libc::EOPNOTSUPP, Reason::Unsupported),
            (libc::EIO, Reason::HostFailure),
            (libc::ENODEV, Reason::NoDevice),
            (libc::ETIMEDOUT, Reason::TimedOut),
            (libc::EPERM, Reason::NotPermitted),
        ] {
            assert_eq!(reason(errno), expected);
        }
    }

    #[test]
    fn what_is_missing_at_open_is_the_device() {
        let open = |errno| Error { call: OPEN, errno };
        assert_eq!(open(libc::ENOENT).reason(), Reason::NoDevice);
        assert_eq!(open(libc::EACCES).reason(), Reason::NotPermitted);
        assert!(open(libc::ENOENT).to_string().contains("modprobe byway"));
    }
}
