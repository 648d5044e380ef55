//! Two devices of the standard over the same transport and virtqueue: a disk ([`Block`]) and a network interface
//! ([`Net`]). For kernels that have no drivers of their own, as the bare-metal guest's, which shows by them what
//! Byway is compared with.
//!
//! As in all of this crate nothing that a device writes is believed before it was checked. Neither driver
//! sleeps or waits: [`Block::arm`] and [`Net::arm`] say whether there is something to do already, and if not,
//! an interrupt will come. Event indices (virtio 2.7.7.1) are used where the device has them, so that neither
//! side disturbs the other while it is at work anyway. There is no way back: a device keeps its memory until the machine is reset.

mod block;
mod net;

pub use crate::virtqueue::Buffer;
pub use block::{Block, Finished, PARTS_MAX, READS_MAX, SECTOR_BYTES};
pub use net::{FRAME_BYTES_MAX, Frame, Net, RECEIVE_BUFFERS, SendBuffer, TRANSMIT_BUFFERS};

use crate::error::Error;
use crate::hal::Hal;
use crate::handshake;
use crate::transport::Transport;

/// Feature bit: notifications and interrupts go by event indices (virtio 6).
const F_EVENT_IDX: u64 = 1 << 29;
/// Longest wait for a reset, in nanoseconds.
const RESET_NS_MAX: u64 = 2_000_000_000;

/// The way of a device with id `expected` to negotiated features; says whether it has event indices.
fn begin(
    transport: &mut impl Transport,
    hal: &mut impl Hal,
    expected: u32,
    features: u64,
) -> Result<bool, Error> {
    transport.probe()?;
    let found = transport.device_id();
    if found != expected {
        return Err(Error::DeviceId { found, expected });
    }
    handshake::reset(transport, hal, RESET_NS_MAX)?;
    let taken = handshake::negotiate(transport, features | F_EVENT_IDX)?;
    Ok(taken & F_EVENT_IDX != 0)
}
