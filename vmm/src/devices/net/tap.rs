//! [`Tap`]: one end of a TAP interface of the host, the other being the interface itself; or of a socket, whose other end
//! is whoever's.

use std::ffi::{c_char, c_int, c_short, c_uint};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use super::socket;
use crate::devices::settings::TapSource;

const TUN: &str = "/dev/net/tun";
/// `_IOW('T', 202, int)` and `_IOR('T', 210, unsigned)`, of linux/if_tun.h.
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const TUNGETIFF: libc::Ioctl = 0x8004_54d2;
const IFF_TAP: c_short = 2;
const IFF_NO_PI: c_short = 0x1000;
const IFF_VNET_HDR: c_short = 0x4000;

/// Why there is no TAP interface.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The host has none at all.
    #[error(
        "this host has no {TUN}: load the module `tun`, and give a container the device; or leave \
         the VM without nets"
    )]
    NoTun,
    /// This process may not.
    #[error(
        "this user may not use TAP interface {0}: run as root, or have root make it for this user \
         with `ip tuntap add {0} mode tap user $(id -un)`"
    )]
    Forbidden(String),
    /// It has another user.
    #[error("TAP interface {0} is in use by another VM or program; give this one its own")]
    InUse(String),
    /// It is something else.
    #[error("{name} is no TAP interface that can be used: {why}")]
    Unusable {
        /// Name or descriptor.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// The host refused something.
    #[error("TAP interface {name}: cannot {what}")]
    Host {
        /// Name or descriptor.
        name: String,
        /// What was tried.
        what: &'static str,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

impl TapError {
    /// Whether the host lacks something, rather than its user being wrong.
    pub fn is_hosts(&self) -> bool {
        matches!(self, Self::NoTun | Self::Forbidden(_))
    }
}

/// `struct ifreq`, as far as the name and the flags.
#[repr(C)]
struct Request {
    name: [c_char; libc::IFNAMSIZ],
    flags: c_short,
    rest: [u8; 22],
}

/// An attached TAP interface, or a socket: a read is a frame, a write is a frame.
#[derive(Debug)]
pub struct Tap {
    file: File,
    is_socket: bool,
}

impl Tap {
    /// Attaches to an interface.
    ///
    /// # Errors
    /// See [`TapError`].
    pub fn open(source: &TapSource) -> Result<Self, TapError> {
        match source {
            TapSource::Name(name) => Self::by_name(name),
            TapSource::Fd(fd) => Self::by_descriptor(*fd),
        }
    }

    /// Any descriptor of which a read and a write are a frame each, for tests.
    #[cfg(test)]
    pub fn from_file(file: File) -> Self {
        Self {
            file,
            is_socket: false,
        }
    }

    fn by_name(name: &str) -> Result<Self, TapError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(TUN)
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => TapError::NoTun,
                io::ErrorKind::PermissionDenied => TapError::Forbidden(name.to_owned()),
                // The node is there and nothing behind it.
                _ if matches!(source.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) => {
                    TapError::NoTun
                }
                _ => TapError::Host {
                    name: name.to_owned(),
                    what: "open /dev/net/tun",
                    source,
                },
            })?;
        let mut request = Request {
            name: [0; libc::IFNAMSIZ],
            flags: IFF_TAP | IFF_NO_PI,
            rest: [0; 22],
        };
        for (to, from) in request.name[..libc::IFNAMSIZ - 1]
            .iter_mut()
            .zip(name.bytes())
        {
            *to = from as c_char;
        }
        // SAFETY: the request is a whole `ifreq`, live for the call.
        if unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) } < 0 {
            let source = io::Error::last_os_error();
            let name = name.to_owned();
            return Err(match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => TapError::Forbidden(name),
                Some(libc::EBUSY) => TapError::InUse(name),
                Some(libc::EINVAL) => TapError::Unusable {
                    name,
                    why: "an interface of this name is of another kind, or made with other flags"
                        .to_owned(),
                },
                _ => TapError::Host {
                    name,
                    what: "attach to it",
                    source,
                },
            });
        }
        Ok(Self {
            file,
            is_socket: false,
        })
    }

    fn by_descriptor(fd: RawFd) -> Result<Self, TapError> {
        let name = format!("descriptor {fd}");
        let host = |what| {
            let name = name.clone();
            move |source| TapError::Host { name, what, source }
        };
        let unusable = |why: &str| TapError::Unusable {
            name: name.clone(),
            why: why.to_owned(),
        };
        // Its own copy, so that a second VM cannot be given the same by mistake without being told: closing one
        // leaves the other.
        // SAFETY: duplicates a descriptor; one that is not open is refused.
        let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
        if copy < 0 {
            return Err(unusable("it is not open"));
        }
        // SAFETY: the kernel just gave us this descriptor, and nobody else holds it.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(copy) });
        let is_socket = socket::is_one(&file);
        if is_socket {
            socket::prepare(&file).map_err(unusable)?;
        } else {
            check_attached(&file).map_err(unusable)?;
        }
        // SAFETY: changes flags of an open descriptor.
        let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
        // SAFETY: as above.
        let set = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) };
        if flags < 0 || set < 0 {
            return Err(host("make it non-blocking")(io::Error::last_os_error()));
        }
        Ok(Self { file, is_socket })
    }

    /// Reads a frame; `None` if none is there, or one of a length that no frame has. `frame` has room for more than the longest, so that
    /// such a one is known.
    ///
    /// # Errors
    /// As the host says: the interface was removed, as a rule, or the other end of the socket has hung up.
    pub(super) fn receive(&self, frame: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            // SAFETY: the buffer is live and its length is given.
            let got = unsafe {
                libc::read(
                    self.file.as_raw_fd(),
                    frame.as_mut_ptr().cast(),
                    frame.len(),
                )
            };
            match usize::try_from(got) {
                Ok(got) if self.is_socket => return socket::frame_of(got),
                Ok(got) => return Ok(Some(got)),
                Err(_) => {
                    let error = io::Error::last_os_error();
                    match error.kind() {
                        io::ErrorKind::Interrupted => {}
                        io::ErrorKind::WouldBlock => return Ok(None),
                        _ => return Err(error),
                    }
                }
            }
        }
    }

    /// Sends a frame of what `vectors` are together. One that the host does not take now is lost, as on a wire.
    ///
    /// # Safety
    /// Each vector is mapped for the call; it may change under it.
    pub(super) unsafe fn send(&self, vectors: &[libc::iovec]) {
        let count = c_int::try_from(vectors.len()).unwrap_or(c_int::MAX);
        // SAFETY: as the caller says.
        let sent = unsafe { libc::writev(self.file.as_raw_fd(), vectors.as_ptr(), count) };
        if sent < 0 {
            tracing::debug!("a frame is lost: {}", io::Error::last_os_error());
        }
    }
}

/// Whether a descriptor of `/dev/net/tun` is attached as this device uses it.
fn check_attached(file: &File) -> Result<(), &'static str> {
    let mut request = Request {
        name: [0; libc::IFNAMSIZ],
        flags: 0,
        rest: [0; 22],
    };
    // SAFETY: the request is a whole `ifreq`, live for the call.
    if unsafe { libc::ioctl(file.as_raw_fd(), TUNGETIFF, &raw mut request) } < 0 {
        return Err("it is not attached to an interface by TUNSETIFF, and no socket");
    }
    let wanted = IFF_TAP | IFF_NO_PI;
    if request.flags & (wanted | IFF_VNET_HDR) != wanted {
        return Err("attach it with IFF_TAP and IFF_NO_PI, and without IFF_VNET_HDR");
    }
    Ok(())
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

const _: () = assert!(size_of::<Request>() == 40 && size_of::<c_uint>() == 4);
