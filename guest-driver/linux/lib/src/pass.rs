//! Capabilities from process to process: descriptors by SCM_RIGHTS over a Unix socket.
//!
//! Owns the form of one message: some bytes, and at most one descriptor. Who receives a capability attaches it to a
//! context of its own ([`byway_ring::Context::attach`]).

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::Capability;

/// Room for the control message of one descriptor, aligned as one has to be.
#[repr(C)]
union Control {
    header: libc::cmsghdr,
    bytes: [u8; CONTROL_BYTES],
}

// SAFETY: a computation on numbers.
const CONTROL_BYTES: usize = unsafe { libc::CMSG_SPACE(size_of::<i32>() as u32) } as usize;

/// Sends a capability, with a note of at least one byte.
///
/// # Errors
/// The socket's; an empty note.
pub fn send(stream: &UnixStream, capability: &Capability, note: &[u8]) -> io::Result<()> {
    send_fd(stream, capability.handle().as_fd(), note)
}

/// Sends any descriptor, with a note of at least one byte.
///
/// # Errors
/// As [`send`].
pub fn send_fd(stream: &UnixStream, file: BorrowedFd<'_>, note: &[u8]) -> io::Result<()> {
    if note.is_empty() {
        // A stream carries descriptors along with bytes only.
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut control = Control {
        bytes: [0; CONTROL_BYTES],
    };
    let mut part = libc::iovec {
        iov_base: note.as_ptr().cast_mut().cast(),
        iov_len: note.len(),
    };
    // SAFETY: all zeros is a message without parts.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = CONTROL_BYTES as _;
    // SAFETY: the control buffer has room for one header and one descriptor; the kernel reads the note, which is
    // not written.
    let sent = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<i32>() as u32) as _;
        libc::CMSG_DATA(header)
            .cast::<i32>()
            .write_unaligned(file.as_raw_fd());
        libc::sendmsg(stream.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
    };
    match usize::try_from(sent) {
        Ok(sent) if sent == note.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::WriteZero.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Receives what [`send`] sent: the descriptor, and how many bytes of the note `note` now holds.
///
/// # Errors
/// The socket's; `UnexpectedEof` when the other side closed it; `InvalidData` when no descriptor came along, or
/// more than one.
pub fn receive(stream: &UnixStream, note: &mut [u8]) -> io::Result<(OwnedFd, usize)> {
    let mut control = MaybeUninit::<Control>::zeroed();
    let mut part = libc::iovec {
        iov_base: note.as_mut_ptr().cast(),
        iov_len: note.len(),
    };
    // SAFETY: all zeros is a message without parts.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES as _;
    // SAFETY: the kernel writes at most the note and the control buffer.
    let received =
        unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    let mut found = None;
    // SAFETY: the kernel wrote whole control messages, whose lengths it set; the descriptors in one of SCM_RIGHTS
    // are new and nobody else's. There is room for two in the padding of the buffer, hence the loop.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(header).cast::<i32>();
                for index in 0..bytes / size_of::<i32>() {
                    let file = OwnedFd::from_raw_fd(data.add(index).read_unaligned());
                    if found.replace(file).is_some() {
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    if received == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let file = found.ok_or(io::ErrorKind::InvalidData)?;
    Ok((file, received))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Seek, Write};

    #[test]
    fn a_descriptor_arrives_with_its_note() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"here").unwrap();
        file.rewind().unwrap();
        send_fd(&ours, file.as_fd(), b"note").unwrap();
        let mut note = [0; 8];
        let (received, bytes) = receive(&theirs, &mut note).unwrap();
        assert_eq!(&note[..bytes], b"note");
        let mut text = String::new();
        File::from(received).read_to_string(&mut text).unwrap();
        assert_eq!(text, "here");
    }

    #[test]
    fn what_comes_without_one_is_refused() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(b"x").unwrap();
        let refused = receive(&theirs, &mut [0; 8]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        drop(ours);
        let refused = receive(&theirs, &mut [0; 8]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn an_empty_note_is_refused() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        assert!(send_fd(&ours, file.as_fd(), b"").is_err());
    }
}
