//! Between a file and parts of guest RAM, or zeros: whole ranges or an error.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::devices::memory::Snapshot;
use crate::devices::served_queue::Part;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From the file to the guest.
    ToGuest,
    /// From the guest to the file.
    ToFile,
}

/// Moves as many bytes as `parts` have between them and `file` from byte `at` on. Where the file ends early
/// zeros are read.
///
/// # Errors
/// As the host says; some of it may have been moved then.
pub(super) fn transfer(
    file: &File,
    mut at: u64,
    parts: impl Iterator<Item = Part>,
    memory: &Snapshot,
    way: Way,
) -> io::Result<()> {
    let mut vectors = Vec::with_capacity(8);
    for part in parts {
        // A part may cross from one region into the next.
        for slice in memory.get_slices(GuestAddress(part.addr), part.len as usize) {
            let slice = slice.map_err(|error| io::Error::other(error.to_string()))?;
            vectors.push(libc::iovec {
                iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                iov_len: slice.len(),
            });
        }
    }
    let mut left = &mut vectors[..];
    while !left.is_empty() {
        // More are refused, whatever the kernel's bound is today.
        let count = left.len().min(libc::UIO_MAXIOV as usize) as libc::c_int;
        let offset = i64::try_from(at).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: each vector is a range of guest RAM that `memory` keeps mapped; nobody else takes references
        // into guest RAM, so it may change under the call.
        let moved = unsafe {
            match way {
                Way::ToGuest => libc::preadv(file.as_raw_fd(), left.as_ptr(), count, offset),
                Way::ToFile => libc::pwritev(file.as_raw_fd(), left.as_ptr(), count, offset),
            }
        };
        match usize::try_from(moved) {
            Ok(0) if way == Way::ToGuest => return zero(left),
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(moved) => {
                at += moved as u64;
                left = advance(left, moved);
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// The vectors without their first `bytes`.
fn advance(mut vectors: &mut [libc::iovec], mut bytes: usize) -> &mut [libc::iovec] {
    while let Some(first) = vectors.first_mut() {
        if bytes < first.iov_len {
            first.iov_base = first.iov_base.cast::<u8>().wrapping_add(bytes).cast();
            first.iov_len -= bytes;
            break;
        }
        bytes -= first.iov_len;
        vectors = &mut vectors[1..];
    }
    vectors
}

/// Fills guest RAM with zeros: what is behind the end of a file that was cut while in use.
fn zero(vectors: &[libc::iovec]) -> io::Result<()> {
    for vector in vectors {
        // SAFETY: as in `transfer`; writing zeros to guest RAM needs no more than that it is mapped.
        unsafe { std::ptr::write_bytes(vector.iov_base.cast::<u8>(), 0, vector.iov_len) };
    }
    Ok(())
}

/// Has zeros in a range of a file: by giving the room back if `unmap`, else by keeping it, and by
/// writing them where the file system knows neither.
///
/// # Errors
/// As the host says.
pub(super) fn write_zeros(file: &File, at: u64, len: u64, unmap: bool) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    let mode = if unmap {
        libc::FALLOC_FL_PUNCH_HOLE
    } else {
        libc::FALLOC_FL_ZERO_RANGE
    };
    match allocate(file, mode | libc::FALLOC_FL_KEEP_SIZE, at, len) {
        Err(error) if is_unsupported(&error) => {}
        done => return done,
    }
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut done = 0;
    while done < len {
        let piece = (len - done).min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..piece as usize], at + done)?;
        done += piece;
    }
    Ok(())
}

/// Gives back the room of a range; what it holds then is anything. Where that cannot be done nothing is.
///
/// # Errors
/// As the host says.
pub(super) fn discard(file: &File, at: u64, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    match allocate(file, mode, at, len) {
        Err(error) if is_unsupported(&error) => Ok(()),
        done => done,
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV)
    )
}

fn allocate(file: &File, mode: libc::c_int, at: u64, len: u64) -> io::Result<()> {
    let wrong = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let at = libc::off_t::try_from(at).map_err(wrong)?;
    let len = libc::off_t::try_from(len).map_err(wrong)?;
    loop {
        // SAFETY: changes an open file and touches no memory.
        if unsafe { libc::fallocate(file.as_raw_fd(), mode, at, len) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
