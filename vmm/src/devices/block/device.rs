//! The virtio-blk device: features, configuration space, and the loop that serves its queue.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{MutexGuard, PoisonError};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::{Bytes, GuestAddress};

use super::disk::{Disk, SharedDisk};
use super::request::{DATA_AT, ID_BYTES, Request, Status, data_room, parse};
use super::{
    DISCARD_SECTORS_MAX, QUEUE_SIZE, RANGES_MAX, SECTOR_BYTES, SEGMENT_BYTES_MAX, SEGMENTS_MAX,
    ZEROES_SECTORS_MAX,
};
use crate::devices::memory::DeviceMemory;
use crate::devices::seat::{Again, Confine, OwnThread, Seat, Serve};
use crate::devices::served_queue::{Chain, ServedQueue, cut};
use crate::devices::virtio::{DeviceError, QueueSetup, VirtioDevice, read_config_bytes};

/// Requests that are carried out before others may have the device's lock.
const BURST: u32 = 16;
/// Bytes of `virtio_blk_config` up to and with `write_zeroes_may_unmap`.
const CONFIG_BYTES: usize = 57;

/// A virtio-blk device, with a disk in it or without.
#[derive(Debug)]
pub struct BlockDevice {
    seat: Seat<State>,
    memory: DeviceMemory,
    is_readonly: bool,
    /// Sectors, as in the configuration space; 0 without a disk.
    sectors: u64,
    event_idx: bool,
}

#[derive(Debug)]
struct State {
    queue: Option<ServedQueue>,
    disk: Option<SharedDisk>,
    id: [u8; ID_BYTES],
    /// The driver cannot flush, so each write has to last.
    writes_through: bool,
}

impl BlockDevice {
    /// A device with `disk` in it, or without one yet. `id` is its name, of which a guest sees 20 bytes.
    ///
    /// # Errors
    /// When the host has no eventfd left.
    pub fn new(memory: DeviceMemory, disk: Option<SharedDisk>, id: &str) -> io::Result<Self> {
        let mut bytes = [0; ID_BYTES];
        for (byte, letter) in bytes.iter_mut().zip(id.bytes()) {
            *byte = letter;
        }
        let (is_readonly, sectors) = disk.as_ref().map_or((false, 0), |disk| {
            let disk = lock(disk);
            (disk.is_readonly(), disk.bytes() / SECTOR_BYTES)
        });
        let seat = Seat::new(State {
            queue: None,
            disk,
            id: bytes,
            writes_through: false,
        })?;
        Ok(Self {
            seat,
            memory,
            is_readonly,
            sectors,
            event_idx: false,
        })
    }

    /// The disk in it.
    pub fn disk(&self) -> Option<SharedDisk> {
        self.seat.with(|state| state.disk.clone())
    }

    /// Puts a disk into a device without one; the caller tells the guest of the changed configuration. Whether
    /// it may be written was settled with the driver before, so writes to a read-only one fail.
    pub fn insert(&mut self, disk: SharedDisk) {
        self.sectors = lock(&disk).bytes() / SECTOR_BYTES;
        self.seat.with(|state| state.disk = Some(disk));
    }
}

/// What a panicking thread left is a disk like any other: requests stand for themselves.
fn lock(disk: &SharedDisk) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OwnThread for BlockDevice {
    fn start_thread(&mut self, name: String, confine: Confine) -> io::Result<()> {
        self.seat.start(name, confine)
    }

    fn set_resting(&self, rests: bool) {
        self.seat.set_resting(rests);
    }

    fn settle(&self) {
        self.seat.with(|_| ());
    }
}

impl VirtioDevice for BlockDevice {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        let readonly = if self.is_readonly {
            1 << VIRTIO_BLK_F_RO
        } else {
            1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES
        };
        readonly
            | 1 << VIRTIO_BLK_F_SIZE_MAX
            | 1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_BLK_SIZE
            | 1 << VIRTIO_BLK_F_FLUSH
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
    }

    fn set_features(&mut self, features: u64) -> Result<(), DeviceError> {
        self.event_idx = features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let flushes = features & 1 << VIRTIO_BLK_F_FLUSH != 0;
        self.seat.with(|state| state.writes_through = !flushes);
        Ok(())
    }

    fn queue_count(&self) -> usize {
        1
    }

    fn queue_max_size(&self) -> u16 {
        QUEUE_SIZE
    }

    /// `virtio_blk_config` (5.2.4).
    fn read_config(&self, offset: u32, data: &mut [u8]) {
        let mut config = [0; CONFIG_BYTES];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.sectors.to_le_bytes());
        put(8, &SEGMENT_BYTES_MAX.to_le_bytes());
        put(12, &SEGMENTS_MAX.to_le_bytes());
        put(20, &(SECTOR_BYTES as u32).to_le_bytes());
        if !self.is_readonly {
            put(36, &DISCARD_SECTORS_MAX.to_le_bytes());
            put(40, &RANGES_MAX.to_le_bytes());
            // Alignment of what is discarded: that of a block of a file system, in sectors.
            put(44, &8u32.to_le_bytes());
            put(48, &ZEROES_SECTORS_MAX.to_le_bytes());
            put(52, &RANGES_MAX.to_le_bytes());
            put(56, &[1]);
        }
        read_config_bytes(&config, offset, data);
    }

    fn start_queue(&mut self, _index: usize, queue: QueueSetup) -> Result<(), DeviceError> {
        let queue = ServedQueue::new(queue, &self.memory, self.event_idx)?;
        self.seat.with(|state| state.queue = Some(queue));
        Ok(())
    }

    fn stop_queue(&mut self, _index: usize) -> Result<(), DeviceError> {
        self.seat.with(|state| state.queue = None);
        Ok(())
    }

    fn reset(&mut self) {
        self.seat.with(|state| {
            state.queue = None;
            state.writes_through = false;
        });
        self.event_idx = false;
    }
}

impl Serve for State {
    fn waits(&self) -> Vec<RawFd> {
        let kick = self.queue.iter().map(|queue| queue.kick().as_raw_fd());
        kick.collect()
    }

    fn serve(&mut self) -> Again {
        let Some(mut queue) = self.queue.take() else {
            return Again::WhenReady;
        };
        queue.clear_kick();
        let mut again = Again::Now;
        for done in 0..BURST {
            let Some(chain) = queue.pop().or_else(|| queue.arm_empty()) else {
                if done > 0 {
                    queue.signal();
                }
                again = Again::WhenReady;
                break;
            };
            let written = self.answer(&chain);
            queue.complete(&chain, written);
        }
        if again == Again::Now {
            queue.signal();
        }
        self.queue = Some(queue);
        again
    }
}

impl State {
    /// Carries out a request and writes its status; returns how many bytes were written to the guest.
    fn answer(&self, chain: &Chain) -> u64 {
        let Some(room) = data_room(chain) else {
            // Nowhere to write a status to: the driver sees a request of which nothing came back.
            return 0;
        };
        let (status, written) = match self.carry_out(chain) {
            Ok(written) => (Status::Ok, written),
            Err(status) => (status, 0),
        };
        let told = cut(chain.writable(), room, 1).all(|part| {
            let address = GuestAddress(part.addr);
            chain.memory().write_obj(status as u8, address).is_ok()
        });
        // Counted from the first byte on without a gap (2.7.8.2), and the status comes after all of the room.
        if told && written == room {
            room + 1
        } else {
            written
        }
    }

    fn carry_out(&self, chain: &Chain) -> Result<u64, Status> {
        let Some(disk) = &self.disk else {
            return Err(Status::Error);
        };
        let mut disk = lock(disk);
        let memory = chain.memory();
        match parse(chain, disk.bytes())? {
            Request::Read(range) => {
                let read = disk.read(range, chain.writable(), memory);
                disk.told(read)?;
                Ok(range.len)
            }
            Request::Write(range) => {
                disk.write(range, chain.readable(), DATA_AT, memory)?;
                self.make_last(&mut disk)
            }
            Request::Flush => disk.flush().map(|()| 0),
            Request::Id => {
                let mut written = 0;
                for part in cut(chain.writable(), 0, ID_BYTES as u64) {
                    let bytes = &self.id[written..written + part.len as usize];
                    let put = memory.write_slice(bytes, GuestAddress(part.addr));
                    put.map_err(|_| Status::Error)?;
                    written += bytes.len();
                }
                Ok(ID_BYTES as u64)
            }
            Request::Discard(ranges) => {
                for range in ranges {
                    disk.discard(range)?;
                }
                Ok(0)
            }
            Request::Zero(ranges) => {
                for (range, unmap) in ranges {
                    disk.zero(range, unmap)?;
                }
                self.make_last(&mut disk)
            }
        }
    }

    fn make_last(&self, disk: &mut Disk) -> Result<u64, Status> {
        if self.writes_through {
            disk.flush()?;
        }
        Ok(0)
    }
}
