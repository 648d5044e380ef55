//! Which system calls each kind of an engine's threads may make, and with what.
//!
//! Domains and devices come while it runs, so some thread has to be able to open, bind and connect: the one that does what
//! an operator asks for. Those that touch what guests and front ends say cannot: they work with what they are given.

use byway_engine::threads::ThreadKind;
use libc::c_long;
use seccompiler::Error;

use crate::seccomp::{COMMON, Filters, Kind, Permits, SOCKETS, START_THREADS};

/// What a worker does besides: it drives devices, by rings that take nothing but reads and writes of one file.
const WORKER: &[c_long] = &[
    // Hushes a device.
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_io_uring_enter,
    // Hangs up on a device, should it be the last to have it.
    libc::SYS_shutdown,
];

/// The control thread: waits for kicks, and looks after devices.
const CONTROL: &[c_long] = &[
    libc::SYS_epoll_ctl,
    // How long a revocation was without a core.
    libc::SYS_getrusage,
];

/// What a session does with the descriptors that its front end sends.
const SESSION: &[c_long] = &[
    libc::SYS_accept4,
    libc::SYS_dup,
    libc::SYS_epoll_ctl,
    libc::SYS_eventfd2,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_getrusage,
    libc::SYS_newfstatat,
    // What a descriptor is: opens nothing.
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_statx,
];

/// What the main thread does at the end: takes sockets and domains away.
const MAIN: &[c_long] = &[
    libc::SYS_epoll_ctl,
    libc::SYS_fcntl,
    libc::SYS_getrusage,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
];

/// What an operator's wishes take: sockets for a domain, the file or the socket of a device and its memory, threads.
const OPERATOR: &[c_long] = &[
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_chmod,
    libc::SYS_connect,
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_eventfd2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_ftruncate,
    libc::SYS_geteuid,
    libc::SYS_getrusage,
    libc::SYS_io_uring_setup,
    libc::SYS_listen,
    libc::SYS_lseek,
    libc::SYS_memfd_create,
    libc::SYS_newfstatat,
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_statx,
    libc::SYS_timerfd_create,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
];

/// The model of a device: its file, and the memory that it is given.
const MODEL: &[c_long] = &[
    libc::SYS_dup,
    libc::SYS_fallocate,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_statx,
];

/// What is needed before the first domain is there and by nobody later: the folder and its lock, the devices of DSA.
const START: &[c_long] = &[
    libc::SYS_flock,
    libc::SYS_getdents64,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    // Whether a thread's stack is as the limits say.
    libc::SYS_prlimit64,
];

/// `FIONBIO` (asm-generic/ioctls.h): a socket does not block.
const FIONBIO: u64 = 0x5421;

// Operations of io_uring_register (linux/io_uring.h). Once it is enabled a ring takes the last one alone, by which its requests are
// cancelled when a device is closed.
const REGISTER_BUFFERS: u64 = 0;
const REGISTER_FILES: u64 = 2;
const REGISTER_RESTRICTIONS: u64 = 11;
const REGISTER_ENABLE_RINGS: u64 = 12;
const REGISTER_SYNC_CANCEL: u64 = 24;

type With = (c_long, u8, &'static [u64]);

/// What everybody may ask a ring for who may be the one that closes a device.
const CLOSE: With = (libc::SYS_io_uring_register, 1, &[REGISTER_SYNC_CANCEL]);

/// What opening takes: of sockets, those within the host.
const OPEN: &[With] = &[
    CLOSE,
    (
        libc::SYS_io_uring_register,
        1,
        &[
            REGISTER_BUFFERS,
            REGISTER_FILES,
            REGISTER_RESTRICTIONS,
            REGISTER_ENABLE_RINGS,
        ],
    ),
    (libc::SYS_ioctl, 1, &[FIONBIO]),
    (libc::SYS_socket, 0, &[libc::AF_UNIX as u64]),
    (libc::SYS_socketpair, 0, &[libc::AF_UNIX as u64]),
];

/// A worker that begins has the kernel be punctual.
const PUNCTUAL: With = (libc::SYS_prctl, 0, &[libc::PR_SET_TIMERSLACK as u64]);

const OF_WORKERS: &[&[c_long]] = &[COMMON, WORKER];
const OF_CONTROL: &[&[c_long]] = &[COMMON, WORKER, CONTROL];
const OF_SESSIONS: &[&[c_long]] = &[COMMON, WORKER, SOCKETS, SESSION];
const OF_MAIN: &[&[c_long]] = &[COMMON, WORKER, SOCKETS, MAIN];
const OF_WATCHES: &[&[c_long]] = &[COMMON, &[libc::SYS_shutdown]];
const OF_MODELS: &[&[c_long]] = &[COMMON, SOCKETS, MODEL];

/// Makes them all.
pub(super) fn filters() -> Result<Filters, Error> {
    // An operator's thread starts sessions, watches and models, which have to have theirs from it.
    let of_operators = [
        COMMON,
        SOCKETS,
        WORKER,
        SESSION,
        OPERATOR,
        MODEL,
        START_THREADS,
    ];
    let of_all = [&of_operators[..], &[CONTROL, MAIN, START]].concat();
    let narrow = |calls, with| Permits {
        calls,
        with,
        confines: false,
    };
    let opens = |calls, with| Permits {
        calls,
        with,
        confines: true,
    };
    Filters::new(
        opens(&of_all, &[OPEN, &[PUNCTUAL]].concat()),
        &[
            (Kind::Worker, narrow(OF_WORKERS, &[CLOSE])),
            (Kind::Control, narrow(OF_CONTROL, &[CLOSE])),
            (Kind::Session, narrow(OF_SESSIONS, &[CLOSE])),
            (Kind::Main, narrow(OF_MAIN, &[CLOSE])),
            (Kind::Operator, opens(&of_operators, OPEN)),
            (Kind::Watch, narrow(OF_WATCHES, &[])),
            (Kind::Model, narrow(OF_MODELS, &[])),
        ],
    )
}

/// Which of the filters a thread of the engine gets.
pub(super) fn kind_of(thread: ThreadKind) -> Kind {
    match thread {
        ThreadKind::Worker => Kind::Worker,
        ThreadKind::Control => Kind::Control,
        ThreadKind::Session => Kind::Session,
        // The one starts the other, which could not do more than that.
        ThreadKind::Doorkeeper | ThreadKind::Operator => Kind::Operator,
        ThreadKind::Watch => Kind::Watch,
        ThreadKind::Model => Kind::Model,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All lists.
    const ALL: [&[c_long]; 10] = [
        COMMON,
        SOCKETS,
        WORKER,
        CONTROL,
        SESSION,
        MAIN,
        OPERATOR,
        MODEL,
        START,
        START_THREADS,
    ];

    #[test]
    fn what_touches_guests_memory_opens_nothing() {
        for calls in [
            OF_WORKERS,
            OF_CONTROL,
            OF_SESSIONS,
            OF_MAIN,
            OF_WATCHES,
            OF_MODELS,
        ] {
            for forbidden in [
                libc::SYS_bind,
                libc::SYS_chmod,
                libc::SYS_clone,
                libc::SYS_clone3,
                libc::SYS_connect,
                libc::SYS_io_uring_setup,
                libc::SYS_memfd_create,
                libc::SYS_open,
                libc::SYS_openat,
                libc::SYS_socket,
            ] {
                assert!(!calls.concat().contains(&forbidden), "{forbidden}");
            }
        }
        filters().unwrap();
    }

    #[test]
    fn all_calls_have_names() {
        for call in ALL.concat() {
            assert!(crate::seccomp::name_of(call as i32).is_some(), "{call}");
        }
    }

    #[test]
    fn nobody_runs_programs_or_reaches_into_processes() {
        let all = ALL.concat();
        for forbidden in [
            libc::SYS_clone,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_fork,
            libc::SYS_kill,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_ptrace,
            libc::SYS_vfork,
        ] {
            assert!(!all.contains(&forbidden), "{forbidden}");
        }
    }
}
