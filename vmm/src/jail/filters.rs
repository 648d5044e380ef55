//! Which system calls each kind of thread may make, and with what.
//!
//! A filter is inherited by new threads and can only be narrowed. So the process begins with what all of its threads need
//! together, and each thread keeps its own part when it starts. Whatever is not listed is denied.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

/// A kind of thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Before any other: what all of them need.
    Base,
    /// The event loop.
    Main,
    /// A vCPU.
    Vcpu,
    /// A disk, a network interface, the source of random numbers.
    Device,
    /// The one that takes the parent's requests.
    Api,
    /// A device on the PCI bus: one that raises interrupts by messages.
    PciDevice,
}

impl Kind {
    /// The kind with this number.
    #[must_use]
    pub fn of(number: u8) -> Self {
        [
            Self::Base,
            Self::Main,
            Self::Vcpu,
            Self::Device,
            Self::Api,
            Self::PciDevice,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == number)
        .unwrap_or(Self::Base)
    }

    /// For messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "a helping",
            Self::Main => "the main",
            Self::Vcpu => "a vCPU's",
            Self::Device | Self::PciDevice => "a device's",
            Self::Api => "the control",
        }
    }
}

/// What every thread does: wait, wake, allocate, log, end.
const COMMON: &[c_long] = &[
    // How long a process may take to stop, whichever thread's handler hears that it is to.
    libc::SYS_alarm,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    // The allocator counts CPUs.
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    // How a signal's handler wakes the event loop, on whichever thread it runs.
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    // Kicks a vCPU out of the guest.
    libc::SYS_tgkill,
    // How long an answer of the engine, or a nap, may take.
    libc::SYS_timerfd_settime,
    libc::SYS_write,
    libc::SYS_writev,
];

/// What talking over a socket that is open takes.
const SOCKETS: &[c_long] = &[
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
];

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

/// Starting threads, and confining them. A thread's stack is guarded by `mprotect`, which is among the rules with
/// arguments, as are `mmap`, `prctl` and `rt_sigaction`.
const BASE: &[c_long] = &[
    libc::SYS_clone3,
    libc::SYS_sched_setaffinity,
    libc::SYS_seccomp,
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

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The filters of a process.
#[derive(Debug)]
pub(super) struct Filters {
    /// What all threads need together.
    pub base: BpfProgram,
    main: BpfProgram,
    vcpu: BpfProgram,
    device: BpfProgram,
    pci_device: BpfProgram,
    api: BpfProgram,
}

impl Filters {
    /// Makes them all, so that nothing can fail later.
    pub(super) fn new() -> Result<Self, Error> {
        let all = [COMMON, SOCKETS, MAIN, VCPU, DEVICE, BASE].concat();
        let ioctls = [VCPU_IOCTLS, MAIN_IOCTLS].concat();
        Ok(Self {
            base: filter(&all, &ioctls, true)?,
            main: filter(&[COMMON, SOCKETS, MAIN].concat(), MAIN_IOCTLS, false)?,
            vcpu: filter(&[COMMON, SOCKETS, VCPU].concat(), VCPU_IOCTLS, false)?,
            device: filter(&[COMMON, DEVICE].concat(), &[], false)?,
            pci_device: filter(&[COMMON, DEVICE].concat(), &[KVM_SIGNAL_MSI], false)?,
            api: filter(&[COMMON, SOCKETS].concat(), &[], false)?,
        })
    }

    /// The filter of a kind of thread.
    pub(super) fn of(&self, kind: Kind) -> &BpfProgram {
        match kind {
            Kind::Base => &self.base,
            Kind::Main => &self.main,
            Kind::Vcpu => &self.vcpu,
            Kind::Device => &self.device,
            Kind::PciDevice => &self.pci_device,
            Kind::Api => &self.api,
        }
    }
}

/// A filter that lets these pass. With `confines`, threads may be named and confined further, and handlers installed, but
/// not that of denied system calls.
fn filter(calls: &[c_long], ioctls: &[u64], confines: bool) -> Result<BpfProgram, Error> {
    // No rule: any arguments.
    let mut rules: Rules = calls.iter().map(|call| (*call, Vec::new())).collect();
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        // The third argument is the protection: nothing that is written can be run.
        let no_code = condition(2, SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64), 0)?;
        rules.insert(call, vec![no_code]);
    }
    if !ioctls.is_empty() {
        let allowed = ioctls.iter().map(|request| equal(1, *request));
        rules.insert(libc::SYS_ioctl, allowed.collect::<Result<_, _>>()?);
    }
    if confines {
        let options = [libc::PR_SET_NAME, libc::PR_SET_NO_NEW_PRIVS].map(|option| option as u64);
        let allowed = options.iter().map(|option| equal(0, *option));
        rules.insert(libc::SYS_prctl, allowed.collect::<Result<_, _>>()?);
        let other = condition(0, SeccompCmpOp::Ne, libc::SIGSYS as u64)?;
        rules.insert(libc::SYS_rt_sigaction, vec![other]);
    }
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Trap,
        SeccompAction::Allow,
        TargetArch::x86_64,
    );
    Ok(filter?.try_into()?)
}

fn equal(argument: u8, value: u64) -> Result<SeccompRule, Error> {
    condition(argument, SeccompCmpOp::Eq, value)
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, Error> {
    // The kernel takes requests, options and protections as 32 bits.
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?;
    Ok(SeccompRule::new(vec![condition])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_no_more_than_the_process_had() {
        let all = [COMMON, SOCKETS, MAIN, VCPU, DEVICE, BASE].concat();
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
        Filters::new().unwrap();
    }
}
