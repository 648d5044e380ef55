//! [`Running`]: one started virtqueue, served by `virtio-queue`.
//!
//! The ring and everything in it is hostile. A chain is walked once, in at most as many
//! steps as the queue has entries; a ring that breaks the rules is not served any more
//! (DEVICE_NEEDS_RESET), and the domain's work queues go on.

use std::sync::atomic::{Ordering, fence};

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory as _, GuestMemoryMmap, Permissions};
use vmm_sys_util::eventfd::EventFd;
use zeroize::Zeroize;

use super::ram::Ram;
use crate::interface::{DomainError, Vring};

/// Largest size of a virtqueue.
pub(super) const SIZE_MAX: u16 = 256;

/// VIRTQ_AVAIL_F_NO_INTERRUPT. `virtio-queue` looks at it with event indices only, which
/// are not offered.
const NO_INTERRUPT: u16 = 1;

/// Most bytes of one buffer that are read or written: none of the messages is longer. A
/// buffer's size is the guest's, and looking at all of its pages could take long.
const TOUCHED_MAX: u64 = 4096;

/// What is wrong with a virtqueue.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// As `virtio-queue` says.
    #[error("{0}")]
    Queue(#[from] virtio_queue::Error),
    /// A chain that loops or leaves the descriptor table.
    #[error("a chain that loops or leaves the descriptor table")]
    Chain,
    /// A readable buffer after a writable one.
    #[error("a readable buffer after a writable one")]
    Order,
    /// A buffer outside RAM.
    #[error("a buffer outside RAM: {0:#x}+{1:#x}")]
    Buffer(u64, u32),
}

/// One buffer to write to.
type Piece = (GuestAddress, usize);

/// A chain, its readable part copied out.
#[derive(Debug)]
pub(super) struct Chain<const N: usize> {
    head: u16,
    bytes: [u8; N],
    readable: usize,
    writable: Vec<Piece>,
}

impl<const N: usize> Chain<N> {
    /// The readable part; its first `N` bytes when it is longer, see
    /// [`Self::is_too_long`].
    pub(super) fn readable(&self) -> &[u8] {
        &self.bytes[..self.readable.min(N)]
    }
    /// Bytes that can be written.
    pub(super) fn room(&self) -> usize {
        self.writable
            .iter()
            .fold(0, |sum, piece| sum.saturating_add(piece.1))
    }
}

impl<const N: usize> Drop for Chain<N> {
    /// What was read may be a key.
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// A virtqueue between start and stop.
#[derive(Debug)]
pub(super) struct Running {
    queue: Queue,
    kick: EventFd,
    call: EventFd,
    is_broken: bool,
}

impl Running {
    /// Checks what the transport hands over.
    pub(super) fn new(vring: Vring, ram: &Ram) -> Result<Self, DomainError> {
        let bad = |what: &str| DomainError::BadArgument(what.to_owned());
        let mut queue =
            Queue::new(SIZE_MAX).map_err(|e| bad(&format!("virtqueue of {SIZE_MAX}: {e}")))?;
        queue
            .try_set_size(vring.size)
            .map_err(|e| bad(&format!("virtqueue size {}: {e}", vring.size)))?;
        let at = GuestAddress;
        queue
            .try_set_desc_table_address(at(vring.desc_table))
            .and_then(|()| queue.try_set_avail_ring_address(at(vring.avail_ring)))
            .and_then(|()| queue.try_set_used_ring_address(at(vring.used_ring)))
            .map_err(|e| bad(&format!("virtqueue address: {e}")))?;
        // Every chain is used before the next is taken, so both indices are one.
        queue.set_next_avail(vring.base);
        queue.set_next_used(vring.base);
        queue.set_ready(true);
        let there = areas(&queue)
            .iter()
            .all(|&(at, len)| ram.allows(at, len, true));
        if !queue.is_valid(ram.view()) || !there {
            return Err(bad("a virtqueue area that is not in writable RAM"));
        }
        Ok(Self {
            queue,
            kick: vring.kick,
            call: vring.call,
            is_broken: false,
        })
    }
    /// The guest's notification.
    pub(super) fn kick(&self) -> &EventFd {
        &self.kick
    }
    /// Index of the next entry to be taken.
    pub(super) fn base(&self) -> u16 {
        self.queue.next_avail()
    }
    /// Whether it waits for a reset.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken
    }
    /// Serves it no more.
    pub(super) fn break_off(&mut self) {
        self.is_broken = true;
    }
    /// Whether one of its areas has a byte there.
    pub(super) fn touches(&self, gpa: u64, size: u64) -> bool {
        areas(&self.queue)
            .into_iter()
            .any(|(start, len)| start < gpa.saturating_add(size) && gpa < start.saturating_add(len))
    }

    /// Takes the next chain and copies its readable part out, up to `N` bytes.
    pub(super) fn take<const N: usize>(&mut self, ram: &Ram) -> Result<Option<Chain<N>>, Broken> {
        let size = self.queue.size();
        let Some(chain) = self.queue.iter(ram.view())?.next() else {
            return Ok(None);
        };
        read_chain(chain, size, ram).map(Some)
    }

    /// Gives a chain back with `bytes` written into it. What does not fit was checked
    /// before: it is cut off.
    pub(super) fn put<const N: usize>(
        &mut self,
        ram: &Ram,
        chain: &Chain<N>,
        mut bytes: &[u8],
    ) -> Result<(), Broken> {
        let mut written = 0;
        for &(addr, len) in &chain.writable {
            let (now, rest) = bytes.split_at(len.min(bytes.len()));
            ram.view()
                .write_slice(now, addr)
                .map_err(|_| Broken::Buffer(addr.0, len as u32))?;
            ram.log(addr.0, now.len());
            written += now.len() as u32;
            bytes = rest;
        }
        let slot = u64::from(self.queue.next_used() % self.queue.size());
        self.queue.add_used(ram.view(), chain.head, written)?;
        // An element of 8 bytes, then flags and index in front of the ring.
        let used = self.queue.used_ring();
        ram.log(used + 4 + 8 * slot, 8);
        ram.log(used, 4);
        Ok(())
    }

    /// Interrupts the driver unless it asked not to be (virtio 1.2 section 2.7.7).
    pub(super) fn notify(&self, ram: &Ram) {
        // The used index is out before the driver's wish is read, or a driver that
        // changes its mind in between would wait for ever.
        fence(Ordering::SeqCst);
        let flags = GuestAddress(self.queue.avail_ring());
        let flags = ram.view().load(flags, Ordering::Relaxed).map(u16::from_le);
        if flags.is_ok_and(|flags| flags & NO_INTERRUPT != 0) {
            return;
        }
        // An eventfd that is full is readable anyway.
        let _ = self.call.write(1);
    }
}

/// Start and length in bytes of descriptor table, driver area and device area: the sizes of
/// virtio 1.x's split virtqueue, event index fields included.
fn areas(queue: &Queue) -> [(u64, u64); 3] {
    let entries = u64::from(queue.size());
    [
        (queue.desc_table(), 16 * entries),
        (queue.avail_ring(), 6 + 2 * entries),
        (queue.used_ring(), 6 + 8 * entries),
    ]
}

fn read_chain<const N: usize>(
    mut chain: DescriptorChain<&GuestMemoryMmap>,
    steps_max: u16,
    ram: &Ram,
) -> Result<Chain<N>, Broken> {
    let mut out = Chain {
        head: chain.head_index(),
        bytes: [0; N],
        readable: 0,
        writable: Vec::new(),
    };
    let mut last: Option<Descriptor> = None;
    for _ in 0..steps_max {
        let Some(descriptor) = chain.next() else {
            break;
        };
        last = Some(descriptor);
        let (addr, len) = (descriptor.addr(), descriptor.len());
        let access = match descriptor.is_write_only() {
            true => Permissions::Write,
            false => Permissions::Read,
        };
        let touched = u64::from(len).min(TOUCHED_MAX);
        let is_there = ram.allows(addr.0, touched, descriptor.is_write_only());
        if !is_there || !ram.view().check_range(addr, len as usize, access) {
            return Err(Broken::Buffer(addr.0, len));
        }
        if descriptor.is_write_only() {
            out.writable.push((addr, len as usize));
            continue;
        }
        if !out.writable.is_empty() {
            return Err(Broken::Order);
        }
        let room = out.bytes.get_mut(out.readable..).unwrap_or_default();
        let now = room.len().min(len as usize);
        ram.view()
            .read_slice(&mut room[..now], addr)
            .map_err(|_| Broken::Buffer(addr.0, len))?;
        out.readable = out.readable.saturating_add(len as usize);
    }
    // A chain ends where a descriptor says so. One that the iterator gave up before, or
    // that is longer than the queue, does not.
    match last {
        Some(last) if !last.has_next() => Ok(out),
        _ => Err(Broken::Chain),
    }
}
