//! The virtio-net device: features, configuration space, and the loop that serves both queues.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MAC;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::tap::Tap;
use super::{FRAME_BYTES_MAX, FRAME_BYTES_MIN, HEADER_BYTES, QUEUE_SIZE};
use crate::devices::memory::DeviceMemory;
use crate::devices::seat::{Again, Confine, OwnThread, Seat, Serve};
use crate::devices::served_queue::{Chain, PARTS_MAX, ServedQueue, bytes_of, cut};
use crate::devices::settings::Mac;
use crate::devices::virtio::{DeviceError, QueueSetup, VirtioDevice, read_config_bytes};

/// Queues (5.1.2).
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Frames each way before others may have the device's lock.
const BURST: u32 = 32;
/// What precedes each received frame: no flags, no offload, one buffer (5.1.6.4).
const HEADER: [u8; HEADER_BYTES as usize] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];

/// A virtio-net device.
#[derive(Debug)]
pub struct NetDevice {
    seat: Seat<State>,
    memory: DeviceMemory,
    mac: Mac,
    event_idx: bool,
}

#[derive(Debug)]
struct State {
    tap: Tap,
    /// The interface has gone; only the guest's frames are taken, and lost.
    is_gone: bool,
    queues: [Option<ServedQueue>; 2],
    frame: Box<[u8]>,
    /// Bytes of a frame that waits for a buffer.
    waiting: usize,
}

impl NetDevice {
    /// A device with address `mac` whose frames go through `tap`.
    ///
    /// # Errors
    /// When the host has no eventfd left.
    pub fn new(memory: DeviceMemory, tap: Tap, mac: Mac) -> io::Result<Self> {
        let state = State {
            tap,
            is_gone: false,
            queues: [None, None],
            // A byte more, by which one that is too long shows.
            frame: vec![0; FRAME_BYTES_MAX as usize + 1].into(),
            waiting: 0,
        };
        Ok(Self {
            seat: Seat::new(state)?,
            memory,
            mac,
            event_idx: false,
        })
    }
}

impl OwnThread for NetDevice {
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

impl VirtioDevice for NetDevice {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC
    }

    fn set_features(&mut self, features: u64) -> Result<(), DeviceError> {
        self.event_idx = features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        Ok(())
    }

    fn queue_count(&self) -> usize {
        2
    }

    fn queue_max_size(&self) -> u16 {
        QUEUE_SIZE
    }

    /// `virtio_net_config` (5.1.4), of which only the address is there.
    fn read_config(&self, offset: u32, data: &mut [u8]) {
        read_config_bytes(&self.mac.bytes(), offset, data);
    }

    fn start_queue(&mut self, index: usize, queue: QueueSetup) -> Result<(), DeviceError> {
        let queue = ServedQueue::new(queue, &self.memory, self.event_idx)?;
        self.seat.with(|state| state.put(index, Some(queue)));
        Ok(())
    }

    fn stop_queue(&mut self, index: usize) -> Result<(), DeviceError> {
        self.seat.with(|state| state.put(index, None));
        Ok(())
    }

    fn reset(&mut self) {
        self.seat.with(|state| {
            state.queues = [None, None];
            state.waiting = 0;
        });
        self.event_idx = false;
    }
}

impl Serve for State {
    fn waits(&self) -> Vec<RawFd> {
        let queues = self.queues.iter().flatten();
        let mut waits: Vec<_> = queues.map(|queue| queue.kick().as_raw_fd()).collect();
        // While a frame waits for a buffer those behind it wait in the host's kernel.
        if self.queues[RECEIVE].is_some() && self.waiting == 0 && !self.is_gone {
            waits.push(self.tap.as_raw_fd());
        }
        waits
    }

    fn serve(&mut self) -> Again {
        for queue in self.queues.iter().flatten() {
            queue.clear_kick();
        }
        // Not the shorter: both get their turn.
        let sent = self.transmit();
        let received = self.receive();
        if sent || received {
            Again::Now
        } else {
            Again::WhenReady
        }
    }
}

impl State {
    fn put(&mut self, index: usize, queue: Option<ServedQueue>) {
        if let Some(place) = self.queues.get_mut(index) {
            *place = queue;
        }
    }

    /// Sends a burst; returns whether there is more.
    fn transmit(&mut self) -> bool {
        let Some(queue) = &mut self.queues[TRANSMIT] else {
            return false;
        };
        for done in 0..BURST {
            let Some(chain) = queue.pop().or_else(|| queue.arm_empty()) else {
                if done > 0 {
                    queue.signal();
                }
                return false;
            };
            send(&self.tap, &chain);
            queue.complete(&chain, 0);
        }
        queue.signal();
        true
    }

    /// Receives a burst; returns whether there may be more.
    fn receive(&mut self) -> bool {
        let Some(queue) = &mut self.queues[RECEIVE] else {
            return false;
        };
        let mut done = false;
        for _ in 0..BURST {
            if self.waiting == 0 && !self.is_gone {
                match self.tap.receive(&mut self.frame) {
                    Ok(frame) => self.waiting = frame.unwrap_or(0),
                    Err(error) => {
                        tracing::warn!("the other end of a network interface is gone: {error}");
                        self.is_gone = true;
                    }
                }
            }
            let next = (self.waiting > 0).then(|| queue.pop().or_else(|| queue.arm_empty()));
            let Some(Some(chain)) = next else {
                if done {
                    queue.signal();
                }
                return false;
            };
            let frame = &self.frame[..std::mem::take(&mut self.waiting)];
            let written = deliver(&chain, frame);
            queue.complete(&chain, written);
            done = true;
        }
        queue.signal();
        true
    }
}

/// Sends what follows the header, which asks for nothing because nothing was offered.
fn send(tap: &Tap, chain: &Chain) {
    let bytes = bytes_of(chain.readable());
    let Some(frame) = bytes.checked_sub(HEADER_BYTES) else {
        return;
    };
    if !(FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&frame) {
        return;
    }
    let mut vectors = Vec::with_capacity(8);
    for part in cut(chain.readable(), HEADER_BYTES, frame) {
        for slice in chain
            .memory()
            .get_slices(GuestAddress(part.addr), part.len as usize)
        {
            let Ok(slice) = slice else { return };
            vectors.push(libc::iovec {
                iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                iov_len: slice.len(),
            });
        }
    }
    if vectors.len() <= PARTS_MAX {
        // SAFETY: the vectors are ranges of guest RAM, which the chain keeps mapped.
        unsafe { tap.send(&vectors) };
    }
}

/// Writes header and frame, if there is room for both; else nothing, and the frame is lost.
fn deliver(chain: &Chain, frame: &[u8]) -> u64 {
    let bytes = HEADER_BYTES + frame.len() as u64;
    if bytes_of(chain.writable()) < bytes {
        return 0;
    }
    for (at, from) in [(0, &HEADER[..]), (HEADER_BYTES, frame)] {
        let mut done = 0;
        for part in cut(chain.writable(), at, from.len() as u64) {
            let piece = &from[done..done + part.len as usize];
            let put = chain.memory().write_slice(piece, GuestAddress(part.addr));
            if put.is_err() {
                return 0;
            }
            done += piece.len();
        }
    }
    bytes
}
