//! Connecting to a socket whose process may be stopped.

use std::io;
use std::os::fd::FromRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// `UnixStream::connect`, which waits for ever where a listener never accepts, but for no longer than `limit`; nor do writes to
/// what it gives back.
///
/// # Errors
/// As connect says; `TimedOut` when nobody has accepted.
pub fn connect_within(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    let name = path.as_os_str().as_bytes();
    // SAFETY: all zero is a value of this structure of integers.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    // A byte is left for the end of the string.
    if name.is_empty() || name.len() >= address.sun_path.len() || name.contains(&0) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "a path of {} bytes: expected 1 to {}, none of them 0",
                name.len(),
                address.sun_path.len() - 1
            ),
        ));
    }
    for (to, &from) in address.sun_path.iter_mut().zip(name) {
        *to = from as libc::c_char;
    }
    // SAFETY: makes a descriptor.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else's.
    let socket = unsafe { UnixStream::from_raw_fd(fd) };
    socket.set_write_timeout(Some(limit))?;
    // SAFETY: the address is valid for its length.
    let rc = unsafe {
        libc::connect(
            fd,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_un>() as libc::socklen_t,
        )
    };
    if rc != 0 {
        let error = io::Error::last_os_error();
        // EAGAIN is all that the kernel says.
        return Err(match error.kind() {
            io::ErrorKind::WouldBlock => io::Error::new(
                io::ErrorKind::TimedOut,
                format!("nobody has accepted within {limit:?}: is its process stopped?"),
            ),
            _ => error,
        });
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// A listener whose queue is full, as it is behind a daemon that was stopped, and those in it.
    #[test]
    fn a_listener_that_does_not_accept_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("door");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&listener);
        // SAFETY: changes the length of the queue of an open socket.
        assert_eq!(unsafe { libc::listen(fd, 0) }, 0);
        let limit = Duration::from_millis(50);
        let _first = connect_within(&path, limit).unwrap();
        let since = Instant::now();
        let error = loop {
            match connect_within(&path, limit) {
                Ok(more) => std::mem::forget(more),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        assert!(since.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn nobody_is_told_from_nobody_who_accepts() {
        let folder = tempfile::tempdir().unwrap();
        let error = connect_within(&folder.path().join("none"), Duration::from_secs(1));
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::NotFound);
        let error = connect_within(Path::new(""), Duration::from_secs(1));
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
