//! The virtio MMIO transport, version 2 (virtio 1.2, section 4.2), for any
//! [`VirtioDevice`].
//!
//! Owns the register state machine and checks everything the guest writes, so that a
//! device is only ever given queues that lie in RAM. Notifications do not
//! come here: each queue's kick is an ioeventfd on `QueueNotify`, and the interrupt is
//! an irqfd that the device writes itself. A guest that misuses the registers gets
//! `DEVICE_NEEDS_RESET` or a queue that does not become ready, never more than that.
//!
//! # Interrupt status
//! The device raises the interrupt by writing the irqfd, without a step through this
//! module, so nobody here knows whether a used buffer is pending. The line is
//! edge-triggered and nothing waits for an acknowledgement, so `InterruptStatus` simply reads
//! bit 0 (used buffer) as set while the driver runs: a driver then looks at its rings, which
//! is what it has to do anyway, and a spurious look is harmless. The alternative, an
//! eventfd in between and a thread that sets the bit and forwards it, would put two context
//! switches into every completion interrupt. Bit 1 (configuration change) is kept exactly.

use std::io;

use byway_engine::seldom::Seldom;
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_DEVICE_FEATURES,
    VIRTIO_MMIO_DEVICE_FEATURES_SEL, VIRTIO_MMIO_DEVICE_ID, VIRTIO_MMIO_DRIVER_FEATURES,
    VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING,
    VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_MAGIC_VALUE,
    VIRTIO_MMIO_QUEUE_AVAIL_HIGH, VIRTIO_MMIO_QUEUE_AVAIL_LOW, VIRTIO_MMIO_QUEUE_DESC_HIGH,
    VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_NOTIFY, VIRTIO_MMIO_QUEUE_NUM,
    VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY, VIRTIO_MMIO_QUEUE_SEL,
    VIRTIO_MMIO_QUEUE_USED_HIGH, VIRTIO_MMIO_QUEUE_USED_LOW, VIRTIO_MMIO_SHM_BASE_HIGH,
    VIRTIO_MMIO_SHM_BASE_LOW, VIRTIO_MMIO_SHM_LEN_HIGH, VIRTIO_MMIO_SHM_LEN_LOW,
    VIRTIO_MMIO_STATUS, VIRTIO_MMIO_VENDOR_ID, VIRTIO_MMIO_VERSION,
};
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::EventFd;

use super::bus::BusDevice;
use super::memory::DeviceMemory;
use super::virtio::{QueueSetup, VirtioDevice};

/// Offset of the register whose writes the ioeventfds catch.
pub const QUEUE_NOTIFY: u64 = VIRTIO_MMIO_QUEUE_NOTIFY as u64;

/// "virt", little-endian.
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "BYWY": tells this transport in a guest's log.
const VENDOR: u32 = u32::from_le_bytes(*b"BYWY");

const ACKNOWLEDGE: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE;
const DRIVER: u32 = VIRTIO_CONFIG_S_DRIVER;
const FEATURES_OK: u32 = VIRTIO_CONFIG_S_FEATURES_OK;
const DRIVER_OK: u32 = VIRTIO_CONFIG_S_DRIVER_OK;
const NEEDS_RESET: u32 = VIRTIO_CONFIG_S_NEEDS_RESET;
const FAILED: u32 = VIRTIO_CONFIG_S_FAILED;

/// The device cannot be put behind this transport.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The device states a queue size that virtio does not allow.
    #[error("queue size {0}: virtio allows powers of two from 1 to 32768")]
    QueueSize(u16),
    /// The host has no eventfd left.
    #[error("cannot create an eventfd for a virtqueue")]
    EventFd(#[from] io::Error),
}

struct TransportQueue {
    /// Addresses and size as the guest sets them, with their checks.
    config: Queue,
    kick: EventFd,
    /// Whether the device serves it.
    running: bool,
}

/// A guest writes its registers as often as it likes.
static TOLD: Seldom = Seldom::new();

/// One virtio-mmio register window.
pub struct VirtioMmio<D> {
    device: D,
    /// As it is at the time: queues may lie in memory that was added.
    memory: DeviceMemory,
    call: EventFd,
    queues: Vec<TransportQueue>,
    status: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    config_change: bool,
    /// Changes of the configuration space so far.
    config_generation: u32,
}

impl<D: VirtioDevice> VirtioMmio<D> {
    /// Puts `device` behind a register window. `call` raises the interrupt.
    ///
    /// # Errors
    /// When the device's queue size is not one of virtio's, or there is no eventfd left.
    pub fn new(device: D, memory: DeviceMemory, call: EventFd) -> Result<Self, TransportError> {
        let size = device.queue_max_size();
        let queues = (0..device.queue_count())
            .map(|_| {
                Ok(TransportQueue {
                    config: Queue::new(size).map_err(|_| TransportError::QueueSize(size))?,
                    kick: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
                    running: false,
                })
            })
            .collect::<Result<_, TransportError>>()?;
        Ok(Self {
            device,
            memory,
            call,
            queues,
            status: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            config_change: false,
            config_generation: 0,
        })
    }

    /// The eventfds to be signalled by writes of `0..n` to [`QUEUE_NOTIFY`].
    pub fn kicks(&self) -> impl ExactSizeIterator<Item = &EventFd> {
        self.queues.iter().map(|queue| &queue.kick)
    }

    /// The device behind the transport.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// Back to the state after creation: queues stop, and nothing of the guest's memory is
    /// accessed when this returns.
    pub fn reset(&mut self) {
        for index in 0..self.queues.len() {
            self.stop_queue(index);
            self.queues[index].config.reset();
        }
        self.device.reset();
        self.status = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.driver_features = 0;
        self.queue_sel = 0;
        self.config_change = false;
    }

    fn offered(&self) -> u64 {
        self.device.features() | 1 << VIRTIO_F_VERSION_1
    }

    fn selected(&self) -> Option<&TransportQueue> {
        self.queues.get(self.queue_sel as usize)
    }

    fn running(&self) -> bool {
        self.status & DRIVER_OK != 0 && self.status & (NEEDS_RESET | FAILED) == 0
    }

    fn read_register(&self, offset: u32) -> u32 {
        match offset {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => self.device.device_id(),
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => half(self.offered(), self.device_features_sel),
            VIRTIO_MMIO_QUEUE_NUM_MAX => self
                .selected()
                .map_or(0, |queue| u32::from(queue.config.max_size())),
            VIRTIO_MMIO_QUEUE_READY => self
                .selected()
                .map_or(0, |queue| u32::from(queue.config.ready())),
            VIRTIO_MMIO_INTERRUPT_STATUS => {
                let used = if self.running() {
                    VIRTIO_MMIO_INT_VRING
                } else {
                    0
                };
                let change = if self.config_change {
                    VIRTIO_MMIO_INT_CONFIG
                } else {
                    0
                };
                used | change
            }
            VIRTIO_MMIO_STATUS => self.status,
            VIRTIO_MMIO_CONFIG_GENERATION => self.config_generation,
            // No shared memory regions: length and base are all ones (4.2.2).
            VIRTIO_MMIO_SHM_LEN_LOW
            | VIRTIO_MMIO_SHM_LEN_HIGH
            | VIRTIO_MMIO_SHM_BASE_LOW
            | VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u32, value: u32) {
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES => self.take_features(value),
            VIRTIO_MMIO_QUEUE_SEL => self.queue_sel = value,
            VIRTIO_MMIO_QUEUE_READY => self.set_ready(value),
            VIRTIO_MMIO_INTERRUPT_ACK => {
                if value & VIRTIO_MMIO_INT_CONFIG != 0 {
                    self.config_change = false;
                }
            }
            VIRTIO_MMIO_STATUS => self.set_status(value),
            // The ioeventfds catch notifications of queues that exist; one for
            // another queue is the driver's mistake and has no effect.
            VIRTIO_MMIO_QUEUE_NOTIFY => {}
            _ => self.configure_queue(offset, value),
        }
    }

    /// Driver features may be chosen between DRIVER and FEATURES_OK (3.1.1).
    fn take_features(&mut self, value: u32) {
        if self.status & DRIVER == 0 || self.status & FEATURES_OK != 0 {
            return;
        }
        let value = u64::from(value);
        match self.driver_features_sel {
            0 => self.driver_features = self.driver_features & !0xffff_ffff | value,
            1 => self.driver_features = self.driver_features & 0xffff_ffff | value << 32,
            _ => {}
        }
    }

    /// Sizes and addresses may be set between FEATURES_OK and ready. An address that breaks
    /// alignment or a size that is no power of two is dropped by the queue.
    fn configure_queue(&mut self, offset: u32, value: u32) {
        if self.status & FEATURES_OK == 0 {
            return;
        }
        let Some(queue) = self.queues.get_mut(self.queue_sel as usize) else {
            return;
        };
        let queue = &mut queue.config;
        if queue.ready() {
            return;
        }
        match offset {
            VIRTIO_MMIO_QUEUE_NUM => match u16::try_from(value) {
                Ok(size) => queue.set_size(size),
                Err(_) => TOLD.tell(|| {
                    tracing::warn!(value, "guest set an impossible virtqueue size");
                }),
            },
            VIRTIO_MMIO_QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => queue.set_avail_ring_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.set_avail_ring_address(None, Some(value)),
            VIRTIO_MMIO_QUEUE_USED_LOW => queue.set_used_ring_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_USED_HIGH => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }

    /// A queue becomes ready only if all of it lies in RAM; the driver reads
    /// `QueueReady` back to learn that (4.2.3.2).
    fn set_ready(&mut self, value: u32) {
        let index = self.queue_sel as usize;
        if self.queues.get(index).is_none() || self.status & FEATURES_OK == 0 {
            return;
        }
        if value & 1 == 0 {
            self.stop_queue(index);
            self.queues[index].config.set_ready(false);
        } else if self.status & DRIVER_OK == 0 {
            // Queues that come late, after DRIVER_OK, are not allowed (3.1.1).
            let queue = &mut self.queues[index].config;
            queue.set_ready(true);
            if !queue.is_valid(&*self.memory.snapshot()) {
                TOLD.tell(|| tracing::warn!(index, "guest set up a virtqueue outside its RAM"));
                queue.set_ready(false);
            }
        }
    }

    /// The initialisation sequence of 3.1.1. Bits are only added, step by step; 0 resets.
    fn set_status(&mut self, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
        if self.status & !value & !NEEDS_RESET != 0 {
            let old = self.status;
            TOLD.tell(|| {
                tracing::warn!(
                    old,
                    new = value,
                    "guest cleared a virtio status bit without a reset"
                );
            });
            return;
        }
        let added = value & !self.status;
        self.status |= added & FAILED;
        for (bit, needs) in [
            (ACKNOWLEDGE, 0),
            (DRIVER, ACKNOWLEDGE),
            (FEATURES_OK, DRIVER),
            (DRIVER_OK, FEATURES_OK),
        ] {
            if added & bit == 0 || self.status & needs != needs {
                continue;
            }
            match bit {
                FEATURES_OK => self.accept_features(),
                DRIVER_OK => self.start(),
                _ => self.status |= bit,
            }
        }
    }

    fn accept_features(&mut self) {
        let taken = self.driver_features;
        let required = 1 << VIRTIO_F_VERSION_1;
        if taken & !self.offered() != 0 || taken & required == 0 {
            TOLD.tell(|| {
                tracing::warn!(
                    taken = format_args!("{taken:#x}"),
                    offered = format_args!("{:#x}", self.offered()),
                    "guest chose virtio features that cannot be"
                );
            });
            return;
        }
        match self.device.set_features(taken & self.device.features()) {
            Ok(()) => self.status |= FEATURES_OK,
            Err(error) => report("virtio features refused", &error),
        }
    }

    fn start(&mut self) {
        self.status |= DRIVER_OK;
        for index in 0..self.queues.len() {
            if !self.queues[index].config.ready() {
                continue;
            }
            if let Err(error) = self.start_queue(index) {
                report("virtqueue cannot be started", error.as_ref());
                self.fail();
                return;
            }
        }
    }

    fn start_queue(&mut self, index: usize) -> Result<(), Box<dyn std::error::Error>> {
        let queue = &mut self.queues[index];
        // A notification from before this moment asks for what start-up looks at anyway.
        let _ = queue.kick.read();
        let setup = QueueSetup {
            size: queue.config.size(),
            desc_table: queue.config.desc_table(),
            avail_ring: queue.config.avail_ring(),
            used_ring: queue.config.used_ring(),
            kick: queue.kick.try_clone()?,
            call: self.call.try_clone()?,
        };
        self.device.start_queue(index, setup)?;
        queue.running = true;
        Ok(())
    }

    fn stop_queue(&mut self, index: usize) {
        if !std::mem::take(&mut self.queues[index].running) {
            return;
        }
        if let Err(error) = self.device.stop_queue(index) {
            report("virtqueue cannot be stopped", &error);
        }
    }

    /// Tells the driver, if there is one, that only a reset helps (2.1.2).
    pub fn ask_for_reset(&mut self) {
        if self.status & DRIVER != 0 {
            self.fail();
        }
    }

    /// Tells the driver, if there is one, that the device's configuration space has changed.
    pub fn config_has_changed(&mut self) {
        self.config_generation = self.config_generation.wrapping_add(1);
        if self.status & DRIVER_OK != 0 {
            self.raise_config_change();
        }
    }

    fn fail(&mut self) {
        self.status |= NEEDS_RESET;
        self.raise_config_change();
    }

    fn raise_config_change(&mut self) {
        self.config_change = true;
        if let Err(error) = self.call.write(1) {
            report("cannot raise the configuration interrupt", &error);
        }
    }
}

impl<D: VirtioDevice> BusDevice for VirtioMmio<D> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        // The bus keeps offsets within the window of one page.
        let offset = offset as u32;
        if let Some(offset) = offset.checked_sub(VIRTIO_MMIO_CONFIG) {
            self.device.read_config(offset, data);
        } else if data.len() == 4 && offset.is_multiple_of(4) {
            data.copy_from_slice(&self.read_register(offset).to_le_bytes());
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let offset = offset as u32;
        if let Some(offset) = offset.checked_sub(VIRTIO_MMIO_CONFIG) {
            if self.status & DRIVER != 0 {
                self.device.write_config(offset, data);
            }
        } else if offset.is_multiple_of(4)
            && let Ok(value) = data.try_into()
        {
            self.write_register(offset, u32::from_le_bytes(value));
        }
    }
}

/// Half of a 64-bit feature set; selectors beyond 1 select nothing.
fn half(features: u64, selector: u32) -> u32 {
    match selector {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

fn report(what: &str, error: &dyn std::error::Error) {
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    TOLD.tell(|| tracing::warn!("{what}: {error}: {cause}"));
}

#[cfg(test)]
#[path = "virtio_mmio_tests.rs"]
mod tests;
