//! Devices in pinned memory (SPEC section 7.10): the same bytes and statuses as by staging, and no byte after the
//! answer to whatever has ended the right.

use std::time::{Duration, Instant};

use byway_protocols::control::{
    CapSlotRequest, ContextDestroyRequest, InvalidateRequest, QueueRequest, ReplyHeader,
    RequestHeader, UnbindRequest, features, invalidate_scope,
};

use byway_protocols::operands::{CancelFields, cancel_flags};

use super::super::world::{PASID, link};
use super::slow_disk::SlowDisk;
use super::*;
use crate::device::tests::driver::region;
use crate::endpoint::CLOSE;
use crate::testing::{PageSize, pte};

/// Bytes of memory that is pinned, at the start of the buffer.
const PINNED: u64 = 4 << 20;
/// What memory is that nobody has written to.
const UNTOUCHED: u8 = 0xee;
/// Long enough for something to have happened by mistake.
const MISTAKE: Duration = Duration::from_millis(60);
/// How long a device may take that is to be late, and one that is not.
const IMPATIENT_MS: u32 = 300;
const PATIENT_MS: u32 = 10_000;

const RW: Rights = Rights(3);
const RWP: Rights = Rights(3 | 0x200);

fn trust(engine: &Engine, endpoint: &str, domain: &str, trusted: bool) {
    let grant = EndpointGrant {
        endpoint: endpoint.to_owned(),
        domain: domain.to_owned(),
        first: 0,
        bytes: 0,
        read: true,
        write: true,
        trusted,
    };
    engine.act(Action::GrantEndpoint(grant)).unwrap();
}

/// Trusts the disk with alice's memory, and opens it again: what was opened by the grant of before has ended with it.
fn trust_and_reopen(engine: &Engine, alice: &mut Vm, blocks: u16) -> u16 {
    trust(engine, "disk", "alice", true);
    alice
        .slot_request(RequestKind::CapDrop, blocks.into())
        .unwrap();
    open(alice, "disk").unwrap().slot as u16
}

/// Alice with a slow disk that is trusted with her memory, and bob.
struct World {
    engine: Engine,
    alice: Vm,
    bob: Vm,
    disk: SlowDisk,
    /// Alice's blocks.
    blocks: u16,
    /// Her memory, pinned.
    memory: u16,
}

impl World {
    fn new(timeout_ms: u32) -> Self {
        let (engine, mut alice, bob) = pair();
        let disk = SlowDisk::attach(&engine, "disk", timeout_ms, pattern(DISK));
        trust(&engine, "disk", "alice", true);
        let blocks = open(&mut alice, "disk").unwrap().slot as u16;
        let memory = alice.derive(BUFFER, PINNED, RWP) as u16;
        alice.fill(0, PINNED, UNTOUCHED);
        Self {
            engine,
            alice,
            bob,
            disk,
            blocks,
            memory,
        }
    }
    /// A read that the disk has and does not answer.
    fn begin(&mut self, size: u64) {
        self.disk.hold(true);
        let read = self.read(0, 0, size);
        self.alice.submit(&read);
        // As many pieces as are under way at a time.
        let pieces = (size / (128 << 10)).min(8) as usize;
        until("the disk has it", || self.disk.under_way() == pieces);
        assert!(self.disk.direct() > 0, "it is staged");
    }
    fn read(&self, at: u64, to: u64, size: u64) -> Descriptor {
        let (blocks, memory) = (self.blocks, self.memory);
        transfer(device_operation::READ, (blocks, at), (memory, to), size)
    }
    fn write(&self, at: u64, from: u64, size: u64) -> Descriptor {
        let (blocks, memory) = (self.blocks, self.memory);
        transfer(device_operation::WRITE, (memory, from), (blocks, at), size)
    }
    /// Does something while the disk holds what it has, until a while later. `None`: it was over while the disk still
    /// had some of that.
    fn until_released<R>(&mut self, act: impl FnOnce(&mut Self) -> R) -> Option<R> {
        let disk = self.disk.clone();
        let release = std::thread::spawn(move || {
            std::thread::sleep(MISTAKE);
            disk.hold(false);
        });
        let done = act(self);
        let left = self.disk.under_way();
        release.join().unwrap();
        (left == 0).then_some(done)
    }
    fn is_untouched(&self, bytes: u64) -> bool {
        self.alice.read(0, bytes).iter().all(|&b| b == UNTOUCHED)
    }
    /// Counts of the operator's: direct requests, and those that hold memory.
    fn counts(&self) -> (u64, u32) {
        let Reply::Endpoints { endpoints } = self.engine.act(Action::Endpoints).unwrap() else {
            panic!("another reply");
        };
        (endpoints[0].direct, endpoints[0].holds)
    }
}

/// Makes attempts until one comes in time, and says so: the host may keep this thread from its core for longer than what
/// it looks at lasts.
fn again_if_too_late<R>(mut attempt: impl FnMut() -> Option<R>) -> R {
    const ATTEMPTS: u32 = 10;
    for attempted in 1..=ATTEMPTS {
        if let Some(done) = attempt() {
            return done;
        }
        println!("attempt {attempted} came too late");
    }
    panic!("{ATTEMPTS} attempts were all too late");
}

fn invalidate(vm: &mut Vm) {
    let q = InvalidateRequest {
        pasid: PASID,
        scope: invalidate_scope::PASID,
        ..InvalidateRequest::default()
    };
    vm.ask::<8>(RequestKind::Invalidate, &q.to_bytes()).unwrap();
}

fn slot_request(vm: &Vm, slot: u16) -> [u8; 16] {
    let q = CapSlotRequest {
        context: vm.context,
        slot: slot.into(),
        ..CapSlotRequest::default()
    };
    q.to_bytes()
}

/// Asks without waiting.
fn post(vm: &mut Vm, kind: RequestKind, body: &[u8]) {
    vm.driver.post(kind, body);
    vm.driver.control.kick();
}

fn answer(vm: &mut Vm) -> Result<(), ControlStatus> {
    let used = vm.driver.control.wait();
    vm.driver.reply(used).map(drop)
}

#[test]
fn a_file_is_read_into_pinned_memory_and_written_from_it() {
    let (engine, mut alice, _bob, disk, blocks) = world();
    let blocks = trust_and_reopen(&engine, &mut alice, blocks);
    let memory = alice.derive(BUFFER, PINNED, RWP) as u16;
    alice.fill(0, PINNED, UNTOUCHED);
    let size = 3 << 20;
    let read = transfer(device_operation::READ, (blocks, 8192), (memory, 4096), size);
    let done = alice.run(&read);
    assert_eq!(done.status(), Some(Status::Success), "{done:?}");
    assert_eq!(done.bytes_completed, size as u32);
    let expected = pattern(DISK);
    assert!(alice.read(4096, size) == expected[8192..8192 + size as usize]);
    assert!(alice.read(0, 4096).iter().all(|&b| b == UNTOUCHED));
    assert!(
        alice
            .read(4096 + size, 4096)
            .iter()
            .all(|&b| b == UNTOUCHED)
    );
    let counts = |engine: &Engine| {
        let Reply::Endpoints { endpoints } = engine.act(Action::Endpoints).unwrap() else {
            panic!("another reply");
        };
        (endpoints[0].direct, endpoints[0].holds)
    };
    assert_eq!(counts(&engine), (size / (128 << 10), 0));

    alice.fill(0, PINNED, 0x3c);
    let write = transfer(device_operation::WRITE, (memory, 0), (blocks, 4096), size);
    let done = alice.run(&write);
    assert_eq!(done.status(), Some(Status::Success), "{done:?}");
    assert_eq!(done.bytes_completed, size as u32);
    let there = disk.bytes();
    assert!(there[4096..4096 + size as usize].iter().all(|&b| b == 0x3c));
    assert!(there[..4096] == expected[..4096]);
    assert!(there[4096 + size as usize..] == expected[4096 + size as usize..]);
    assert_eq!(counts(&engine), (2 * size / (128 << 10), 0));
}

/// A file that answers when it likes, and rights that end at any moment of that.
#[test]
fn rights_end_in_the_middle_of_everything() {
    let (engine, mut alice, _bob, _disk, blocks) = world();
    let blocks = trust_and_reopen(&engine, &mut alice, blocks);
    const PART: u64 = 128 << 10;
    let expected = pattern(DISK);
    let mut stopped = 0;
    for round in 0..60_u64 {
        let memory = alice.derive(BUFFER, PINNED, RWP);
        alice.fill(0, PINNED, UNTOUCHED);
        let size = 1 << 20;
        for i in 0..4 {
            let (from, to) = ((blocks, i * size), (memory as u16, i * size));
            alice.submit(&transfer(device_operation::READ, from, to, size));
        }
        // Sooner or later.
        let started = Instant::now();
        while started.elapsed() < Duration::from_micros(round * 25) {
            std::hint::spin_loop();
        }
        match round % 3 {
            0 => alice.revoke(memory).unwrap(),
            1 => alice.slot_request(RequestKind::CapDrop, memory).unwrap(),
            _ => {
                alice.queue_request(RequestKind::QueueDestroy).unwrap();
            }
        }
        // What is there is of the disk, and nothing more comes: the last to come are seen first.
        let parts = (0..PINNED / PART).rev();
        let parts: Vec<_> = parts.map(|i| alice.read(i * PART, PART)).collect();
        let bytes: Vec<u8> = parts.into_iter().rev().flatten().collect();
        let pages = bytes.chunks(512).zip(expected.chunks(512));
        for (i, (page, is)) in pages.enumerate() {
            assert!(
                page == is || page == [UNTOUCHED; 512],
                "round {round}: block {i}"
            );
        }
        std::thread::sleep(Duration::from_millis(3));
        let is_same = alice.read(0, PINNED) == bytes;
        assert!(is_same, "round {round}: written after the answer");
        if round % 3 == 2 {
            alice.revoke(memory).unwrap();
            alice.create_queue();
        } else {
            let ends: Vec<_> = (0..4).map(|_| alice.queue.wait()).collect();
            stopped += usize::from(ends.iter().any(|c| c.status() != Some(Status::Success)));
        }
        if round % 3 != 1 {
            alice.slot_request(RequestKind::CapDrop, memory).unwrap();
        }
    }
    assert!(stopped > 0, "it is always too late");
    assert_eq!(engine.stats().device_waits.overdue, 0);
}

#[test]
fn whatever_is_not_fit_for_it_is_staged() {
    let mut w = World::new(PATIENT_MS);
    let size = 256 << 10;
    let direct = |w: &mut World, what: &str, descriptor: &Descriptor| {
        let before = w.disk.direct();
        let done = w.alice.run(descriptor);
        assert_eq!(done.status(), Some(Status::Success), "{what}: {done:?}");
        assert_eq!(done.bytes_completed, descriptor.size, "{what}");
        w.disk.direct() - before
    };
    let aligned = w.read(0, 0, size);
    assert_eq!(direct(&mut w, "aligned", &aligned), 2);
    let aligned = w.write(0, 512, size);
    assert_eq!(direct(&mut w, "aligned to a block", &aligned), 2);
    for odd in [w.read(0, 8, size), w.write(0, 511, size)] {
        assert_eq!(direct(&mut w, "unaligned", &odd), 0);
    }
    let own = read(w.blocks, 0, 0, size);
    assert_eq!(direct(&mut w, "not a capability", &own), 0);
    let plain = w.alice.derive(BUFFER, PINNED, RW) as u16;
    let plain = transfer(device_operation::READ, (w.blocks, 0), (plain, 0), size);
    assert_eq!(direct(&mut w, "not pinned", &plain), 0);
    let crc = with(
        DeviceFields {
            operation: device_operation::WRITE,
            flags: device_flags::GIVE_CRC,
            ..DeviceFields::default()
        },
        (w.memory, 0),
        (w.blocks, 0),
        size,
    );
    assert_eq!(direct(&mut w, "with a checksum", &crc), 0);
    for (lifetime_ns, byte_quota) in [(1 << 50, 0), (0, 1 << 40)] {
        let q = CapDeriveRequest {
            context: w.alice.context,
            slot: w.memory.into(),
            length: PINNED,
            rights: RWP.0,
            target_context: w.alice.context,
            lifetime_ns,
            byte_quota,
            ..CapDeriveRequest::default()
        };
        let reply = w.alice.ask(RequestKind::CapDerive, &q.to_bytes()).unwrap();
        let slot = CapDeriveReply::from_bytes(&reply).slot;
        let limited = transfer(
            device_operation::READ,
            (w.blocks, 0),
            (slot as u16, 0),
            size,
        );
        assert_eq!(direct(&mut w, "with a limit", &limited), 0);
        w.alice.slot_request(RequestKind::CapDrop, slot).unwrap();
    }
    trust(&w.engine, "disk", "alice", false);
    w.alice
        .slot_request(RequestKind::CapDrop, w.blocks.into())
        .unwrap();
    w.blocks = open_into(&mut w.alice, "disk", w.blocks.into())
        .unwrap()
        .slot as u16;
    let aligned = w.read(0, 0, size);
    assert_eq!(direct(&mut w, "without trust", &aligned), 0);
}

/// Every case by pinned memory and by other, whose completions and bytes must be the same.
#[test]
fn failures_are_told_as_by_staging() {
    let mut w = World::new(PATIENT_MS);
    let plain = w.alice.derive(BUFFER, PINNED, RW) as u16;
    let hole = 1 << 20;
    // Its page is not there any more.
    w.alice
        .process
        .map_page(BUFFER + hole + 8192, 0, PageSize::Small, 0);
    invalidate(&mut w.alice);
    let size = 1 << 20;
    let bad = (512 << 10) / 512 + 5;
    for op in [device_operation::READ, device_operation::WRITE] {
        for (what, at, to, fails_directly, fails) in [
            ("nothing", 0, 0, None, None),
            ("a bad block", 0, 0, None, Some((bad, 5))),
            ("the first block", 0, 0, None, Some((0, 61))),
            (
                "a request that fails directly alone",
                0,
                0,
                Some((bad, 14)),
                None,
            ),
            ("all directly", 0, 0, Some((0, 14)), None),
            ("a missing page", 0, hole, None, None),
            (
                "a missing page and a bad block",
                0,
                hole - size / 2,
                None,
                Some((bad, 5)),
            ),
            ("a bad block before", 0, hole, None, Some((3, 5))),
        ] {
            let mut results = Vec::new();
            for memory in [plain, w.memory] {
                {
                    let mut script = w.disk.script();
                    script.disk = pattern(DISK);
                    (script.fails_directly, script.fails) = (fails_directly, fails);
                }
                w.alice.fill(0, hole + 8192, 0x21);
                w.alice.fill(hole + 12288, PINNED - hole - 12288, 0x21);
                let (blocks, memory) = ((w.blocks, at), (memory, to));
                let descriptor = match op {
                    device_operation::READ => transfer(op, blocks, memory, size),
                    _ => transfer(op, memory, blocks, size),
                };
                let done = w.alice.run(&descriptor);
                let bytes = u64::from(done.bytes_completed);
                let moved = match op {
                    device_operation::READ => w.alice.read(to, bytes),
                    _ => w.disk.script().disk[at as usize..(at + bytes) as usize].to_vec(),
                };
                results.push((done, moved));
            }
            let [staged, direct] = &results[..] else {
                unreachable!()
            };
            // The phase differs from one to the next.
            let told = |c: &Completion| {
                (
                    c.status,
                    c.result,
                    c.bytes_completed,
                    c.fault_addr,
                    c.op0,
                    c.op1,
                )
            };
            assert_eq!(told(&staged.0), told(&direct.0), "{what}, {op}");
            assert!(staged.1 == direct.1, "{what}, {op}: other bytes");
        }
    }
    assert!(w.disk.direct() > 0);
}

#[test]
fn the_right_needs_its_feature_and_memory_of_ones_own() {
    let (_engine, mut alice, mut bob, _disk, blocks) = world();
    let refused = derive(
        &mut alice,
        blocks,
        0,
        4096,
        Rights::BLOCK_READ | Rights::PINNED,
    );
    assert_eq!(refused, Err(ControlStatus::MissingRight));
    let plain = alice.derive(BUFFER, 4096, Rights::ALL);
    let refused = derive(&mut alice, plain as u16, 0, 4096, RWP);
    assert_eq!(refused, Err(ControlStatus::MissingRight));
    // It goes along a link that permits reading and writing, and with no more than it was given by.
    let pinned = alice.derive(BUFFER, 8192, RWP | Rights::GRANT);
    let offer = alice.offer(pinned, bob.id, RWP).unwrap();
    assert!(bob.accept(offer).is_ok());
    alice.device.reset();
    alice.driver.features &= !features::PINNED;
    alice.driver.start(&mut *alice.device);
    alice.open();
    let refused = derive(&mut alice, 0, BUFFER, 4096, RWP);
    assert_eq!(refused, Err(ControlStatus::Unsupported));
}

/// What ends a right of alice's while a disk has her memory: the request, and whether its queue is there afterwards.
type End = fn(&mut World) -> (RequestKind, Vec<u8>);

#[test]
fn no_byte_comes_after_the_answer_to_what_ended_the_right() {
    let ends: [(&str, bool, End); 5] = [
        ("revocation of the memory", true, |w| {
            (
                RequestKind::CapRevoke,
                slot_request(&w.alice, w.memory).to_vec(),
            )
        }),
        ("revocation of the blocks", true, |w| {
            (
                RequestKind::CapRevoke,
                slot_request(&w.alice, w.blocks).to_vec(),
            )
        }),
        ("drop", true, |w| {
            (
                RequestKind::CapDrop,
                slot_request(&w.alice, w.memory).to_vec(),
            )
        }),
        ("the queue's end", false, |w| {
            let q = QueueRequest {
                queue: w.alice.queue.id,
                reserved4: 0,
            };
            (RequestKind::QueueDestroy, q.to_bytes().to_vec())
        }),
        ("the context's end", false, |w| {
            let q = ContextDestroyRequest {
                context: w.alice.context,
                reserved4: 0,
            };
            (RequestKind::ContextDestroy, q.to_bytes().to_vec())
        }),
    ];
    for (what, has_queue, end) in ends {
        let mut w = World::new(PATIENT_MS);
        w.begin(PINNED);
        let pieces = w.disk.under_way();
        let (kind, body) = end(&mut w);
        post(&mut w.alice, kind, &body);
        std::thread::sleep(MISTAKE);
        assert!(
            w.alice.driver.control.used().is_none(),
            "{what}: answered at once"
        );
        assert!(w.is_untouched(PINNED), "{what}");
        if has_queue {
            assert!(
                w.alice.queue.poll().is_none(),
                "{what}: told of its end too early"
            );
        }
        // Others go on, while the disk goes on holding what it has: nothing more was begun.
        let hers = w.bob.derive(BUFFER, 4096, RW);
        w.bob.revoke(hers).unwrap();
        assert!(
            w.alice.driver.control.used().is_none(),
            "{what}: bob waits as well"
        );
        assert_eq!(w.disk.under_way(), pieces, "{what}");
        w.disk.hold(false);
        assert_eq!(answer(&mut w.alice), Ok(()), "{what}");
        // What had been begun has come by now, whole, and nothing comes any more.
        assert_eq!(w.disk.under_way(), 0, "{what}");
        let bytes = pieces as u64 * (128 << 10);
        assert!(
            w.alice.read(0, bytes) == pattern(DISK)[..bytes as usize],
            "{what}"
        );
        w.alice.fill(0, PINNED, UNTOUCHED);
        std::thread::sleep(MISTAKE);
        assert!(w.is_untouched(PINNED), "{what}: written after the answer");
        if has_queue {
            let done = w.alice.queue.wait();
            let expected = match what {
                "drop" => Status::NoCapability,
                _ => Status::Revoked,
            };
            assert_eq!(done.status(), Some(expected), "{what}");
            assert_eq!(
                u64::from(done.bytes_completed),
                bytes,
                "{what}: all that was done"
            );
        }
        let waits = w.engine.stats().device_waits;
        assert!(waits.count > 0 && waits.overdue == 0, "{what}: {waits:?}");
        assert_eq!(w.counts().1, 0, "{what}");
    }
}

#[test]
fn ends_that_concern_no_device_wait_for_none() {
    let mut w = World::new(PATIENT_MS);
    w.begin(256 << 10);
    // Beyond what the device has.
    let beside = w.alice.derive(BUFFER + PINNED, 4096, RWP);
    w.alice.revoke(beside).unwrap();
    let bobs = w.bob.derive(BUFFER, PINNED, RWP);
    w.bob.revoke(bobs).unwrap();
    invalidate(&mut w.alice);
    assert_eq!(w.disk.under_way(), 2);
    w.disk.hold(false);
    assert_eq!(w.alice.queue.wait().status(), Some(Status::Success));
}

#[test]
fn a_peers_memory_needs_the_peers_trust_and_is_taken_back_by_him() {
    let mut w = World::new(PATIENT_MS);
    let slot = w.bob.derive(BUFFER, PINNED, RWP | Rights::GRANT);
    let offer = w.bob.offer(slot, w.alice.id, RWP).unwrap();
    w.memory = w.alice.accept(offer).unwrap();
    w.bob.fill(0, PINNED, UNTOUCHED);
    let size = 256 << 10;
    let read = w.read(0, 0, size);
    assert_eq!(w.alice.run_for(&read), Status::Success);
    assert_eq!(w.disk.direct(), 0, "nobody trusts it with bob's memory");
    // Trust alone gives him no blocks.
    let grant = EndpointGrant {
        endpoint: "disk".to_owned(),
        domain: "bob".to_owned(),
        first: 0,
        bytes: 0,
        read: false,
        write: false,
        trusted: true,
    };
    w.engine.act(Action::GrantEndpoint(grant)).unwrap();
    assert_eq!(
        open(&mut w.bob, "disk").err(),
        Some(ControlStatus::NoSuchObject)
    );
    w.bob.fill(0, PINNED, UNTOUCHED);
    w.begin(size);
    let body = slot_request(&w.bob, slot as u16);
    post(&mut w.bob, RequestKind::CapRevoke, &body);
    std::thread::sleep(MISTAKE);
    assert!(w.bob.driver.control.used().is_none());
    // Alice is not held up by it.
    let own = w.alice.derive(BUFFER, 4096, RW);
    w.alice.revoke(own).unwrap();
    w.disk.hold(false);
    assert_eq!(answer(&mut w.bob), Ok(()));
    w.bob.fill(0, PINNED, UNTOUCHED);
    std::thread::sleep(MISTAKE);
    assert!(w.bob.read(0, PINNED).iter().all(|&b| b == UNTOUCHED));
    assert_eq!(w.alice.queue.wait().status(), Some(Status::Revoked));
}

/// The owner has no queues, and so nothing else to wait for: what a peer's device has of his memory alone.
#[test]
fn an_owners_own_ends_wait_for_a_peers_device() {
    type OwnEnd = fn(&mut World, u32) -> Result<(), ControlStatus>;
    let ends: [(&str, OwnEnd); 3] = [
        ("the context's end", |w, context| {
            w.bob.destroy_context(context)
        }),
        ("reset", |w, _| {
            w.bob.device.reset();
            Ok(())
        }),
        ("the peer's reset", |w, _| {
            w.alice.device.reset();
            Ok(())
        }),
    ];
    for (what, end) in ends {
        let mut w = World::new(PATIENT_MS);
        trust(&w.engine, "disk", "bob", true);
        w.bob.queue_request(RequestKind::QueueDestroy).unwrap();
        let first = w.bob.context;
        let context = w.bob.create_context();
        w.bob.context = context;
        let slot = w.bob.derive(BUFFER, PINNED, RWP | Rights::GRANT);
        let offer = w.bob.offer(slot, w.alice.id, RWP).unwrap();
        w.bob.context = first;
        w.memory = w.alice.accept(offer).unwrap();
        w.begin(256 << 10);
        let ended = w.until_released(|w| end(w, context));
        assert_eq!(ended, Some(Ok(())), "{what} does not wait");
        w.bob.fill(0, PINNED, UNTOUCHED);
        std::thread::sleep(MISTAKE);
        assert!(
            w.bob.read(0, PINNED).iter().all(|&b| b == UNTOUCHED),
            "{what}"
        );
    }
}

/// What the VMM or the operator does while a disk has alice's memory; it waits for that.
type Verb = fn(&mut World);

#[test]
fn verbs_and_the_operator_wait_for_devices() {
    let verbs: [(&str, Verb); 6] = [
        ("reset", |w| w.alice.device.reset()),
        ("pause", |w| w.alice.device.pause()),
        ("GET_VRING_BASE", |w| {
            w.alice.device.stop_vring(0).unwrap();
        }),
        ("protection", |w| {
            let (gpa, size) = w.alice.guest.ram();
            w.alice.device.protect_region(gpa, size, false).unwrap();
        }),
        ("the region's end", |w| {
            let (gpa, size) = w.alice.guest.ram();
            w.alice.device.remove_region(gpa, size).unwrap();
        }),
        ("the grant's end", |w| {
            w.engine
                .act(Action::UngrantEndpoint {
                    endpoint: "disk".to_owned(),
                    domain: "alice".to_owned(),
                })
                .unwrap();
        }),
    ];
    for (what, verb) in verbs {
        let mut w = World::new(PATIENT_MS);
        w.begin(256 << 10);
        let waited = w.until_released(verb);
        assert!(waited.is_some(), "{what} does not wait");
        w.alice.fill(0, PINNED, UNTOUCHED);
        std::thread::sleep(MISTAKE);
        assert!(w.is_untouched(PINNED), "{what}: written afterwards");
    }
}

#[test]
fn a_link_that_ends_waits_for_devices() {
    let mut w = World::new(PATIENT_MS);
    w.begin(256 << 10);
    let waited = w.until_released(|w| {
        let (from, to) = ("alice".to_owned(), "bob".to_owned());
        w.engine.act(Action::Unlink { from, to }).unwrap();
    });
    assert!(waited.is_some());
    link(&w.engine, "alice", "bob");
}

#[test]
fn a_device_that_never_answers_is_given_up_and_what_it_has_stays_mapped() {
    let bound = Duration::from_millis(u64::from(IMPATIENT_MS) + 3000);
    let mut w = again_if_too_late(|| {
        let mut w = World::new(IMPATIENT_MS);
        w.begin(256 << 10);
        let body = slot_request(&w.alice, w.memory);
        let started = Instant::now();
        post(&mut w.alice, RequestKind::CapRevoke, &body);
        assert_eq!(answer(&mut w.alice), Err(ControlStatus::DeviceHolds));
        let took = started.elapsed();
        println!("answered after {took:?}, of {bound:?}");
        (took < bound + Duration::from_secs(1)).then_some(w)
    });
    // The right has ended, and the descriptor.
    let done = w.alice.queue.wait();
    assert!(matches!(done.status(), Some(Status::Revoked)), "{done:?}");
    assert_eq!(done.bytes_completed, 0);
    // It may be asked again, at once, for as long as it is so; also when another device has taken its place.
    assert_eq!(
        w.alice.revoke(w.memory.into()),
        Err(ControlStatus::DeviceHolds)
    );
    let other = SlowDisk::attach(&w.engine, "disk", IMPATIENT_MS, pattern(DISK));
    assert_eq!(
        w.alice.revoke(w.memory.into()),
        Err(ControlStatus::DeviceHolds)
    );
    assert_eq!(other.direct(), 0);
    // Nor do other ends of it say that all is over.
    let context = w.alice.context;
    let holds = Err(ControlStatus::DeviceHolds);
    assert_eq!(w.alice.destroy_context(context), holds);
    let q = UnbindRequest {
        pasid: PASID,
        reserved4: 0,
    };
    let unbound = w.alice.ask::<0>(RequestKind::Unbind, &q.to_bytes());
    assert_eq!(unbound.map(drop), holds);
    // The VMM takes the memory away: it is not unmapped under the device.
    let (gpa, size) = w.alice.guest.ram();
    w.alice.device.remove_region(gpa, size).unwrap();
    w.alice.fill(0, PINNED, UNTOUCHED);
    w.disk.hold(false);
    until("it writes what it has", || {
        w.alice.read(0, 256 << 10) == pattern(DISK)[..256 << 10]
    });
    // All is well again.
    let region = region(&w.alice.guest);
    w.alice.device.add_region(region).unwrap();
    w.alice.device.reset();
    w.alice.driver.start(&mut *w.alice.device);
    w.alice.open();
    let pinned = w.alice.derive(BUFFER, PINNED, RWP);
    w.alice.revoke(pinned).unwrap();
    assert!(w.engine.stats().device_waits.overdue >= 2);
}

#[test]
fn an_engine_ends_although_a_device_has_memory() {
    let mut w = World::new(IMPATIENT_MS);
    w.begin(256 << 10);
    let disk = w.disk.clone();
    drop(w);
    assert!(disk.under_way() > 0);
}

#[test]
fn pages_that_a_device_wrote_are_marked_when_it_has_answered() {
    let mut w = World::new(PATIENT_MS);
    let size = 256 << 10;
    w.alice.device.set_dirty_log(true);
    let gpa = w.alice.buffer_gpa();
    let dirty = |w: &mut World| {
        let bits = w.alice.device.harvest_dirty(gpa, PINNED).unwrap().words;
        bits.iter()
            .map(|word| u64::from(word.count_ones()))
            .sum::<u64>()
    };
    w.begin(size);
    // Translated for writing, perhaps written.
    dirty(&mut w);
    let flags = |w: &World| -> Vec<u64> {
        let pages = (0..size).step_by(4096);
        let at = pages.map(|at| w.alice.process.entry_of(BUFFER + at).unwrap());
        at.map(|at| w.alice.guest.read_u64(at)).collect()
    };
    let marks = pte::A | pte::D;
    assert!(flags(&w).iter().all(|e| e & marks == marks));
    // The kernel has them clean again, and says so.
    for at in (0..size).step_by(4096) {
        w.alice
            .process
            .map_page(BUFFER + at, gpa + at, PageSize::Small, pte::USER);
    }
    invalidate(&mut w.alice);
    dirty(&mut w);
    assert_eq!(dirty(&mut w), 0);
    w.disk.hold(false);
    assert_eq!(w.alice.queue.wait().status(), Some(Status::Success));
    assert_eq!(dirty(&mut w), size / 4096);
    assert!(flags(&w).iter().all(|e| e & marks == marks));
    // Nobody has to wait for the descriptor: the device's answer is enough.
    w.begin(size);
    let body = slot_request(&w.alice, w.memory);
    post(&mut w.alice, RequestKind::CapRevoke, &body);
    std::thread::sleep(MISTAKE);
    dirty(&mut w);
    w.disk.hold(false);
    assert_eq!(answer(&mut w.alice), Ok(()));
    assert_eq!(dirty(&mut w), size / 4096);
}

#[test]
fn a_control_queue_that_stops_is_answered_first() {
    let mut w = World::new(PATIENT_MS);
    w.begin(256 << 10);
    let body = slot_request(&w.alice, w.memory);
    post(&mut w.alice, RequestKind::CapRevoke, &body);
    std::thread::sleep(MISTAKE);
    let disk = w.disk.clone();
    let release = std::thread::spawn(move || {
        std::thread::sleep(MISTAKE);
        disk.hold(false);
    });
    w.alice.device.stop_vring(0).unwrap();
    release.join().unwrap();
    let used = w.alice.driver.control.used().expect("it was answered");
    assert_eq!(w.alice.driver.reply(used).map(drop), Ok(()));
}

#[test]
fn requests_behind_one_that_waits_come_in_order() {
    let mut w = World::new(PATIENT_MS);
    w.begin(256 << 10);
    let body = slot_request(&w.alice, w.memory);
    post(&mut w.alice, RequestKind::CapRevoke, &body);
    std::thread::sleep(MISTAKE);
    // Another one, in other buffers.
    let header = RequestHeader {
        kind: RequestKind::CapRevoke as u16,
        length: (RequestHeader::SIZE + body.len()) as u32,
        tag: 77,
        ..RequestHeader::default()
    };
    let request = [&header.to_bytes()[..], &body].concat();
    let at = w.alice.guest.alloc(4096, 4096);
    w.alice.guest.write(at, &request);
    let control = &mut w.alice.driver.control;
    let (next, write) = (1, 2);
    control.descriptor(2, at, request.len() as u32, next, 3);
    control.descriptor(3, at + 1024, 256, write, 0);
    control.publish(2);
    control.kick();
    // Its other descriptors are served.
    w.alice.fill(PINNED, 4096, 5);
    let own = copy((0, BUFFER + PINNED), (0, BUFFER + PINNED + 4096), 4096);
    w.alice.submit(&own);
    until("the copy is done", || {
        w.alice.read(PINNED + 4096, 4096) == w.alice.read(PINNED, 4096)
    });
    std::thread::sleep(MISTAKE);
    assert!(
        w.alice.driver.control.used().is_none(),
        "answered too early"
    );
    w.disk.hold(false);
    assert_eq!(answer(&mut w.alice), Ok(()));
    let (head, length) = w.alice.driver.control.wait();
    assert_eq!((head, length), (2, ReplyHeader::SIZE as u32));
    for _ in 0..2 {
        w.alice.queue.wait();
    }
}

#[test]
fn what_a_device_is_in_memory_for_is_not_cancelled() {
    let mut w = World::new(PATIENT_MS);
    let size = 256 << 10;
    w.begin(size);
    let fields = CancelFields {
        flags: cancel_flags::EVERYTHING,
        ..CancelFields::default()
    };
    let cancel = Descriptor::new(Opcode::Cancel, Flags::NONE).with_operands(fields.to_bytes());
    w.alice.submit(&cancel);
    std::thread::sleep(MISTAKE);
    let early: Vec<_> = std::iter::from_fn(|| w.alice.queue.poll()).collect();
    let is_cancel = |c: &Completion| c.status() == Some(Status::Success) && c.bytes_completed == 0;
    assert!(early.iter().all(is_cancel), "{early:?}");
    assert!(w.is_untouched(size));
    w.disk.hold(false);
    let ends: Vec<_> = (early.len()..2).map(|_| w.alice.queue.wait()).collect();
    let last = ends.last().unwrap();
    assert_eq!(last.status(), Some(Status::Success), "{ends:?}");
    assert!(w.alice.read(0, size) == pattern(DISK)[..size as usize]);
}

/// A device that is late has what it was lent until it answers, or is given up: until then nobody is told.
#[test]
fn a_transfer_ends_when_a_late_device_has_given_back() {
    let size = 256 << 10;
    let is_attached = |w: &World| {
        let Reply::Endpoints { endpoints } = w.engine.act(Action::Endpoints).unwrap() else {
            panic!("another reply");
        };
        endpoints[0].attached
    };
    let (mut w, done) = again_if_too_late(|| {
        let mut w = World::new(IMPATIENT_MS);
        let begun = Instant::now();
        w.begin(size);
        until("it is late", || !is_attached(&w));
        std::thread::sleep(MISTAKE);
        let (early, held) = (w.alice.queue.poll(), w.counts().1);
        w.disk.hold(false);
        // It is closed for so long before it is given up.
        if begun.elapsed() >= CLOSE {
            return None;
        }
        assert!(early.is_none(), "told of its end too early");
        assert_eq!(held, 2);
        let done = w.alice.queue.wait();
        Some((w, done))
    });
    assert_eq!(done.status(), Some(Status::Success), "{done:?}");
    assert!(w.alice.read(0, size) == pattern(DISK)[..size as usize]);
    assert_eq!(w.counts().1, 0);
    // It is gone all the same.
    let read = w.read(0, 0, 4096);
    assert_eq!(w.alice.run_for(&read), Status::DeviceGone);
    // One that never answers is told of when it is given up.
    let mut w = World::new(IMPATIENT_MS);
    w.begin(size);
    let started = Instant::now();
    let done = w.alice.queue.wait();
    assert_eq!(done.status(), Some(Status::DeviceGone), "{done:?}");
    assert_eq!(done.bytes_completed, 0);
    assert!(started.elapsed() >= Duration::from_secs(2));
    assert_eq!(w.counts().1, 2, "what it has is still its");
}

#[test]
fn trust_needs_a_device_that_may_not_take_long() {
    let (engine, _alice, _bob) = pair();
    SlowDisk::attach(&engine, "disk", 10_001, pattern(DISK));
    let grant = EndpointGrant {
        endpoint: "disk".to_owned(),
        domain: "alice".to_owned(),
        first: 0,
        bytes: 0,
        read: true,
        write: false,
        trusted: true,
    };
    let refused = engine.act(Action::GrantEndpoint(grant)).unwrap_err();
    assert!(
        refused.to_string().contains("expected 10000 at most"),
        "{refused}"
    );
}
