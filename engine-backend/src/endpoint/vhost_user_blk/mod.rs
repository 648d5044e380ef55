//! A vhost-user-blk device, driven by the engine: the front end that a VMM would be.
//!
//! [`Disk::open`] connects (`link`), reads and checks what the device is like (`config`), and
//! hands it two pieces of memory, each a sealed memfd that no other device ever sees: staging,
//! and the virtqueue (`ring`) with the requests' headers. From then on [`Disk`] turns requests
//! into descriptor chains, and used entries into outcomes.
//!
//! The device shares the ring and can write anything into it at any time. What is read from
//! there is read once and checked against what the engine remembers; the first thing that
//! cannot be makes the device gone, with the reason. Descriptors and headers are written and
//! never read back.

mod config;
mod disk;
mod link;
mod ring;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use disk::{Disk, SHORT_READ};

/// Where the device sees its staging memory.
pub const STAGING_IOVA: u64 = 1 << 32;
/// Where it sees the memory of its virtqueue.
const QUEUE_IOVA: u64 = 2 << 32;
/// Most requests in flight: with three descriptors each they fit a virtqueue of 256, which
/// every implementation takes.
pub const DEPTH_MAX: u16 = 85;

/// How a device is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Requests in flight, 1 to [`DEPTH_MAX`].
    pub depth: u16,
    /// Most bytes of one request.
    pub transfer_bytes_max: u32,
    /// How long it may take to answer, a message or a request, until it counts as gone.
    pub timeout: Duration,
    /// Refuse to write, whatever the device permits.
    pub read_only: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            depth: 64,
            transfer_bytes_max: 1 << 20,
            // As long as Linux waits for a disk.
            timeout: Duration::from_secs(30),
            read_only: false,
        }
    }
}
