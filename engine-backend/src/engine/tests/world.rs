//! An engine with two VMs, their drivers, processes and work queues.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use byway_protocols::codec::{KeyAlgorithm, KeyBytes};
use byway_protocols::control::{
    BindRequest, CapAcceptReply, CapAcceptRequest, CapDeriveReply, CapDeriveRequest, CapOfferReply,
    CapOfferRequest, CapSlotRequest, ContextCreateReply, ContextCreateRequest,
    ContextDestroyRequest, KeyLoadRequest, QueueCreateReply, QueueCreateRequest, QueueRequest,
    RequestKind, bind_flags,
};
use byway_protocols::operands::{CancelFields, cancel_flags};
use byway_protocols::{
    Completion, ControlStatus, Descriptor, Flags, Opcode, Rights, RingPosition, Status, Word0,
};

use crate::address_space::Root;
use crate::device::tests::driver::{Driver, PATIENCE};
use crate::interface::{Action, Admin, Domain, LinkPolicy, Quotas};
use crate::testing::{Guest, PageSize, Process, pte};
use crate::{Engine, EngineConfig};

/// PASID of each VM's one process.
pub(super) const PASID: u32 = 7;
/// Where each process has its buffer.
pub(super) const BUFFER: u64 = 0x5000_0000_0000;
/// Bytes of that.
pub(super) const BUFFER_BYTES: u64 = 16 << 20;

/// A range that takes long to copy: one large page of the process, over and over.
pub(super) const LONG: u64 = 0x6000_0000_0000;
/// Bytes of that.
pub(super) const LONG_BYTES: u64 = 1 << 30;
/// Copies of [`Vm::begin_copies`]: they outlast whatever the host does with the test's own thread.
const MANY_COPIES: u32 = 250;
/// Copies of [`Vm::begin_some_copies`].
const SOME_COPIES: u32 = 12;
/// Bytes behind it.
pub(super) const PAGE_BYTES: u64 = 2 << 20;

pub(super) fn engine() -> Engine {
    Engine::new(EngineConfig::default()).unwrap()
}

pub(super) fn create(engine: &Engine, name: &str) {
    let name = name.to_owned();
    let quotas = Quotas::default();
    engine.act(Action::CreateDomain { name, quotas }).unwrap();
}

pub(super) fn link(engine: &Engine, from: &str, to: &str) {
    engine
        .act(Action::Link(LinkPolicy {
            from: from.to_owned(),
            to: to.to_owned(),
            read: true,
            write: true,
            grant: true,
            keys: true,
            max_bytes: 0,
        }))
        .unwrap();
}

/// An engine with alice and bob, linked both ways.
pub(super) fn pair() -> (Engine, Vm, Vm) {
    let engine = engine();
    create(&engine, "alice");
    create(&engine, "bob");
    link(&engine, "alice", "bob");
    link(&engine, "bob", "alice");
    let alice = Vm::boot(&engine, "alice");
    let bob = Vm::boot(&engine, "bob");
    (engine, alice, bob)
}

/// A VM with one process, bound, with a context and a work queue.
pub(super) struct Vm {
    pub(super) device: Box<dyn Domain>,
    pub(super) driver: Driver,
    pub(super) guest: Arc<Guest>,
    pub(super) process: Process,
    /// Guest-physical address of the process's buffer.
    pub(super) buffer: u64,
    /// Guest-physical address of the page behind [`LONG`].
    page: u64,
    /// Where the process's address space gets its invalidation page; 0 = none.
    pub(super) invalidation_page: u64,
    pub(super) id: u32,
    pub(super) context: u32,
    pub(super) queue: Queue,
}

impl Vm {
    pub(super) fn boot(engine: &Engine, name: &str) -> Self {
        let device = engine.attach(name).unwrap();
        // Its number here is for the test support's own objects, which are not used.
        let guest = Guest::new(1, 3 * BUFFER_BYTES);
        Self::on(device, guest)
    }
    pub(super) fn on(mut device: Box<dyn Domain>, guest: Arc<Guest>) -> Self {
        let mut driver = Driver::new(&guest);
        driver.attach(&mut *device);
        let process = Process::new(&guest, 1);
        let buffer = process.map(BUFFER, BUFFER_BYTES, PageSize::Small);
        let page = guest.alloc(PAGE_BYTES, PAGE_BYTES);
        for at in (LONG..LONG + LONG_BYTES).step_by(PAGE_BYTES as usize) {
            process.map_page(at, page, PageSize::Large, pte::USER);
        }
        let queue = Queue::new(&guest);
        let mut vm = Self {
            device,
            driver,
            guest,
            process,
            buffer,
            page,
            invalidation_page: 0,
            id: 0,
            context: 0,
            queue,
        };
        vm.open();
        vm
    }
    /// What a driver does after each reset, up to one work queue.
    pub(super) fn open(&mut self) {
        self.id = self.driver.query().domain;
        self.bind().unwrap();
        self.context = self.create_context();
        self.create_queue();
    }
    pub(super) fn ask<const N: usize>(
        &mut self,
        kind: RequestKind,
        body: &[u8],
    ) -> Result<[u8; N], ControlStatus> {
        let reply = self.driver.call(kind, body)?;
        Ok(reply.try_into().expect("a reply of the right length"))
    }
    pub(super) fn bind(&mut self) -> Result<(), ControlStatus> {
        let Root::Tables(tables) = *self.process.space().root() else {
            panic!("a process has page tables");
        };
        let q = BindRequest {
            root: tables.gpa,
            pasid: PASID,
            levels: 4,
            maxphyaddr: 46,
            flags: bind_flags::NXE,
            invalidation_page: self.invalidation_page,
            ..BindRequest::default()
        };
        self.ask::<0>(RequestKind::Bind, &q.to_bytes()).map(|_| ())
    }
    pub(super) fn create_context(&mut self) -> u32 {
        let q = ContextCreateRequest {
            pasid: PASID,
            slots: 8,
        };
        let reply = self.ask(RequestKind::ContextCreate, &q.to_bytes());
        ContextCreateReply::from_bytes(&reply.unwrap()).context
    }
    pub(super) fn destroy_context(&mut self, context: u32) -> Result<(), ControlStatus> {
        let q = ContextDestroyRequest {
            context,
            reserved4: 0,
        };
        let reply = self.ask::<0>(RequestKind::ContextDestroy, &q.to_bytes());
        reply.map(|_| ())
    }
    /// A fresh queue for the context.
    pub(super) fn create_queue(&mut self) {
        self.queue = self.another_queue(self.context, Queue::ENTRIES);
    }
    /// A queue for a context beside the usual one.
    pub(super) fn another_queue(&mut self, context: u32, entries: u32) -> Queue {
        let mut queue = Queue::of(&self.guest, entries);
        let q = QueueCreateRequest {
            context,
            entries,
            ring: queue.ring,
            completions: queue.completions,
            header: queue.header,
            ..QueueCreateRequest::default()
        };
        let reply = self.ask(RequestKind::QueueCreate, &q.to_bytes());
        queue.id = QueueCreateReply::from_bytes(&reply.unwrap()).queue;
        queue
    }
    pub(super) fn queue_request(&mut self, kind: RequestKind) -> Result<(), ControlStatus> {
        let q = QueueRequest {
            queue: self.queue.id,
            reserved4: 0,
        };
        self.ask::<0>(kind, &q.to_bytes()).map(|_| ())
    }
    /// Puts a key with all rights to it into a slot of the context: of each byte its place tells what it is.
    pub(super) fn load_key(
        &mut self,
        algorithm: KeyAlgorithm,
        slot: u32,
        byte: impl Fn(usize) -> u8,
    ) {
        let length = algorithm.key_bytes();
        let key = std::array::from_fn(|i| if i < length { byte(i) } else { 0 });
        let q = KeyLoadRequest {
            context: self.context,
            slot,
            algorithm: algorithm as u32,
            length: algorithm.key_bytes() as u32,
            rights: Rights::KEY.0,
            key: KeyBytes(key),
            ..KeyLoadRequest::default()
        };
        self.ask::<8>(RequestKind::KeyLoad, &q.to_bytes()).unwrap();
    }
    /// A capability over a range of the process's own memory.
    pub(super) fn derive(&mut self, base: u64, length: u64, rights: Rights) -> u32 {
        let q = CapDeriveRequest {
            context: self.context,
            base,
            length,
            rights: rights.0,
            target_context: self.context,
            ..CapDeriveRequest::default()
        };
        let reply = self.ask(RequestKind::CapDerive, &q.to_bytes());
        CapDeriveReply::from_bytes(&reply.unwrap()).slot
    }
    pub(super) fn offer(
        &mut self,
        slot: u32,
        to: u32,
        rights: Rights,
    ) -> Result<u64, ControlStatus> {
        let q = CapOfferRequest {
            context: self.context,
            slot,
            domain: to,
            rights: rights.0,
            ..CapOfferRequest::default()
        };
        let reply = self.ask(RequestKind::CapOffer, &q.to_bytes())?;
        Ok(CapOfferReply::from_bytes(&reply).offer)
    }
    pub(super) fn accept(&mut self, offer: u64) -> Result<u16, ControlStatus> {
        let q = CapAcceptRequest {
            offer,
            context: self.context,
            ..CapAcceptRequest::default()
        };
        let reply = self.ask(RequestKind::CapAccept, &q.to_bytes())?;
        Ok(CapAcceptReply::from_bytes(&reply).slot as u16)
    }
    pub(super) fn slot_request(
        &mut self,
        kind: RequestKind,
        slot: u32,
    ) -> Result<(), ControlStatus> {
        let q = CapSlotRequest {
            context: self.context,
            slot,
            ..CapSlotRequest::default()
        };
        self.ask::<0>(kind, &q.to_bytes()).map(|_| ())
    }
    pub(super) fn revoke(&mut self, slot: u32) -> Result<(), ControlStatus> {
        self.slot_request(RequestKind::CapRevoke, slot)
    }
    /// Gives `peer` all of the buffer; returns the slots here and there.
    pub(super) fn give_buffer(&mut self, peer: &mut Vm, rights: Rights) -> (u32, u16) {
        self.give(peer, BUFFER, BUFFER_BYTES, rights)
    }
    /// Gives `peer` the long range; returns the slots here and there.
    pub(super) fn give_long(&mut self, peer: &mut Vm) -> (u32, u16) {
        self.give(peer, LONG, LONG_BYTES, Rights(3))
    }
    fn give(&mut self, peer: &mut Vm, base: u64, length: u64, rights: Rights) -> (u32, u16) {
        let slot = self.derive(base, length, Rights::ALL);
        let offer = self.offer(slot, peer.id, rights).unwrap();
        (slot, peer.accept(offer).unwrap())
    }

    /// Submits copies of the long range to what `peer` gave, in a queue that is deep enough and the usual one from then on,
    /// and waits until the first is under way. Something has to end them: there are so many that it never comes too late.
    pub(super) fn begin_copies(&mut self, peer: &Vm, to: u16) {
        let entries = MANY_COPIES.next_power_of_two();
        if self.queue.entries() < entries {
            self.queue = self.another_queue(self.context, entries);
        }
        self.begin(peer, to, MANY_COPIES);
    }
    /// The same with so few copies that a test may wait until all are done.
    pub(super) fn begin_some_copies(&mut self, peer: &Vm, to: u16) {
        self.begin(peer, to, SOME_COPIES);
    }
    fn begin(&mut self, peer: &Vm, to: u16, copies: u32) {
        self.fill_page(1);
        peer.fill_page(0);
        for _ in 0..copies {
            self.submit(&copy((0, LONG), (to, 0), LONG_BYTES));
        }
        until("the copies begin", || peer.guest.read(peer.page, 1) == [1]);
    }
    /// How the copies that were begun ended: the first that was no success and the
    /// one after it, or the last two.
    pub(super) fn end_copies(&mut self) -> [Completion; 2] {
        let mut all = Vec::new();
        while !self.queue.is_idle() {
            all.push(self.queue.wait());
        }
        let failed = |c: &Completion| c.status() != Some(Status::Success);
        let first = all.iter().position(failed).unwrap_or(all.len());
        let first = first.min(all.len() - 2);
        [all[first], all[first + 1]]
    }
    /// Guest-physical address of what is behind the long range.
    pub(super) fn page_gpa(&self) -> u64 {
        self.page
    }
    /// Guest-physical address of what is behind the buffer.
    pub(super) fn buffer_gpa(&self) -> u64 {
        self.buffer
    }
    /// What is behind the long range.
    pub(super) fn page(&self) -> Vec<u8> {
        self.guest.read(self.page, PAGE_BYTES)
    }
    pub(super) fn fill_page(&self, value: u8) {
        self.guest
            .write(self.page, &vec![value; PAGE_BYTES as usize]);
    }
    /// Writes over the page behind the long range and sees whether anybody else does.
    pub(super) fn assert_untouched(&self) {
        self.fill_page(0x5a);
        std::thread::sleep(Duration::from_millis(10));
        assert!(self.page().iter().all(|&b| b == 0x5a));
    }

    /// The process's bytes, as its own CPU would see them.
    pub(super) fn read(&self, offset: u64, bytes: u64) -> Vec<u8> {
        self.guest.read(self.buffer + offset, bytes)
    }
    pub(super) fn fill(&self, offset: u64, bytes: u64, value: u8) {
        self.guest
            .write(self.buffer + offset, &vec![value; bytes as usize]);
    }
    /// Publishes, and kicks if the engine asks for it.
    pub(super) fn submit(&mut self, descriptor: &Descriptor) {
        self.queue.publish(descriptor);
        if self.queue.needs_kick() {
            self.driver.control.kick();
        }
    }
    /// The same on a queue beside the usual one.
    pub(super) fn submit_on(&mut self, queue: &mut Queue, descriptor: &Descriptor) {
        queue.publish(descriptor);
        if queue.needs_kick() {
            self.driver.control.kick();
        }
    }
    pub(super) fn run_on(&mut self, queue: &mut Queue, descriptor: &Descriptor) -> Completion {
        self.submit_on(queue, descriptor);
        queue.wait()
    }
    pub(super) fn run(&mut self, descriptor: &Descriptor) -> Completion {
        self.submit(descriptor);
        self.queue.wait()
    }
    pub(super) fn run_for(&mut self, descriptor: &Descriptor) -> Status {
        self.run(descriptor).status().unwrap()
    }
}

/// A copy of `size` bytes between two slots.
pub(super) fn copy(from: (u16, u64), to: (u16, u64), size: u64) -> Descriptor {
    Descriptor {
        word0: Word0::new(from.0, to.0, false).0,
        src: from.1,
        dst: to.1,
        size: size as u32,
        ..Descriptor::new(Opcode::Memmove, Flags::NONE)
    }
}

/// A CANCEL of all of a queue; 0 is the one that it is in.
pub(super) fn everything(queue: u32) -> Descriptor {
    let fields = CancelFields {
        queue,
        flags: cancel_flags::EVERYTHING,
        ..CancelFields::default()
    };
    Descriptor::new(Opcode::Cancel, Flags::NONE).with_operands(fields.to_bytes())
}

/// One of `count` descriptors of a queue, from this number on.
pub(super) fn range(queue: u32, first: u32, count: u32) -> Descriptor {
    let fields = CancelFields {
        queue,
        first,
        ..CancelFields::default()
    };
    Descriptor {
        size: count,
        ..Descriptor::new(Opcode::Cancel, Flags::NONE)
    }
    .with_operands(fields.to_bytes())
}

/// A ring-3 process's end of a work queue.
pub(super) struct Queue {
    guest: Arc<Guest>,
    pub(super) id: u32,
    pub(super) ring: u64,
    pub(super) completions: u64,
    pub(super) header: u64,
    next: RingPosition,
    oldest: RingPosition,
}

impl Queue {
    pub(super) const ENTRIES: u32 = 16;

    pub(super) fn new(guest: &Arc<Guest>) -> Self {
        Self::of(guest, Self::ENTRIES)
    }
    pub(super) fn of(guest: &Arc<Guest>, entries: u32) -> Self {
        let start = RingPosition::new(entries).unwrap();
        let entries = u64::from(entries);
        Self {
            guest: Arc::clone(guest),
            id: 0,
            ring: guest.alloc(64 * entries, 4096),
            completions: guest.alloc(32 * entries, 64),
            header: guest.alloc(64, 64),
            next: start,
            oldest: start,
        }
    }
    pub(super) fn publish(&mut self, descriptor: &Descriptor) {
        let at = self.ring + 64 * u64::from(self.next.slot());
        let mut d = *descriptor;
        d.word0 = d.slots().with_phase(self.next.phase()).0;
        self.guest.write(at + 8, &d.to_bytes()[8..]);
        self.guest.write_u64(at, d.publish_word());
        self.next.advance();
    }
    /// Descriptors published so far: the number of the next.
    pub(super) fn published(&self) -> u32 {
        self.next.count()
    }
    pub(super) fn needs_kick(&self) -> bool {
        fence(Ordering::SeqCst);
        self.header_word(0) == 1
    }
    fn header_word(&self, offset: u64) -> u32 {
        let place = self.guest.host(self.header + offset, 4);
        // SAFETY: an aligned place in the guest's window, which `guest` keeps mapped.
        unsafe { AtomicU32::from_ptr(place.cast()) }.load(Ordering::Acquire)
    }
    pub(super) fn state(&self) -> u32 {
        self.header_word(8)
    }
    pub(super) fn instance(&self) -> u32 {
        self.header_word(4)
    }
    pub(super) fn poll(&mut self) -> Option<Completion> {
        let at = self.completions + 32 * u64::from(self.oldest.slot());
        let place = self.guest.host(at, 8);
        // SAFETY: as above.
        let word = unsafe { AtomicU64::from_ptr(place.cast()) }.load(Ordering::Acquire);
        if (word & Completion::PUBLISH_PHASE != 0) != self.oldest.phase() {
            return None;
        }
        self.oldest.advance();
        let bytes = self.guest.read(at, 32);
        Some(Completion::from_bytes(&bytes.try_into().unwrap()))
    }
    pub(super) fn wait(&mut self) -> Completion {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(completion) = self.poll() {
                return completion;
            }
            assert!(Instant::now() < deadline, "no completion comes");
            std::thread::yield_now();
        }
    }
    pub(super) fn is_idle(&self) -> bool {
        self.next == self.oldest
    }
    fn entries(&self) -> u32 {
        self.next.entries()
    }
}

/// Waits until these queues are parked and the one worker has nothing to do with them any more, which `other` having
/// something done by it proves: it looks at a queue once more after it has asked for a kick, and logs what it wrote.
pub(super) fn until_parked<'a>(queues: impl IntoIterator<Item = &'a Queue>, other: &mut Vm) {
    for queue in queues {
        until("a queue parks", || queue.needs_kick());
    }
    let nop = Descriptor::new(Opcode::Nop, Flags::NONE);
    assert_eq!(other.run_for(&nop), Status::Success);
}

/// Waits until something holds.
pub(super) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it never came about: {what}");
        std::thread::sleep(Duration::from_micros(100));
    }
}
