//! Virtual CPUs: one thread each, which does nothing but `KVM_RUN` and what an exit asks for.
//!
//! Owns the vCPU descriptors and the threads. A guest that cannot go on ends its own
//! VM with a [`Crash`]; no exit, however odd, ends the process or another VM.
//! While a guest only polls its rings this code does not run at all.

pub mod cpuid;
mod crash;
mod kick;
mod regs;
mod state;
mod template;

pub use crash::{Cause, Crash};
pub(crate) use regs::set_up;
pub use regs::{Entry, write_boot_tables};
pub use state::{Outcome, RunState};
pub use template::Template;

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::thread::{self, JoinHandle};

use byway_engine::STACK_BYTES;
use kvm_bindings::{
    CpuId, KVM_INTERNAL_ERROR_EMULATION, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, kvm_run,
};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use vm_memory::GuestMemoryMmap;

use crate::devices::bus::Bus;
use crate::exits::{ExitSnapshot, RunCounts, RunExit, StatsError, VcpuStats};
use crate::seccomp;

/// What can go wrong with a vCPU before it runs.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// KVM refused something.
    #[error("vCPU {vcpu}: KVM refused to {what}")]
    Kvm {
        /// Number of the vCPU.
        vcpu: u8,
        /// What was tried.
        what: &'static str,
        /// What KVM said.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// The CPUID list is too long.
    #[error("vCPU {0}: too many CPUID entries")]
    Cpuid(u8),
    /// The thread cannot be set up.
    #[error("vCPU {vcpu}: cannot {what}")]
    Thread {
        /// Number of the vCPU.
        vcpu: u8,
        /// What was tried.
        what: String,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

/// What the vCPUs of one VM have in common.
#[derive(Debug, Clone)]
pub struct VcpuContext {
    /// Ports.
    pub pio: Arc<Bus>,
    /// Memory-mapped registers.
    pub mmio: Arc<Bus>,
    /// RAM, for the report of a crash.
    pub memory: GuestMemoryMmap,
    /// Stop flag and outcome.
    pub state: Arc<RunState>,
    /// Name of the VM, for thread names.
    pub vm_name: String,
}

/// One virtual CPU.
pub struct Vcpu {
    id: u8,
    /// Taken by the thread when it starts.
    fd: Option<VcpuFd>,
    thread: Option<JoinHandle<()>>,
    counts: Arc<RunCounts>,
    stats: Option<VcpuStats>,
}

impl Vcpu {
    /// Creates vCPU `id` with the CPUID list `supported`, which is KVM's own.
    ///
    /// # Errors
    /// When KVM refuses a step.
    pub fn new(
        vm: &VmFd,
        id: u8,
        count: u8,
        supported: &CpuId,
        tsc_deadline: bool,
    ) -> Result<Self, VcpuError> {
        let refused = |what| {
            move |source| VcpuError::Kvm {
                vcpu: id,
                what,
                source,
            }
        };
        let fd = vm
            .create_vcpu(u64::from(id))
            .map_err(refused("create it"))?;
        let mut cpuid = supported.clone();
        let facts = cpuid::CpuFacts {
            id,
            count,
            tsc_khz: fd.get_tsc_khz().ok().filter(|khz| *khz != 0),
            tsc_deadline,
        };
        cpuid::adapt(&mut cpuid, &facts).map_err(|_| VcpuError::Cpuid(id))?;
        fd.set_cpuid2(&cpuid).map_err(refused("take its CPUID"))?;
        let stats = match VcpuStats::open(&fd) {
            Ok(stats) => Some(stats),
            Err(error) => {
                tracing::warn!("exits will not be measured: {error}");
                None
            }
        };
        Ok(Self {
            id,
            fd: Some(fd),
            thread: None,
            counts: Arc::default(),
            stats,
        })
    }

    /// Sets start registers: `Some` for the boot vCPU, `None` for those that wait for it.
    ///
    /// # Errors
    /// When KVM refuses, or the vCPU runs already.
    pub fn set_entry(&self, entry: Option<Entry>) -> Result<(), VcpuError> {
        let refused = |source| VcpuError::Kvm {
            vcpu: self.id,
            what: "take its registers",
            source,
        };
        let fd = self
            .fd
            .as_ref()
            .ok_or_else(|| refused(kvm_ioctls::Error::new(libc::EBUSY)))?;
        regs::set_up(fd, entry).map_err(refused)
    }

    /// Starts the thread, on host CPU `pin` only if one is given. Returns when it is about
    /// to enter the guest.
    ///
    /// # Errors
    /// When the thread cannot be made or pinned, or runs already.
    pub fn start(&mut self, context: VcpuContext, pin: Option<usize>) -> Result<(), VcpuError> {
        let id = self.id;
        let failed = |what: String| {
            move |source| VcpuError::Thread {
                vcpu: id,
                what,
                source,
            }
        };
        let fd = self.fd.take().ok_or_else(|| {
            failed("start it twice".to_owned())(io::ErrorKind::AlreadyExists.into())
        })?;
        let counts = Arc::clone(&self.counts);
        let (ready, started) = mpsc::sync_channel(1);
        // Thread names have 15 bytes; the number is what tells threads apart.
        let name = format!("vcpu{id}:{}", context.vm_name);
        let handle = thread::Builder::new()
            .name(name)
            .stack_size(STACK_BYTES)
            .spawn(move || {
                Runner {
                    id,
                    fd,
                    counts,
                    context,
                }
                .main(pin, &ready)
            })
            .map_err(failed("create its thread".to_owned()))?;
        self.thread = Some(handle);
        let what = match pin {
            Some(cpu) => format!("run it on host CPU {cpu}"),
            None => "prepare its thread".to_owned(),
        };
        started
            .recv()
            .unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
            .map_err(failed(what))
    }

    /// Waits for the thread to leave. The caller has told it to, by [`RunState::end`].
    pub fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic inside was turned into a crash of the VM by the thread itself.
            let _ = thread.join();
        }
    }

    /// Counts of `KVM_RUN` returns, readable while the vCPU runs.
    pub fn counts(&self) -> &Arc<RunCounts> {
        &self.counts
    }

    /// KVM's statistics, where the kernel has them.
    pub fn stats(&self) -> Option<&VcpuStats> {
        self.stats.as_ref()
    }

    /// The exit witness, now.
    ///
    /// # Errors
    /// When KVM's statistics cannot be read.
    pub fn exits(&self) -> Result<ExitSnapshot, StatsError> {
        let sample = self.stats.as_ref().map(VcpuStats::sample).transpose()?;
        Ok(ExitSnapshot::new(self.counts.total(), sample.as_ref()))
    }
}

/// What one return of `KVM_RUN` means for the loop.
enum Next {
    Run,
    Leave(Outcome),
    Crash(Cause),
}

/// The inside of a vCPU thread.
struct Runner {
    id: u8,
    fd: VcpuFd,
    counts: Arc<RunCounts>,
    context: VcpuContext,
}

impl Runner {
    fn main(mut self, pin: Option<usize>, ready: &SyncSender<io::Result<()>>) {
        let state = Arc::clone(&self.context.state);
        // If anything below panics, the VM ends with a report instead of hanging.
        let _guard = PanicGuard {
            state: &state,
            id: self.id,
        };
        let run: *mut kvm_run = self.fd.get_kvm_run();
        let prepared = pin.map_or(Ok(()), pin_to).and_then(|()| {
            // SAFETY: `run` is mapped as long as `self.fd`, which outlives the guard:
            // it is dropped at the end of this function, `self` after it.
            unsafe { state.kicks.enter(run) }
        });
        match prepared {
            Ok(_armed) => {
                seccomp::narrow(seccomp::Kind::Vcpu);
                // Nobody waits any more if the starter gave up; then the stop flag is set.
                let _ = ready.send(Ok(()));
                let outcome = self.run(run);
                state.end(outcome);
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        }
    }

    fn run(&mut self, run: *mut kvm_run) -> Outcome {
        while !self.context.state.must_stop() {
            if self.context.state.is_paused() {
                self.rest();
                continue;
            }
            match self.run_once(run) {
                Next::Run => {}
                Next::Leave(outcome) => return outcome,
                Next::Crash(cause) => {
                    let crash = Crash::collect(self.id, cause, &self.fd, &self.context.memory);
                    return Outcome::Crashed(Box::new(crash));
                }
            }
        }
        Outcome::Stopped
    }

    fn rest(&self) {
        self.context.state.rest();
        // The guest's watchdogs are not to take the time that it stood still for a lock-up. A guest without
        // kvm-clock has nothing to be told (EINVAL).
        if let Err(error) = self.fd.kvmclock_ctrl()
            && error.errno() != libc::EINVAL
        {
            tracing::debug!(
                "vCPU {}: kvm-clock is not told of a pause: {error}",
                self.id
            );
        }
    }

    fn run_once(&mut self, run: *mut kvm_run) -> Next {
        let (counts, context) = (&self.counts, &self.context);
        match self.fd.run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                counts.count(RunExit::Io);
                for item in data.chunks(pio_size(run)) {
                    context.pio.write(u64::from(port), item);
                }
                Next::Run
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                counts.count(RunExit::Io);
                for item in data.chunks_mut(pio_size(run)) {
                    context.pio.read(u64::from(port), item);
                }
                Next::Run
            }
            Ok(VcpuExit::MmioRead(addr, data)) => {
                counts.count(RunExit::Mmio);
                context.mmio.read(addr, data);
                Next::Run
            }
            Ok(VcpuExit::MmioWrite(addr, data)) => {
                counts.count(RunExit::Mmio);
                context.mmio.write(addr, data);
                Next::Run
            }
            Ok(VcpuExit::Intr) => {
                counts.count(RunExit::Interrupted);
                Next::Run
            }
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                counts.count(RunExit::Interrupted);
                // The flag may have been set by a kick that came early; the stop flag,
                // which is looked at next, says whether it was meant.
                self.fd.set_kvm_immediate_exit(0);
                Next::Run
            }
            Ok(VcpuExit::SystemEvent(event, _)) => {
                counts.count(RunExit::Fatal);
                match event {
                    KVM_SYSTEM_EVENT_SHUTDOWN => Next::Leave(Outcome::PoweredOff),
                    KVM_SYSTEM_EVENT_RESET => Next::Leave(Outcome::Reset),
                    // A crash that the guest reports, or an event that is newer than this program.
                    _ => Next::Crash(Cause::Reported { event }),
                }
            }
            Ok(VcpuExit::Shutdown) => {
                counts.count(RunExit::Fatal);
                Next::Crash(Cause::TripleFault)
            }
            Ok(VcpuExit::FailEntry(reason, _)) => {
                counts.count(RunExit::Fatal);
                Next::Crash(Cause::EntryFailed { reason })
            }
            Ok(VcpuExit::InternalError) => {
                counts.count(RunExit::Fatal);
                Next::Crash(internal_error(self.fd.get_kvm_run()))
            }
            Ok(other) => {
                counts.count(RunExit::Other);
                Next::Crash(Cause::Unexpected(format!("unexpected exit {other:?}")))
            }
            Err(error) => {
                counts.count(RunExit::Other);
                Next::Crash(Cause::Unexpected(format!("KVM_RUN failed: {error}")))
            }
        }
    }
}

/// Bytes of one item of the port access that `run` reports: string instructions bring
/// several items, all for the same port.
fn pio_size(run: *mut kvm_run) -> usize {
    // SAFETY: called only right after an exit of the port kind, by the thread that owns
    // the mapping, so `io` is the union's live member. The data that the caller holds
    // a reference to lies on a later page.
    let size = unsafe { (*run).__bindgen_anon_1.io.size };
    usize::from(size.max(1))
}

fn internal_error(run: &kvm_run) -> Cause {
    // SAFETY: called only right after an exit of that kind, so `internal` is the
    // union's live member.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    debug_assert!(internal.suberror >= KVM_INTERNAL_ERROR_EMULATION);
    let count = (internal.ndata as usize).min(internal.data.len());
    Cause::Emulation {
        suberror: internal.suberror,
        data: internal.data[..count].to_vec(),
    }
}

/// Confines the calling thread to one host CPU.
fn pin_to(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: an all-zero cpu_set_t is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cpu` is below CPU_SETSIZE.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set is live and its true size is given; 0 is the calling thread.
    if unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Ends the VM if its vCPU thread unwinds.
struct PanicGuard<'a> {
    state: &'a RunState,
    id: u8,
}

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let cause = Cause::Unexpected("a device of this VMM panicked".to_owned());
        self.state
            .end(Outcome::Crashed(Box::new(Crash::bare(self.id, cause))));
    }
}
