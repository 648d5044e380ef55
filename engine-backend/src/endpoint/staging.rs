//! [`StagingMemory`]: where a device puts what it read, and finds what it is to write.
//!
//! Each attachment has its own, a sealed memfd that no guest and no other device ever sees.
//! When a device goes, so does its staging: nothing of it is used again while the device can
//! reach it. A device on the other side of a socket may write to it at any time, so it is
//! touched as guest memory is: by the backend's copies and by volatile access alone.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};

/// A memfd, mapped.
#[derive(Debug)]
pub struct StagingMemory {
    file: File,
    address: *mut u8,
    bytes: u32,
}

// SAFETY: the pointer is to a mapping that lives as long as the value; all access to it is by
// addresses, as to memory that another process shares.
unsafe impl Send for StagingMemory {}
// SAFETY: as above.
unsafe impl Sync for StagingMemory {}

impl StagingMemory {
    /// Makes one of `bytes` bytes, a multiple of 4096 that is not 0; they read as zeros.
    ///
    /// # Errors
    /// What the host said.
    pub fn new(bytes: u32) -> io::Result<Self> {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // SAFETY: the name is a C string; the result is checked.
        let fd = unsafe { libc::memfd_create(c"byway-staging".as_ptr(), flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(u64::from(bytes))?;
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: an integer argument, as this command takes.
        if unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let length = bytes as usize;
        // SAFETY: a new mapping, anywhere; the result is checked.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                protection,
                libc::MAP_SHARED,
                fd,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            file,
            address: address.cast(),
            bytes,
        })
    }

    /// Bytes of it.
    #[must_use]
    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    /// The memfd, sealed against shrinking and growing, for a device in another process.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Where it is mapped in this process, for a device that is driven by addresses. Only for volatile and
    /// atomic access, and for handing on to a kernel.
    #[must_use]
    pub fn address(&self) -> *mut u8 {
        self.address
    }
}

impl Drop for StagingMemory {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and by nobody unmapped since; who holds
        // an address into it holds a reference to this value as well.
        unsafe { libc::munmap(self.address.cast(), self.bytes as usize) };
        debug_assert!(self.file.as_raw_fd() >= 0);
    }
}
