//! Makes filters out of lists of system calls, and the lists that everybody has. Whatever is not listed is denied.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use super::Kind;

/// What every thread does: wait, wake, allocate, log, end.
pub(crate) const COMMON: &[c_long] = &[
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
    // How long an answer of the engine, or a nap, may take.
    libc::SYS_timerfd_settime,
    libc::SYS_write,
    libc::SYS_writev,
];

/// What talking over a socket that is open takes.
pub(crate) const SOCKETS: &[c_long] = &[
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
];

/// Starting threads, and confining them. A thread's stack is guarded by `mprotect`, which is among the rules with
/// arguments, as are `clone`, `mmap`, `prctl` and `rt_sigaction`.
pub(crate) const START_THREADS: &[c_long] = &[
    libc::SYS_clone3,
    libc::SYS_sched_setaffinity,
    libc::SYS_seccomp,
];

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// What a filter lets pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct Permits<'a> {
    /// System calls, with any arguments.
    pub calls: &'a [&'a [c_long]],
    /// System calls where the argument with this number, of 32 bits, has one of these values.
    pub with: &'a [(c_long, u8, &'a [u64])],
    /// Threads may be started, named and confined further, and handlers installed, but not that of denied system calls.
    /// Takes the calls of starting threads, too.
    pub confines: bool,
}

/// The filters of a process, made by itself and all of them beforehand, so that nothing can fail later.
#[derive(Debug)]
pub struct Filters {
    base: BpfProgram,
    kinds: Vec<(Kind, BpfProgram)>,
}

impl Filters {
    /// What all threads need together, and what each kind needs.
    ///
    /// # Errors
    /// When a list cannot be made into a filter.
    pub fn new(base: Permits<'_>, kinds: &[(Kind, Permits<'_>)]) -> Result<Self, Error> {
        let program = |(kind, permits): &(Kind, Permits<'_>)| Ok((*kind, filter(permits)?));
        Ok(Self {
            base: filter(&base)?,
            kinds: kinds.iter().map(program).collect::<Result<_, Error>>()?,
        })
    }

    pub(super) fn base(&self) -> &BpfProgram {
        &self.base
    }

    /// The filter of a kind of thread, if there is one beside that of all.
    pub(super) fn of(&self, kind: Kind) -> Option<&BpfProgram> {
        let found = self.kinds.iter().find(|(listed, _)| *listed == kind);
        found.map(|(_, program)| program)
    }
}

fn filter(permits: &Permits<'_>) -> Result<BpfProgram, Error> {
    // No rule: any arguments.
    let calls = permits.calls.iter().copied().flatten();
    let mut rules: Rules = calls.map(|call| (*call, Vec::new())).collect();
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        // The third argument is the protection: nothing that is written can be run.
        let no_code = condition(2, SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64), 0)?;
        rules.insert(call, vec![no_code]);
    }
    if !rules.contains_key(&libc::SYS_fcntl) {
        // Where debug assertions are on, the library looks at each descriptor before it closes it.
        one_of(&mut rules, libc::SYS_fcntl, 1, &[libc::F_GETFD as u64])?;
    }
    // Kicks a vCPU out of the guest; ends a process that has panicked. No other process: those of the same user are other VMs.
    one_of(
        &mut rules,
        libc::SYS_tgkill,
        0,
        &[std::process::id().into()],
    )?;
    for (call, argument, values) in permits.with {
        one_of(&mut rules, *call, *argument, values)?;
    }
    if permits.confines {
        let thread = libc::CLONE_THREAD as u64;
        // How threads are started where `clone3` is not there: no other processes.
        let only_threads = condition(0, SeccompCmpOp::MaskedEq(thread), thread)?;
        rules.insert(libc::SYS_clone, vec![only_threads]);
        let options = [libc::PR_SET_NAME, libc::PR_SET_NO_NEW_PRIVS].map(|option| option as u64);
        one_of(&mut rules, libc::SYS_prctl, 0, &options)?;
        let other = condition(0, SeccompCmpOp::Ne, libc::SIGSYS as u64)?;
        rules.insert(libc::SYS_rt_sigaction, vec![other]);
    } else {
        // Handlers put the usual one back, so that the process ends by the signal: those of a bad access, and those of
        // signals that nobody waits for any more.
        let signals = [libc::SIGSEGV, libc::SIGBUS, libc::SIGINT, libc::SIGTERM];
        let signals = signals.map(|signal| signal as u64);
        one_of(&mut rules, libc::SYS_rt_sigaction, 0, &signals)?;
    }
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Trap,
        SeccompAction::Allow,
        TargetArch::x86_64,
    );
    Ok(filter?.try_into()?)
}

/// Lets `call`, which is not listed with any arguments, pass where its argument has one of these values.
fn one_of(rules: &mut Rules, call: c_long, argument: u8, values: &[u64]) -> Result<(), Error> {
    let allowed = rules.entry(call).or_default();
    for value in values {
        allowed.push(condition(argument, SeccompCmpOp::Eq, *value)?);
    }
    Ok(())
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, Error> {
    // The kernel takes requests, options and protections as 32 bits.
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?;
    Ok(SeccompRule::new(vec![condition])?)
}
