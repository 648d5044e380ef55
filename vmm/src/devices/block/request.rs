//! A request, out of a chain that a guest wrote: parsed once, typed afterwards (virtio 1.2, 5.2.6).

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use super::{DISCARD_SECTORS_MAX, RANGES_MAX, REQUEST_BYTES_MAX, SECTOR_BYTES, ZEROES_SECTORS_MAX};
use crate::devices::served_queue::{Chain, bytes_of};

/// `virtio_blk_req` before its data: type, reserved, sector.
const HEADER_BYTES: u64 = 16;
/// The status after it.
const STATUS_BYTES: u64 = 1;
/// `virtio_blk_discard_write_zeroes`: sector, number of sectors, flags.
const RANGE_BYTES: u64 = 16;
/// Bytes of a disk's name.
pub const ID_BYTES: usize = 20;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = VIRTIO_BLK_S_OK as u8,
    /// Not done, or wrong.
    Error = VIRTIO_BLK_S_IOERR as u8,
    /// Of no kind that this device knows.
    Unsupported = VIRTIO_BLK_S_UNSUPP as u8,
}

/// A range of the disk in bytes; it lies on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Where it begins.
    pub at: u64,
    /// How long it is.
    pub len: u64,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Read into all of the writable parts but the status.
    Read(Range),
    /// Write what is readable after the header.
    Write(Range),
    /// Make what was written last.
    Flush,
    /// Write the disk's name.
    Id,
    /// Forget what is in these.
    Discard(Vec<Range>),
    /// Have zeros in these; `unmap`: the room may be given back.
    Zero(Vec<(Range, bool)>),
}

/// Offset of the data among the readable parts.
pub const DATA_AT: u64 = HEADER_BYTES;

/// Bytes of the writable parts before the status, or `None` where not even that fits.
pub fn data_room(chain: &Chain) -> Option<u64> {
    bytes_of(chain.writable()).checked_sub(STATUS_BYTES)
}

/// Reads a request for a disk of `disk_bytes`.
///
/// # Errors
/// The status to answer with.
pub fn parse(chain: &Chain, disk_bytes: u64) -> Result<Request, Status> {
    let mut header = [0; HEADER_BYTES as usize];
    if !chain.read(0, &mut header) {
        return Err(Status::Error);
    }
    let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let sector = le64(&header[8..]);
    let room = data_room(chain).ok_or(Status::Error)?;
    // The header was readable, so there are so many bytes.
    let data = bytes_of(chain.readable()) - HEADER_BYTES;
    match kind {
        VIRTIO_BLK_T_IN => transfer(sector, room, disk_bytes).map(Request::Read),
        VIRTIO_BLK_T_OUT => transfer(sector, data, disk_bytes).map(Request::Write),
        VIRTIO_BLK_T_FLUSH => Ok(Request::Flush),
        VIRTIO_BLK_T_GET_ID if room >= ID_BYTES as u64 => Ok(Request::Id),
        VIRTIO_BLK_T_GET_ID => Err(Status::Error),
        VIRTIO_BLK_T_DISCARD => {
            let ranges = ranges(chain, data, disk_bytes, DISCARD_SECTORS_MAX)?;
            // A range to discard has no flags (5.2.6.2).
            if ranges.iter().any(|(_, flags)| *flags != 0) {
                return Err(Status::Unsupported);
            }
            let ranges = ranges.into_iter().map(|(range, _)| range);
            Ok(Request::Discard(ranges.collect()))
        }
        VIRTIO_BLK_T_WRITE_ZEROES => {
            let ranges = ranges(chain, data, disk_bytes, ZEROES_SECTORS_MAX)?;
            let known = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
            if ranges.iter().any(|(_, flags)| flags & !known != 0) {
                return Err(Status::Unsupported);
            }
            let ranges = ranges.into_iter();
            Ok(Request::Zero(
                ranges.map(|(range, flags)| (range, flags != 0)).collect(),
            ))
        }
        _ => Err(Status::Unsupported),
    }
}

/// A range to read or write: whole sectors, no more than a request's most.
fn transfer(sector: u64, bytes: u64, disk_bytes: u64) -> Result<Range, Status> {
    if !bytes.is_multiple_of(SECTOR_BYTES) || bytes > REQUEST_BYTES_MAX {
        return Err(Status::Error);
    }
    on_disk(sector, bytes / SECTOR_BYTES, disk_bytes)
}

fn on_disk(sector: u64, sectors: u64, disk_bytes: u64) -> Result<Range, Status> {
    let end = sector.checked_add(sectors).ok_or(Status::Error)?;
    if end > disk_bytes / SECTOR_BYTES {
        return Err(Status::Error);
    }
    Ok(Range {
        at: sector * SECTOR_BYTES,
        len: sectors * SECTOR_BYTES,
    })
}

fn ranges(
    chain: &Chain,
    data: u64,
    disk_bytes: u64,
    sectors_max: u32,
) -> Result<Vec<(Range, u32)>, Status> {
    let count = data / RANGE_BYTES;
    if count == 0 || count > RANGES_MAX.into() || !data.is_multiple_of(RANGE_BYTES) {
        return Err(Status::Error);
    }
    (0..count)
        .map(|index| {
            let mut range = [0; RANGE_BYTES as usize];
            if !chain.read(DATA_AT + index * RANGE_BYTES, &mut range) {
                return Err(Status::Error);
            }
            let sectors = u32::from_le_bytes([range[8], range[9], range[10], range[11]]);
            let flags = u32::from_le_bytes([range[12], range[13], range[14], range[15]]);
            if sectors > sectors_max {
                return Err(Status::Error);
            }
            Ok((on_disk(le64(&range), sectors.into(), disk_bytes)?, flags))
        })
        .collect()
}

/// The first eight bytes as a number.
fn le64(bytes: &[u8]) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(number)
}
