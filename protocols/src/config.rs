//! The device's configuration space (SPEC section 9): 8 bytes, so that QEMU's
//! vhost-user-gpio device, whose space has just that size, can carry it.

use crate::wire::wire_struct;

wire_struct! {
    /// What the driver checks before anything else, since the virtio id is configurable.
    pub struct ConfigSpace: 8 align 4 {
        /// [`MAGIC`].
        magic: u32 = 0,
        /// Newest ABI version that the engine speaks.
        version: u32 = 4,
    }
}

/// "BYWY" in ASCII, little-endian.
pub const MAGIC: u32 = 0x5957_5942;

/// Virtio ids that a driver looks at: QEMU's GPIO slot and the id that QEMU's generic
/// vhost-user test device is given by default in this project's documentation.
pub const VIRTIO_IDS: [u32; 2] = [41, 0x3fff];

/// Index of the control virtqueue; its kick is also the doorbell.
pub const CONTROL_QUEUE: u16 = 0;
/// Index of the event virtqueue.
pub const EVENT_QUEUE: u16 = 1;
/// Number of virtqueues.
pub const QUEUE_COUNT: u16 = 2;
