//! The split virtqueue, driver's side (virtio 2.7).
//!
//! Owns one page of DMA memory that holds the rings, and a private record of what is in
//! flight. The device can write all of that page: the driver keeps nothing there that it
//! needs to remember, fetches each used element once and checks it against the record.
//! A device that returns what it was not given is reported, never followed.

use crate::dma::Dma;
use crate::error::Broken;
use crate::transport::VirtqueueAddresses;
use core::sync::atomic::{Ordering, fence};

/// A part of a chain, guest-physical.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Buffer {
    pub(crate) gpa: u64,
    pub(crate) bytes: u32,
}

/// A chain that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Used {
    /// Head of the chain, as [`Virtqueue::push`] returned it.
    pub(crate) head: u16,
    /// Bytes that the device says it wrote; at most as many as there was room for.
    pub(crate) written: u32,
}

/// Descriptor flags (virtio 2.7.5).
const DESC_NEXT: u16 = 1;
const DESC_WRITE: u16 = 2;
/// Available ring flag: no interrupts, please (virtio 2.7.6).
const AVAIL_NO_INTERRUPT: u16 = 1;
/// Used ring flag: no notifications, please (virtio 2.7.8).
const USED_NO_NOTIFY: u16 = 1;

/// A virtqueue of `SIZE` entries whose chains have at most two parts: one that the device reads
/// and one that it writes.
#[derive(Debug)]
pub(crate) struct Virtqueue<const SIZE: usize> {
    /// Room for the device to write in the chain that begins at each entry; `None` = the
    /// entry is no head in flight.
    in_flight: [Option<u32>; SIZE],
    /// Whether an entry is part of a chain in flight.
    taken: [bool; SIZE],
    /// Entry that follows a head.
    second: [Option<u16>; SIZE],
    /// Chains made available, modulo 2^16.
    available: u16,
    /// Chains taken back, modulo 2^16.
    used: u16,
}

impl<const SIZE: usize> Virtqueue<SIZE> {
    const AVAIL: usize = 16 * SIZE;
    const USED: usize = (Self::AVAIL + 6 + 2 * SIZE).next_multiple_of(4);
    /// Bytes that the rings take at the beginning of the page.
    pub(crate) const BYTES: usize = Self::USED + 6 + 8 * SIZE;

    /// An idle queue; the rings are zero.
    pub(crate) const fn new() -> Self {
        const { assert!(SIZE.is_power_of_two() && SIZE <= 1024) };
        Self {
            in_flight: [None; SIZE],
            taken: [false; SIZE],
            second: [None; SIZE],
            available: 0,
            used: 0,
        }
    }

    /// Where the device finds the parts.
    pub(crate) fn addresses(dma: &Dma) -> VirtqueueAddresses {
        VirtqueueAddresses {
            size: SIZE as u16,
            descriptors: dma.gpa(0),
            driver: dma.gpa(Self::AVAIL),
            device: dma.gpa(Self::USED),
        }
    }

    /// Asks the device for interrupts, or not.
    pub(crate) fn set_interrupts(&self, dma: &Dma, wanted: bool) {
        let flags = if wanted { 0 } else { AVAIL_NO_INTERRUPT };
        dma.store_u16(Self::AVAIL, flags, Ordering::Relaxed);
    }

    /// Makes a chain available: `readable` for the device to read, `writable` for it to write.
    /// Returns its head, or `None` when no entries are left.
    pub(crate) fn push(
        &mut self,
        dma: &Dma,
        readable: Option<Buffer>,
        writable: Buffer,
    ) -> Option<u16> {
        let last = self.free_entry(None)?;
        let head = match readable {
            None => last,
            Some(part) => {
                let head = self.free_entry(Some(last))?;
                self.describe(dma, head, part, DESC_NEXT, last);
                self.taken[usize::from(head)] = true;
                head
            }
        };
        self.describe(dma, last, writable, DESC_WRITE, 0);
        self.taken[usize::from(last)] = true;
        self.second[usize::from(head)] = (head != last).then_some(last);
        self.in_flight[usize::from(head)] = Some(writable.bytes);

        let place = usize::from(self.available) % SIZE;
        dma.store_u16(Self::AVAIL + 4 + 2 * place, head, Ordering::Relaxed);
        self.available = self.available.wrapping_add(1);
        // The chain is written before the index that covers it.
        dma.store_u16(Self::AVAIL + 2, self.available, Ordering::Release);
        Some(head)
    }

    /// Whether the device wants to be told of what was pushed (virtio 2.7.10).
    pub(crate) fn wants_notify(&self, dma: &Dma) -> bool {
        // The index is visible before the flag is read, or both sides could miss each other.
        fence(Ordering::SeqCst);
        dma.load_u16(Self::USED, Ordering::Relaxed) & USED_NO_NOTIFY == 0
    }

    /// Takes back the next chain that the device has used.
    pub(crate) fn pop(&mut self, dma: &Dma) -> Result<Option<Used>, Broken> {
        let device = dma.load_u16(Self::USED + 2, Ordering::Acquire);
        let ready = device.wrapping_sub(self.used);
        if ready == 0 {
            return Ok(None);
        }
        if ready > self.available.wrapping_sub(self.used) {
            return Err(Broken::UsedIndex);
        }
        let element = Self::USED + 4 + 8 * (usize::from(self.used) % SIZE);
        let id = dma.load_u32(element, Ordering::Relaxed);
        let written = dma.load_u32(element + 4, Ordering::Relaxed);
        let head = usize::try_from(id).map_err(|_| Broken::UsedElement)?;
        let room = self.in_flight.get_mut(head).and_then(Option::take);
        if room.is_none_or(|room| written > room) {
            return Err(Broken::UsedElement);
        }
        self.taken[head] = false;
        if let Some(last) = self.second[head].take() {
            self.taken[usize::from(last)] = false;
        }
        self.used = self.used.wrapping_add(1);
        Ok(Some(Used {
            head: head as u16,
            written,
        }))
    }

    /// The entry that the last part of the next chain will take.
    pub(crate) fn next_entry(&self) -> Option<u16> {
        self.free_entry(None)
    }

    fn free_entry(&self, except: Option<u16>) -> Option<u16> {
        let free = |&entry: &u16| !self.taken[usize::from(entry)] && Some(entry) != except;
        (0..SIZE as u16).find(free)
    }

    fn describe(&self, dma: &Dma, entry: u16, part: Buffer, flags: u16, next: u16) {
        let at = 16 * usize::from(entry);
        dma.store_u64(at, part.gpa, Ordering::Relaxed);
        dma.store_u32(at + 8, part.bytes, Ordering::Relaxed);
        dma.store_u16(at + 12, flags, Ordering::Relaxed);
        dma.store_u16(at + 14, next, Ordering::Relaxed);
    }
}
