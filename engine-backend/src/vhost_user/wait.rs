//! Waiting for several descriptors at once.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// Which of the descriptors given to [`wait`] have something to read, or have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ready(u64);

impl Ready {
    /// Whether the descriptor at `index` of the list does.
    #[must_use]
    pub fn has(self, index: usize) -> bool {
        index < 64 && self.0 >> index & 1 == 1
    }
}

/// Waits until one of at most 64 descriptors can be read or has ended, for `longest` at
/// most (`None`: for ever). An interrupted wait, like one that is over, reports none.
///
/// # Errors
/// As poll says.
pub fn wait(fds: &[BorrowedFd<'_>], longest: Option<Duration>) -> io::Result<Ready> {
    debug_assert!(fds.len() <= 64);
    let mut polled: Vec<libc::pollfd> = fds
        .iter()
        .map(|fd| libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    // Rounded up, so that whoever waits for a moment does not come too early for it.
    let timeout_ms = longest.map_or(-1, |longest| {
        let ms = longest.as_nanos().div_ceil(1_000_000);
        i32::try_from(ms).unwrap_or(i32::MAX)
    });
    // SAFETY: the array is valid for its length.
    let rc = unsafe {
        libc::poll(
            polled.as_mut_ptr(),
            polled.len() as libc::nfds_t,
            timeout_ms,
        )
    };
    if rc < 0 {
        let error = io::Error::last_os_error();
        return match error.kind() {
            io::ErrorKind::Interrupted => Ok(Ready::default()),
            _ => Err(error),
        };
    }
    let bits = polled.iter().take(64).enumerate();
    Ok(Ready(bits.fold(0, |ready, (at, fd)| {
        ready | u64::from(fd.revents != 0) << at
    })))
}

/// Whether something can be written right now; to an eventfd, a 1.
pub fn is_writable(fd: &impl AsRawFd) -> bool {
    let mut polled = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one descriptor, as said.
    let rc = unsafe { libc::poll(&raw mut polled, 1, 0) };
    rc == 1 && polled.revents & libc::POLLOUT != 0
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn just_what_is_ready_is_reported() {
        let (a, _a) = UnixStream::pair().unwrap();
        let (b, mut to_b) = UnixStream::pair().unwrap();
        let fds = [a.as_fd(), b.as_fd()];
        let now = Some(Duration::ZERO);
        assert_eq!(wait(&fds, now).unwrap(), Ready::default());
        to_b.write_all(b"x").unwrap();
        let ready = wait(&fds, None).unwrap();
        assert!(!ready.has(0) && ready.has(1) && !ready.has(64));
        drop(_a);
        assert!(wait(&fds, now).unwrap().has(0));
    }
}
