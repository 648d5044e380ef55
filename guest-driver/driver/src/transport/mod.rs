//! How the driver reaches the device's registers (virtio 2.1 to 2.4, 4.2).
//!
//! A [`Transport`] carries no knowledge of Byway. It must not cache what the device may change.

mod mmio;

pub use mmio::MmioTransport;

use crate::Error;

/// Bits of the device status (virtio 2.1).
pub mod status {
    /// The guest noticed the device.
    pub const ACKNOWLEDGE: u32 = 1;
    /// The guest knows how to drive it.
    pub const DRIVER: u32 = 2;
    /// The driver is ready.
    pub const DRIVER_OK: u32 = 4;
    /// Feature negotiation is complete.
    pub const FEATURES_OK: u32 = 8;
    /// The device met an error from which it cannot recover.
    pub const NEEDS_RESET: u32 = 64;
    /// The driver gave up.
    pub const FAILED: u32 = 128;
}

/// Feature bit: the device is not a legacy one (virtio 6).
pub const F_VERSION_1: u64 = 1 << 32;

/// Where the parts of a split virtqueue lie, guest-physical (virtio 2.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VirtqueueAddresses {
    /// Entries.
    pub size: u16,
    /// Descriptor table.
    pub descriptors: u64,
    /// Available ring, written by the driver.
    pub driver: u64,
    /// Used ring, written by the device.
    pub device: u64,
}

/// Access to one virtio device.
pub trait Transport {
    /// Checks that there is a device of a kind that this transport can drive, changing nothing.
    ///
    /// # Errors
    /// [`Error::NotVirtio`], [`Error::TransportVersion`] or [`Error::NoDevice`].
    fn probe(&mut self) -> Result<(), Error>;

    /// Virtio device id (virtio 5); see [`byway_protocols::config::VIRTIO_IDS`].
    fn device_id(&mut self) -> u32;

    /// Reads the device status (virtio 2.1).
    fn status(&mut self) -> u32;

    /// Writes the device status; 0 resets the device, which is done once it reads as 0.
    fn set_status(&mut self, status: u32);

    /// Features that the device offers (virtio 2.2).
    fn device_features(&mut self) -> u64;

    /// Features that the driver accepts.
    fn set_driver_features(&mut self, features: u64);

    /// Most entries of a virtqueue; 0 when it is absent or in use.
    fn queue_size_max(&mut self, queue: u16) -> u16;

    /// Sets a virtqueue up and enables it (virtio 4.2.3.2).
    fn enable_queue(&mut self, queue: u16, addresses: &VirtqueueAddresses);

    /// Tells the device to look at a virtqueue (virtio 4.2.3.3).
    fn notify(&mut self, queue: u16);

    /// Reads and acknowledges the causes of an interrupt: bit 0 used buffers, bit 1
    /// configuration change (virtio 4.2.3.4).
    fn acknowledge_interrupt(&mut self) -> u32;

    /// Four bytes of the device's configuration space (virtio 2.5); `offset` is a multiple of 4.
    fn config_u32(&mut self, offset: usize) -> u32;
}
