//! virtio-blk (virtio 1.2, section 5.2): a raw file or block device as a disk, with reads, writes, flushes,
//! discards and writing of zeros.
//!
//! One queue, one thread, `preadv` and `pwritev` between the file and guest RAM. A request is fetched once, checked
//! once and carried out as a `Request`; whatever a guest writes ends in a status of its own and in nothing else.

mod device;
mod disk;
mod overlay;
mod request;
#[cfg(test)]
mod tests;
mod transfer;

pub use device::BlockDevice;
pub use disk::{Disk, DiskError, DiskPlace, DiskStore, SharedDisk, unnamed_overlay};

/// Bytes of a sector, the unit of every address and size.
pub const SECTOR_BYTES: u64 = 512;
/// Descriptors of the queue.
pub const QUEUE_SIZE: u16 = 256;
/// Most data parts of one request.
pub const SEGMENTS_MAX: u32 = 126;
/// Most bytes of one data part.
pub const SEGMENT_BYTES_MAX: u32 = 256 << 10;
/// Most bytes of one request: what it takes a lock, and a pause or a reset waits for it.
pub const REQUEST_BYTES_MAX: u64 = SEGMENTS_MAX as u64 * SEGMENT_BYTES_MAX as u64;
/// Most ranges of one request to discard or to write zeros.
pub const RANGES_MAX: u32 = 16;
/// Most sectors of a range to discard.
pub const DISCARD_SECTORS_MAX: u32 = 1 << 21;
/// Most sectors of a range to fill with zeros, which may have to be written.
pub const ZEROES_SECTORS_MAX: u32 = 1 << 16;
