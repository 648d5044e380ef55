#![doc = include_str!("../README.md")]
//!
//! # Inside
//!
//! [`Device`] is the way in; [`virtio`] has two devices of the standard for kernels that have no drivers of
//! their own. Below it stand the split virtqueue (private), a [`Transport`] that
//! reaches the device's registers, and a [`Hal`] by which the kernel gives memory, time and
//! idleness. Section numbers with "SPEC" are of Byway's specification (`protocols/SPEC.md`); those
//! with "virtio" are of Virtual I/O Device (VIRTIO) Version 1.2.
//!
//! The driver allocates nothing but what the `Hal` gives, holds no global state, and believes
//! nothing that the device writes before it has checked a private copy.
#![no_std]
#![deny(
    missing_docs,
    unsafe_op_in_unsafe_fn,
    clippy::undocumented_unsafe_blocks
)]

#[cfg(test)]
extern crate std;

pub mod device;
mod dma;
pub mod error;
pub mod hal;
pub mod handle;
mod handshake;
pub mod invalidation;
mod message;
pub mod rings;
#[cfg(test)]
mod tests;
pub mod transport;
pub mod virtio;
mod virtqueue;

pub use byway_protocols::{ControlStatus, Rights, Status};
pub use device::{
    Accepted, Bind, Blocks, CapabilityInfo, Derive, Device, DriverEvent, EngineInfo, Failure,
    Invalidation, KeyLoad, Name, Options, PageOutcome, PageRequest, Peer, PortCreate,
};
pub use error::{Broken, Error};
pub use hal::{DmaPages, Hal};
pub use handle::{CapSlot, ContextId, DomainId, OfferId, Pasid, QueueId};
pub use invalidation::{InvalidationPage, Stalled};
pub use rings::{NotDestroyed, OwnedQueue, RingAddresses, RingLayout};
pub use transport::{MmioTransport, Transport};
