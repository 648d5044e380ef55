//! The Byway device: a [`Domain`] of the engine behind the virtio trait.
//!
//! Pure adaptation, no state of its own. Transfers go between guest memory and the
//! engine's workers; the kick and call eventfds bypass this process' code as well.

use byway_engine::interface::{Domain, DomainError, Vring};

use super::virtio::{DeviceError, QueueSetup, VirtioDevice};

/// Virtio id of the Byway device where nothing else is configured: the one that stock
/// VMMs can offer over vhost-user. Drivers tell it by magic and version in config space.
pub const DEFAULT_DEVICE_ID: u32 = 41;

/// The engine's device side of one VM.
pub struct BywayDevice {
    domain: Box<dyn Domain>,
    device_id: u32,
}

impl BywayDevice {
    /// Offers `domain` under the virtio id `device_id`.
    pub fn new(domain: Box<dyn Domain>, device_id: u32) -> Self {
        Self { domain, device_id }
    }

    /// The domain itself, for memory regions and pausing.
    pub fn domain_mut(&mut self) -> &mut dyn Domain {
        self.domain.as_mut()
    }
}

impl VirtioDevice for BywayDevice {
    fn device_id(&self) -> u32 {
        self.device_id
    }

    fn features(&self) -> u64 {
        self.domain.features()
    }

    fn set_features(&mut self, features: u64) -> Result<(), DeviceError> {
        self.domain.set_features(features).map_err(refused)
    }

    fn queue_count(&self) -> usize {
        self.domain.queue_count()
    }

    fn queue_max_size(&self) -> u16 {
        self.domain.queue_max_size()
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        self.domain.read_config(offset, data);
    }

    fn start_queue(&mut self, index: usize, queue: QueueSetup) -> Result<(), DeviceError> {
        let vring = Vring {
            size: queue.size,
            desc_table: queue.desc_table,
            avail_ring: queue.avail_ring,
            used_ring: queue.used_ring,
            base: 0,
            kick: queue.kick,
            call: queue.call,
        };
        self.domain.start_vring(index, vring).map_err(refused)
    }

    fn stop_queue(&mut self, index: usize) -> Result<(), DeviceError> {
        self.domain.stop_vring(index).map(drop).map_err(refused)
    }

    fn reset(&mut self) {
        self.domain.reset();
    }
}

fn refused(error: DomainError) -> DeviceError {
    DeviceError {
        what: "the engine refused".to_owned(),
        source: Some(Box::new(error)),
    }
}
