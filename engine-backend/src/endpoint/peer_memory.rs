//! [`PeerMemory`]: memory that the engine shares with a device, and with nobody else.
//!
//! A memfd, sealed so that it can neither shrink nor grow: whoever is given its descriptor
//! can keep it and map all of it for ever. Therefore one device's memory is never another's,
//! and what a device may still reach is never used for anything again.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::sync::Arc;

use super::open_error::OpenError;
use crate::memory::HostSpan;

/// A sealed memfd and the engine's mapping of it.
#[derive(Debug, Clone)]
pub(super) struct PeerMemory {
    file: Arc<File>,
    span: HostSpan,
}

impl PeerMemory {
    /// This many bytes, a multiple of 4096, all zero; `name` is seen in `/proc`.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(super) fn new(name: &CStr, bytes: u64) -> Result<Self, OpenError> {
        let host = |source| OpenError::Host {
            what: "cannot make memory to share with a device",
            source,
        };
        // SAFETY: the name is a string with its end.
        let fd = unsafe {
            libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING)
        };
        if fd < 0 {
            return Err(host(io::Error::last_os_error()));
        }
        // SAFETY: just made, and nobody else's.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(bytes).map_err(host)?;
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: the descriptor is the file's; seals are an integer.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } != 0 {
            return Err(host(io::Error::last_os_error()));
        }
        let file = Arc::new(file);
        let span = HostSpan::of_file(Arc::clone(&file), bytes)?;
        Ok(Self { file, span })
    }

    /// The memfd.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Its size.
    pub(super) fn bytes(&self) -> u64 {
        self.span.len() as u64
    }

    /// All of it.
    pub(super) fn span(&self) -> &HostSpan {
        &self.span
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_who_holds_it_can_take_its_pages_away() {
        let memory = PeerMemory::new(c"byway-test", 8192).unwrap();
        let theirs = File::from(memory.fd().try_clone_to_owned().unwrap());
        assert!(theirs.set_len(4096).is_err());
        assert!(theirs.set_len(16384).is_err());
        memory.span().store_u64(8184, 7);
        let mut bytes = [0; 8];
        std::os::unix::fs::FileExt::read_exact_at(&theirs, &mut bytes, 8184).unwrap();
        assert_eq!(u64::from_ne_bytes(bytes), 7);
        assert!(PeerMemory::new(c"byway-test", 100).is_err());
    }
}
