//! What a transport needs to know of a virtio device.
//!
//! The transport ([`super::virtio_mmio`]) owns registers, negotiation and checking of
//! everything the guest writes; the device behind this trait sees only requests
//! that were checked. Section numbers are those of virtio 1.2.

use vmm_sys_util::eventfd::EventFd;

/// A virtqueue, checked and ready to be served. Addresses are guest-physical and lie
/// in RAM with the whole of their structure.
#[derive(Debug)]
pub struct QueueSetup {
    /// Number of descriptors: a power of two, no more than the device's maximum.
    pub size: u16,
    /// Descriptor table, 16-byte aligned.
    pub desc_table: u64,
    /// Available ring, 2-byte aligned.
    pub avail_ring: u64,
    /// Used ring, 4-byte aligned.
    pub used_ring: u64,
    /// Becomes readable when the guest notifies the queue.
    pub kick: EventFd,
    /// Raises the device's interrupt when written.
    pub call: EventFd,
}

/// A device refused something.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct DeviceError {
    /// What was tried.
    pub what: String,
    /// Why it failed.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Copies from a configuration space to where a guest reads it; bytes beyond its end read as 0.
pub fn read_config_bytes(config: &[u8], offset: u32, data: &mut [u8]) {
    for (at, byte) in (offset as usize..).zip(data) {
        *byte = config.get(at).copied().unwrap_or(0);
    }
}

/// A virtio device without its transport.
///
/// Calls come from vCPU threads under the transport's lock, in this order:
/// `set_features` once, `start_queue` for each queue, then `stop_queue`s and `reset`,
/// after which it may all start again. When `stop_queue` or `reset` returns, the
/// device accesses neither the queue nor buffers named in it.
pub trait VirtioDevice: Send {
    /// Device id (section 5).
    fn device_id(&self) -> u32;
    /// Feature bits offered; the transport adds `VIRTIO_F_VERSION_1`.
    fn features(&self) -> u64;
    /// Feature bits taken: a subset of [`Self::features`].
    ///
    /// # Errors
    /// When the device cannot work with this choice.
    fn set_features(&mut self, features: u64) -> Result<(), DeviceError>;
    /// Number of virtqueues.
    fn queue_count(&self) -> usize;
    /// Largest size of each: a power of two up to 32768.
    fn queue_max_size(&self) -> u16;
    /// Reads configuration space; bytes beyond its end read as 0.
    fn read_config(&self, offset: u32, data: &mut [u8]);
    /// Writes configuration space. Devices without writable fields ignore it.
    fn write_config(&mut self, _offset: u32, _data: &[u8]) {}
    /// Starts to serve a queue.
    ///
    /// # Errors
    /// When it cannot; the transport then reports `DEVICE_NEEDS_RESET`.
    fn start_queue(&mut self, index: usize, queue: QueueSetup) -> Result<(), DeviceError>;
    /// Stops to serve a queue.
    ///
    /// # Errors
    /// When there is no such queue.
    fn stop_queue(&mut self, index: usize) -> Result<(), DeviceError>;
    /// Back to the state after creation.
    fn reset(&mut self);
}
