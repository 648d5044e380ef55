//! Confines the process of one VM, before its guest runs an instruction.
//!
//! Everything that the VM needs has been opened by then: KVM, RAM, disks, network interfaces, its engine. What is left
//! to lose is what [`enter`] takes: the user, the file system, new privileges, and every system call that is not needed
//! from here on ([`seccomp`]).

mod filters;

use std::fs;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::seccomp::{self, SeccompError, Told};

static ENTERED: AtomicBool = AtomicBool::new(false);

/// Why a process could not be confined.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// The host refused a step.
    #[error("the jail cannot {what}")]
    Host {
        /// Which step.
        what: &'static str,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// It has no filters of system calls.
    #[error("the jail is open")]
    Seccomp(#[from] SeccompError),
}

/// Who a confined process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Group; it has no others.
    pub gid: u32,
}

/// Confines this process: user and root folder if it is root's, and in any case no new privileges, no core file
/// and a filter of system calls for every thread, those there are and those to come.
/// `empty` is a folder with nothing in it, which becomes the root. Violations are written to `report`. It ends with `parent`.
///
/// # Errors
/// When a step fails; the process must not go on then.
pub fn enter(user: User, empty: &Path, report: OwnedFd, parent: u32) -> Result<(), JailError> {
    // Memory that is added later needs to know.
    crate::memory::shmem_huge_pages_offered();
    let filters = filters::filters().map_err(SeccompError::from)?;
    // SAFETY: no preconditions.
    if unsafe { libc::geteuid() } == 0 {
        leave_file_system(empty).map_err(host("leave the file system"))?;
        become_user(user).map_err(host("become its user"))?;
    }
    // Again: with another user it was forgotten.
    end_with_parent(parent)?;
    limit(libc::RLIMIT_CORE, 0).map_err(host("forbid core files"))?;
    // As wide as the kernel reads them.
    let none: libc::c_ulong = 0;
    for (what, option, value) in [
        // Its memory is not for others of the same user.
        ("hide its memory", libc::PR_SET_DUMPABLE, 0),
    ] {
        // SAFETY: takes numbers only.
        if unsafe { libc::prctl(option, value, none, none, none) } != 0 {
            return Err(host(what)(io::Error::last_os_error()));
        }
    }
    ENTERED.store(true, Ordering::Relaxed);
    Ok(seccomp::enter(filters, Told::Parent(report))?)
}

/// Has this process killed when `parent` ends, which may have happened already.
///
/// # Errors
/// When it has, or the host refuses; the process must not go on then.
pub fn end_with_parent(parent: u32) -> Result<(), JailError> {
    let (signal, none): (libc::c_ulong, libc::c_ulong) = (libc::SIGKILL as _, 0);
    // SAFETY: takes numbers only.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal, none, none, none) } != 0 {
        let error = io::Error::last_os_error();
        return Err(host("end with its parent")(error));
    }
    // From here on the host sees to it; one that ended before has left this process to another.
    if std::os::unix::process::parent_id() != parent {
        let ended = io::Error::other("it has ended already");
        return Err(host("stay with its parent")(ended));
    }
    Ok(())
}

/// Whether this process is the jail of a VM.
#[must_use]
pub fn is_entered() -> bool {
    ENTERED.load(Ordering::Relaxed)
}

fn host(what: &'static str) -> impl Fn(io::Error) -> JailError {
    move |source| JailError::Host { what, source }
}

/// Closes what came from the parent for somebody else. To be called before this process opens anything: libraries open
/// descriptors that would survive an exec, too, and by this they are told apart from the parent's.
///
/// # Errors
/// When procfs is not mounted.
pub fn close_strangers(keep: impl Fn(RawFd) -> bool) -> io::Result<()> {
    let fds = fs::read_dir("/proc/self/fd")?;
    let fds: Vec<RawFd> = fds
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for fd in fds.into_iter().filter(|fd| *fd > 2 && !keep(*fd)) {
        // SAFETY: asks for the flags of a descriptor; one that is closed by now is none of the parent's.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        if flags >= 0 && flags & libc::FD_CLOEXEC == 0 {
            // SAFETY: it came over an exec, so nothing in this process owns it.
            unsafe { libc::close(fd) };
        }
    }
    Ok(())
}

/// Makes an empty folder the root, and removes it: nothing can ever be put into it.
fn leave_file_system(empty: &Path) -> io::Result<()> {
    std::env::set_current_dir(empty)?;
    fs::remove_dir(empty)?;
    std::os::unix::fs::chroot(".")?;
    std::env::set_current_dir("/")
}

fn become_user(user: User) -> io::Result<()> {
    // SAFETY: these take numbers, and an empty list. The library carries them out on every thread.
    let done = unsafe {
        libc::setgroups(0, std::ptr::null()) == 0
            && libc::setresgid(user.gid, user.gid, user.gid) == 0
            && libc::setresuid(user.uid, user.uid, user.uid) == 0
    };
    if !done {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn limit(resource: libc::__rlimit_resource_t, most: u64) -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: most,
        rlim_max: most,
    };
    // SAFETY: the limit is live for the call.
    if unsafe { libc::setrlimit(resource, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
