//! What a VM's CPUs find on their port and memory buses.
//!
//! Devices here are set-up and slow paths only. A transfer never passes
//! through this module.

pub mod bus;
pub mod byway;
pub mod power;
pub mod serial;
pub mod settings;
pub mod virtio;
pub mod virtio_mmio;
