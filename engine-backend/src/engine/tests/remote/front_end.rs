//! A front end that does what QEMU does: addresses of its own, memory as a table, stops without
//! resets, and VHOST_F_LOG_ALL.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserDirtyLogRegion, VhostUserMemoryRegionInfo, VringConfigData};

use super::{BOTH, World, assert_exchange};
use crate::device::tests::driver::Queue;
use crate::engine::tests::world::{BUFFER, BUFFER_BYTES, Vm, copy, until};
use crate::interface::{DirtyBitmap, Domain, DomainError, MemoryRegion, Vring};
use crate::testing::Guest;
use byway_protocols::{Rights, Status};

/// Where this front end has guest RAM, other than the guest.
const MAPPED_AT: u64 = 0x7f00_0000_0000;
const LOG_ALL: u64 = 1 << 26;

/// What QEMU does with a device.
pub(super) struct Qemu {
    pub(super) frontend: Frontend,
    guest: Arc<Guest>,
    features: u64,
}

impl Qemu {
    pub(super) fn connect(socket: &Path, guest: &Arc<Guest>) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        let mut frontend = Frontend::from_stream(stream, 2);
        let features = frontend.get_features().unwrap();
        let protocol = frontend.get_protocol_features().unwrap();
        let wanted = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::LOG_SHMFD
            | VhostUserProtocolFeatures::CONFIG;
        assert!(protocol.contains(wanted));
        frontend.set_protocol_features(wanted).unwrap();
        frontend.set_owner().unwrap();
        assert_eq!(frontend.get_queue_num().unwrap(), 2);
        let flags = VhostUserConfigFlags::empty();
        let (_, config) = frontend.get_config(0, 8, flags, &[0; 8]).unwrap();
        assert_eq!(&config[..4], b"BYWY");
        Self {
            frontend,
            guest: Arc::clone(guest),
            features: features & !LOG_ALL,
        }
    }
    fn regions(&self) -> [VhostUserMemoryRegionInfo; 1] {
        let (guest_phys_addr, memory_size) = self.guest.ram();
        [VhostUserMemoryRegionInfo {
            guest_phys_addr,
            memory_size,
            userspace_addr: MAPPED_AT,
            mmap_offset: 0,
            mmap_handle: self.guest.file().as_raw_fd(),
        }]
    }
    /// As vhost_dev_start does it.
    pub(super) fn start(&mut self, rings: [&Vring; 2]) {
        let f = &mut self.frontend;
        f.set_hdr_flags(VhostUserHeaderFlag::empty());
        f.set_features(self.features).unwrap();
        self.frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        self.frontend.set_mem_table(&self.regions()).unwrap();
        self.frontend.set_hdr_flags(VhostUserHeaderFlag::empty());
        for (index, ring) in rings.into_iter().enumerate() {
            let f = &mut self.frontend;
            f.set_vring_num(index, ring.size).unwrap();
            f.set_vring_base(index, ring.base).unwrap();
            f.set_vring_addr(index, &addresses(&self.guest, ring))
                .unwrap();
            f.set_vring_kick(index, &ring.kick).unwrap();
            f.set_vring_call(index, &ring.call).unwrap();
        }
        for index in 0..2 {
            self.frontend.set_vring_enable(index, true).unwrap();
        }
    }
    /// As vhost_dev_stop does it; the bases.
    pub(super) fn stop(&mut self) -> [u16; 2] {
        [0, 1].map(|index| self.frontend.get_vring_base(index).unwrap() as u16)
    }
}

fn addresses(guest: &Guest, ring: &Vring) -> VringConfigData {
    let at = |gpa: u64| gpa - guest.ram().0 + MAPPED_AT;
    VringConfigData {
        queue_max_size: 256,
        queue_size: ring.size,
        flags: 0,
        desc_table_addr: at(ring.desc_table),
        used_ring_addr: at(ring.used_ring),
        avail_ring_addr: at(ring.avail_ring),
        log_addr: None,
    }
}

/// A VM of QEMU's: the guest's side is that of the others.
struct Machine {
    qemu: Arc<Mutex<Qemu>>,
    vm: Vm,
}

/// By which the guest's side of the tests starts its device; memory the front end brings itself.
struct Device {
    qemu: Arc<Mutex<Qemu>>,
    control: Option<Vring>,
}

impl Domain for Device {
    fn features(&self) -> u64 {
        1 << 32
    }
    fn set_features(&mut self, _: u64) -> Result<(), DomainError> {
        Ok(())
    }
    fn queue_count(&self) -> usize {
        2
    }
    fn queue_max_size(&self) -> u16 {
        256
    }
    fn read_config(&self, _: u32, _: &mut [u8]) {}
    fn add_region(&mut self, _: MemoryRegion) -> Result<(), DomainError> {
        Ok(())
    }
    fn remove_region(&mut self, _: u64, _: u64) -> Result<(), DomainError> {
        Ok(())
    }
    fn protect_region(&mut self, _: u64, _: u64, _: bool) -> Result<(), DomainError> {
        Ok(())
    }
    fn discard(&mut self, _: u64, _: u64) -> Result<(), DomainError> {
        Ok(())
    }
    fn restore(&mut self, _: u64, _: u64) -> Result<(), DomainError> {
        Ok(())
    }
    fn set_dirty_log(&mut self, _: bool) {}
    fn harvest_dirty(&mut self, _: u64, _: u64) -> Result<DirtyBitmap, DomainError> {
        unreachable!()
    }
    fn start_vring(&mut self, index: usize, vring: Vring) -> Result<(), DomainError> {
        match self.control.take() {
            None => self.control = Some(vring),
            Some(control) => {
                assert_eq!(index, 1);
                self.qemu.lock().unwrap().start([&control, &vring]);
            }
        }
        Ok(())
    }
    fn stop_vring(&mut self, _: usize) -> Result<u16, DomainError> {
        unreachable!()
    }
    fn reset(&mut self) {}
    fn pause(&mut self) {}
    fn resume(&mut self) {}
}

impl Machine {
    fn boot(w: &World, name: &str) -> Self {
        let guest = Guest::new(1, 3 * BUFFER_BYTES);
        let qemu = Arc::new(Mutex::new(Qemu::connect(&w.socket(name), &guest)));
        let device = Device {
            qemu: Arc::clone(&qemu),
            control: None,
        };
        let vm = Vm::on(Box::new(device), guest);
        Self { qemu, vm }
    }
    fn qemu(&self) -> MutexGuard<'_, Qemu> {
        self.qemu.lock().unwrap()
    }
    /// The guest is reset: its driver begins anew, on rings elsewhere.
    fn restart(&mut self) {
        self.vm.driver.start(&mut *self.vm.device);
    }
    /// Starts with the rings of before, at these bases.
    fn go_on(&mut self, bases: [u16; 2]) {
        let ring = |queue: &Queue, base| Vring {
            base,
            ..queue.vring()
        };
        let driver = &self.vm.driver;
        let control = ring(&driver.control, bases[0]);
        let events = ring(&driver.events, bases[1]);
        self.qemu().start([&control, &events]);
    }
}

#[test]
fn a_front_end_like_qemus_is_served() {
    let w = World::new();
    let mut alice = w.boot("alice");
    let mut bob = Machine::boot(&w, "bob");
    let (_, remote) = bob.vm.give_buffer(&mut alice, BOTH);
    assert_exchange(&mut alice, &bob.vm, remote);
    // The same table again takes nothing away, nor does it interrupt anything.
    let regions = bob.qemu().regions();
    bob.qemu().frontend.set_mem_table(&regions).unwrap();
    assert_exchange(&mut alice, &bob.vm, remote);
}

#[test]
fn a_paused_vm_goes_on_where_it_was() {
    let w = World::new();
    let mut alice = w.boot("alice");
    let mut bob = Machine::boot(&w, "bob");
    let (_, remote) = bob.vm.give_long(&mut alice);
    alice.begin_copies(&bob.vm, remote);
    let bases = bob.qemu().stop();
    assert_ne!(bases[0], 0);
    // The reply has come: nobody touches its memory, its peer neither.
    bob.vm.assert_untouched();
    let ends = alice.end_copies().map(|c| c.status().unwrap());
    assert!(ends.iter().all(|end| *end != Status::Success), "{ends:?}");
    bob.go_on(bases);
    let put = copy((0, BUFFER), (remote, 0), 4096);
    until("bob is back", || alice.run_for(&put) == Status::Success);
    let own = copy((0, BUFFER), (0, BUFFER + 4096), 4096);
    assert_eq!(bob.vm.run_for(&own), Status::Success);
}

#[test]
fn a_guest_that_starts_anew_has_given_nothing() {
    let w = World::new();
    let mut alice = w.boot("alice");
    let mut bob = Machine::boot(&w, "bob");
    let (_, remote) = bob.vm.give_long(&mut alice);
    alice.begin_copies(&bob.vm, remote);
    assert_ne!(bob.qemu().stop()[0], 0);
    bob.vm.assert_untouched();
    alice.end_copies();
    bob.restart();
    bob.vm.assert_untouched();
    let put = copy((0, BUFFER), (remote, 0), 64);
    assert_eq!(alice.run_for(&put), Status::Revoked);
    // It sets everything up again.
    bob.vm.open();
    let (_, remote) = bob.vm.give_buffer(&mut alice, BOTH);
    assert_exchange(&mut alice, &bob.vm, remote);
}

/// For its driver a device is reset when GET_VRING_BASE has been answered (QEMU says no more), and what were rings may be
/// anything from then on.
#[test]
fn rings_of_a_guest_that_has_stopped_are_not_written_to() {
    type After = fn(&mut Machine);
    let then: [(&str, After); 3] = [
        ("the guest starts anew", |bob| {
            bob.restart();
            // Answered when all that came before has been done.
            bob.qemu().frontend.get_features().unwrap();
        }),
        ("its front end goes", |bob| {
            let qemu = bob.qemu();
            // SAFETY: shuts an open socket down.
            unsafe { libc::shutdown(qemu.frontend.as_raw_fd(), libc::SHUT_RDWR) };
            let _ = qemu.frontend.get_features();
        }),
        ("its memory goes", |bob| {
            let smaller = Guest::new(1, BUFFER_BYTES);
            let region = VhostUserMemoryRegionInfo {
                mmap_handle: smaller.file().as_raw_fd(),
                memory_size: smaller.ram().1,
                ..bob.qemu().regions()[0]
            };
            bob.qemu().frontend.set_mem_table(&[region]).unwrap();
            bob.qemu().frontend.get_features().unwrap();
        }),
    ];
    for (what, after) in then {
        let w = World::new();
        let mut bob = Machine::boot(&w, "bob");
        let own = copy((0, BUFFER), (0, BUFFER + 4096), 4096);
        assert_eq!(bob.vm.run_for(&own), Status::Success);
        bob.qemu().stop();
        // Outstanding, as one that was in the works would be.
        bob.vm.queue.publish(&own);
        let queue = &bob.vm.queue;
        let rings = [
            (queue.ring, 64 * 16),
            (queue.completions, 32 * 16),
            (queue.header, 64),
        ];
        let read = |bob: &Machine| rings.map(|(gpa, bytes)| bob.vm.guest.read(gpa, bytes));
        let before = read(&bob);
        after(&mut bob);
        if what != "the guest starts anew" {
            bob.qemu.lock().unwrap().frontend = {
                let (own, _) = UnixStream::pair().unwrap();
                Frontend::from_stream(own, 2)
            };
            w.wait_detached("bob");
        }
        assert!(before == read(&bob), "{what}: its rings were written to");
    }
}

/// A log of so many bytes, and how it is shared.
fn dirty_log(bytes: u64) -> (File, VhostUserDirtyLogRegion) {
    // SAFETY: the name is a string with its end; the descriptor is nobody else's.
    let log = unsafe {
        let fd = libc::memfd_create(c"log".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0);
        File::from_raw_fd(fd)
    };
    log.set_len(bytes).unwrap();
    let shared = VhostUserDirtyLogRegion {
        mmap_size: bytes,
        mmap_offset: 0,
        mmap_handle: log.as_raw_fd(),
    };
    (log, shared)
}

#[test]
fn a_log_that_ends_before_guest_ram_is_refused() {
    let w = World::new();
    let mut alice = w.boot("alice");
    let mut bob = Machine::boot(&w, "bob");
    let (_, remote) = bob.vm.give_buffer(&mut alice, BOTH);
    let (start, size) = bob.vm.guest.ram();
    let (log, shared) = dirty_log((start + size) / 4096 / 8 - 1);
    {
        let qemu = bob.qemu();
        qemu.frontend.set_log_base(0, Some(shared)).unwrap();
        // Not acknowledged, so that the refusal is the end.
        let _ = qemu.frontend.set_features(qemu.features | LOG_ALL);
    }
    w.wait_detached("bob");
    let put = copy((0, BUFFER), (remote, 0), 4096);
    assert_eq!(alice.run_for(&put), Status::Revoked);
    let mut bits = vec![0; log.metadata().unwrap().len() as usize];
    log.read_exact_at(&mut bits, 0).unwrap();
    assert!(bits.iter().all(|byte| *byte == 0), "it was used");
}

#[test]
fn a_migrating_front_end_is_told_of_every_page() {
    let w = World::new();
    let mut alice = w.boot("alice");
    let mut bob = Machine::boot(&w, "bob");
    let (_, remote) = bob.vm.give_buffer(&mut alice, Rights(3));
    let (start, size) = bob.vm.guest.ram();
    let bytes = (start + size) / 4096 / 8;
    let (log, shared) = dirty_log(bytes);
    let qemu = bob.qemu();
    let f = &qemu.frontend;
    f.set_log_base(0, Some(shared)).unwrap();
    f.set_features(qemu.features | LOG_ALL).unwrap();
    // Not before: a queue that is parked meanwhile, as on a busy host, writes to its header.
    let before = bob.vm.guest.read(start, size);
    // The flags of running rings change, and nothing else of them.
    for (index, queue) in [&bob.vm.driver.control, &bob.vm.driver.events]
        .into_iter()
        .enumerate()
    {
        let data = addresses(&bob.vm.guest, &queue.vring());
        let logged = VringConfigData {
            flags: 1,
            log_addr: Some(start),
            ..data
        };
        f.set_vring_addr(index, &logged).unwrap();
    }
    drop(qemu);
    for offset in [0, 5 * 4096, 3 << 20] {
        alice.fill(0, 4096, 0xa5);
        let put = copy((0, BUFFER), (remote, offset), 4096);
        assert_eq!(alice.run_for(&put), Status::Success);
    }
    let marked = |page: u64| {
        let mut byte = [0];
        log.read_exact_at(&mut byte, page / 8).unwrap();
        byte[0] >> (page % 8) & 1 == 1
    };
    let buffer = bob.vm.buffer_gpa() / 4096;
    // Without being asked, while it runs.
    until("the log is brought up to date", || marked(buffer + 5));
    bob.qemu().stop();
    let after = bob.vm.guest.read(start, size);
    let drivers = [&bob.vm.driver.control, &bob.vm.driver.events].map(Queue::drivers_pages);
    let drivers: Vec<u64> = drivers.into_iter().flatten().collect();
    let mut written = 0;
    for at in (0..size).step_by(4096) {
        let page = (start + at) / 4096;
        let range = at as usize..at as usize + 4096;
        if before[range.clone()] != after[range] && !drivers.contains(&(page * 4096)) {
            written += 1;
            assert!(marked(page), "page {page:#x} was written and is not marked");
        }
    }
    assert!(written >= 3, "{written}");
    assert!(!marked(buffer + 1), "nobody wrote there");
}
