//! What may come as a descriptor from a front end.
//!
//! The engine waits for eventfds on the thread that serves everybody, and touches guest
//! RAM in workers that serve everybody. A descriptor whose polling, writing or paging a
//! stranger can hold up (a FUSE file, a pipe, a terminal) would hold up all of them, so only
//! eventfds and memory of the host's own kernel are taken.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};

use vmm_sys_util::eventfd::EventFd;

use crate::memory::file_system;

/// File systems whose pages the host's kernel brings by itself.
const MEMORY: [i64; 2] = [libc::TMPFS_MAGIC, libc::HUGETLBFS_MAGIC];

/// Why a descriptor is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    /// The host does not tell what it is.
    #[error("cannot tell what kind of descriptor it is: {0}")]
    Unknown(#[from] io::Error),
    /// It is not an eventfd.
    #[error("expected an eventfd, found {0:?}")]
    NotEventFd(String),
    /// It is a file that others can hold up.
    #[error(
        "guest RAM is in a file of a file system of type {0:#x}: expected memory of the host's \
         kernel, a memfd or a file of tmpfs or hugetlbfs (QEMU: memory-backend-memfd)"
    )]
    NotMemory(i64),
}

/// An eventfd, if it is one.
pub(super) fn event_fd(file: File) -> Result<EventFd, Unfit> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let target = std::fs::read_link(path)?;
    if target.as_os_str() != "anon_inode:[eventfd]" {
        return Err(Unfit::NotEventFd(target.display().to_string()));
    }
    // SAFETY: the descriptor is an open eventfd, given up by its owner.
    Ok(unsafe { EventFd::from_raw_fd(file.into_raw_fd()) })
}

/// Fails unless the pages of `file` come from the host's kernel alone.
pub(super) fn check_memory(file: &File) -> Result<(), Unfit> {
    let kind = file_system(file)?.f_type;
    if !MEMORY.contains(&kind) || !file.metadata()?.is_file() {
        return Err(Unfit::NotMemory(kind));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn an_eventfd_is_told_from_other_descriptors() {
        let real = EventFd::new(0).unwrap();
        // SAFETY: gives the descriptor up.
        let file = unsafe { File::from_raw_fd(real.into_raw_fd()) };
        event_fd(file).unwrap().write(1).unwrap();
        let (a, _b) = UnixStream::pair().unwrap();
        for other in [
            File::from(OwnedFd::from(a)),
            File::open("/dev/null").unwrap(),
            tempfile::tempfile().unwrap(),
        ] {
            assert!(matches!(event_fd(other), Err(Unfit::NotEventFd(_))));
        }
    }

    #[test]
    fn guest_ram_is_memory() {
        // SAFETY: the name is a string with its end.
        let fd = unsafe { libc::memfd_create(c"ram".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(fd >= 0);
        // SAFETY: just made, and nobody else's.
        let memfd = unsafe { File::from_raw_fd(fd) };
        check_memory(&memfd).unwrap();
        for other in ["/proc/self/status", "/dev/null", "/dev/shm"] {
            let file = File::open(other).unwrap();
            assert!(
                matches!(check_memory(&file), Err(Unfit::NotMemory(_))),
                "{other}"
            );
        }
    }
}
