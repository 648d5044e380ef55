//! [`Disk`]: requests into descriptor chains, used entries into outcomes (virtio 1.2,
//! section 5.2.6).

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_OK, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::config::{self, SECTOR};
use super::link::{Link, Queue, Region};
use super::ring::{Descriptor, Layout, NEXT, Ring, WRITE};
use super::{DEPTH_MAX, Options, QUEUE_IOVA, STAGING_IOVA};
use crate::endpoint::OpenError;
use crate::endpoint::device::{
    BlockDevice, Geometry, Outcome, Refused, Request, StagingRange, Token,
};
use crate::endpoint::in_flight::{InFlight, Work};
use crate::endpoint::limits::Limits;
use crate::endpoint::peer_memory::PeerMemory;
use crate::endpoint::staging::StagingMemory;

/// Descriptors of one request: header, data, status.
const CHAIN: u16 = 3;
/// Bytes between the headers of two requests: header and range, a cache line.
const HEADER_STRIDE: usize = 64;
/// Bytes of a request's header.
const HEADER_BYTES: usize = 16;
/// Bytes of a range to discard or zero.
const RANGE_BYTES: u32 = 16;
/// What a status byte is before the device writes it: no status of virtio's.
const UNWRITTEN: u8 = 0xff;
/// Told as the device's status when it said that all was well, but read less than asked.
pub const SHORT_READ: u16 = 0x100;

/// A vhost-user-blk device, attached.
///
/// After its death another is opened, with staging memory that is new: the former device may
/// have kept the old one.
#[derive(Debug)]
pub struct Disk {
    limits: Limits,
    options: Options,
    ring: Ring,
    memory: PeerMemory,
    /// Where headers and statuses begin in it.
    headers: usize,
    statuses: usize,
    /// Kept while the device may use it.
    _staging: Arc<StagingMemory>,
    requests: InFlight,
    link: Link,
    is_armed: bool,
    system_calls: u64,
    gone: Option<String>,
}

impl Disk {
    /// Connects to the device whose socket is at `path`, and gives it `staging` and nothing
    /// else. May block for as long as the device's time-out, for each of a few messages.
    ///
    /// # Errors
    /// See [`OpenError`]. The device may have been given the staging memory even then.
    pub fn open(
        path: &Path,
        options: &Options,
        staging: Arc<StagingMemory>,
    ) -> Result<Self, OpenError> {
        if options.depth == 0 || options.depth > DEPTH_MAX {
            return Err(OpenError::BadOption(format!(
                "{} requests at a time: expected 1 to {DEPTH_MAX}",
                options.depth
            )));
        }
        let (mut link, offer) = Link::connect(path, options.timeout)?;
        let read = config::read(offer.features, &offer.config, options);
        let what = read.map_err(|what| link.not_usable(what))?;

        let layout = Layout::new((CHAIN * options.depth).next_power_of_two());
        let headers = layout.end;
        let statuses = headers + HEADER_STRIDE * usize::from(options.depth);
        let bytes = (statuses + usize::from(options.depth)).next_multiple_of(4096);
        let memory = PeerMemory::new(c"byway-virtqueue", bytes as u64)?;
        let has_event_idx = config::has(offer.features, VIRTIO_RING_F_EVENT_IDX);
        let ring = Ring::new(memory.span().clone(), layout, has_event_idx);
        let regions = [
            Region {
                address: STAGING_IOVA,
                bytes: staging.bytes().into(),
                file: staging.fd(),
            },
            Region {
                address: QUEUE_IOVA,
                bytes: memory.bytes(),
                file: memory.fd(),
            },
        ];
        let queue = Queue {
            size: layout.size,
            descriptors: QUEUE_IOVA,
            avail: QUEUE_IOVA + layout.avail as u64,
            used: QUEUE_IOVA + layout.used as u64,
        };
        link.start(offer.features, regions, &queue)?;
        let limits = Limits {
            geometry: what.geometry,
            discard_blocks_max: what.discard_blocks_max,
            zero_blocks_max: what.write_zeroes_blocks_max,
            staging_bytes: staging.bytes(),
        };
        Ok(Self {
            limits,
            options: *options,
            ring,
            memory,
            headers,
            statuses,
            _staging: staging,
            requests: InFlight::new(options.depth),
            link,
            is_armed: false,
            system_calls: 0,
            gone: None,
        })
    }

    /// Makes the chain of a slot's piece and pushes it.
    fn issue(&mut self, slot: u16, work: &Work) {
        let span = self.memory.span();
        let sectors = u64::from(self.limits.geometry.block_bytes) / SECTOR;
        let header_at = self.headers + HEADER_STRIDE * usize::from(slot);
        let range_at = QUEUE_IOVA + (header_at + HEADER_BYTES) as u64;
        let staged = |at: StagingRange| STAGING_IOVA + u64::from(at.offset);
        let (code, data) = match work.request {
            Request::Read { at, .. } => (VIRTIO_BLK_T_IN, Some((staged(at), at.length, WRITE))),
            Request::Write { at, .. } => (VIRTIO_BLK_T_OUT, Some((staged(at), at.length, 0))),
            Request::Discard { .. } => (VIRTIO_BLK_T_DISCARD, Some((range_at, RANGE_BYTES, 0))),
            Request::WriteZeroes { .. } => {
                (VIRTIO_BLK_T_WRITE_ZEROES, Some((range_at, RANGE_BYTES, 0)))
            }
            // A comparison was refused before.
            Request::Flush | Request::Compare { .. } => (VIRTIO_BLK_T_FLUSH, None),
        };
        let sector = work.lba() * sectors;
        let is_range = matches!(
            work.request,
            Request::Discard { .. } | Request::WriteZeroes { .. }
        );
        if is_range {
            // Sectors fit: the device said how many at most, in 32 bits.
            let count = u64::from(work.piece) * sectors;
            span.store_u64(header_at + HEADER_BYTES, sector.to_le());
            span.store_u64(header_at + HEADER_BYTES + 8, count.to_le());
        }
        let sector = if is_range { 0 } else { sector };
        span.store_u64(header_at, u64::from(code).to_le());
        span.store_u64(header_at + 8, sector.to_le());
        let status_at = self.statuses + usize::from(slot);
        span.write_bytes(status_at, &[UNWRITTEN]);

        let head = CHAIN * slot;
        let status = head + 2;
        let set = |index, address, length, flags, next| {
            self.ring.set_descriptor(
                index,
                &Descriptor {
                    address,
                    length,
                    flags,
                    next,
                },
            );
        };
        let header = QUEUE_IOVA + header_at as u64;
        let behind_header = if data.is_some() { head + 1 } else { status };
        set(head, header, HEADER_BYTES as u32, NEXT, behind_header);
        if let Some((address, length, flags)) = data {
            set(head + 1, address, length, flags | NEXT, status);
        }
        set(status, QUEUE_IOVA + status_at as u64, 1, WRITE, 0);
        self.ring.push(head);
    }

    /// Takes one used entry. `Err`: the device made something up.
    fn take(&mut self, ended: &mut dyn FnMut(Token, Outcome)) -> Result<(), String> {
        let used = self.ring.take();
        let chain = u32::from(CHAIN);
        let slot = used.id / chain;
        let work = self.requests.get_mut(slot);
        let work = work
            .filter(|_| used.id.is_multiple_of(chain))
            .ok_or_else(|| {
                format!(
                    "it says that it used descriptor {}, where no request under way begins",
                    used.id
                )
            })?;
        let slot = slot as u16;
        let data_bytes = match work.request {
            Request::Read { at, .. } => at.length,
            _ => 0,
        };
        if used.length > data_bytes + 1 {
            return Err(format!(
                "it says that it wrote {} bytes, where there was room for {}",
                used.length,
                data_bytes + 1
            ));
        }
        let mut status = [0];
        let at = self.statuses + usize::from(slot);
        self.memory.span().read_bytes(at, &mut status);
        if status[0] == UNWRITTEN {
            return Err("it ended a request without writing its status".to_owned());
        }
        let block_bytes = self.limits.geometry.block_bytes;
        let outcome = if u32::from(status[0]) != VIRTIO_BLK_S_OK {
            work.failed(status[0].into(), block_bytes, 0)
        } else if used.length < data_bytes {
            let whole = used.length - used.length % block_bytes;
            work.failed(SHORT_READ, block_bytes, whole)
        } else {
            let max = match work.request {
                Request::Discard { .. } => self.limits.discard_blocks_max,
                _ => self.limits.zero_blocks_max,
            };
            if work.next(max) {
                let work = *work;
                self.issue(slot, &work);
                return Ok(());
            }
            Outcome::Done
        };
        let token = work.token;
        self.requests.remove(slot);
        ended(token, outcome);
        Ok(())
    }

    /// Takes what is in the used ring.
    fn take_all(&mut self, ended: &mut dyn FnMut(Token, Outcome)) -> Result<u16, String> {
        let waiting = self.ring.waiting();
        let shown = self.requests.len() - usize::from(self.ring.unpublished());
        if usize::from(waiting) > shown {
            return Err(format!(
                "it says that it used {waiting} chains, of the {shown} that it has"
            ));
        }
        for _ in 0..waiting {
            self.take(ended)?;
        }
        if waiting != 0 {
            self.ring.silence();
            self.flush_submissions();
        }
        Ok(waiting)
    }

    fn give_up(&mut self, reason: String) {
        if self.gone.is_none() {
            tracing::warn!("vhost-user-blk device {}: gone: {reason}", self.link.path());
            self.gone = Some(reason);
        }
        self.link.watch().cut();
    }
}

impl BlockDevice for Disk {
    fn geometry(&self) -> &Geometry {
        &self.limits.geometry
    }

    fn submit(&mut self, token: Token, request: &Request) -> Result<(), Refused> {
        if self.gone.is_some() {
            return Err(Refused::Gone);
        }
        let max = self
            .limits
            .piece_max(request)
            .ok_or(Refused::NotSupported)?;
        let inserted = self.requests.insert(token, request, max, Instant::now());
        let (slot, work) = inserted.ok_or(Refused::Full)?;
        self.issue(slot, &work);
        Ok(())
    }

    fn flush_submissions(&mut self) {
        if self.gone.is_none() && self.ring.publish() {
            self.system_calls += 1;
            self.link.watch().kick();
        }
    }

    fn poll(&mut self, ended: &mut dyn FnMut(Token, Outcome)) {
        if std::mem::take(&mut self.is_armed) {
            self.ring.silence();
            self.system_calls += 1;
            self.link.watch().hush();
        }
        if self.gone.is_none() {
            // First: what it did before it hung up was done.
            let is_lost = self.link.watch().is_lost();
            match self.take_all(ended) {
                Err(reason) => self.give_up(reason),
                Ok(_) if is_lost => self.give_up("it hung up".to_owned()),
                Ok(0) => {
                    if let Some(reason) = self.requests.overdue(self.options.timeout) {
                        self.give_up(reason);
                    }
                }
                Ok(_) => {}
            }
        }
        if self.gone.is_some() {
            self.requests.give_up(ended);
        }
    }

    fn system_calls(&self) -> u64 {
        self.system_calls
    }

    fn arm(&mut self) -> bool {
        self.is_armed = true;
        self.ring.arm() || self.gone.is_some() || self.link.watch().is_lost()
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.link.watch().wake_fd())
    }

    fn gone(&self) -> Option<&str> {
        self.gone.as_deref()
    }

    fn close(&mut self, _patience: Duration) {
        if self.gone.is_none() {
            self.gone = Some("closed".to_owned());
        }
        self.link.watch().cut();
    }
}
