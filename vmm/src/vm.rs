//! One virtual machine: builds it from a [`VmConfig`], starts it, stops it.
//!
//! Owns everything that belongs to a VM. The order of ending is what keeps others
//! safe, and is the same for [`Vm::stop`] and for dropping: first the vCPU threads leave, then the
//! engine's domain is reset (after which no byte of the RAM is touched), then
//! descriptors close, and the RAM goes last.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use byway_engine::interface::{Domain, DomainError};
use byway_engine::vhost_user::wait;
use kvm_bindings::{
    KVM_CAP_X86_DISABLE_EXITS, KVM_MAX_CPUID_ENTRIES, KVM_X86_DISABLE_EXITS_PAUSE, kvm_clock_data,
    kvm_enable_cap,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::acpi::{self, AcpiError, MmioDevice};
use crate::devices::block::{DiskError, DiskStore};
use crate::devices::bus::{Bus, BusError};
use crate::devices::byway::BywayDevice;
use crate::devices::memory::DeviceMemory;
use crate::devices::net::TapError;
use crate::devices::power::{AcpiPower, KeyboardController};
use crate::devices::serial::{SerialDevice, SerialSink};
use crate::devices::settings::DeviceSettings;
use crate::devices::virtio_mmio::{TransportError, VirtioMmio};
use crate::exits::{ExitSnapshot, RunCounts, StatsError, VcpuStats};
use crate::irq::{IrqError, IrqLine};
use crate::layout;
use crate::loader::{self, KernelSource, LoadError, MemoryMap, Payload};
use crate::memory::{GuestRam, MemoryError, RamConfig};
use crate::reset_vector;
use crate::vcpu::{Outcome, RunState, Template, Vcpu, VcpuContext, VcpuError, write_boot_tables};

mod devices;
mod lifecycle;
mod memory_changes;

pub use devices::{AddedDisk, DiskInfo};

use devices::Devices;
use memory_changes::Changes;
pub use memory_changes::PLUG_UNIT;

/// Most vCPUs of one VM. (APIC ids and the MADT allow 254.)
pub const CPUS_MAX: u8 = 64;

/// What a VM is made of.
#[derive(Debug, Clone)]
pub struct VmConfig {
    /// Name, for messages and threads.
    pub name: String,
    /// Kernel or bare-metal image.
    pub kernel: KernelSource,
    /// Initramfs.
    pub initrd: Option<PathBuf>,
    /// Kernel command line; [`Self::mailbox_bytes`] adds to it.
    pub cmdline: String,
    /// RAM.
    pub ram: RamConfig,
    /// vCPUs, 1 to [`CPUS_MAX`].
    pub cpus: u8,
    /// What the vCPUs are like.
    pub cpu: Template,
    /// Host CPU for each vCPU, in order; vCPUs beyond its end run anywhere.
    pub pin: Vec<usize>,
    /// Where the console goes.
    pub serial: SerialSink,
    /// Virtio id under which the Byway device appears.
    pub device_id: u32,
    /// Disks, network interfaces and the like, beside it.
    pub devices: DeviceSettings,
    /// Disks that are open already. Whoever builds the VM anew, to reboot it, does so with the same store.
    pub disks: DiskStore,
    /// Bytes at the top of RAM that guest and host program share as a mailbox; 0 for none. A
    /// multiple of 4096, at most half the RAM. The bare-metal guest learns of it, and of
    /// its devices, by entries that are added to the command line; a Linux guest is told by ACPI.
    pub mailbox_bytes: u64,
}

/// What can go wrong with a VM before it runs.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The host has no usable KVM.
    #[error(transparent)]
    NoKvm(#[from] crate::host::NoKvm),
    /// The configuration is not possible.
    #[error("{0}")]
    Config(String),
    /// KVM refused something.
    #[error("KVM refused to {what}")]
    Kvm {
        /// What was tried.
        what: &'static str,
        /// What KVM said.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// The host refused something.
    #[error("cannot {what}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// RAM.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Kernel, initramfs or command line.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// ACPI tables.
    #[error(transparent)]
    Acpi(#[from] AcpiError),
    /// A vCPU.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// An interrupt line.
    #[error(transparent)]
    Irq(#[from] IrqError),
    /// The device map.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The virtio transport.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A network interface.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The engine refused the VM's memory, or a change of it.
    #[error("the engine refused the VM's memory, or a change of it")]
    Engine(#[from] DomainError),
}

type Serial = Arc<Mutex<SerialDevice<IrqLine>>>;
type Device = Arc<Mutex<VirtioMmio<BywayDevice>>>;

/// One virtual machine.
pub struct Vm {
    // Dropped in this order, after `Drop` has stopped the threads and the device.
    vcpus: Vec<Vcpu>,
    context: VcpuContext,
    device: Option<Device>,
    devices: Devices,
    serial: Serial,
    pin: Vec<usize>,
    mailbox: Option<(u64, u64)>,
    started: bool,
    /// KVM's clock when the VM was paused.
    paused_at: Option<kvm_clock_data>,
    /// Held by devices, too, which are gone by then.
    vm: Arc<VmFd>,
    ram: GuestRam,
    /// As for `ram`: KVM must not outlive it.
    changes: Changes,
}

impl Vm {
    /// Builds a VM up to the point where it could run: RAM, CPUs, devices, kernel. With
    /// `domain`, the Byway device is there and the engine knows the RAM.
    ///
    /// # Errors
    /// See [`VmError`]; nothing is left behind.
    pub fn new(config: VmConfig, domain: Option<Box<dyn Domain>>) -> Result<Self, VmError> {
        let kvm = crate::host::open_kvm()?;
        check(&config, &kvm)?;
        let ram = GuestRam::new(&config.ram)?;
        let vm = Arc::new(create_vm(&kvm)?);
        ram.register(&vm)?;
        let state = Arc::new(RunState::new().map_err(|source| VmError::Host {
            what: "create an eventfd",
            source,
        })?);

        let mut pio = Bus::new();
        let serial = add_port_devices(&mut pio, &vm, &config, &state)?;
        let mut mmio = Bus::new();
        let memory = DeviceMemory::new(ram.memory().clone());
        let device = domain
            .map(|mut domain| {
                for region in ram.engine_regions() {
                    domain.add_region(region)?;
                }
                let device = BywayDevice::new(domain, config.device_id);
                devices::plug(&mut mmio, &vm, &memory, BYWAY_WINDOW, |_| Ok(device))
            })
            .transpose()?;
        let devices = Devices::new((&mut mmio, &mut pio), &vm, &config, &memory)?;

        let vcpus = create_vcpus(&kvm, &vm, config.cpus, config.cpu)?;
        let byway = device.iter().map(|_| devices::window(BYWAY_WINDOW));
        let windows: Vec<_> = byway.chain(devices.windows()).collect();
        let mailbox = mailbox_range(&ram, config.mailbox_bytes)?;
        let cmdline = command_line(&config, &windows, mailbox);
        let rsdp = acpi::write(ram.memory(), config.cpus, &windows, devices.has_pci())?;
        reset_vector::write(ram.memory()).map_err(AcpiError::Write)?;
        let reserved_top = mailbox.map_or(0, |(at, _)| ram.end() - at);
        let mut map = MemoryMap::new(&ram.ranges(), reserved_top);
        if devices.has_pci() {
            map = map.with_reserved(layout::PCI_ECAM, layout::PCI_ECAM_SIZE);
        }
        let entry = loader::load(
            ram.memory(),
            &map,
            &Payload {
                kernel: &config.kernel,
                initrd: config.initrd.as_deref(),
                cmdline: &cmdline,
                rsdp,
            },
        )?;
        write_boot_tables(ram.memory(), entry).map_err(AcpiError::Write)?;
        for (vcpu, entry) in vcpus
            .iter()
            .zip(std::iter::once(Some(entry)).chain(std::iter::repeat(None)))
        {
            vcpu.set_entry(entry)?;
        }

        Ok(Self {
            vcpus,
            context: VcpuContext {
                pio: Arc::new(pio),
                mmio: Arc::new(mmio),
                memory: ram.memory().clone(),
                state,
                vm_name: config.name,
            },
            device,
            devices,
            serial,
            pin: config.pin,
            mailbox,
            started: false,
            paused_at: None,
            vm,
            ram,
            changes: Changes::default(),
        })
    }

    /// Name of the VM.
    pub fn name(&self) -> &str {
        &self.context.vm_name
    }

    /// Starts all vCPUs. A VM starts once.
    ///
    /// # Errors
    /// When a thread cannot be made or pinned; those that run already are stopped again.
    pub fn start(&mut self) -> Result<(), VmError> {
        if std::mem::replace(&mut self.started, true) {
            return Err(VmError::Config(format!(
                "VM {:?} was started before",
                self.name()
            )));
        }
        if let Err(source) = self.devices.start_threads() {
            return Err(VmError::Host {
                what: "start the thread of a device",
                source,
            });
        }
        let pins = self
            .pin
            .iter()
            .copied()
            .map(Some)
            .chain(std::iter::repeat(None));
        for (vcpu, pin) in self.vcpus.iter_mut().zip(pins) {
            if let Err(error) = vcpu.start(self.context.clone(), pin) {
                self.stop();
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Stops the VM, if it has not ended by itself, and says how it ended. Afterwards no vCPU
    /// runs and the engine no longer touches its RAM. May be called again.
    pub fn stop(&mut self) -> Outcome {
        self.context.state.end(Outcome::Stopped);
        for vcpu in &mut self.vcpus {
            vcpu.join();
        }
        if let Some(device) = &self.device {
            device
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .reset();
        }
        self.devices.reset();
        self.outcome().unwrap_or(Outcome::Stopped)
    }

    /// How the VM ended, if it did.
    pub fn outcome(&self) -> Option<Outcome> {
        self.context.state.outcome()
    }

    /// Waits until the VM has ended by itself or by [`Self::stop`], at most `limit` long if one
    /// is given.
    pub fn wait(&self, limit: Option<Duration>) -> Option<Outcome> {
        self.context.state.wait(limit)
    }

    /// Becomes readable when the VM has ended.
    pub fn ended_event(&self) -> &EventFd {
        self.context.state.event()
    }

    /// Shared state, by which another thread can end the VM or wait for it.
    pub fn run_state(&self) -> &Arc<RunState> {
        &self.context.state
    }

    /// Its RAM.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// `(guest-physical address, bytes)` of the mailbox, if the VM has one.
    pub fn mailbox(&self) -> Option<(u64, u64)> {
        self.mailbox
    }

    /// Raises the wake interrupt, which gets a guest out of `hlt`.
    ///
    /// By ioctl rather than by an irqfd: where KVM cannot inject an interrupt atomically, an irqfd leaves it to a kernel
    /// worker on the caller's core, and on a host whose cores are all taken by spinning guests that worker can wait
    /// for very long.
    ///
    /// # Errors
    /// When KVM refuses the line.
    pub fn wake(&self) -> io::Result<()> {
        self.pulse(layout::WAKE_GSI)
    }

    /// One edge on an interrupt line, as described at [`Self::wake`].
    fn pulse(&self, gsi: u32) -> io::Result<()> {
        for level in [true, false] {
            self.vm
                .set_irq_line(gsi, level)
                .map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
        }
        Ok(())
    }

    /// Types on the console; returns how many bytes the guest's FIFO took.
    pub fn serial_input(&self, bytes: &[u8]) -> usize {
        self.serial
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .input(bytes)
    }

    /// Number of vCPUs.
    pub fn vcpu_count(&self) -> usize {
        self.vcpus.len()
    }

    /// The exit witness of one vCPU, now. May be called from any thread while it runs.
    ///
    /// # Errors
    /// When there is no such vCPU or KVM's statistics cannot be read.
    pub fn vcpu_exits(&self, vcpu: usize) -> Result<ExitSnapshot, StatsError> {
        self.vcpus
            .get(vcpu)
            .ok_or(StatsError::NoSuchVcpu(vcpu))?
            .exits()
    }

    /// KVM's statistics of one vCPU, where the kernel has them.
    pub fn vcpu_stats(&self, vcpu: usize) -> Option<&VcpuStats> {
        self.vcpus.get(vcpu)?.stats()
    }

    /// Counts of `KVM_RUN` returns of one vCPU, by kind.
    pub fn vcpu_counts(&self, vcpu: usize) -> Option<&Arc<RunCounts>> {
        self.vcpus.get(vcpu).map(Vcpu::counts)
    }

    /// Does something with the engine's domain, under the device's lock.
    pub fn with_domain<R>(&self, act: impl FnOnce(&mut dyn Domain) -> R) -> Option<R> {
        self.device.as_ref().map(|device| {
            let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
            act(device.device_mut().domain_mut())
        })
    }

    /// Becomes readable when the process with the VM's engine is gone; `None` for an engine of this
    /// process, or none.
    pub fn engine_lost(&self) -> Option<EventFd> {
        // A descriptor that cannot be duplicated now is not watched, and the VM finds out when it
        // next asks for something.
        self.with_domain(|domain| domain.lost()?.try_clone().ok())?
    }

    /// Whether that has happened and the VM has not attached again.
    pub fn engine_is_lost(&self) -> bool {
        let lost = self.engine_lost();
        lost.is_some_and(|lost| {
            // SAFETY: the eventfd is open for the whole block.
            let fd = unsafe { BorrowedFd::borrow_raw(lost.as_raw_fd()) };
            wait(&[fd], Some(Duration::ZERO)).is_ok_and(|ready| ready.has(0))
        })
    }

    /// Tells the guest that its engine is gone: the device needs a reset.
    pub fn report_lost_engine(&self) {
        if let Some(device) = &self.device {
            let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
            device.ask_for_reset();
        }
    }

    /// Attaches to an engine again. The guest, which may have tried in vain meanwhile, is told once
    /// more that the device needs a reset.
    ///
    /// # Errors
    /// When no engine is there, or it refuses; it may be tried again.
    pub fn reattach(&self) -> Result<(), VmError> {
        self.with_domain(|domain| domain.reattach()).transpose()?;
        self.report_lost_engine();
        Ok(())
    }

    /// The KVM descriptor, for tests and tools that look deeper.
    pub fn kvm(&self) -> &VmFd {
        &self.vm
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Number of the Byway device's window: the first, which it keeps where there is none.
const BYWAY_WINDOW: usize = 0;

fn check(config: &VmConfig, kvm: &Kvm) -> Result<(), VmError> {
    let cpus_max = usize::from(CPUS_MAX).min(kvm.get_max_vcpus());
    if config.cpus == 0 || usize::from(config.cpus) > cpus_max {
        return Err(VmError::Config(format!(
            "VM {:?} has {} vCPUs; use 1 to {cpus_max}",
            config.name, config.cpus
        )));
    }
    let mailbox = config.mailbox_bytes;
    if !mailbox.is_multiple_of(layout::PAGE_SIZE) || mailbox > config.ram.size / 2 {
        return Err(VmError::Config(format!(
            "VM {:?} has a mailbox of {mailbox} bytes; use a multiple of {} up to half its RAM",
            config.name,
            layout::PAGE_SIZE
        )));
    }
    Ok(())
}

/// A VM with interrupt controllers and nothing else.
pub(crate) fn create_vm(kvm: &Kvm) -> Result<VmFd, VmError> {
    let refused = |what| move |source| VmError::Kvm { what, source };
    let vm = kvm.create_vm().map_err(refused("create a VM"))?;
    // Both only matter to VMX hosts without unrestricted guest mode.
    vm.set_identity_map_address(layout::KVM_IDENTITY_MAP)
        .map_err(refused("place its identity map"))?;
    vm.set_tss_address(layout::KVM_TSS as usize)
        .map_err(refused("place its TSS"))?;
    disable_pause_exits(&vm);
    vm.create_irq_chip()
        .map_err(refused("create interrupt controllers"))?;
    Ok(vm)
}

/// On SVM and VMX a loop of PAUSE, which is what polling is, exits now and then. Must
/// come before the first vCPU.
fn disable_pause_exits(vm: &VmFd) {
    let offered = vm.check_extension_raw(u64::from(KVM_CAP_X86_DISABLE_EXITS));
    if offered as u32 & KVM_X86_DISABLE_EXITS_PAUSE == 0 {
        return;
    }
    let mut cap = kvm_enable_cap {
        cap: KVM_CAP_X86_DISABLE_EXITS,
        ..Default::default()
    };
    cap.args[0] = u64::from(KVM_X86_DISABLE_EXITS_PAUSE);
    if let Err(error) = vm.enable_cap(&cap) {
        tracing::warn!("KVM keeps its PAUSE exits, polling may cost some: {error}");
    }
}

fn create_vcpus(kvm: &Kvm, vm: &VmFd, count: u8, template: Template) -> Result<Vec<Vcpu>, VmError> {
    let mut supported = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(|source| VmError::Kvm {
            what: "list its CPUID",
            source,
        })?;
    template.mask(&mut supported);
    let tsc_deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    (0..count)
        .map(|id| Ok(Vcpu::new(vm, id, count, &supported, tsc_deadline)?))
        .collect()
}

fn add_port_devices(
    pio: &mut Bus,
    vm: &VmFd,
    config: &VmConfig,
    state: &Arc<RunState>,
) -> Result<Serial, VmError> {
    let sink = config
        .serial
        .open()
        .map_err(|error| VmError::Config(format!("cannot write the console: {error}")))?;
    let interrupt = IrqLine::new(vm, layout::COM1_GSI)?;
    let serial = Arc::new(Mutex::new(SerialDevice::new(interrupt, sink)));
    pio.insert(
        layout::COM1_PORT.into(),
        layout::COM1_PORTS.into(),
        serial.clone(),
    )?;
    let keyboard = KeyboardController::new(Arc::clone(state));
    pio.insert(
        layout::I8042_PORT.into(),
        layout::I8042_PORTS.into(),
        Arc::new(Mutex::new(keyboard)),
    )?;
    pio.insert(
        layout::ACPI_PM_PORT.into(),
        layout::ACPI_PM_PORTS.into(),
        Arc::new(Mutex::new(AcpiPower::new(Arc::clone(state)))),
    )?;
    Ok(serial)
}

/// The top of RAM, from a 2 MiB boundary so that a guest can map it by large pages.
fn mailbox_range(ram: &GuestRam, bytes: u64) -> Result<Option<(u64, u64)>, VmError> {
    if bytes == 0 {
        return Ok(None);
    }
    let floor = ram.ranges().last().map_or(0, |(start, _)| *start);
    ram.end()
        .checked_sub(bytes)
        .map(|at| at & !(layout::LARGE_PAGE_SIZE - 1))
        .filter(|at| *at >= floor.max(layout::HIGH_RAM))
        .map(|at| Some((at, bytes)))
        .ok_or_else(|| {
            VmError::Config(format!(
                "a mailbox of {bytes} bytes does not fit into RAM above {floor:#x}; change the VM's memory"
            ))
        })
}

/// Adds to the command line what a guest without ACPI needs to know.
fn command_line(config: &VmConfig, windows: &[MmioDevice], mailbox: Option<(u64, u64)>) -> String {
    let mut line = config.cmdline.clone();
    let Some((address, bytes)) = mailbox else {
        return line;
    };
    let mut add = |entry: String| {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&entry);
    };
    for window in windows {
        add(format!(
            "virtio_mmio.device={}K@{:#x}:{}",
            window.size >> 10,
            window.base,
            window.gsi
        ));
    }
    add(format!("mailbox={address:#x},{bytes}"));
    add(format!("wake_irq={}", layout::WAKE_GSI));
    line
}
