//! Where a command's data is: PRP entries and SGLs, checked (sections 4.3 and 4.4).

use crate::dma::{BusError, Dma};
use crate::layout::{Command, PAGE_BYTES, SglDescriptor, Status};

/// A piece of a command's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// `None`: a bit bucket.
    pub(super) address: Option<u64>,
    pub(super) length: u64,
}

/// Descriptors of an SGL that are looked at, and segments: as many as any transfer can need,
/// and more.
const DESCRIPTORS_MAX: usize = 1024;
const SEGMENTS_MAX: usize = 64;

impl From<BusError> for Status {
    fn from(_: BusError) -> Self {
        Self::DATA_TRANSFER_ERROR
    }
}

/// The pieces of `bytes` bytes of data, not 0, by PRP.
pub(super) fn prp<D: Dma>(
    dma: &D,
    [first, second]: [u64; 2],
    bytes: u64,
) -> Result<Vec<Piece>, Status> {
    if !first.is_multiple_of(4) {
        return Err(Status::PRP_OFFSET_INVALID.do_not_retry());
    }
    let mut pieces = Vec::new();
    let mut left = bytes;
    let mut take = |address: u64, room: u64| {
        let length = left.min(room);
        pieces.push(Piece {
            address: Some(address),
            length,
        });
        left -= length;
        left
    };
    let mut left = take(first, PAGE_BYTES - first % PAGE_BYTES);
    if left == 0 {
        return Ok(pieces);
    }
    if left <= PAGE_BYTES {
        if !second.is_multiple_of(PAGE_BYTES) {
            return Err(Status::PRP_OFFSET_INVALID.do_not_retry());
        }
        take(second, PAGE_BYTES);
        return Ok(pieces);
    }
    if !second.is_multiple_of(8) {
        return Err(Status::PRP_OFFSET_INVALID.do_not_retry());
    }
    let mut list = second;
    // Each turn takes a page of data or is one of few that follow a list.
    while left != 0 {
        let mut entry = [0; 8];
        dma.read(list, &mut entry)?;
        let entry = u64::from_le_bytes(entry);
        let is_last = list % PAGE_BYTES == PAGE_BYTES - 8;
        if is_last && left > PAGE_BYTES {
            // The last entry of a list page names the next list.
            if !entry.is_multiple_of(PAGE_BYTES) {
                return Err(Status::PRP_OFFSET_INVALID.do_not_retry());
            }
            list = entry;
            continue;
        }
        if !entry.is_multiple_of(PAGE_BYTES) {
            return Err(Status::PRP_OFFSET_INVALID.do_not_retry());
        }
        left = take(entry, PAGE_BYTES);
        list += 8;
    }
    Ok(pieces)
}

/// The same by SGL. Bit buckets count where data goes to the host, and only there.
pub(super) fn sgl<D: Dma>(
    dma: &D,
    first: SglDescriptor,
    bytes: u64,
    to_host: bool,
) -> Result<Vec<Piece>, Status> {
    let mut pieces = Vec::new();
    let mut found = 0;
    let mut add = |d: &SglDescriptor| -> Result<(), Status> {
        match d.kind {
            SglDescriptor::DATA => {
                found += u64::from(d.length);
                pieces.push(Piece {
                    address: Some(d.address),
                    length: d.length.into(),
                });
            }
            SglDescriptor::BIT_BUCKET => {
                if to_host {
                    found += u64::from(d.length);
                    pieces.push(Piece {
                        address: None,
                        length: d.length.into(),
                    });
                }
            }
            _ => return Err(Status::SGL_TYPE_INVALID.do_not_retry()),
        }
        Ok(())
    };
    let mut next = match first.kind {
        SglDescriptor::SEGMENT | SglDescriptor::LAST_SEGMENT => Some(first),
        _ => {
            add(&first)?;
            None
        }
    };
    let mut segments = 0;
    let mut descriptors = 0;
    while let Some(segment) = next.take() {
        let is_last = segment.kind == SglDescriptor::LAST_SEGMENT;
        if segment.length == 0 || !segment.length.is_multiple_of(16) {
            return Err(Status::INVALID_SGL_SEGMENT.do_not_retry());
        }
        let count = segment.length as usize / 16;
        segments += 1;
        descriptors += count;
        if segments > SEGMENTS_MAX || descriptors > DESCRIPTORS_MAX {
            return Err(Status::INVALID_SGL_COUNT.do_not_retry());
        }
        for i in 0..count {
            let mut raw = [0; 16];
            let at = segment.address.checked_add(16 * i as u64);
            dma.read(at.ok_or(Status::DATA_TRANSFER_ERROR)?, &mut raw)?;
            let d = SglDescriptor::unpack(&raw);
            let is_segment = matches!(d.kind, SglDescriptor::SEGMENT | SglDescriptor::LAST_SEGMENT);
            if is_segment {
                // Only at the end of a segment that is not the last.
                if is_last || i + 1 != count {
                    return Err(Status::INVALID_SGL_SEGMENT.do_not_retry());
                }
                next = Some(d);
            } else {
                if !is_last && i + 1 == count {
                    return Err(Status::INVALID_SGL_SEGMENT.do_not_retry());
                }
                add(&d)?;
            }
        }
    }
    if found != bytes {
        // SGLS says that lengths have to be exact.
        return Err(Status::SGL_LENGTH_INVALID.do_not_retry());
    }
    Ok(pieces)
}

/// The pieces of a command's data. Admin commands have PRPs only.
pub(super) fn pieces<D: Dma>(
    dma: &D,
    command: &Command,
    bytes: u64,
    to_host: bool,
    takes_sgl: bool,
) -> Result<Vec<Piece>, Status> {
    match command.psdt() {
        0 => prp(dma, command.prp(), bytes),
        1 | 2 if takes_sgl => sgl(dma, command.sgl(), bytes, to_host),
        _ => Err(Status::INVALID_FIELD.do_not_retry()),
    }
}

/// Copies data to the host.
pub(super) fn scatter<D: Dma>(dma: &D, pieces: &[Piece], from: &[u8]) -> Result<(), Status> {
    let mut at = 0;
    for piece in pieces {
        let part = &from[at..at + piece.length as usize];
        if let Some(address) = piece.address {
            dma.write(address, part)?;
        }
        at += part.len();
    }
    Ok(())
}

/// Copies data from the host.
pub(super) fn gather<D: Dma>(dma: &D, pieces: &[Piece], into: &mut [u8]) -> Result<(), Status> {
    let mut at = 0;
    for piece in pieces {
        let part = &mut into[at..at + piece.length as usize];
        if let Some(address) = piece.address {
            dma.read(address, part)?;
        }
        at += part.len();
    }
    Ok(())
}
