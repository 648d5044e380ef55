//! virtio-net (virtio 5.1): frames both ways, no offload. A frame is in one buffer, with its header.

use super::{Buffer, begin};
use crate::dma::Dma;
use crate::error::{Broken, Error};
use crate::hal::{Hal, PAGE_BYTES};
use crate::handshake;
use crate::transport::Transport;
use crate::virtqueue::Virtqueue;

/// Buffers for frames that come.
pub const RECEIVE_BUFFERS: usize = 64;
/// Buffers for frames that go.
pub const TRANSMIT_BUFFERS: usize = 16;
/// Longest frame, in bytes from its destination address on.
pub const FRAME_BYTES_MAX: usize = BUFFER_PAGES * PAGE_BYTES - HEADER_BYTES;

/// Virtio id of a network interface (virtio 5).
const ID: u32 = 1;
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// Feature bit: the device has an address in its configuration space (virtio 5.1.3).
const F_MAC: u64 = 1 << 5;
/// Bytes of `virtio_net_hdr` (virtio 5.1.6). All zero in frames that go, as the pages were at first: no offload, so nobody writes there.
const HEADER_BYTES: usize = 12;
const BUFFER_PAGES: usize = 16;

const _: () = assert!(Virtqueue::<RECEIVE_BUFFERS>::BYTES <= PAGE_BYTES);
const _: () = assert!(Virtqueue::<TRANSMIT_BUFFERS>::BYTES <= PAGE_BYTES);

/// A frame that has come. Its buffer goes back to the device by [`Net::give_back`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the device has one buffer less until it is given back"]
pub struct Frame {
    buffer: usize,
    bytes: usize,
}

impl Frame {
    /// Its length in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A buffer to be filled and sent.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a buffer that is not sent is lost"]
pub struct SendBuffer {
    buffer: usize,
}

/// A network interface.
#[derive(Debug)]
pub struct Net<T> {
    transport: T,
    mac: [u8; 6],
    receive: Queue<RECEIVE_BUFFERS>,
    transmit: Queue<TRANSMIT_BUFFERS>,
    broken: Option<Broken>,
}

/// A virtqueue with a buffer for each entry.
#[derive(Debug)]
struct Queue<const SIZE: usize> {
    queue: Virtqueue<SIZE>,
    ring: Dma,
    buffers: [Dma; SIZE],
    /// Which buffer each chain is, by its head.
    buffer_of: [usize; SIZE],
    /// Buffers that the device does not have; the first `idle_count`.
    idle: [usize; SIZE],
    idle_count: usize,
}

impl<const SIZE: usize> Queue<SIZE> {
    fn new(event_idx: bool, hal: &mut impl Hal) -> Option<Self> {
        let ring = hal.allocate(1)?;
        let mut lacks = false;
        let buffers = core::array::from_fn(|_| {
            // After the first that lacks, all do: the machine has no use for half an interface.
            let pages = if lacks {
                None
            } else {
                hal.allocate(BUFFER_PAGES)
            };
            lacks |= pages.is_none();
            pages.map(Dma::new)
        });
        let buffers = all(buffers)?;
        Some(Self {
            queue: Virtqueue::with_event_idx(event_idx),
            ring: Dma::new(ring),
            buffers,
            buffer_of: [0; SIZE],
            idle: core::array::from_fn(|index| index),
            idle_count: SIZE,
        })
    }

    fn whole(&self, buffer: usize) -> Buffer {
        Buffer {
            gpa: self.buffers[buffer].gpa(0),
            bytes: (BUFFER_PAGES * PAGE_BYTES) as u32,
        }
    }

    fn take_idle(&mut self) -> Option<usize> {
        self.idle_count = self.idle_count.checked_sub(1)?;
        Some(self.idle[self.idle_count])
    }

    fn put_idle(&mut self, buffer: usize) {
        self.idle[self.idle_count] = buffer;
        self.idle_count += 1;
    }

    /// The next buffer that the device has used, and how much of it.
    fn pop(&mut self) -> Result<Option<(usize, usize)>, Broken> {
        let used = self.queue.pop(&self.ring)?;
        Ok(used.map(|used| {
            let buffer = self.buffer_of[usize::from(used.head)];
            (buffer, used.written as usize)
        }))
    }

    /// Gives the device a buffer. There are as many entries as buffers, so there is one.
    fn push(&mut self, buffer: usize, readable: &[Buffer], writable: &[Buffer]) {
        if let Some(head) = self.queue.push(&self.ring, readable, writable) {
            self.buffer_of[usize::from(head)] = buffer;
        }
    }
}

fn all<const SIZE: usize>(buffers: [Option<Dma>; SIZE]) -> Option<[Dma; SIZE]> {
    if buffers.iter().any(Option::is_none) {
        return None;
    }
    Some(buffers.map(|buffer| buffer.expect("none is missing, as just checked")))
}

impl<T: Transport> Net<T> {
    /// Takes charge of a network interface (virtio 3.1.1, 5.1.5). Memory that it had before there turned out to be too little
    /// is lost.
    ///
    /// # Errors
    /// When it is none, refuses, or there is no memory.
    pub fn attach(mut transport: T, hal: &mut impl Hal) -> Result<Self, Error> {
        let event_idx = begin(&mut transport, hal, ID, F_MAC)?;
        handshake::check_queue(&mut transport, RECEIVE, RECEIVE_BUFFERS)?;
        handshake::check_queue(&mut transport, TRANSMIT, TRANSMIT_BUFFERS)?;
        let receive = Queue::new(event_idx, hal).ok_or(Error::NoMemory)?;
        let transmit = Queue::new(event_idx, hal).ok_or(Error::NoMemory)?;
        let addresses = Virtqueue::<RECEIVE_BUFFERS>::addresses(&receive.ring);
        transport.enable_queue(RECEIVE, &addresses);
        let addresses = Virtqueue::<TRANSMIT_BUFFERS>::addresses(&transmit.ring);
        transport.enable_queue(TRANSMIT, &addresses);
        handshake::go(&mut transport);
        let [a, b, c, d] = transport.config_u32(0).to_le_bytes();
        let [e, f, ..] = transport.config_u32(4).to_le_bytes();
        let mut net = Self {
            transport,
            mac: [a, b, c, d, e, f],
            receive,
            transmit,
            broken: None,
        };
        while let Some(buffer) = net.receive.take_idle() {
            let whole = net.receive.whole(buffer);
            net.receive.push(buffer, &[], &[whole]);
        }
        net.notify();
        Ok(net)
    }

    /// Its address.
    #[must_use]
    pub const fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// The next frame that has come. One that is no frame, shorter than its header, is left out.
    ///
    /// # Errors
    /// When the device is broken.
    pub fn take_frame(&mut self) -> Result<Option<Frame>, Error> {
        for _ in 0..RECEIVE_BUFFERS {
            let Some((buffer, written)) = self.guarded(|net| net.receive.pop())? else {
                break;
            };
            let bytes = written.saturating_sub(HEADER_BYTES);
            let frame = Frame { buffer, bytes };
            if bytes > 0 {
                return Ok(Some(frame));
            }
            self.give_back(frame);
        }
        Ok(None)
    }

    /// Copies bytes of a frame, from `offset` on; returns whether it has so many.
    pub fn read(&self, frame: &Frame, offset: usize, into: &mut [u8]) -> bool {
        // SAFETY: a slice is valid, and none of the device's pages.
        unsafe { self.copy_out(frame, offset, into.as_mut_ptr(), into.len()) }
    }

    /// The same to anywhere.
    ///
    /// # Safety
    /// `into` is valid for writes of `bytes` bytes, none of which belong to this driver.
    pub unsafe fn copy_out(
        &self,
        frame: &Frame,
        offset: usize,
        into: *mut u8,
        bytes: usize,
    ) -> bool {
        if offset
            .checked_add(bytes)
            .is_none_or(|end| end > frame.bytes)
        {
            return false;
        }
        let buffer = &self.receive.buffers[frame.buffer];
        // SAFETY: the caller's promise.
        unsafe { buffer.copy_out(HEADER_BYTES + offset, into, bytes) };
        true
    }

    /// Gives a frame's buffer back; [`Self::notify`] tells the device.
    pub fn give_back(&mut self, frame: Frame) {
        let whole = self.receive.whole(frame.buffer);
        self.receive.push(frame.buffer, &[], &[whole]);
    }

    /// A buffer to fill, if the device has not all of them.
    ///
    /// # Errors
    /// When the device is broken.
    pub fn buffer(&mut self) -> Result<Option<SendBuffer>, Error> {
        while let Some((buffer, _)) = self.guarded(|net| net.transmit.pop())? {
            self.transmit.put_idle(buffer);
        }
        let idle = self.transmit.take_idle();
        Ok(idle.map(|buffer| SendBuffer { buffer }))
    }

    /// Copies into a frame that is being made, at `offset`; returns whether it fits.
    pub fn write(&self, buffer: &SendBuffer, offset: usize, from: &[u8]) -> bool {
        // SAFETY: a slice is valid, and none of the device's pages.
        unsafe { self.copy_in(buffer, offset, from.as_ptr(), from.len()) }
    }

    /// The same from anywhere.
    ///
    /// # Safety
    /// `from` is valid for reads of `bytes` bytes, none of which belong to this driver.
    pub unsafe fn copy_in(
        &self,
        buffer: &SendBuffer,
        offset: usize,
        from: *const u8,
        bytes: usize,
    ) -> bool {
        if offset
            .checked_add(bytes)
            .is_none_or(|end| end > FRAME_BYTES_MAX)
        {
            return false;
        }
        let buffer = &self.transmit.buffers[buffer.buffer];
        // SAFETY: the caller's promise.
        unsafe { buffer.copy_in(HEADER_BYTES + offset, from, bytes) };
        true
    }

    /// Makes the first `bytes` bytes of a frame available; [`Self::notify`] tells the device.
    pub fn send(&mut self, buffer: SendBuffer, bytes: usize) {
        let SendBuffer { buffer } = buffer;
        let part = Buffer {
            bytes: (HEADER_BYTES + bytes.min(FRAME_BYTES_MAX)) as u32,
            ..self.transmit.whole(buffer)
        };
        self.transmit.push(buffer, &[part], &[]);
    }

    /// Tells the device of what has become available in either queue, if it wants to be told: a VM exit each then.
    pub fn notify(&mut self) {
        if self.receive.queue.wants_notify(&self.receive.ring) {
            self.transport.notify(RECEIVE);
        }
        if self.transmit.queue.wants_notify(&self.transmit.ring) {
            self.transport.notify(TRANSMIT);
        }
    }

    /// Asks for an interrupt with the next frame that comes, and, if `for_room`, with the next buffer that is free to be
    /// filled; true where there is one already.
    pub fn arm(&mut self, for_room: bool) -> bool {
        let comes = self.receive.queue.arm(&self.receive.ring);
        let goes = for_room && self.transmit.queue.arm(&self.transmit.ring);
        comes || goes
    }

    /// What `act` returns, unless the device is or turns out to be broken.
    fn guarded<R>(&mut self, act: impl FnOnce(&mut Self) -> Result<R, Broken>) -> Result<R, Error> {
        if let Some(how) = self.broken {
            return Err(how.into());
        }
        let result = act(self);
        if let Err(how) = &result {
            self.broken = Some(*how);
        }
        Ok(result?)
    }
}
