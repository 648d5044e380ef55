//! The devices of a VM, built from its settings: virtio devices, each in a window of its own, with an interrupt of its
//! own; NVMe controllers behind a PCI bus; and the disk that comes while it runs.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_ioctls::{IoEventAddress, VmFd};

use super::{Vm, VmConfig, VmError};
use crate::acpi::MmioDevice;
use crate::devices::block::{BlockDevice, Disk, DiskPlace, DiskStore, SharedDisk};
use crate::devices::bus::Bus;
use crate::devices::memory::DeviceMemory;
use crate::devices::net::{NetDevice, Tap};
use crate::devices::nvme::{NVMES_MAX, NvmeFunction};
use crate::devices::rng::RngDevice;
use crate::devices::seat::OwnThread;
use crate::devices::settings::{DEVICES_MAX, DiskSettings, Mac};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio_mmio::{QUEUE_NOTIFY, VirtioMmio};
use crate::irq::IrqLine;
use crate::layout;
use crate::pci::{ConfigPorts, Ecam, HostBridge, KvmMessages, Root, Window};
use crate::seccomp;

/// A device behind its registers.
type Plugged<D> = Arc<Mutex<VirtioMmio<D>>>;

/// What has become of a disk that was asked for while the VM runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedDisk {
    /// Its number among the VM's disks, from 0: `vda` is 0 for most guests.
    pub number: usize,
    /// Bytes.
    pub bytes: u64,
}

/// An NVMe controller, and the disk that it is over.
struct Nvme {
    function: Arc<Mutex<NvmeFunction>>,
    disk: SharedDisk,
}

/// The devices of a VM, beside the Byway device.
pub(super) struct Devices {
    memory: DeviceMemory,
    disks: Vec<Plugged<BlockDevice>>,
    store: DiskStore,
    nets: Vec<Plugged<NetDevice>>,
    rng: Option<Plugged<RngDevice>>,
    nvmes: Vec<Nvme>,
    /// First window in use.
    first: usize,
    vm_name: String,
}

impl Devices {
    /// Opens what the devices stand on, and puts them on the buses: virtio devices in the order disks, spare disks, nets, rng,
    /// then PCI.
    pub(super) fn new(
        (mmio, pio): (&mut Bus, &mut Bus),
        vm: &Arc<VmFd>,
        config: &VmConfig,
        memory: &DeviceMemory,
    ) -> Result<Self, VmError> {
        let settings = &config.devices;
        if settings.count() > DEVICES_MAX {
            return Err(VmError::Config(format!(
                "VM {:?} has {} devices; use at most {DEVICES_MAX}",
                config.name,
                settings.count()
            )));
        }
        let first = super::BYWAY_WINDOW + 1;
        let mut windows = first..;
        let mut next = || windows.next().unwrap_or(usize::MAX);
        let store = config.disks.clone();
        let mut disks = Vec::new();
        for number in 0..settings.disks.len() + usize::from(settings.spare_disks) {
            let disk = match settings.disks.get(number) {
                Some(disk) => Some(store.get_or_open(DiskPlace::Disk(number), disk)?),
                None => store.get(DiskPlace::Disk(number)),
            };
            let id = format!("byway-disk-{number}");
            disks.push(plug(mmio, vm, memory, next(), |what| {
                BlockDevice::new(memory.clone(), disk, &id).map_err(what)
            })?);
        }
        let mut nets = Vec::new();
        for (number, net) in settings.nets.iter().enumerate() {
            let tap = Tap::open(&net.tap)?;
            let mac = net.mac.unwrap_or_else(|| Mac::of(&config.name, number));
            nets.push(plug(mmio, vm, memory, next(), |what| {
                NetDevice::new(memory.clone(), tap, mac).map_err(what)
            })?);
        }
        let rng = settings
            .rng
            .map(|rng| {
                plug(mmio, vm, memory, next(), |what| {
                    RngDevice::new(memory.clone(), rng).map_err(what)
                })
            })
            .transpose()?;
        let nvmes = nvmes(vm, config, memory)?;
        if !nvmes.is_empty() {
            add_pci(mmio, pio, &nvmes)?;
        }
        Ok(Self {
            memory: memory.clone(),
            disks,
            store,
            nets,
            rng,
            nvmes,
            first,
            vm_name: config.name.clone(),
        })
    }

    /// Where they are, for ACPI.
    pub(super) fn windows(&self) -> impl Iterator<Item = MmioDevice> {
        let count = self.disks.len() + self.nets.len() + usize::from(self.rng.is_some());
        (self.first..self.first + count).map(window)
    }

    /// Whether there is a PCI bus.
    pub(super) fn has_pci(&self) -> bool {
        !self.nvmes.is_empty()
    }

    /// Guest RAM as they see it.
    pub(super) fn memory(&self) -> &DeviceMemory {
        &self.memory
    }

    /// Starts their threads, once.
    pub(super) fn start_threads(&self) -> io::Result<()> {
        let name = |kind: &str, number: usize| format!("{kind}{number}:{}", self.vm_name);
        for (number, disk) in self.disks.iter().enumerate() {
            start(disk, name("disk", number))?;
        }
        for (number, net) in self.nets.iter().enumerate() {
            start(net, name("net", number))?;
        }
        if let Some(rng) = &self.rng {
            start(rng, name("rng", 0))?;
        }
        for (number, nvme) in self.nvmes.iter().enumerate() {
            let confine = Box::new(|| seccomp::narrow(seccomp::Kind::PciDevice));
            nvme.lock().start_thread(name("nvme", number), confine)?;
        }
        Ok(())
    }

    /// Lets all rest, or work again. Afterwards none writes to the guest.
    pub(super) fn set_resting(&self, rests: bool) {
        self.each(|device| device.set_resting(rests));
    }

    /// Returns when no request is under way that was before: what was taken from their memory is theirs no more.
    pub(super) fn settle(&self) {
        self.each(|device| device.settle());
    }

    fn each(&self, act: impl Fn(&dyn OwnThread)) {
        for disk in &self.disks {
            act(lock(disk).device_mut());
        }
        for net in &self.nets {
            act(lock(net).device_mut());
        }
        if let Some(rng) = &self.rng {
            act(lock(rng).device_mut());
        }
        for nvme in &self.nvmes {
            act(&*nvme.lock());
        }
    }

    /// Back to the state after creation. Afterwards none accesses the guest.
    pub(super) fn reset(&self) {
        for disk in &self.disks {
            lock(disk).reset();
        }
        for net in &self.nets {
            lock(net).reset();
        }
        if let Some(rng) = &self.rng {
            lock(rng).reset();
        }
        for nvme in &self.nvmes {
            nvme.lock().reset();
        }
    }

    fn disks(&self) -> impl Iterator<Item = Option<DiskInfo>> {
        self.disks.iter().map(|disk| {
            let disk = lock(disk).device_mut().disk()?;
            Some(DiskInfo::of(&disk))
        })
    }
}

impl Nvme {
    fn lock(&self) -> MutexGuard<'_, NvmeFunction> {
        self.function.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A disk of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskInfo {
    /// What it was made from.
    pub settings: DiskSettings,
    /// Bytes.
    pub bytes: u64,
}

impl DiskInfo {
    fn of(disk: &SharedDisk) -> Self {
        let disk = disk.lock().unwrap_or_else(PoisonError::into_inner);
        Self {
            settings: disk.settings().clone(),
            bytes: disk.bytes(),
        }
    }
}

impl Vm {
    /// Opens a disk and puts it into the first empty spare disk; the guest is told that its size has changed. It
    /// stays across a reboot.
    ///
    /// virtio-mmio knows no hot-plug, and a kernel asks a device for its features once: so a VM has spare disks from
    /// the start, of no size and not read-only, and what comes and goes is what is in them. Writes to a disk that is
    /// read-only fail.
    ///
    /// # Errors
    /// When no spare disk is empty, or the disk cannot be opened.
    pub fn add_disk(&mut self, settings: &DiskSettings) -> Result<AddedDisk, VmError> {
        let empty = self.devices.disks().position(|disk| disk.is_none());
        let number = empty.ok_or_else(|| {
            VmError::Config(format!(
                "VM {:?} has no empty spare disk: start it with more spare_disks",
                self.name()
            ))
        })?;
        let disk = Disk::open(settings)?;
        let bytes = disk.bytes();
        let disk = Arc::new(Mutex::new(disk));
        let place = DiskPlace::Disk(number);
        self.devices.store.put(place, Arc::clone(&disk));
        let mut device = lock(&self.devices.disks[number]);
        device.device_mut().insert(disk);
        device.config_has_changed();
        Ok(AddedDisk { number, bytes })
    }

    /// Its disks, in order; `None` for a spare one that is empty.
    pub fn disks(&self) -> Vec<Option<DiskInfo>> {
        self.devices.disks().collect()
    }

    /// What its NVMe controllers are over, in order.
    pub fn nvmes(&self) -> Vec<DiskInfo> {
        let nvmes = self.devices.nvmes.iter();
        nvmes.map(|nvme| DiskInfo::of(&nvme.disk)).collect()
    }
}

fn nvmes(vm: &Arc<VmFd>, config: &VmConfig, memory: &DeviceMemory) -> Result<Vec<Nvme>, VmError> {
    let settings = &config.devices.nvmes;
    if settings.len() > NVMES_MAX {
        return Err(VmError::Config(format!(
            "VM {:?} has {} NVMe controllers; use at most {NVMES_MAX}",
            config.name,
            settings.len()
        )));
    }
    let mut nvmes = Vec::new();
    for (number, settings) in settings.iter().enumerate() {
        let place = DiskPlace::Nvme(number);
        let disk = config.disks.get_or_open(place, &settings.disk())?;
        let file = disk.lock().unwrap_or_else(PoisonError::into_inner).file();
        let host = |what| move |source| VmError::Host { what, source };
        let over = (
            file.map_err(host("duplicate a descriptor"))?,
            DiskInfo::of(&disk).bytes,
            settings.readonly,
        );
        // Apart, whatever the size of a BAR: the first is nobody's.
        let address = layout::PCI_WINDOW + (number as u64 + 1) * PCI_PLACE;
        let messages = Box::new(KvmMessages::new(Arc::clone(vm)));
        let serial = format!("byway-nvme-{number}");
        let function = NvmeFunction::new(memory.clone(), over, &serial, address, messages)
            .map_err(host("make an eventfd"))?;
        nvmes.push(Nvme {
            function: Arc::new(Mutex::new(function)),
            disk,
        });
    }
    Ok(nvmes)
}

/// A PCI bus with a host bridge and these behind it, in order.
fn add_pci(mmio: &mut Bus, pio: &mut Bus, nvmes: &[Nvme]) -> Result<(), VmError> {
    let mut root = Root::default();
    root.add(Arc::new(Mutex::new(HostBridge::default())));
    for nvme in nvmes {
        root.add(nvme.function.clone());
    }
    let root = Arc::new(root);
    mmio.insert(
        layout::PCI_ECAM,
        layout::PCI_ECAM_SIZE,
        Arc::new(Mutex::new(Ecam(Arc::clone(&root)))),
    )?;
    pio.insert(
        layout::PCI_CONFIG_PORT.into(),
        layout::PCI_CONFIG_PORTS.into(),
        Arc::new(Mutex::new(ConfigPorts::new(Arc::clone(&root)))),
    )?;
    let window = Arc::new(Mutex::new(Window(root)));
    mmio.insert(layout::PCI_WINDOW, layout::PCI_WINDOW_SIZE, window)?;
    Ok(())
}

/// Window `index`: its registers and its interrupt.
pub(super) fn window(index: usize) -> MmioDevice {
    MmioDevice {
        base: (layout::VIRTIO_MMIO + layout::VIRTIO_MMIO_SIZE * index as u64) as u32,
        size: layout::VIRTIO_MMIO_SIZE as u32,
        gsi: layout::VIRTIO_MMIO_GSIS[index],
    }
}

/// Puts a device into window `index`: its registers on the bus, its notifications as ioeventfds, its interrupt
/// as an irqfd. The error that `make` gives is that of the host.
pub(super) fn plug<D: VirtioDevice + 'static>(
    mmio: &mut Bus,
    vm: &VmFd,
    memory: &DeviceMemory,
    index: usize,
    make: impl FnOnce(fn(io::Error) -> VmError) -> Result<D, VmError>,
) -> Result<Plugged<D>, VmError> {
    let window = window(index);
    let line = IrqLine::new(vm, window.gsi)?;
    let no_descriptor = |source| VmError::Host {
        what: "make an eventfd",
        source,
    };
    let call = line.try_clone_event().map_err(no_descriptor)?;
    let device = make(no_descriptor)?;
    let transport = VirtioMmio::new(device, memory.clone(), call)?;
    let notify = IoEventAddress::Mmio(u64::from(window.base) + QUEUE_NOTIFY);
    for (index, kick) in (0u32..).zip(transport.kicks()) {
        vm.register_ioevent(kick, &notify, index)
            .map_err(|source| VmError::Kvm {
                what: "take an ioeventfd",
                source,
            })?;
    }
    let transport = Arc::new(Mutex::new(transport));
    mmio.insert(window.base.into(), window.size.into(), transport.clone())?;
    Ok(transport)
}

fn start<D: VirtioDevice + OwnThread>(device: &Plugged<D>, name: String) -> io::Result<()> {
    lock(device)
        .device_mut()
        .start_thread(name, Box::new(|| seccomp::narrow(seccomp::Kind::Device)))
}

fn lock<D>(device: &Plugged<D>) -> MutexGuard<'_, VirtioMmio<D>> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From one BAR to the next as they are at first.
const PCI_PLACE: u64 = 1 << 20;

const _: () = assert!(NVMES_MAX < crate::pci::DEVICES_MAX);
const _: () = assert!((NVMES_MAX as u64 + 2) * PCI_PLACE <= layout::PCI_WINDOW_SIZE);
const _: () = assert!(DEVICES_MAX < layout::VIRTIO_MMIO_GSIS.len());
