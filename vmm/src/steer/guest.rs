//! [`Guest`]: one VM with the built-in image, and typed commands to its processes.

use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use byway_agent::commands::{self, Request};
use byway_agent::host::Ticket;
use byway_agent::{CallError, GuestState, HostMailbox, Process};
use byway_engine::interface::{Admin, Domain};

use super::engine_calls::Opened;
use crate::devices::block::DiskStore;
use crate::devices::serial::{Console, SerialSink};
use crate::devices::settings::DeviceSettings;
use crate::exits::ExitSnapshot;
use crate::loader::KernelSource;
use crate::measure::tsc;
use crate::memory::{HugePages, RamConfig};
use crate::signals::Stop;
use crate::vm::{Vm, VmConfig};

/// Page size for [`Guest::alloc`]: 4 KiB pages, deliberately scattered in guest RAM.
pub const PAGE_4K: u64 = 4096;
/// Page size for [`Guest::alloc`]: 2 MiB pages.
pub const PAGE_2M: u64 = 2 << 20;

/// Longest that any one command may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a wake-up may take before it is tried again; a guest may share its core with one that spins.
const NUDGE_AGAIN: Duration = Duration::from_millis(250);

/// What a guest is made of.
#[derive(Debug, Clone)]
pub struct GuestSpec {
    /// Name of the VM and of its domain.
    pub name: String,
    /// RAM in bytes, the mailbox included.
    pub memory_bytes: u64,
    /// Host core of the first vCPU.
    pub pin: Option<usize>,
    /// vCPUs: with 1 the processes take turns, with 2 each has its own.
    pub cpus: u8,
}

/// A VM with the built-in image.
pub struct Guest {
    name: String,
    /// Declared before the VM, whose RAM it points into.
    mailbox: HostMailbox<'static>,
    console: Console,
    /// Ticks of the guest's time-stamp counter per millisecond. It runs at the host's rate: KVM offsets it,
    /// nothing more.
    tsc_khz: u64,
    pub(super) opened: [Cell<Opened>; 2],
    /// Ends every wait early.
    stop: Stop,
    /// The unanswered command that put the vCPU to sleep.
    asleep: Cell<Option<(Process, Ticket<commands::Sleep>)>>,
    vm: Vm,
}

impl Guest {
    /// Boots the image and waits until its first process answers. The domain must have been created.
    ///
    /// # Errors
    /// When the VM cannot be made, or the guest crashes or does not come up; its console is part of the message.
    pub fn boot(spec: &GuestSpec, engine: &dyn Admin) -> Result<Self> {
        Self::boot_until(spec, engine, &Stop::default())
    }

    /// The same, with every wait for the guest, this one included, as after [`Self::stop_on`].
    ///
    /// # Errors
    /// As for [`Self::boot`], and once told to stop.
    pub fn boot_until(spec: &GuestSpec, engine: &dyn Admin, stop: &Stop) -> Result<Self> {
        let domain = engine.attach(&spec.name)?;
        Self::boot_all(spec, Some(domain), DeviceSettings::default(), stop)
    }

    /// The same with an engine's domain or without, and with other devices.
    ///
    /// # Errors
    /// As for [`Self::boot`].
    pub fn boot_with(
        spec: &GuestSpec,
        domain: Option<Box<dyn Domain>>,
        devices: DeviceSettings,
    ) -> Result<Self> {
        Self::boot_all(spec, domain, devices, &Stop::default())
    }

    fn boot_all(
        spec: &GuestSpec,
        domain: Option<Box<dyn Domain>>,
        devices: DeviceSettings,
        stop: &Stop,
    ) -> Result<Self> {
        let console = Console::default();
        let config = VmConfig {
            name: spec.name.clone(),
            kernel: KernelSource::Image(crate::guest_image()),
            initrd: None,
            cmdline: format!("cpus={}", spec.cpus),
            ram: RamConfig {
                size: spec.memory_bytes,
                huge_pages: HugePages::Auto,
                populate: true,
            },
            cpus: spec.cpus,
            cpu: crate::vcpu::Template::Host,
            pin: spec.pin.into_iter().collect(),
            serial: SerialSink::Capture(console.clone()),
            device_id: crate::devices::byway::DEFAULT_DEVICE_ID,
            devices,
            disks: DiskStore::default(),
            mailbox_bytes: byway_agent::layout::MAILBOX_BYTES as u64,
        };
        let mut vm =
            Vm::new(config, domain).with_context(|| format!("cannot build VM {}", spec.name))?;
        let (gpa, bytes) = vm.mailbox().context("the VM has no mailbox")?;
        let base = vm
            .ram()
            .host_ptr(gpa, usize::try_from(bytes)?)
            .and_then(NonNull::new)
            .context("the mailbox is not in RAM")?;
        // SAFETY: the mailbox lies in the VM's RAM, page-aligned, with the size that the agent asks for; the RAM lives as
        // long as `vm`, which this value owns beside the mailbox. Only atomics and volatile accesses touch it.
        let mailbox = unsafe { HostMailbox::new(base) };
        vm.start()
            .with_context(|| format!("cannot start VM {}", spec.name))?;
        let tsc_khz = tsc::khz();
        ensure!(tsc_khz > 0, "the host's time-stamp counter stands still");
        let guest = Self {
            name: spec.name.clone(),
            mailbox,
            console,
            tsc_khz,
            opened: Default::default(),
            stop: stop.clone(),
            asleep: Cell::new(None),
            vm,
        };
        guest.wait_ready()?;
        if spec.cpus > 1 {
            guest.mailbox.run_all();
        }
        Ok(guest)
    }

    fn wait_ready(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !(self.mailbox.is_set_up() && self.mailbox.state() == Some(GuestState::Ready)) {
            self.stop.check()?;
            if Instant::now() > deadline || self.vm.outcome().is_some() {
                bail!("{}", self.trouble("does not come up"));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    fn trouble(&self, what: &str) -> String {
        let mut text = format!(
            "guest {} {what}; state {:?}, {} interrupts, {:?}",
            self.name,
            self.mailbox.state(),
            self.interrupts(),
            self.vm.vcpu_exits(0)
        );
        if self.mailbox.is_set_up() && self.mailbox.state() == Some(GuestState::Crashed) {
            let crash = self.mailbox.crash();
            text += &format!(
                "; its kernel stopped: vector {:#x} error {:#x} rip {:#x} cr2 {:#x} {}",
                crash.vector,
                crash.error,
                crash.rip,
                crash.cr2,
                crash.message()
            );
        }
        if let Some(outcome) = self.vm.outcome() {
            text += &format!("; the VM ended: {outcome:?}");
        }
        let console = self.console.text();
        if !console.is_empty() {
            text += &format!("; console:\n{console}");
        }
        text
    }

    /// Has every wait for the guest end in [`Interrupted`](crate::signals::Interrupted) once `stop` is set. The guest
    /// is good for nothing more then.
    pub fn stop_on(&mut self, stop: &Stop) {
        self.stop = stop.clone();
    }

    /// Name of the VM and its domain.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The VM itself.
    #[must_use]
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// The VM itself.
    pub fn vm_mut(&mut self) -> &mut Vm {
        &mut self.vm
    }

    /// The mailbox.
    #[must_use]
    pub fn mailbox(&self) -> &HostMailbox<'static> {
        &self.mailbox
    }

    /// What the guest has written to its console so far.
    #[must_use]
    pub fn console(&self) -> String {
        self.console.text()
    }

    /// Nanoseconds in `ticks` of the guest's time-stamp counter.
    #[must_use]
    pub fn ticks_to_ns(&self, ticks: u64) -> u64 {
        (u128::from(ticks) * 1_000_000 / u128::from(self.tsc_khz)) as u64
    }

    /// Ticks of the guest's time-stamp counter in `ns` nanoseconds.
    #[must_use]
    pub fn ns_to_ticks(&self, ns: u64) -> u64 {
        (u128::from(ns) * u128::from(self.tsc_khz) / 1_000_000) as u64
    }

    /// Has `process` carry out `request`, waking the guest when it sleeps.
    ///
    /// # Errors
    /// When the guest fails at it or does not answer.
    pub fn call<R: Request>(&self, process: Process, request: R) -> Result<R::Reply> {
        self.call_undisturbed(process, request, Duration::ZERO)
    }

    /// As [`Self::call`], with the host looking after the time `expected` only.
    ///
    /// # Errors
    /// When the guest fails at it or does not answer.
    pub fn call_undisturbed<R: Request>(
        &self,
        process: Process,
        request: R,
        expected: Duration,
    ) -> Result<R::Reply> {
        match self.try_call_undisturbed(process, request, expected)? {
            Ok(reply) => Ok(reply),
            Err(failure) => {
                Err(anyhow!("{failure}")).with_context(|| format!("{}: {}", self.name, R::NAME))
            }
        }
    }

    /// As [`Self::call`], with the guest's own failures apart.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn try_call<R: Request>(
        &self,
        process: Process,
        request: R,
    ) -> Result<Result<R::Reply, commands::Failure>> {
        self.try_call_undisturbed(process, request, Duration::ZERO)
    }

    /// As [`Self::try_call`], for a command that is expected to take the time `expected` and measures something: the
    /// host does not look before.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn try_call_undisturbed<R: Request>(
        &self,
        process: Process,
        request: R,
        expected: Duration,
    ) -> Result<Result<R::Reply, commands::Failure>> {
        self.wake()?;
        let mut wait = Wait::new(expected);
        match self.mailbox.call(process, request, || {
            wait.turn() && self.vm.outcome().is_none() && !self.stop.is_set()
        }) {
            Ok(reply) => Ok(Ok(reply)),
            // Nothing works any more; the guest's driver has said why.
            Err(CallError::Failed(failure)) if failure.status == commands::Status::NoDevice => {
                bail!("{}", self.trouble("has no Byway device that works"))
            }
            Err(CallError::Failed(failure)) => Ok(Err(failure)),
            Err(error) => {
                self.stop.check()?;
                bail!("{}", self.trouble(&error.to_string()))
            }
        }
    }

    /// Whether the vCPU is in `hlt`.
    #[must_use]
    pub fn is_asleep(&self) -> bool {
        self.asleep.get().is_some() && self.mailbox.state() == Some(GuestState::Sleeping)
    }

    /// Waits until the vCPU is in `hlt` again: an interrupt that comes late makes it look awake for a moment.
    ///
    /// # Errors
    /// When it was not put there, or the guest does not answer.
    pub fn until_asleep(&self) -> Result<()> {
        ensure!(
            self.asleep.get().is_some(),
            "the vCPU of {} is not in hlt",
            self.name
        );
        self.wait_until(|| self.is_asleep().then_some(()), "sleep")
    }

    /// Interrupts that the guest's kernel has taken since boot.
    #[must_use]
    pub fn interrupts(&self) -> u64 {
        self.mailbox.header().interrupts.load(Ordering::Relaxed)
    }

    /// Puts the vCPU into `hlt` until the next command. Does nothing when it is there.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn sleep(&self) -> Result<()> {
        if self.asleep.get().is_some() {
            return Ok(());
        }
        let process = self.mailbox.running().unwrap_or(Process::App);
        let before = self.exits()?;
        // The answer comes when it wakes up.
        let ticket = self.mailbox.channel(process).begin(commands::Sleep {});
        self.asleep.set(Some((process, ticket)));
        // Between the guest's word for it and `hlt` lie instructions of its kernel's, which are exits on hosts that emulate
        // them: KVM must have seen it halt.
        let counted = !before.missing.contains(&"halt_exits");
        let asleep = || {
            let halted = || {
                self.exits()
                    .is_ok_and(|now| now.halt_exits > before.halt_exits)
            };
            (self.mailbox.state() == Some(GuestState::Sleeping) && (!counted || halted()))
                .then_some(())
        };
        self.wait_until(asleep, "sleep")
    }

    /// Gets the vCPU out of `hlt`: raises the wake interrupt until the guest has answered the command that put it there. Its
    /// state alone would not do, since another interrupt makes it look awake for a moment.
    ///
    /// # Errors
    /// When the guest does not come back.
    pub fn wake(&self) -> Result<()> {
        let Some((process, ticket)) = self.asleep.get() else {
            return Ok(());
        };
        let channel = self.mailbox.channel(process);
        self.vm.wake()?;
        let mut nudged = Instant::now();
        let slept = self.wait_until(
            || {
                if nudged.elapsed() > NUDGE_AGAIN {
                    nudged = Instant::now();
                    // The next look nudges again if this one failed.
                    let _ = self.vm.wake();
                }
                channel.finish(&ticket)
            },
            "the wake interrupt",
        )?;
        self.asleep.set(None);
        slept
            .map(drop)
            .map_err(|error| anyhow!("{error}"))
            .context("Sleep")
    }

    /// Waits for what `look` finds.
    pub(super) fn wait_until<T>(&self, look: impl FnMut() -> Option<T>, what: &str) -> Result<T> {
        self.wait_undisturbed(look, what, Duration::ZERO)
    }

    /// As [`Self::wait_until`], but the first look comes after the time `undisturbed`.
    pub(super) fn wait_undisturbed<T>(
        &self,
        mut look: impl FnMut() -> Option<T>,
        what: &str,
        undisturbed: Duration,
    ) -> Result<T> {
        let mut wait = Wait::new(undisturbed);
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            self.stop.check()?;
            if !wait.turn() || self.vm.outcome().is_some() {
                bail!("{}", self.trouble(&format!("does not answer to {what}")));
            }
        }
    }

    /// Waits until the guest polls for commands in ring 3 and its last exits are over.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn settle(&self) -> Result<()> {
        self.call(Process::App, commands::Ping { token: 0 })?;
        Ok(())
    }

    /// Exits of the vCPU so far.
    ///
    /// # Errors
    /// When KVM's statistics cannot be read.
    pub fn exits(&self) -> Result<ExitSnapshot> {
        Ok(self.vm.vcpu_exits(0)?)
    }

    /// Lets the first process spin for `ns` nanoseconds.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn spin(&self, ns: u64) -> Result<()> {
        self.call(
            Process::App,
            commands::Spin {
                ticks: self.ns_to_ticks(ns),
            },
        )?;
        Ok(())
    }

    /// Checksum of memory, computed by the process.
    ///
    /// # Errors
    /// When the guest fails at it.
    pub fn checksum(&self, process: Process, va: u64, len: u64) -> Result<u64> {
        Ok(self.call(process, commands::Checksum { va, len })?.checksum)
    }

    /// Zeroed memory for the process.
    ///
    /// # Errors
    /// When the guest has not that much.
    pub fn alloc(&self, process: Process, bytes: u64, page_size: u64) -> Result<u64> {
        Ok(self
            .call(
                process,
                commands::Alloc {
                    bytes,
                    page_size,
                    flags: commands::ALLOC_ZERO,
                },
            )?
            .va)
    }

    /// Where the process's 2 MiB page at `va` is in the host's memory.
    ///
    /// # Errors
    /// When no page of that size is mapped there.
    pub fn host_page_2m(&self, process: Process, va: u64) -> Result<NonNull<u8>> {
        /// Address bits of a PDE that maps a page.
        const FRAME: u64 = 0x000f_ffff_ffe0_0000;
        let entries = self.call(process, commands::PteGet { va })?;
        ensure!(
            entries.lowest == 2 && va.is_multiple_of(PAGE_2M),
            "no 2 MiB page begins at {va:#x}"
        );
        self.vm
            .ram()
            .host_ptr(entries.level2 & FRAME, PAGE_2M as usize)
            .and_then(NonNull::new)
            .context("the page is not in RAM")
    }

    /// Stores bytes at an address of the process.
    ///
    /// # Errors
    /// When the guest fails at it.
    pub fn write(&self, process: Process, va: u64, bytes: &[u8]) -> Result<()> {
        self.mailbox.channel(process).bulk_write(0, bytes);
        self.call(
            process,
            commands::Write {
                va,
                len: bytes.len() as u64,
                bulk: 0,
            },
        )?;
        Ok(())
    }

    /// Loads bytes from an address of the process.
    ///
    /// # Errors
    /// When the guest fails at it.
    pub fn read(&self, process: Process, va: u64, bytes: &mut [u8]) -> Result<()> {
        self.call(
            process,
            commands::Read {
                va,
                len: bytes.len() as u64,
                bulk: 0,
            },
        )?;
        self.mailbox.channel(process).bulk_read(0, bytes);
        Ok(())
    }
}

/// Waits for a guest without taking its core. A look at it makes the host take the core away from the guest for a moment,
/// which on some hosts costs it tens of microseconds, so looks are few: after naps that grow with the time waited.
struct Wait {
    started: Instant,
    looks: u32,
    undisturbed: Duration,
}

impl Wait {
    /// Looks without a nap before the first one.
    const SPINS: u32 = 20;
    /// Shortest nap.
    const NAP_MIN: Duration = Duration::from_micros(20);
    /// Longest nap.
    const NAP_MAX: Duration = Duration::from_millis(5);

    /// The guest is left alone for the time `expected` first, and for as long as its work may take over it: the thread that
    /// looks would wake on the worker's core in the last part of what is measured.
    fn new(expected: Duration) -> Self {
        Self {
            started: Instant::now(),
            looks: 0,
            undisturbed: expected + expected / 2,
        }
    }

    /// Naps; false when patience is at its end.
    fn turn(&mut self) -> bool {
        self.looks = self.looks.saturating_add(1);
        let waited = self.started.elapsed();
        if waited < self.undisturbed {
            std::thread::sleep(self.undisturbed - waited);
        } else if self.looks <= Self::SPINS {
            std::hint::spin_loop();
        } else {
            std::thread::sleep((waited / 8).clamp(Self::NAP_MIN, Self::NAP_MAX));
        }
        waited < PATIENCE
    }
}
