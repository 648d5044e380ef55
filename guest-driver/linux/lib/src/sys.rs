//! System calls: ioctl, poll, mmap, each with its error.
//!
//! The only place that hands pointers to the kernel, but for the messages of [`crate::pass`].

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use byway_ring::context::Wait;

use crate::error::Error;
use crate::uapi::Argument;

/// Makes the call whose argument this is; what it answers comes back in it.
pub(crate) fn ioctl<A: Argument>(file: BorrowedFd<'_>, argument: &mut A) -> Result<(), Error> {
    // SAFETY: the number tells the kernel the size of the structure, which is what it is given.
    let result = unsafe {
        libc::ioctl(
            file.as_raw_fd(),
            libc::Ioctl::from(A::NUMBER),
            std::ptr::from_mut(argument),
        )
    };
    if result < 0 {
        return Err(Error::last(A::NAME));
    }
    Ok(())
}

/// Makes a call without an argument.
pub(crate) fn ioctl_none(
    file: BorrowedFd<'_>,
    number: u32,
    call: &'static str,
) -> Result<(), Error> {
    // SAFETY: the call takes no pointer.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::Ioctl::from(number), 0) } < 0 {
        return Err(Error::last(call));
    }
    Ok(())
}

/// The descriptor that a call answered with.
pub(crate) fn owned(fd: i32, call: &'static str) -> Result<OwnedFd, Error> {
    if fd < 0 {
        // A module that answers so is broken.
        return Err(Error {
            call,
            errno: libc::EIO,
        });
    }
    // SAFETY: the kernel made it for this call, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What a descriptor has for whoever polls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Polled {
    Readable,
    /// POLLERR, POLLHUP or POLLNVAL, and nothing to read.
    Gone,
    TimedOut,
}

/// Waits until a descriptor is readable.
pub(crate) fn poll(file: BorrowedFd<'_>, wait: Wait) -> Result<Polled, Error> {
    let mut entry = libc::pollfd {
        fd: file.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let timeout = match wait {
        Wait::No => Some(Duration::ZERO),
        Wait::For(time) => Some(time),
        Wait::Forever => None,
    };
    let timeout = timeout.map(|time| libc::timespec {
        tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(time.subsec_nanos() as i32),
    });
    let pointer = timeout
        .as_ref()
        .map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: one entry, and a time or null, that live until it returns.
    match unsafe { libc::ppoll(&mut entry, 1, pointer, std::ptr::null()) } {
        0 => Ok(Polled::TimedOut),
        -1 => Err(Error::last("ppoll")),
        _ if entry.revents & libc::POLLIN != 0 => Ok(Polled::Readable),
        _ => Ok(Polled::Gone),
    }
}

/// The end of a wait.
pub(crate) fn deadline(wait: Wait) -> impl Fn() -> Wait {
    let start = Instant::now();
    move || match wait {
        Wait::For(time) => Wait::For(time.saturating_sub(start.elapsed())),
        other => other,
    }
}

/// A mapping; dropped, it is undone.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it owns the range, and hands out its address only.
unsafe impl Send for Mapping {}
// SAFETY: as above; nothing is accessed by way of a shared reference.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps a descriptor, shared, readable and writable; or fresh private memory where there is none.
    pub(crate) fn new(file: Option<BorrowedFd<'_>>, bytes: usize) -> Result<Self, Error> {
        let (flags, fd) = match file {
            Some(file) => (libc::MAP_SHARED, file.as_raw_fd()),
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
        };
        // SAFETY: a new mapping at a place of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                fd,
                0,
            )
        };
        match NonNull::new(start.cast::<u8>()) {
            Some(place) if start != libc::MAP_FAILED => Ok(Self {
                start: place,
                bytes,
            }),
            _ => Err(Error::last("mmap")),
        }
    }

    /// Where it begins.
    pub(crate) const fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Its length.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The place `offset` bytes on, if `bytes` from there on are within.
    pub(crate) fn at<T>(&self, offset: u64, bytes: u64) -> Option<NonNull<T>> {
        let end = offset.checked_add(bytes)?;
        if end > self.bytes as u64 {
            return None;
        }
        // SAFETY: within the mapping.
        Some(unsafe { self.start.add(offset as usize) }.cast())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this value's alone. An error would mean that it is not mapped.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
