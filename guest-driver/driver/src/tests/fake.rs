//! A fake kernel, a fake transport and a fake device, all in one thread.
//!
//! The device is written from the specifications, not from the driver: it finds requests by
//! guest-physical addresses in the virtqueues that the driver announced, and insists that it
//! never touches memory that was given back. [`Fault`] makes it misbehave.

use crate::hal::{DmaPages, Hal, PAGE_BYTES};
use crate::transport::{F_VERSION_1, Transport, VirtqueueAddresses, status};
use crate::{Device, Error, Failure, Options};
use byway_protocols::config::MAGIC;
use byway_protocols::control::{QueryReply, ReplyHeader, RequestHeader, RequestKind, features};
use byway_protocols::{ControlStatus, Event};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::RefCell;
use std::ptr::NonNull;
use std::rc::Rc;
use std::vec::Vec;

/// In what way the device misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Fault {
    #[default]
    None,
    /// Never answers.
    Silent,
    /// Never answers and sets DEVICE_NEEDS_RESET.
    NeedsReset,
    /// Answers only when the clock has passed the time-out, while the driver is not looking.
    Late,
    /// Returns this many more chains than it has.
    UsedIndex(u16),
    /// Returns this chain instead.
    UsedId(u32),
    /// Claims to have written this many bytes.
    Written(u32),
    /// Returns the chain as if it had written the reply.
    Unwritten,
    /// Answers with this tag.
    Tag(u64),
    /// Says that the reply has this length.
    Length(u32),
    /// Adds this many bytes to the reply and counts them as written, but not in the header.
    Longer(usize),
    /// Answers with this status.
    Status(u32),
}

/// How the device answers a request: status code and body of the reply.
pub(super) type Handler = std::boxed::Box<dyn FnMut(RequestKind, &[u8]) -> (u32, Vec<u8>)>;

struct Region {
    gpa: u64,
    ptr: NonNull<u8>,
    pages: usize,
}

impl Region {
    fn layout(pages: usize) -> Layout {
        Layout::from_size_align(pages * PAGE_BYTES, PAGE_BYTES).unwrap()
    }
}

#[derive(Default)]
struct Queue {
    addresses: Option<VirtqueueAddresses>,
    /// Next entry of the available ring to look at.
    seen: u16,
    /// Used index as the device counts it.
    used: u16,
}

/// Everything that is not the driver.
pub(super) struct World {
    // The kernel.
    regions: Vec<Region>,
    next_gpa: u64,
    pub(super) pages_left: usize,
    pub(super) now_ns: u64,
    pub(super) idles: u64,
    // The transport.
    pub(super) probe: Result<(), Error>,
    pub(super) status: u32,
    pub(super) statuses: Vec<u32>,
    pub(super) device_features: u64,
    pub(super) driver_features: u64,
    pub(super) accepts_features: bool,
    pub(super) ignores_reset: bool,
    pub(super) size_max: [u16; 2],
    pub(super) config: [u32; 2],
    pub(super) notifications: Vec<u16>,
    queues: [Queue; 2],
    // The device.
    pub(super) fault: Fault,
    /// Asks for no notification of buffers for events.
    pub(super) no_notify: bool,
    pub(super) instance: u32,
    pub(super) query: QueryReply,
    pub(super) handler: Handler,
    pub(super) requests: Vec<(RequestKind, Vec<u8>)>,
    /// Looks at the clock until the reply is there, and what time it is then.
    late: Option<(u32, u64)>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("World")
    }
}

/// What the parts share.
pub(super) type Shared = Rc<RefCell<World>>;

/// A well-behaved world.
pub(super) fn world() -> Shared {
    let mut name = [0; 32];
    name[..5].copy_from_slice(b"alice");
    let mut opcodes = [0; 32];
    opcodes[0] = 0x7f;
    Rc::new(RefCell::new(World {
        regions: Vec::new(),
        next_gpa: 0x1_0000_0000,
        pages_left: 1000,
        now_ns: 5,
        idles: 0,
        probe: Ok(()),
        status: 0,
        statuses: Vec::new(),
        device_features: F_VERSION_1 | 0x3000_0000,
        driver_features: 0,
        accepts_features: true,
        ignores_reset: false,
        size_max: [256; 2],
        config: [MAGIC, 1],
        notifications: Vec::new(),
        queues: Default::default(),
        fault: Fault::None,
        no_notify: false,
        instance: 1,
        query: QueryReply {
            version: 1,
            features: features::EXPIRY,
            domain: 3,
            workers: 2,
            queue_entries_max: 1024,
            slots_max: 64,
            transfer_bytes_max: 1 << 31,
            batch_count_max: 1024,
            park_us: 50,
            opcodes,
            name,
            ..QueryReply::default()
        },
        handler: std::boxed::Box::new(|_, _| (ControlStatus::UnknownRequest as u32, Vec::new())),
        requests: Vec::new(),
        late: None,
    }))
}

pub(super) type FakeDevice = Device<FakeTransport, FakeHal>;

pub(super) fn try_attach(world: &Shared) -> Result<FakeDevice, Failure<FakeTransport, FakeHal>> {
    let transport = FakeTransport(world.clone());
    Device::attach(transport, FakeHal(world.clone()), Options::default())
}

/// A world and a device attached to it.
pub(super) fn attached() -> (Shared, FakeDevice) {
    let world = world();
    let device = try_attach(&world).unwrap();
    (world, device)
}

/// Makes the device answer every request but QUERY in this way from now on.
pub(super) fn answer(
    world: &Shared,
    handler: impl FnMut(RequestKind, &[u8]) -> (u32, Vec<u8>) + 'static,
) {
    world.borrow_mut().handler = std::boxed::Box::new(handler);
}

/// The latest request.
pub(super) fn last_request(world: &Shared) -> (RequestKind, Vec<u8>) {
    world.borrow().requests.last().cloned().unwrap()
}

impl World {
    /// Pages in the driver's hands.
    pub(super) fn pages_out(&self) -> usize {
        self.regions.iter().map(|region| region.pages).sum()
    }

    /// The bytes at a guest-physical address.
    pub(super) fn at(&self, gpa: u64, bytes: usize) -> *mut u8 {
        let end = gpa + bytes as u64;
        let inside = |region: &&Region| {
            gpa >= region.gpa && end <= region.gpa + (region.pages * PAGE_BYTES) as u64
        };
        let region = self.regions.iter().find(inside);
        let region = region.unwrap_or_else(|| panic!("the device reaches for {gpa:#x}+{bytes}"));
        region
            .ptr
            .as_ptr()
            .wrapping_add((gpa - region.gpa) as usize)
    }

    pub(super) fn read<const N: usize>(&self, gpa: u64) -> [u8; N] {
        // SAFETY: `at` found the bytes inside a live allocation of this single thread.
        unsafe { self.at(gpa, N).cast::<[u8; N]>().read_unaligned() }
    }

    pub(super) fn write(&self, gpa: u64, bytes: &[u8]) {
        // SAFETY: as for `read`.
        unsafe {
            self.at(gpa, bytes.len())
                .copy_from(bytes.as_ptr(), bytes.len())
        }
    }

    fn read_u16(&self, gpa: u64) -> u16 {
        u16::from_le_bytes(self.read(gpa))
    }

    /// Guest-physical address of a virtqueue's first page.
    pub(super) fn queue_page(&self, queue: usize) -> u64 {
        self.queues[queue].addresses.unwrap().descriptors
    }

    /// Flags that the driver set in the available ring.
    pub(super) fn available_flags(&self, queue: usize) -> u16 {
        self.read_u16(self.queues[queue].addresses.unwrap().driver)
    }

    /// Chains that the driver has made available and the device has not taken.
    pub(super) fn waiting(&self, queue: usize) -> u16 {
        let Some(addresses) = self.queues[queue].addresses else {
            return 0;
        };
        self.read_u16(addresses.driver + 2)
            .wrapping_sub(self.queues[queue].seen)
    }

    /// The next chain: its head, the bytes to read, and where to write how many.
    fn take_chain(&mut self, queue: usize) -> Option<(u16, Vec<u8>, u64, usize)> {
        if self.waiting(queue) == 0 {
            return None;
        }
        let addresses = self.queues[queue].addresses?;
        let place = u64::from(self.queues[queue].seen % addresses.size);
        let head = self.read_u16(addresses.driver + 4 + 2 * place);
        self.queues[queue].seen = self.queues[queue].seen.wrapping_add(1);
        let mut readable = Vec::new();
        let mut writable = (0, 0);
        let mut entry = head;
        for part in 0.. {
            assert!(part < addresses.size, "a chain that loops");
            assert!(entry < addresses.size);
            let at = addresses.descriptors + 16 * u64::from(entry);
            let gpa = u64::from_le_bytes(self.read(at));
            let bytes = u32::from_le_bytes(self.read(at + 8)) as usize;
            let flags = self.read_u16(at + 12);
            if flags & 2 != 0 {
                writable = (gpa, bytes);
            } else {
                assert_eq!(writable.1, 0, "readable parts come first");
                for offset in 0..bytes as u64 {
                    readable.extend(self.read::<1>(gpa + offset));
                }
            }
            if flags & 1 == 0 {
                break;
            }
            entry = self.read_u16(at + 14);
        }
        Some((head, readable, writable.0, writable.1))
    }

    /// Returns a chain.
    fn give_chain(&mut self, queue: usize, head: u32, written: u32) {
        let addresses = self.queues[queue].addresses.unwrap();
        let place = u64::from(self.queues[queue].used % addresses.size);
        self.write(addresses.device + 4 + 8 * place, &head.to_le_bytes());
        self.write(addresses.device + 8 + 8 * place, &written.to_le_bytes());
        self.queues[queue].used = self.queues[queue].used.wrapping_add(1);
        self.write(addresses.device + 2, &self.queues[queue].used.to_le_bytes());
    }

    /// Answers every request that waits.
    fn serve_control(&mut self) {
        match self.fault {
            Fault::Silent => return,
            Fault::NeedsReset => {
                self.status |= status::NEEDS_RESET;
                return;
            }
            Fault::Late if self.late.is_none() => {
                // The first look is at the beginning of the wait.
                self.late = Some((1, self.now_ns + 2 * Options::default().timeout_ns));
                return;
            }
            _ => {}
        }
        while let Some((head, request, gpa, room)) = self.take_chain(0) {
            assert_eq!(room, 256, "room for the longest reply");
            let (header, body) = request.split_first_chunk::<16>().unwrap();
            let header = RequestHeader::from_bytes(header);
            assert_eq!(header.length as usize, request.len());
            let kind = RequestKind::from_code(header.kind).unwrap();
            self.requests.push((kind, body.to_vec()));
            let (status, mut reply) = if kind == RequestKind::Query {
                let reply = QueryReply {
                    instance: self.instance,
                    ..self.query
                };
                (0, reply.to_bytes().to_vec())
            } else {
                (self.handler)(kind, body)
            };
            let mut answer = ReplyHeader {
                status,
                length: 16 + reply.len() as u32,
                tag: header.tag,
            };
            let mut written = 16 + reply.len() as u32;
            let mut id = u32::from(head);
            match self.fault {
                Fault::Written(bytes) => written = bytes,
                Fault::Tag(tag) => answer.tag = tag,
                Fault::Length(bytes) => answer.length = bytes,
                Fault::Longer(bytes) => {
                    reply.extend(std::iter::repeat_n(0xee, bytes));
                    written += bytes as u32;
                }
                Fault::Status(status) => answer.status = status,
                Fault::UsedId(wrong) => id = wrong,
                _ => {}
            }
            if self.fault != Fault::Unwritten {
                self.write(gpa, &answer.to_bytes());
                self.write(gpa + 16, &reply);
            }
            self.give_chain(0, id, written);
            if let Fault::UsedIndex(more) = self.fault {
                self.queues[0].used = self.queues[0].used.wrapping_add(more);
                let device = self.queues[0].addresses.unwrap().device;
                self.write(device + 2, &self.queues[0].used.to_le_bytes());
            }
        }
    }

    /// Puts an event into the next buffer of the event queue; false when there is none.
    pub(super) fn send(&mut self, event: Event) -> bool {
        self.send_bytes(&event.to_bytes(), 64, None)
    }

    /// As [`Self::send`], with any bytes, length and chain.
    pub(super) fn send_bytes(&mut self, bytes: &[u8], written: u32, id: Option<u32>) -> bool {
        let Some((head, readable, gpa, room)) = self.take_chain(1) else {
            return false;
        };
        assert!(readable.is_empty() && room == 64);
        self.write(gpa, bytes);
        self.give_chain(1, id.unwrap_or(u32::from(head)), written);
        true
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for region in &self.regions {
            // SAFETY: allocated with this layout, and nobody is left who could reach it.
            unsafe { dealloc(region.ptr.as_ptr(), Region::layout(region.pages)) };
        }
    }
}

/// The kernel's side.
#[derive(Debug)]
pub(super) struct FakeHal(pub(super) Shared);

// SAFETY: pages are zeroed allocations of their own and live until `free`, or as long as the world.
unsafe impl Hal for FakeHal {
    fn allocate(&mut self, pages: usize) -> Option<DmaPages> {
        let mut world = self.0.borrow_mut();
        world.pages_left = world.pages_left.checked_sub(pages)?;
        // SAFETY: the size is not 0.
        let ptr = NonNull::new(unsafe { alloc_zeroed(Region::layout(pages)) }).unwrap();
        let gpa = world.next_gpa;
        // A hole behind each, so that an overrun is not somebody else's page.
        world.next_gpa += ((pages + 1) * PAGE_BYTES) as u64;
        world.regions.push(Region { gpa, ptr, pages });
        Some(DmaPages { gpa, ptr, pages })
    }

    unsafe fn free(&mut self, pages: DmaPages) {
        let mut world = self.0.borrow_mut();
        for queue in &world.queues {
            let page = queue.addresses.map(|addresses| addresses.descriptors);
            assert_ne!(
                page,
                Some(pages.gpa),
                "freed under a device that still uses it"
            );
        }
        let place = world
            .regions
            .iter()
            .position(|region| region.gpa == pages.gpa)
            .unwrap();
        let region = world.regions.swap_remove(place);
        assert_eq!((region.ptr, region.pages), (pages.ptr, pages.pages));
        world.pages_left += region.pages;
        // SAFETY: allocated with this layout; it is out of the list, so nobody reaches it.
        unsafe { dealloc(region.ptr.as_ptr(), Region::layout(region.pages)) };
    }

    fn now_ns(&mut self) -> u64 {
        let mut world = self.0.borrow_mut();
        world.now_ns += 1;
        if let Some((looks, then)) = world.late {
            world.late = Some((looks.saturating_sub(1), then));
            if looks == 0 {
                // The driver was kept off its CPU; when it comes back, the reply is there.
                world.now_ns = then;
                world.serve_control();
                world.late = None;
            }
        }
        world.now_ns
    }

    fn idle(&mut self) {
        let mut world = self.0.borrow_mut();
        world.idles += 1;
        world.now_ns += 1_000_000;
    }
}

/// The device's registers.
#[derive(Debug)]
pub(super) struct FakeTransport(pub(super) Shared);

impl Transport for FakeTransport {
    fn probe(&mut self) -> Result<(), Error> {
        self.0.borrow().probe
    }

    fn device_id(&mut self) -> u32 {
        41
    }

    fn status(&mut self) -> u32 {
        self.0.borrow().status
    }

    fn set_status(&mut self, status: u32) {
        let mut world = self.0.borrow_mut();
        world.statuses.push(status);
        if status != 0 {
            let refused = if world.accepts_features {
                0
            } else {
                status::FEATURES_OK
            };
            world.status = status & !refused;
        } else if !world.ignores_reset {
            world.status = 0;
            world.queues = Default::default();
            world.late = None;
        }
    }

    fn device_features(&mut self) -> u64 {
        self.0.borrow().device_features
    }

    fn set_driver_features(&mut self, features: u64) {
        self.0.borrow_mut().driver_features = features;
    }

    fn queue_size_max(&mut self, queue: u16) -> u16 {
        self.0.borrow().size_max[usize::from(queue)]
    }

    fn enable_queue(&mut self, queue: u16, addresses: &VirtqueueAddresses) {
        let mut world = self.0.borrow_mut();
        assert_eq!(
            world.status & status::DRIVER_OK,
            0,
            "queues come before DRIVER_OK"
        );
        assert!(addresses.size.is_power_of_two());
        assert!(addresses.descriptors.is_multiple_of(16));
        assert!(addresses.driver.is_multiple_of(2) && addresses.device.is_multiple_of(4));
        assert_eq!(
            world.read_u16(addresses.device + 2),
            0,
            "the used ring starts at 0"
        );
        if queue == 0 {
            assert_eq!(
                world.read_u16(addresses.driver + 2),
                0,
                "nothing was asked yet"
            );
        }
        let no_notify = u16::from(world.no_notify && queue == 1).to_le_bytes();
        world.write(addresses.device, &no_notify);
        let fresh = Queue {
            addresses: Some(*addresses),
            ..Queue::default()
        };
        world.queues[usize::from(queue)] = fresh;
    }

    fn notify(&mut self, queue: u16) {
        let mut world = self.0.borrow_mut();
        assert_ne!(
            world.status & status::DRIVER_OK,
            0,
            "notified before DRIVER_OK"
        );
        world.notifications.push(queue);
        if queue == 0 {
            world.serve_control();
        }
    }

    fn acknowledge_interrupt(&mut self) -> u32 {
        1
    }

    fn config_u32(&mut self, offset: usize) -> u32 {
        self.0.borrow().config[offset / 4]
    }
}
