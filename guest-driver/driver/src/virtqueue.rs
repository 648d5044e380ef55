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

/// A part of a chain: memory that a device reads or writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Buffer {
    /// Where it begins, guest-physical.
    pub gpa: u64,
    /// How many bytes there are.
    pub bytes: u32,
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

/// A virtqueue of `SIZE` entries.
#[derive(Debug)]
pub(crate) struct Virtqueue<const SIZE: usize> {
    /// Room for the device to write in the chain that begins at each entry; `None` = the
    /// entry is no head in flight.
    in_flight: [Option<u32>; SIZE],
    /// Whether an entry is part of a chain in flight.
    taken: [bool; SIZE],
    /// How many are not.
    free: usize,
    /// Entry that follows each in its chain.
    next: [Option<u16>; SIZE],
    /// Chains made available, modulo 2^16.
    available: u16,
    /// As many of them as the device has been told of, or had not wanted to be.
    told: u16,
    /// Chains taken back, modulo 2^16.
    used: u16,
    /// Notifications and interrupts go by event indices (virtio 2.7.7.1, 2.7.10.1).
    event_idx: bool,
}

impl<const SIZE: usize> Virtqueue<SIZE> {
    const AVAIL: usize = 16 * SIZE;
    const USED: usize = (Self::AVAIL + 6 + 2 * SIZE).next_multiple_of(4);
    /// Where the driver says with which chain it wants the next interrupt.
    const USED_EVENT: usize = Self::AVAIL + 4 + 2 * SIZE;
    /// Where the device says of which chain it wants to be told next.
    const AVAIL_EVENT: usize = Self::USED + 4 + 8 * SIZE;
    /// Bytes that the rings take at the beginning of the page.
    pub(crate) const BYTES: usize = Self::USED + 6 + 8 * SIZE;

    /// An idle queue; the rings are zero.
    pub(crate) const fn new() -> Self {
        const { assert!(SIZE.is_power_of_two() && SIZE <= 1024) };
        Self {
            in_flight: [None; SIZE],
            taken: [false; SIZE],
            free: SIZE,
            next: [None; SIZE],
            available: 0,
            told: 0,
            used: 0,
            event_idx: false,
        }
    }

    /// The same, of a device that has accepted VIRTIO_F_EVENT_IDX if `event_idx`.
    pub(crate) const fn with_event_idx(event_idx: bool) -> Self {
        Self {
            event_idx,
            ..Self::new()
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

    /// Asks the device for interrupts, or not. Without event indices.
    pub(crate) fn set_interrupts(&self, dma: &Dma, wanted: bool) {
        let flags = if wanted { 0 } else { AVAIL_NO_INTERRUPT };
        dma.store_u16(Self::AVAIL, flags, Ordering::Relaxed);
    }

    /// Asks for an interrupt with the next chain that comes back; true where one is back already, so
    /// that nobody must sleep. With event indices it is one interrupt for each time that this is called,
    /// and none before.
    pub(crate) fn arm(&self, dma: &Dma) -> bool {
        if self.event_idx {
            dma.store_u16(Self::USED_EVENT, self.used, Ordering::Relaxed);
            // The wish is visible before the look, or both sides could miss each other.
            fence(Ordering::SeqCst);
        }
        dma.load_u16(Self::USED + 2, Ordering::Acquire) != self.used
    }

    /// Makes a chain available: `readable` for the device to read, then `writable` for it to write.
    /// Returns its head, or `None` when not enough entries are left.
    pub(crate) fn push(
        &mut self,
        dma: &Dma,
        readable: &[Buffer],
        writable: &[Buffer],
    ) -> Option<u16> {
        let parts = readable.len() + writable.len();
        if parts == 0 || parts > self.free {
            return None;
        }
        let head = self.take_entry()?;
        let mut entry = head;
        for (number, part) in readable.iter().chain(writable).enumerate() {
            let flags = if number < readable.len() {
                0
            } else {
                DESC_WRITE
            };
            if number + 1 == parts {
                self.describe(dma, entry, *part, flags, 0);
            } else {
                let next = self.take_entry()?;
                self.describe(dma, entry, *part, flags | DESC_NEXT, next);
                self.next[usize::from(entry)] = Some(next);
                entry = next;
            }
        }
        let room = writable.iter().map(|part| part.bytes);
        self.in_flight[usize::from(head)] = Some(room.fold(0, u32::saturating_add));

        let place = usize::from(self.available) % SIZE;
        dma.store_u16(Self::AVAIL + 4 + 2 * place, head, Ordering::Relaxed);
        self.available = self.available.wrapping_add(1);
        // The chain is written before the index that covers it.
        dma.store_u16(Self::AVAIL + 2, self.available, Ordering::Release);
        Some(head)
    }

    /// Whether the device wants to be told of what was pushed since the last time that this was asked
    /// (virtio 2.7.10).
    pub(crate) fn wants_notify(&mut self, dma: &Dma) -> bool {
        let told = core::mem::replace(&mut self.told, self.available);
        if told == self.available {
            return false;
        }
        // The index is visible before the flag is read, or both sides could miss each other.
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event = dma.load_u16(Self::AVAIL_EVENT, Ordering::Relaxed);
            // Whether the chain with that number is among the new ones.
            event.wrapping_sub(told) < self.available.wrapping_sub(told)
        } else {
            dma.load_u16(Self::USED, Ordering::Relaxed) & USED_NO_NOTIFY == 0
        }
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
        let mut entry = Some(head as u16);
        while let Some(at) = entry.map(usize::from) {
            self.taken[at] = false;
            self.free += 1;
            entry = self.next[at].take();
        }
        self.used = self.used.wrapping_add(1);
        Ok(Some(Used {
            head: head as u16,
            written,
        }))
    }

    /// The entry that the head of the next chain will be: the lowest that is free.
    pub(crate) fn next_entry(&self) -> Option<u16> {
        let free = self.taken.iter().position(|taken| !taken);
        free.map(|entry| entry as u16)
    }

    fn take_entry(&mut self) -> Option<u16> {
        let entry = self.next_entry()?;
        self.taken[usize::from(entry)] = true;
        self.free -= 1;
        Some(entry)
    }

    fn describe(&self, dma: &Dma, entry: u16, part: Buffer, flags: u16, next: u16) {
        let at = 16 * usize::from(entry);
        dma.store_u64(at, part.gpa, Ordering::Relaxed);
        dma.store_u32(at + 8, part.bytes, Ordering::Relaxed);
        dma.store_u16(at + 12, flags, Ordering::Relaxed);
        dma.store_u16(at + 14, next, Ordering::Relaxed);
    }
}
