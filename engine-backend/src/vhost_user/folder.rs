//! The folder with an engine's sockets: one engine at a time, and no socket is taken from
//! somebody who still answers.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::connect::connect_within;

/// Whose lock it is that one engine holds.
const LOCK: &str = "engine.lock";
/// Connections that may wait to be accepted.
const BACKLOG: libc::c_int = 16;
/// How long to wait for whoever listens on a socket that is to be replaced, where too many wait already: he is there, if stopped.
const ASK_MAX: Duration = Duration::from_secs(2);

/// Why sockets cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another engine serves this folder.
    #[error("another engine serves {}; stop it, or use another folder", .0.display())]
    Locked(PathBuf),
    /// Strangers could put sockets of their own in it.
    #[error(
        "{} belongs to another user, or everybody may write to it; use a folder of your own",
        .0.display()
    )]
    Unsafe(PathBuf),
    /// Something that is not a socket has a socket's name.
    #[error("{} is not a socket; move it away", .0.display())]
    NotSocket(PathBuf),
    /// A program that this is not answers.
    #[error("another program answers on {}; stop it, or use another place", .0.display())]
    Answers(PathBuf),
    /// The host's limit.
    #[error("the path {} is too long for a socket: use at most {most} bytes", path.display())]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Bytes that it may have.
        most: usize,
    },
    /// The host refused something else.
    #[error("cannot {what} {}", path.display())]
    Host {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

/// A folder of sockets, held until dropped.
#[derive(Debug)]
pub struct SocketFolder {
    path: PathBuf,
    /// Closing it gives the lock back.
    _lock: File,
}

impl SocketFolder {
    /// Makes the folder if it is not there, and holds it.
    ///
    /// # Errors
    /// See [`FolderError`].
    pub fn hold(path: &Path) -> Result<Self, FolderError> {
        let host = |what, path: &Path| {
            let path = path.to_owned();
            move |source| FolderError::Host { what, path, source }
        };
        match fs::create_dir(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(host("make the folder", path)(error)),
        }
        let found = fs::metadata(path).map_err(host("look at", path))?;
        // SAFETY: no preconditions.
        let own = unsafe { libc::geteuid() };
        if ![0, own].contains(&found.uid()) || found.mode() & 0o002 != 0 {
            return Err(FolderError::Unsafe(path.to_owned()));
        }
        let lock_path = path.join(LOCK);
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&lock_path)
            .map_err(host("open", &lock_path))?;
        // SAFETY: locks an open file; no memory is involved.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } < 0 {
            let error = io::Error::last_os_error();
            return Err(match error.kind() {
                io::ErrorKind::WouldBlock => FolderError::Locked(path.to_owned()),
                _ => host("lock", &lock_path)(error),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Where a socket with this name is.
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.sock"))
    }

    /// Listens at `name`.sock, with `mode` from the first moment on. A socket that a former
    /// engine left behind is replaced.
    ///
    /// # Errors
    /// See [`FolderError`].
    pub fn listen(&self, name: &str, mode: u32) -> Result<UnixListener, FolderError> {
        listen_at(&self.socket(name), mode)
    }
}

/// Listens at `path`, with `mode` from the first moment on. A socket that somebody left behind is replaced.
///
/// # Errors
/// See [`FolderError`].
pub fn listen_at(path: &Path, mode: u32) -> Result<UnixListener, FolderError> {
    remove_stale(path)?;
    bind(path, mode)
}

/// Removes a socket on which nobody listens any more.
fn remove_stale(path: &Path) -> Result<(), FolderError> {
    let host = |what| {
        move |source| FolderError::Host {
            what,
            path: path.to_owned(),
            source,
        }
    };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(FolderError::NotSocket(path.to_owned()));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(host("look at")(error)),
    }
    match connect_within(path, ASK_MAX) {
        Ok(_) => Err(FolderError::Answers(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(host("remove the stale socket"))
        }
        // Nobody accepts, but somebody listens.
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            Err(FolderError::Answers(path.to_owned()))
        }
        Err(error) => Err(host("ask who listens on")(error)),
    }
}

/// The library's own `bind` leaves the mode to the process' mask.
fn bind(path: &Path, mode: u32) -> Result<UnixListener, FolderError> {
    let host = |source| FolderError::Host {
        what: "listen on",
        path: path.to_owned(),
        source,
    };
    let mut address = libc::sockaddr_un {
        sun_family: libc::AF_UNIX as libc::sa_family_t,
        sun_path: [0; 108],
    };
    let bytes = path.as_os_str().as_bytes();
    // The last byte ends the string.
    let most = address.sun_path.len() - 1;
    if bytes.len() > most {
        return Err(FolderError::TooLong {
            path: path.to_owned(),
            most,
        });
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    if fd < 0 {
        return Err(host(io::Error::last_os_error()));
    }
    // SAFETY: just made, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // On Linux the file gets the mode that the socket has when it is bound, less the mask.
    // SAFETY: an open descriptor, an address that is valid for its size.
    let rc = unsafe {
        match libc::fchmod(fd, mode) {
            0 => libc::bind(
                fd,
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            ),
            rc => rc,
        }
    };
    if rc < 0 {
        return Err(host(io::Error::last_os_error()));
    }
    // What the mask took away; nothing is listening yet.
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(host)?;
    // SAFETY: an open socket.
    if unsafe { libc::listen(fd, BACKLOG) } < 0 {
        return Err(host(io::Error::last_os_error()));
    }
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_held_once() {
        let folder = tempfile::tempdir().unwrap();
        let held = SocketFolder::hold(folder.path()).unwrap();
        let again = SocketFolder::hold(folder.path());
        assert!(matches!(again, Err(FolderError::Locked(_))), "{again:?}");
        drop(held);
        SocketFolder::hold(folder.path()).unwrap();
        let everybodys = Permissions::from_mode(0o777);
        fs::set_permissions(folder.path(), everybodys).unwrap();
        let open = SocketFolder::hold(folder.path());
        assert!(matches!(open, Err(FolderError::Unsafe(_))), "{open:?}");
    }

    #[test]
    fn stale_sockets_are_replaced_and_others_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let held = SocketFolder::hold(folder.path()).unwrap();
        let listener = held.listen("a", 0o666).unwrap();
        let mode = fs::metadata(held.socket("a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o666);
        let second = held.listen("a", 0o600);
        assert!(matches!(second, Err(FolderError::Answers(_))), "{second:?}");
        drop(listener);
        let _listener = held.listen("a", 0o600).unwrap();
        let mode = fs::metadata(held.socket("a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(held.socket("b"), "precious").unwrap();
        let refused = held.listen("b", 0o600);
        assert!(
            matches!(refused, Err(FolderError::NotSocket(_))),
            "{refused:?}"
        );
        assert_eq!(fs::read_to_string(held.socket("b")).unwrap(), "precious");
        let long = held.listen(&"x".repeat(108), 0o600);
        assert!(matches!(long, Err(FolderError::TooLong { .. })), "{long:?}");
    }
}
