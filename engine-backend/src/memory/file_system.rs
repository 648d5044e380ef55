//! Which file system a file is on.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

/// What the host tells of it.
///
/// # Errors
/// As the host says.
pub(crate) fn file_system(file: &File) -> io::Result<libc::statfs> {
    let mut found = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the buffer is a `statfs`, which the call fills when it succeeds.
    if unsafe { libc::fstatfs(file.as_raw_fd(), found.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just filled.
    Ok(unsafe { found.assume_init() })
}
