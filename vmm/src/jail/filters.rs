//! Which system calls each kind of a confined VM's threads may make, and with what.

use libc::c_long;
use seccompiler::Error;

use crate::seccomp::{COMMON, Filters, Kind, Permits, SOCKETS, START_THREADS};

/// The event loop, and what it does with the engine and with memory.
const MAIN: &[c_long] = &[
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd2,
    libc::SYS_fallocate,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_lseek,
    libc::SYS_memfd_create,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_timerfd_create,
];

/// A vCPU sets devices up, and flushes a disk whose queue it stops last.
const VCPU: &[c_long] = &[
    libc::SYS_dup,
    libc::SYS_eventfd2,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_pwrite64,
];

/// A device's thread moves data, and gives room back.
const DEVICE: &[c_long] = &[
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
];

// KVM's requests (linux/kvm.h).
const KVM_RUN: u64 = 0xae80;
const KVM_GET_REGS: u64 = 0x8090_ae81;
const KVM_GET_SREGS: u64 = 0x8138_ae83;
const KVM_TRANSLATE: u64 = 0xc018_ae85;
const KVM_GET_MP_STATE: u64 = 0x8004_ae98;
const KVM_GET_VCPU_EVENTS: u64 = 0x8040_ae9f;
const KVM_KVMCLOCK_CTRL: u64 = 0xaead;
const KVM_SIGNAL_MSI: u64 = 0x4020_aea5;
const KVM_SET_USER_MEMORY_REGION: u64 = 0x4020_ae46;
const KVM_IRQ_LINE: u64 = 0x4008_ae61;
const KVM_GET_DIRTY_LOG: u64 = 0x4010_ae42;
const KVM_GET_CLOCK: u64 = 0x8030_ae7c;
const KVM_SET_CLOCK: u64 = 0x4030_ae7b;
/// The terminal is put back as it was found.
const TCGETS: u64 = 0x5401;
const TCSETS: u64 = 0x5402;
const TCSETSW: u64 = 0x5403;
const TCSETSF: u64 = 0x5404;

/// What a vCPU runs by; those that only read are for the report of a crash.
const VCPU_IOCTLS: &[u64] = &[
    KVM_RUN,
    KVM_GET_REGS,
    KVM_GET_SREGS,
    KVM_TRANSLATE,
    KVM_GET_VCPU_EVENTS,
    KVM_GET_MP_STATE,
    KVM_KVMCLOCK_CTRL,
    // One that was held back until the guest let it through.
    KVM_SIGNAL_MSI,
];
const MAIN_IOCTLS: &[u64] = &[
    KVM_SET_USER_MEMORY_REGION,
    KVM_IRQ_LINE,
    KVM_GET_DIRTY_LOG,
    KVM_GET_CLOCK,
    KVM_SET_CLOCK,
    TCGETS,
    TCSETS,
    TCSETSW,
    TCSETSF,
];

/// Makes them all.
pub(super) fn filters() -> Result<Filters, Error> {
    let base = Permits {
        calls: &[COMMON, SOCKETS, MAIN, VCPU, DEVICE, START_THREADS],
        with: &[
            (libc::SYS_ioctl, 1, VCPU_IOCTLS),
            (libc::SYS_ioctl, 1, MAIN_IOCTLS),
        ],
        confines: true,
    };
    let permits = |calls, with| Permits {
        calls,
        with,
        confines: false,
    };
    Filters::new(
        base,
        &[
            (
                Kind::Main,
                permits(
                    &[COMMON, SOCKETS, MAIN],
                    &[(libc::SYS_ioctl, 1, MAIN_IOCTLS)],
                ),
            ),
            (
                Kind::Vcpu,
                permits(
                    &[COMMON, SOCKETS, VCPU],
                    &[(libc::SYS_ioctl, 1, VCPU_IOCTLS)],
                ),
            ),
            (Kind::Device, permits(&[COMMON, DEVICE], &[])),
            (
                Kind::PciDevice,
                permits(
                    &[COMMON, DEVICE],
                    &[(libc::SYS_ioctl, 1, &[KVM_SIGNAL_MSI])],
                ),
            ),
            (Kind::Api, permits(&[COMMON, SOCKETS], &[])),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_no_more_than_the_process_had() {
        let all = [COMMON, SOCKETS, MAIN, VCPU, DEVICE, START_THREADS].concat();
        for forbidden in [
            libc::SYS_openat,
            libc::SYS_open,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_execve,
            libc::SYS_ptrace,
            libc::SYS_kill,
            libc::SYS_clone,
            libc::SYS_fork,
        ] {
            assert!(!all.contains(&forbidden), "{forbidden}");
        }
        filters().unwrap();
    }
}
