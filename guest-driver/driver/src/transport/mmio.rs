//! virtio over MMIO, version 2 (virtio 4.2).
//!
//! Owns the register offsets. Each access may cost a VM exit, so nothing is read twice.

use super::{Transport, VirtqueueAddresses};
use crate::Error;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};

/// Register offsets in bytes (virtio 4.2.2).
mod register {
    pub(super) const MAGIC: usize = 0x000;
    pub(super) const VERSION: usize = 0x004;
    pub(super) const DEVICE_ID: usize = 0x008;
    pub(super) const DEVICE_FEATURES: usize = 0x010;
    pub(super) const DEVICE_FEATURES_SEL: usize = 0x014;
    pub(super) const DRIVER_FEATURES: usize = 0x020;
    pub(super) const DRIVER_FEATURES_SEL: usize = 0x024;
    pub(super) const QUEUE_SEL: usize = 0x030;
    pub(super) const QUEUE_NUM_MAX: usize = 0x034;
    pub(super) const QUEUE_NUM: usize = 0x038;
    pub(super) const QUEUE_READY: usize = 0x044;
    pub(super) const QUEUE_NOTIFY: usize = 0x050;
    pub(super) const INTERRUPT_STATUS: usize = 0x060;
    pub(super) const INTERRUPT_ACK: usize = 0x064;
    pub(super) const STATUS: usize = 0x070;
    pub(super) const QUEUE_DESC: usize = 0x080;
    pub(super) const QUEUE_DRIVER: usize = 0x090;
    pub(super) const QUEUE_DEVICE: usize = 0x0a0;
    pub(super) const CONFIG: usize = 0x100;
}

/// "virt", little-endian.
const MAGIC: u32 = 0x7472_6976;
/// Not legacy.
const VERSION: u32 = 2;
/// Bytes of registers, Byway's configuration space included.
pub(super) const REGISTER_BYTES: usize = 0x108;

/// The registers of a virtio-mmio device.
#[derive(Debug)]
pub struct MmioTransport {
    base: NonNull<u32>,
}

// SAFETY: the registers belong to this value alone (`new`), and reach the device from any CPU.
unsafe impl Send for MmioTransport {}

impl MmioTransport {
    /// The device whose registers are mapped at `base`.
    ///
    /// # Safety
    /// `base` is aligned to 4 and maps at least 264 bytes of device registers, uncached, for as long
    /// as this value lives, and nobody else drives that device.
    #[must_use]
    pub const unsafe fn new(base: NonNull<u8>) -> Self {
        Self { base: base.cast() }
    }

    fn read(&self, offset: usize) -> u32 {
        debug_assert!(offset.is_multiple_of(4) && offset + 4 <= REGISTER_BYTES);
        // SAFETY: inside the registers that `new` was promised; volatile, a device register.
        unsafe { self.base.add(offset / 4).read_volatile() }
    }

    fn write(&mut self, offset: usize, value: u32) {
        debug_assert!(offset.is_multiple_of(4) && offset + 4 <= REGISTER_BYTES);
        // SAFETY: as for `read`.
        unsafe { self.base.add(offset / 4).write_volatile(value) }
    }

    fn write_address(&mut self, offset: usize, address: u64) {
        self.write(offset, address as u32);
        self.write(offset + 4, (address >> 32) as u32);
    }
}

impl Transport for MmioTransport {
    fn probe(&mut self) -> Result<(), Error> {
        let found = self.read(register::MAGIC);
        if found != MAGIC {
            return Err(Error::NotVirtio { found });
        }
        let found = self.read(register::VERSION);
        if found != VERSION {
            return Err(Error::TransportVersion { found });
        }
        if self.device_id() == 0 {
            return Err(Error::NoDevice);
        }
        Ok(())
    }

    fn device_id(&mut self) -> u32 {
        self.read(register::DEVICE_ID)
    }

    fn status(&mut self) -> u32 {
        self.read(register::STATUS)
    }

    fn set_status(&mut self, status: u32) {
        self.write(register::STATUS, status);
    }

    fn device_features(&mut self) -> u64 {
        self.write(register::DEVICE_FEATURES_SEL, 0);
        let low = self.read(register::DEVICE_FEATURES);
        self.write(register::DEVICE_FEATURES_SEL, 1);
        let high = self.read(register::DEVICE_FEATURES);
        u64::from(low) | u64::from(high) << 32
    }

    fn set_driver_features(&mut self, features: u64) {
        self.write(register::DRIVER_FEATURES_SEL, 0);
        self.write(register::DRIVER_FEATURES, features as u32);
        self.write(register::DRIVER_FEATURES_SEL, 1);
        self.write(register::DRIVER_FEATURES, (features >> 32) as u32);
    }

    fn queue_size_max(&mut self, queue: u16) -> u16 {
        self.write(register::QUEUE_SEL, u32::from(queue));
        if self.read(register::QUEUE_READY) != 0 {
            return 0;
        }
        u16::try_from(self.read(register::QUEUE_NUM_MAX)).unwrap_or(u16::MAX)
    }

    fn enable_queue(&mut self, queue: u16, addresses: &VirtqueueAddresses) {
        self.write(register::QUEUE_SEL, u32::from(queue));
        self.write(register::QUEUE_NUM, u32::from(addresses.size));
        self.write_address(register::QUEUE_DESC, addresses.descriptors);
        self.write_address(register::QUEUE_DRIVER, addresses.driver);
        self.write_address(register::QUEUE_DEVICE, addresses.device);
        self.write(register::QUEUE_READY, 1);
    }

    fn notify(&mut self, queue: u16) {
        // What was written to memory before must be visible to whoever the register wakes.
        fence(Ordering::SeqCst);
        self.write(register::QUEUE_NOTIFY, u32::from(queue));
    }

    fn acknowledge_interrupt(&mut self) -> u32 {
        let causes = self.read(register::INTERRUPT_STATUS) & 3;
        if causes != 0 {
            self.write(register::INTERRUPT_ACK, causes);
        }
        causes
    }

    fn config_u32(&mut self, offset: usize) -> u32 {
        self.read(register::CONFIG + offset)
    }
}
