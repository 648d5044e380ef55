//! The virtio devices of a VM: built from its settings, each in a window of its own, with an interrupt of its
//! own; and the disk that comes while it runs.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_ioctls::{IoEventAddress, VmFd};

use super::{Vm, VmConfig, VmError};
use crate::acpi::MmioDevice;
use crate::devices::block::{BlockDevice, Disk, DiskStore};
use crate::devices::bus::Bus;
use crate::devices::memory::DeviceMemory;
use crate::devices::net::{NetDevice, Tap};
use crate::devices::rng::RngDevice;
use crate::devices::seat::OwnThread;
use crate::devices::settings::{DEVICES_MAX, DiskSettings, Mac};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio_mmio::{QUEUE_NOTIFY, VirtioMmio};
use crate::irq::IrqLine;
use crate::jail;
use crate::layout;

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

/// The devices of a VM, beside the Byway device.
pub(super) struct Devices {
    memory: DeviceMemory,
    disks: Vec<Plugged<BlockDevice>>,
    store: DiskStore,
    nets: Vec<Plugged<NetDevice>>,
    rng: Option<Plugged<RngDevice>>,
    /// First window in use.
    first: usize,
    vm_name: String,
}

impl Devices {
    /// Opens what the devices stand on, and puts them on the bus in the order disks, spare disks, nets, rng.
    pub(super) fn new(
        mmio: &mut Bus,
        vm: &VmFd,
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
                Some(disk) => Some(store.get_or_open(number, disk)?),
                None => store.get(number),
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
        Ok(Self {
            memory: memory.clone(),
            disks,
            store,
            nets,
            rng,
            first,
            vm_name: config.name.clone(),
        })
    }

    /// Where they are, for ACPI.
    pub(super) fn windows(&self) -> impl Iterator<Item = MmioDevice> {
        let count = self.disks.len() + self.nets.len() + usize::from(self.rng.is_some());
        (self.first..self.first + count).map(window)
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
    }

    fn disks(&self) -> impl Iterator<Item = Option<DiskInfo>> {
        self.disks.iter().map(|disk| {
            let disk = lock(disk).device_mut().disk()?;
            let disk = disk.lock().unwrap_or_else(PoisonError::into_inner);
            Some(DiskInfo {
                settings: disk.settings().clone(),
                bytes: disk.bytes(),
            })
        })
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
        self.devices.store.put(number, Arc::clone(&disk));
        let mut device = lock(&self.devices.disks[number]);
        device.device_mut().insert(disk);
        device.config_has_changed();
        Ok(AddedDisk { number, bytes })
    }

    /// Its disks, in order; `None` for a spare one that is empty.
    pub fn disks(&self) -> Vec<Option<DiskInfo>> {
        self.devices.disks().collect()
    }
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
        .start_thread(name, Box::new(|| jail::narrow(jail::Kind::Device)))
}

fn lock<D>(device: &Plugged<D>) -> MutexGuard<'_, VirtioMmio<D>> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

const _: () = assert!(DEVICES_MAX < layout::VIRTIO_MMIO_GSIS.len());
