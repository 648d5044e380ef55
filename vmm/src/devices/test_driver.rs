//! The driver's side of a virtqueue for tests of devices: honest requests, and whatever else a guest could write.

use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::memory::DeviceMemory;
use super::seat::OwnThread;
use super::virtio::{QueueSetup, VirtioDevice};

/// Bytes of guest RAM.
pub const RAM: u64 = 1 << 20;
/// Where data may be: the rings are below.
pub const DATA: u64 = 0x1_0000;
/// Descriptors of a queue.
pub const SIZE: u16 = 16;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
/// Bytes between the rings of one queue and the next.
const STRIDE: u64 = 0x3000;

/// A descriptor: address, length, flags, next.
pub type Descriptor = (u64, u32, u16, u16);

/// Guest RAM.
pub fn ram() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM as usize)]).unwrap()
}

/// One virtqueue.
pub struct Driver {
    memory: GuestMemoryMmap,
    base: u64,
    kick: EventFd,
    call: EventFd,
    avail: u16,
    used: u16,
}

impl Driver {
    /// Sets queue `index` of `device` up and starts it.
    pub fn new(device: &mut impl VirtioDevice, index: usize, memory: &DeviceMemory) -> Self {
        let this = Self::apart(index, memory);
        device.start_queue(index, this.setup()).unwrap();
        this
    }

    /// The same for a device to come.
    pub fn apart(index: usize, memory: &DeviceMemory) -> Self {
        let base = 0x1000 + STRIDE * index as u64;
        let event = || EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let this = Self {
            memory: (*memory.snapshot()).clone(),
            base,
            kick: event(),
            call: event(),
            avail: 0,
            used: 0,
        };
        this.memory
            .write_slice(&[0; 0x2000], GuestAddress(base + 0x1000))
            .unwrap();
        this
    }

    pub fn setup(&self) -> QueueSetup {
        QueueSetup {
            size: SIZE,
            desc_table: self.base,
            avail_ring: self.base + 0x1000,
            used_ring: self.base + 0x2000,
            kick: self.kick.try_clone().unwrap(),
            call: self.call.try_clone().unwrap(),
        }
    }

    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    pub fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(at))
            .unwrap();
        bytes
    }

    /// Writes descriptors from the first on.
    pub fn describe(&self, descriptors: &[Descriptor]) {
        for (index, (addr, len, flags, next)) in descriptors.iter().enumerate() {
            let at = self.base + 16 * index as u64;
            self.write(at, &addr.to_le_bytes());
            self.write(at + 8, &len.to_le_bytes());
            self.write(at + 12, &flags.to_le_bytes());
            self.write(at + 14, &next.to_le_bytes());
        }
    }

    /// Makes a chain available, and notifies.
    pub fn offer(&mut self, head: u16) {
        let ring = self.base + 0x1000;
        let at = ring + 4 + 2 * u64::from(self.avail % SIZE);
        self.write(at, &head.to_le_bytes());
        self.avail = self.avail.wrapping_add(1);
        self.write_avail(self.avail);
    }

    /// Sets the available index to anything, and notifies.
    pub fn write_avail(&self, index: u16) {
        self.write(self.base + 0x1002, &index.to_le_bytes());
        self.kick.write(1).unwrap();
    }

    /// Offers one chain of readable parts and then writable ones.
    pub fn request(&mut self, readable: &[(u64, u32)], writable: &[(u64, u32)]) {
        let count = readable.len() + writable.len();
        let parts = readable.iter().map(|part| (part, 0));
        let parts = parts.chain(writable.iter().map(|part| (part, WRITE)));
        let descriptors: Vec<Descriptor> = parts
            .enumerate()
            .map(|(index, ((addr, len), flags))| {
                let next = if index + 1 < count { NEXT } else { 0 };
                (*addr, *len, flags | next, index as u16 + 1)
            })
            .collect();
        self.describe(&descriptors);
        self.offer(0);
    }

    /// The next chain that is given back: head and bytes written.
    pub fn used(&mut self) -> (u32, u32) {
        self.used_within(Duration::from_secs(20))
            .expect("nothing came back")
    }

    /// The same, if it comes in time.
    pub fn used_within(&mut self, longest: Duration) -> Option<(u32, u32)> {
        let since = Instant::now();
        let ring = self.base + 0x2000;
        loop {
            let index = self.read(ring + 2, 2);
            if u16::from_le_bytes([index[0], index[1]]) != self.used {
                break;
            }
            if since.elapsed() > longest {
                return None;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        let element = self.read(ring + 4 + 8 * u64::from(self.used % SIZE), 8);
        self.used = self.used.wrapping_add(1);
        let word = |at: usize| u32::from_le_bytes(element[at..at + 4].try_into().unwrap());
        Some((word(0), word(4)))
    }

    /// Whether the interrupt was raised since the last look, when what `device` is about is done: it tells of requests after
    /// it has given them back.
    pub fn interrupted(&self, device: &impl OwnThread) -> bool {
        device.settle();
        self.is_called()
    }

    /// Whether the interrupt was raised since the last look.
    pub fn is_called(&self) -> bool {
        self.call.read().is_ok()
    }
}

/// Descriptor chains as a hostile guest would write them.
pub fn hostile() -> impl proptest::strategy::Strategy<Value = Vec<Descriptor>> {
    use proptest::prelude::*;
    let address = prop_oneof![
        4 => DATA..RAM,
        1 => RAM - 600..RAM + 600,
        1 => any::<u64>(),
    ];
    let length = prop_oneof![
        2 => Just(16u32),
        2 => Just(512),
        1 => Just(1),
        1 => 0u32..9000,
        1 => any::<u32>(),
    ];
    let descriptor = (address, length, 0u16..8, 0..SIZE + 2);
    prop::collection::vec(descriptor, SIZE as usize)
}
