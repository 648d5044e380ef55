//! virtio-net (virtio 1.2, section 5.1) on a TAP interface of the host, or a socket of packets: an address, frames both ways, and nothing
//! that saves the guest work; an offload that is not offered is one less thing to get wrong.
//!
//! A frame that the guest sends goes from its RAM to the host's kernel by one `writev`, which copies it once. One
//! that it receives is read into a buffer of this process first, because only then is it known whether
//! it fits into what the guest provides.

mod device;
mod socket;
mod tap;
#[cfg(test)]
mod tests;

pub use device::NetDevice;
pub use tap::{Tap, TapError};

/// Descriptors of a queue.
pub const QUEUE_SIZE: u16 = 256;
/// Bytes of `virtio_net_hdr` before each frame (5.1.6).
pub const HEADER_BYTES: u64 = 12;
/// Shortest frame: two addresses and a type.
pub const FRAME_BYTES_MIN: u64 = 14;
/// Longest frame that goes through: what a TAP interface takes.
pub const FRAME_BYTES_MAX: u64 = 65_535;
