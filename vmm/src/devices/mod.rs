//! What a VM's CPUs find on their port and memory buses.
//!
//! Devices here are set-up and slow paths only. A transfer never passes
//! through this module.

pub mod block;
pub mod bus;
pub mod byway;
pub mod memory;
pub mod net;
pub mod nvme;
pub mod power;
pub mod rng;
pub mod seat;
pub mod serial;
pub mod served_queue;
pub mod settings;
#[cfg(test)]
mod test_driver;
pub mod virtio;
pub mod virtio_mmio;
