//! A Unix socket of packets as the other end of a network interface: a frame a packet, without privileges. Two VMs
//! have a wire between them when each is given one end of a `socketpair`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Bytes of frames that may be on their way to the other end, as far as the host allows a process to ask for: what is more is lost, as
/// on a wire.
const SEND_BYTES: libc::c_int = 1 << 20;

fn option(file: &File, name: libc::c_int) -> Option<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: value and length are live for the call, and the length is the value's.
    let got = unsafe {
        libc::getsockopt(
            file.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    (got == 0).then_some(value)
}

/// Whether a descriptor is a socket of any kind.
pub(super) fn is_one(file: &File) -> bool {
    option(file, libc::SO_TYPE).is_some()
}

/// Readies a socket for frames.
///
/// # Errors
/// In words, when it is of another kind or has no other end.
pub(super) fn prepare(file: &File) -> Result<(), &'static str> {
    let is_unix = option(file, libc::SO_DOMAIN) == Some(libc::AF_UNIX);
    // Of this kind each packet is whole, comes once and in order, and the other end's going is told.
    if !is_unix || option(file, libc::SO_TYPE) != Some(libc::SOCK_SEQPACKET) {
        return Err("a socket has to be a Unix socket of type SOCK_SEQPACKET, as of socketpair(2)");
    }
    // SAFETY: plain data; zeros are a value of it.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    let mut len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: address and length are live for the call, and the length is the address's.
    let connected = unsafe {
        libc::getpeername(file.as_raw_fd(), (&raw mut address).cast(), &raw mut len) == 0
    };
    if !connected {
        return Err("its socket is not connected: connect it before, or use one of socketpair(2)");
    }
    let bytes = SEND_BYTES;
    // SAFETY: the value is live for the call, and its length is given. Where the host refuses it, the default stays.
    unsafe {
        libc::setsockopt(
            file.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDBUF,
            (&raw const bytes).cast(),
            size_of_val(&bytes) as libc::socklen_t,
        )
    };
    Ok(())
}

/// Of what a read of a socket says: a frame's length. A packet that is no frame is dropped.
///
/// # Errors
/// When the other end has hung up.
pub(super) fn frame_of(got: usize) -> io::Result<Option<usize>> {
    match got {
        // An empty packet reads the same; who sends one is as good as gone.
        0 => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the other end of its socket has hung up",
        )),
        got if (super::FRAME_BYTES_MIN..=super::FRAME_BYTES_MAX).contains(&(got as u64)) => {
            Ok(Some(got))
        }
        _ => Ok(None),
    }
}
