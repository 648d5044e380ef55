//! [`Driver`]: a guest kernel's side of the device, over real virtqueues in a memfd.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use byway_protocols::control::{
    QueryReply, QueryRequest, ReplyHeader, RequestHeader, RequestKind, features,
};
use byway_protocols::{ControlStatus, Event};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::interface::{Domain, MemoryRegion, Vring};
use crate::testing::Guest;

/// Entries of both virtqueues.
pub(crate) const SIZE: u16 = 16;
/// Descriptor flags.
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// How long a test waits before it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One virtqueue as the driver sees it.
pub(crate) struct Queue {
    guest: Arc<Guest>,
    table: u64,
    avail: u64,
    used: u64,
    pub(crate) next_avail: u16,
    next_used: u16,
    pub(crate) kick: EventFd,
    pub(crate) call: EventFd,
}

impl Queue {
    fn new(guest: &Arc<Guest>) -> Self {
        let eventfd = || EventFd::new(EFD_NONBLOCK).unwrap();
        Self {
            guest: Arc::clone(guest),
            table: guest.alloc(16 * u64::from(SIZE), 4096),
            avail: guest.alloc(4096, 4096),
            used: guest.alloc(4096, 4096),
            next_avail: 0,
            next_used: 0,
            kick: eventfd(),
            call: eventfd(),
        }
    }
    pub(crate) fn vring(&self) -> Vring {
        Vring {
            size: SIZE,
            desc_table: self.table,
            avail_ring: self.avail,
            used_ring: self.used,
            base: 0,
            kick: self.kick.try_clone().unwrap(),
            call: self.call.try_clone().unwrap(),
        }
    }
    /// Guest-physical pages that only the driver writes.
    pub(crate) fn drivers_pages(&self) -> [u64; 2] {
        [self.table, self.avail]
    }
    fn index(&self, gpa: u64) -> &AtomicU16 {
        // SAFETY: an aligned place in the guest's window, which `guest` keeps mapped.
        unsafe { AtomicU16::from_ptr(self.guest.host(gpa, 2).cast()) }
    }
    pub(crate) fn descriptor(&self, at: u16, gpa: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&gpa.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        self.guest.write(self.table + 16 * u64::from(at), &bytes);
    }
    /// Makes the chain that begins at `head` available, without a kick.
    pub(crate) fn publish(&mut self, head: u16) {
        let slot = u64::from(self.next_avail % SIZE);
        self.guest
            .write(self.avail + 4 + 2 * slot, &head.to_le_bytes());
        self.next_avail = self.next_avail.wrapping_add(1);
        self.set_avail(self.next_avail);
    }
    pub(crate) fn set_avail(&self, index: u16) {
        self.index(self.avail + 2).store(index, Ordering::Release);
    }
    /// The next used chain: its head and how much was written.
    pub(crate) fn used(&mut self) -> Option<(u32, u32)> {
        if self.index(self.used + 2).load(Ordering::Acquire) == self.next_used {
            return None;
        }
        let slot = u64::from(self.next_used % SIZE);
        self.next_used = self.next_used.wrapping_add(1);
        let bytes = self.guest.read(self.used + 4 + 8 * slot, 8);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        Some((word(0), word(4)))
    }
    pub(crate) fn wait(&mut self) -> (u32, u32) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(used) = self.used() {
                return used;
            }
            assert!(Instant::now() < deadline, "the device does not answer");
            std::thread::yield_now();
        }
    }
    pub(crate) fn kick(&self) {
        self.kick.write(1).unwrap();
    }
}

/// The driver's state. Its virtqueues live in the guest's RAM.
pub(crate) struct Driver {
    pub(crate) guest: Arc<Guest>,
    pub(crate) control: Queue,
    pub(crate) events: Queue,
    /// Room for a request and its reply, and for events.
    pub(crate) buffers: u64,
    /// Features that it can use: not page requests, which most tests would have to answer.
    pub(crate) features: u64,
    tag: u64,
}

impl Driver {
    pub(crate) fn new(guest: &Arc<Guest>) -> Self {
        Self {
            guest: Arc::clone(guest),
            control: Queue::new(guest),
            events: Queue::new(guest),
            buffers: guest.alloc(8192, 4096),
            features: !features::PAGE_REQUESTS,
            tag: 0,
        }
    }
    /// What a VMM does at start: RAM, and virtqueues once the driver has set them up.
    pub(crate) fn attach(&mut self, device: &mut dyn Domain) {
        device.add_region(region(&self.guest)).unwrap();
        self.start(device);
    }
    /// Starts fresh virtqueues and gives buffers for events.
    pub(crate) fn start(&mut self, device: &mut dyn Domain) {
        self.control = Queue::new(&self.guest);
        self.events = Queue::new(&self.guest);
        device.set_features(device.features()).unwrap();
        device.start_vring(0, self.control.vring()).unwrap();
        device.start_vring(1, self.events.vring()).unwrap();
        for i in 0..SIZE {
            self.give_event_buffer(i);
        }
        self.events.kick();
    }
    fn event_buffer(&self, i: u16) -> u64 {
        self.buffers + 4096 + 64 * u64::from(i)
    }
    pub(crate) fn give_event_buffer(&mut self, i: u16) {
        self.events
            .descriptor(i, self.event_buffer(i), 64, WRITE, 0);
        self.events.publish(i);
    }

    /// Publishes one request with a right header, without a kick.
    pub(crate) fn post(&mut self, kind: RequestKind, body: &[u8]) {
        self.tag += 1;
        let header = RequestHeader {
            kind: kind as u16,
            length: (RequestHeader::SIZE + body.len()) as u32,
            tag: self.tag,
            ..RequestHeader::default()
        };
        let request = [&header.to_bytes()[..], body].concat();
        self.guest.write(self.buffers, &request);
        let room = self.buffers + 1024;
        self.control
            .descriptor(0, self.buffers, request.len() as u32, NEXT, 1);
        self.control.descriptor(1, room, 256, WRITE, 0);
        self.control.publish(0);
    }
    /// The reply to [`Self::post`] once it was used.
    pub(crate) fn reply(&self, used: (u32, u32)) -> Result<Vec<u8>, ControlStatus> {
        assert_eq!(used.0, 0);
        let bytes = self.guest.read(self.buffers + 1024, u64::from(used.1));
        let (header, body) = bytes.split_first_chunk().expect("a reply's header");
        let header = ReplyHeader::from_bytes(header);
        assert_eq!((header.tag, header.length), (self.tag, used.1));
        match ControlStatus::from_code(header.status).unwrap() {
            ControlStatus::Ok => Ok(body.to_vec()),
            status => Err(status),
        }
    }
    /// One request, carried out by somebody else.
    pub(crate) fn call(
        &mut self,
        kind: RequestKind,
        body: &[u8],
    ) -> Result<Vec<u8>, ControlStatus> {
        self.post(kind, body);
        self.control.kick();
        let used = self.control.wait();
        self.reply(used)
    }
    pub(crate) fn query(&mut self) -> QueryReply {
        let q = QueryRequest {
            version: 1,
            features: self.features,
            reserved4: 0,
        };
        let reply = self.call(RequestKind::Query, &q.to_bytes()).unwrap();
        QueryReply::from_bytes(&reply.try_into().unwrap())
    }
    /// The next event, if one was delivered; its buffer is given back.
    pub(crate) fn event(&mut self) -> Option<Event> {
        let (head, written) = self.events.used()?;
        assert_eq!(written, 64);
        let head = head as u16;
        let bytes = self.guest.read(self.event_buffer(head), 64);
        self.give_event_buffer(head);
        self.events.kick();
        Some(Event::from_bytes(&bytes.try_into().unwrap()))
    }
    pub(crate) fn wait_event(&mut self) -> Event {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(event) = self.event() {
                return event;
            }
            assert!(Instant::now() < deadline, "no event comes");
            std::thread::yield_now();
        }
    }
}

/// A guest's RAM as its VMM hands it over.
pub(crate) fn region(guest: &Guest) -> MemoryRegion {
    let (guest_addr, size) = guest.ram();
    MemoryRegion {
        guest_addr,
        size,
        file: Arc::clone(guest.file()),
        file_offset: 0,
        writable: true,
        populate: true,
    }
}
