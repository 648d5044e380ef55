//! virtio-blk (virtio 5.2): reads, several under way.

use super::{Buffer, begin};
use crate::dma::Dma;
use crate::error::{Broken, Error};
use crate::hal::Hal;
use crate::handshake;
use crate::transport::Transport;
use crate::virtqueue::Virtqueue;

/// Bytes of a sector, the unit of addresses (virtio 5.2.2).
pub const SECTOR_BYTES: u64 = 512;
/// Most reads under way.
pub const READS_MAX: usize = 16;
/// Most parts of memory of one read.
pub const PARTS_MAX: usize = 32;

/// Virtio id of a block device (virtio 5).
const ID: u32 = 2;
const QUEUE: u16 = 0;
/// Room for [`READS_MAX`] reads of one part, or for one of [`PARTS_MAX`].
const ENTRIES: usize = 64;
/// Type of a request that reads (virtio 5.2.6).
const TYPE_IN: u32 = 0;
/// Status of one that was carried out.
const STATUS_OK: u8 = 0;
/// No status of any request: what stands there before the device has written one.
const STATUS_NONE: u8 = 0xff;
/// Bytes of a request's header: type, reserved, sector.
const HEADER_BYTES: usize = 16;
/// Where the status bytes are in the page of requests, behind the headers.
const STATUSES: usize = 2048;

const _: () = assert!(Virtqueue::<ENTRIES>::BYTES <= crate::hal::PAGE_BYTES);
const _: () = assert!(READS_MAX * HEADER_BYTES <= STATUSES);
const _: () = assert!(PARTS_MAX + 2 <= ENTRIES && 3 * READS_MAX <= ENTRIES);

/// A read that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// What was given to [`Block::read`].
    pub token: u64,
    /// Whether all of it was read.
    pub is_read: bool,
}

#[derive(Debug, Clone, Copy)]
struct Read {
    token: u64,
    /// Bytes that the device is to write: data and status.
    room: u32,
}

/// A disk.
#[derive(Debug)]
pub struct Block<T> {
    transport: T,
    queue: Virtqueue<ENTRIES>,
    ring: Dma,
    /// Headers and status bytes.
    requests: Dma,
    reads: [Option<Read>; READS_MAX],
    /// Which of them each chain is, by its head.
    read_of: [usize; ENTRIES],
    sectors: u64,
    broken: Option<Broken>,
}

impl<T: Transport> Block<T> {
    /// Takes charge of a block device (virtio 3.1.1).
    ///
    /// # Errors
    /// When it is none, refuses, or there is no memory.
    pub fn attach(mut transport: T, hal: &mut impl Hal) -> Result<Self, Error> {
        let event_idx = begin(&mut transport, hal, ID, 0)?;
        handshake::check_queue(&mut transport, QUEUE, ENTRIES)?;
        let ring = Dma::new(hal.allocate(1).ok_or(Error::NoMemory)?);
        let Some(requests) = hal.allocate(1) else {
            // SAFETY: allocated above, and no device has heard of it.
            unsafe { hal.free(ring.into_pages()) };
            return Err(Error::NoMemory);
        };
        transport.enable_queue(QUEUE, &Virtqueue::<ENTRIES>::addresses(&ring));
        handshake::go(&mut transport);
        let (low, high) = (transport.config_u32(0), transport.config_u32(4));
        Ok(Self {
            transport,
            queue: Virtqueue::with_event_idx(event_idx),
            ring,
            requests: Dma::new(requests),
            reads: [None; READS_MAX],
            read_of: [0; ENTRIES],
            sectors: u64::from(low) | u64::from(high) << 32,
            broken: None,
        })
    }

    /// Sectors of the disk.
    #[must_use]
    pub const fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Reads under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.reads.iter().flatten().count()
    }

    /// Makes a read of what `parts` have room for, from `sector` on, available; [`Self::notify`] tells the device. False:
    /// there is no place for it before another one is over.
    ///
    /// # Errors
    /// When the device is broken.
    ///
    /// # Safety
    /// The memory is nobody else's until [`Self::finished`] has told of the read: the device writes there.
    pub unsafe fn read(
        &mut self,
        sector: u64,
        parts: &[Buffer],
        token: u64,
    ) -> Result<bool, Error> {
        if let Some(how) = self.broken {
            return Err(how.into());
        }
        let Some(place) = self.reads.iter().position(Option::is_none) else {
            return Ok(false);
        };
        let mut writable = [Buffer::default(); PARTS_MAX + 1];
        let count = parts.len().min(PARTS_MAX);
        writable[..count].copy_from_slice(&parts[..count]);
        let (header, status) = (place * HEADER_BYTES, STATUSES + place);
        writable[count] = Buffer {
            gpa: self.requests.gpa(status),
            bytes: 1,
        };
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&TYPE_IN.to_le_bytes());
        bytes[8..].copy_from_slice(&sector.to_le_bytes());
        self.requests.write(header, &bytes);
        self.requests.write(status, &[STATUS_NONE]);
        let readable = Buffer {
            gpa: self.requests.gpa(header),
            bytes: HEADER_BYTES as u32,
        };
        let writable = &writable[..=count];
        let Some(head) = self.queue.push(&self.ring, &[readable], writable) else {
            return Ok(false);
        };
        let room = writable.iter().map(|part| part.bytes);
        self.reads[place] = Some(Read {
            token,
            room: room.fold(0, u32::saturating_add),
        });
        self.read_of[usize::from(head)] = place;
        Ok(true)
    }

    /// Tells the device of what has become available, if it wants to be told: a VM exit then.
    pub fn notify(&mut self) {
        if self.queue.wants_notify(&self.ring) {
            self.transport.notify(QUEUE);
        }
    }

    /// The next read that is over.
    ///
    /// # Errors
    /// When the device is broken; what is under way stays so for ever.
    pub fn finished(&mut self) -> Result<Option<Finished>, Error> {
        if let Some(how) = self.broken {
            return Err(how.into());
        }
        let used = match self.queue.pop(&self.ring) {
            Ok(Some(used)) => used,
            Ok(None) => return Ok(None),
            Err(how) => {
                self.broken = Some(how);
                return Err(how.into());
            }
        };
        let place = self.read_of[usize::from(used.head)];
        // The queue has checked that the chain was under way, and with it the read.
        let Some(read) = self.reads[place].take() else {
            return Ok(None);
        };
        let mut status = [STATUS_NONE];
        self.requests.read(STATUSES + place, &mut status);
        Ok(Some(Finished {
            token: read.token,
            is_read: status == [STATUS_OK] && used.written == read.room,
        }))
    }

    /// Asks for an interrupt when the next read is over; true where one is over already.
    pub fn arm(&mut self) -> bool {
        self.queue.arm(&self.ring)
    }
}
