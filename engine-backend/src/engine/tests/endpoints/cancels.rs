//! CANCEL: what waits for a device that does not answer, and whatever else waits, is given up; each
//! descriptor ends once, and nothing lands afterwards.

use byway_protocols::operands::{CancelFields, cancel_flags};

use super::peer_world::{DISK as PEER_DISK, Peer, Peers, blk};
use super::*;
use crate::EngineConfig;
use crate::engine::tests::world::{self, everything, range};
use crate::testing::{BlkPeer, Mischief};

/// Bytes of one request to a peer.
const PIECE: u64 = 128 << 10;
/// Where alice has what is copied, and copies.
const FROM: u64 = 8 << 20;
const TO: u64 = 9 << 20;
/// Where lists and completions of batches are.
const LIST: u64 = 12 << 20;
/// Long enough for somebody to have done it by mistake.
const MISTAKE: std::time::Duration = std::time::Duration::from_millis(30);
/// Transfers that a queue holds at a time.
const HELD: u32 = 32;

fn flagged(d: Descriptor, flags: Flags) -> Descriptor {
    Descriptor {
        flags_opcode: d.flags_opcode | flags.0,
        ..d
    }
}

/// How many were cancelled by a CANCEL that must succeed.
fn cancelled(done: &Completion) -> u32 {
    assert_eq!(done.status(), Some(Status::Success), "{done:?}");
    assert_eq!((done.result, done.fault_addr), (0, 0));
    assert_eq!((done.op0, done.op1), (0, 0));
    done.bytes_completed
}

fn ended(done: &Completion) -> (Option<Status>, u64) {
    (done.status(), done.bytes_completed.into())
}

const ABORTED: Option<Status> = Some(Status::Aborted);
const SUCCESS: Option<Status> = Some(Status::Success);

fn peer(world: &Peers) -> &BlkPeer {
    match world.peer() {
        Peer::Blk(peer) => peer,
        Peer::Nvme(_) => panic!("another kind of device"),
    }
}

/// A world whose peer answers so many requests, and then none before it is told to go on.
fn hanging(after: u64) -> (Peers, u16) {
    let world = Peers::new(&blk(Mischief::Hangs, after, PEER_DISK));
    let slot = world.slots[1];
    (world, slot)
}

/// Waits until the device has so many requests in its hands, or has answered them.
fn wait_for_requests(world: &Peers, count: u64) {
    until("the device has what it was asked", || {
        peer(world).served() >= count
    });
}

/// The device does what it was asked long ago; nobody notices.
fn go_on(world: &Peers) {
    peer(world).go_on();
    until("the device is quiet", || {
        let Ok(Reply::Endpoints { endpoints }) = world.engine.act(Action::Endpoints) else {
            return false;
        };
        endpoints.iter().all(|row| row.under_way == 0)
    });
}

#[test]
fn what_a_device_does_not_answer_is_given_up_and_lands_nowhere() {
    for from_another in [false, true] {
        let (mut world, slot) = hanging(0);
        let id = world.alice.queue.id;
        let mut another = world.alice.another_queue(world.alice.context, 2);
        for i in 0..5 {
            world.ask_read(slot, i * 4096, 4096);
        }
        wait_for_requests(&world, 5);
        let done = if from_another {
            world.alice.run_on(&mut another, &everything(id))
        } else {
            world.alice.submit(&everything(0));
            // That of the last is there before that of the first is looked at.
            let mut all: Vec<_> = (0..6).map(|_| world.alice.queue.wait()).collect();
            let last = all.pop().unwrap();
            for done in &all {
                assert_eq!(ended(done), (ABORTED, 0));
            }
            last
        };
        assert_eq!(cancelled(&done), 5);
        if from_another {
            for _ in 0..5 {
                let done = world.alice.queue.poll().expect("before that of the CANCEL");
                assert_eq!(ended(&done), (ABORTED, 0));
            }
        }
        world.check_memory("after the CANCEL");
        // There is nothing left.
        assert_eq!(
            cancelled(&world.alice.run_on(&mut another, &everything(id))),
            0
        );
        go_on(&world);
        std::thread::sleep(MISTAKE);
        world.check_memory("after the device's late answers");
        // The queue and the device go on.
        let asked = world.ask_read(slot, 8192, 64 << 10);
        assert_eq!(world.alice.queue.wait().status(), SUCCESS);
        world.expect(asked.at, asked.to, asked.size);
        world.check_memory("after another read");
        assert_eq!(world.state(), (true, None));
    }
}

#[test]
fn what_was_done_before_is_told_to_the_byte() {
    let (mut world, slot) = hanging(2);
    let asked = world.ask_read(slot, 64 << 10, 5 * PIECE);
    wait_for_requests(&world, 5);
    let piece = |i: u64| world.alice.read(asked.to + i * PIECE, PIECE);
    let at = |i: u64| (asked.at + i * PIECE) as usize;
    let is_there = |i: u64| piece(i) == world.pattern[at(i)..at(i + 1)];
    until("two pieces are there", || is_there(0) && is_there(1));
    world.alice.submit(&everything(0));
    let done = world.alice.queue.wait();
    assert_eq!(ended(&done), (ABORTED, 2 * PIECE));
    assert_eq!((done.fault_addr, done.op0, done.op1), (0, 0, 0));
    assert_eq!(cancelled(&world.alice.queue.wait()), 1);
    world.expect(asked.at, asked.to, 2 * PIECE);
    go_on(&world);
    std::thread::sleep(MISTAKE);
    world.check_memory("after the CANCEL");
}

#[test]
fn a_write_that_was_given_up_comes_before_those_behind_it() {
    let (mut world, slot) = hanging(0);
    world.alice.fill(FROM, PIECE, 0x11);
    world.alice.fill(TO, PIECE, 0x22);
    world.alice.submit(&write(slot, 0, FROM, PIECE));
    wait_for_requests(&world, 1);
    world.alice.submit(&everything(0));
    assert_eq!(ended(&world.alice.queue.wait()), (ABORTED, 0));
    assert_eq!(cancelled(&world.alice.queue.wait()), 1);
    // Memory that is its submitter's again.
    world.alice.fill(FROM, PIECE, 0x33);
    world.alice.submit(&write(slot, 4096, TO, PIECE));
    world.ask_read(world.slots[0], 0, 4096);
    std::thread::sleep(MISTAKE);
    assert_eq!(
        peer(&world).served(),
        1,
        "it waits for what the device may still write"
    );
    go_on(&world);
    assert_eq!(world.alice.queue.wait().status(), SUCCESS);
    let disk = world.peer().disk();
    assert!(disk[..4096].iter().all(|&byte| byte == 0x11));
    let second = 4096..4096 + PIECE as usize;
    assert!(disk[second].iter().all(|&byte| byte == 0x22));
}

#[test]
fn a_full_queue_is_emptied_by_a_cancel_behind_it_and_by_one_of_another() {
    for from_another in [false, true] {
        let (mut world, slot) = hanging(0);
        let context = world.alice.context;
        let mut full = world.alice.another_queue(context, 64);
        let mut another = world.alice.another_queue(context, 2);
        let behind = if from_another { 20 } else { 0 };
        for i in 0..u64::from(HELD + behind) {
            let d = read(slot, i * 4096, i * 4096, 4096);
            world.alice.submit_on(&mut full, &d);
        }
        // A domain has half of the device's slots.
        wait_for_requests(&world, u64::from(HELD));
        if from_another {
            // What cannot start is no CANCEL's matter before it is meant.
            let beyond = range(full.id, HELD + 1, 5);
            assert_eq!(cancelled(&world.alice.run_on(&mut another, &beyond)), 0);
            let some = range(full.id, HELD - 2, 5);
            assert_eq!(cancelled(&world.alice.run_on(&mut another, &some)), 5);
            let rest = everything(full.id);
            let rest = cancelled(&world.alice.run_on(&mut another, &rest));
            assert_eq!(rest, HELD + behind - 5);
        } else {
            world.alice.submit_on(&mut full, &everything(0));
        }
        for i in 0..HELD + behind {
            assert_eq!(ended(&full.wait()), (ABORTED, 0), "{i}");
        }
        if !from_another {
            assert_eq!(cancelled(&full.wait()), HELD);
        }
        assert!(full.is_idle());
        go_on(&world);
        let again = world.alice.run_on(&mut full, &read(slot, 0, 0, 4096));
        assert_eq!(again.status(), SUCCESS);
    }
}

#[test]
fn a_range_is_meant_to_the_number_over_laps() {
    let (mut world, slot) = hanging(0);
    let id = world.alice.queue.id;
    let mut another = world.alice.another_queue(world.alice.context, 16);
    // Almost a lap, so that the range goes over the ring's end.
    for _ in 0..14 {
        world.alice.run(&Descriptor::new(Opcode::Nop, Flags::NONE));
    }
    let first = world.alice.queue.published();
    for i in 0..6 {
        world.ask_read(slot, i * 4096, 4096);
    }
    wait_for_requests(&world, 6);
    let mut cancel = |world: &mut Peers, first, count| {
        cancelled(&world.alice.run_on(&mut another, &range(id, first, count)))
    };
    assert_eq!(
        cancel(&mut world, first.wrapping_sub(16), 16),
        0,
        "the lap before"
    );
    assert_eq!(cancel(&mut world, first + 6, 16), 0, "the one behind");
    assert_eq!(cancel(&mut world, first + 1, 3), 3);
    assert_eq!(cancel(&mut world, first + 1, 3), 0, "twice");
    go_on(&world);
    let done: Vec<_> = (0..6).map(|_| world.alice.queue.wait().status()).collect();
    assert_eq!(done, [SUCCESS, ABORTED, ABORTED, ABORTED, SUCCESS, SUCCESS]);
}

#[test]
fn what_a_fence_holds_back_is_given_up_or_goes_on() {
    for both in [false, true] {
        let (mut world, slot) = hanging(0);
        let id = world.alice.queue.id;
        let mut another = world.alice.another_queue(world.alice.context, 2);
        world.alice.fill(FROM, 4096, 7);
        world.alice.fill(TO, 4096, 0);
        world.ask_read(slot, 0, 4096);
        let copied = copy((0, BUFFER + FROM), (0, BUFFER + TO), 4096);
        world
            .alice
            .submit(&flagged(copied, Flags::FENCE | Flags::REQUEST_INTERRUPT));
        wait_for_requests(&world, 1);
        std::thread::sleep(MISTAKE);
        let wanted = if both {
            everything(id)
        } else {
            range(id, 0, 1)
        };
        let count = cancelled(&world.alice.run_on(&mut another, &wanted));
        assert_eq!(count, 1 + u32::from(both));
        assert_eq!(ended(&world.alice.queue.wait()), (ABORTED, 0));
        let (status, bytes) = if both { (ABORTED, 0) } else { (SUCCESS, 4096) };
        assert_eq!(ended(&world.alice.queue.wait()), (status, bytes));
        std::thread::sleep(MISTAKE);
        let there = world.alice.read(TO, 4096);
        assert!(there.iter().all(|&byte| byte == if both { 0 } else { 7 }));
        let event = world.alice.driver.wait_event();
        assert_eq!(
            (event.kind, event.object),
            (byway_protocols::event::EventKind::Completion as u16, id)
        );
        go_on(&world);
    }
}

/// Puts a list into alice's buffer; its batch.
fn batch(vm: &Vm, elements: &[Descriptor]) -> Descriptor {
    for (i, element) in elements.iter().enumerate() {
        let at = vm.buffer_gpa() + LIST + 64 * i as u64;
        vm.guest.write(at, &element.to_bytes());
        vm.fill(LIST + 4096 + 32 * i as u64, 32, 0);
    }
    Descriptor {
        src: BUFFER + LIST,
        status_array: BUFFER + LIST + 4096,
        size: elements.len() as u32,
        ..Descriptor::new(Opcode::Batch, Flags::NONE)
    }
}

fn record(vm: &Vm, index: u64) -> Completion {
    let bytes = vm.read(LIST + 4096 + 32 * index, 32);
    Completion::from_bytes(&bytes.try_into().unwrap())
}

#[test]
fn a_batch_is_given_up_in_the_element_that_waits() {
    let (mut world, slot) = hanging(0);
    world.alice.fill(FROM, 4096, 7);
    let to = |place| copy((0, BUFFER + FROM), (0, BUFFER + place), 4096);
    world.alice.fill(TO, 8192, 0);
    let elements = [to(TO), read(slot, 0, 0, 4096), to(TO + 4096)];
    let d = batch(&world.alice, &elements);
    world.alice.submit(&d);
    wait_for_requests(&world, 1);
    world.alice.submit(&everything(0));
    assert_eq!(ended(&world.alice.queue.wait()), (ABORTED, 1));
    assert_eq!(cancelled(&world.alice.queue.wait()), 1);
    assert_eq!(record(&world.alice, 0).status(), SUCCESS);
    assert_eq!(record(&world.alice, 1), Completion::default());
    go_on(&world);
    std::thread::sleep(MISTAKE);
    world.check_memory("after the CANCEL");
    assert_eq!(record(&world.alice, 2), Completion::default());
    assert!(
        world
            .alice
            .read(TO + 4096, 4096)
            .iter()
            .all(|&byte| byte == 0)
    );
}

#[test]
fn an_element_of_a_batch_cancels_too() {
    let (mut world, slot) = hanging(0);
    let mut another = world.alice.another_queue(world.alice.context, 16);
    for from_another in [false, true] {
        let asked = peer(&world).served();
        for i in 0..3 {
            world.ask_read(slot, i * 4096, 4096);
        }
        wait_for_requests(&world, asked + 3);
        let id = if from_another {
            world.alice.queue.id
        } else {
            0
        };
        let nop = Descriptor::new(Opcode::Nop, Flags::NONE);
        let d = batch(&world.alice, &[nop, everything(id), nop]);
        let done = if from_another {
            world.alice.run_on(&mut another, &d)
        } else {
            world.alice.submit(&d);
            for _ in 0..3 {
                assert_eq!(ended(&world.alice.queue.wait()), (ABORTED, 0));
            }
            world.alice.queue.wait()
        };
        assert_eq!(ended(&done), (SUCCESS, 3));
        assert_eq!(cancelled(&record(&world.alice, 1)), 3);
        if from_another {
            for _ in 0..3 {
                let done = world.alice.queue.poll().expect("before that of the batch");
                assert_eq!(ended(&done), (ABORTED, 0));
            }
        }
    }
    go_on(&world);
    world.check_memory("after all");
}

#[test]
fn chained_transfers_are_given_up() {
    let (mut world, slot) = hanging(0);
    let chain = 14 << 20;
    let inner = Descriptor {
        dst: BUFFER,
        size: 2 * PIECE as u32,
        op0: CodecWord::compression(Compression::Lz4Frame, 4 << 20).0,
        ..Descriptor::new(Opcode::Decompress, Flags::NONE)
    };
    world
        .alice
        .guest
        .write(world.alice.buffer_gpa() + chain, &inner.to_bytes());
    let fields = DeviceFields {
        operation: device_operation::READ,
        chain: BUFFER + chain,
        ..DeviceFields::default()
    };
    // More than there is room for at a time: the places come back.
    for round in 1..=40 {
        world
            .alice
            .submit(&with(fields, (slot, 0), (0, 0), 2 * PIECE));
        if round <= 16 {
            wait_for_requests(&world, 2 * round);
        }
        world.alice.submit(&everything(0));
        assert_eq!(ended(&world.alice.queue.wait()), (ABORTED, 0));
        assert_eq!(cancelled(&world.alice.queue.wait()), 1);
    }
    go_on(&world);
    world.check_memory("after the CANCELs");
}

#[test]
fn nobody_cancels_what_is_not_his() {
    let (mut world, slot) = hanging(0);
    let id = world.alice.queue.id;
    let stranger = world.alice.create_context();
    let mut strangers = world.alice.another_queue(stranger, 2);
    let mut own = world.alice.another_queue(world.alice.context, 2);
    world.ask_read(slot, 0, 4096);
    wait_for_requests(&world, 1);
    // Another process of the same domain.
    for d in [everything(id), range(id, 0, 16), range(id, 0, 1 << 15)] {
        assert_eq!(cancelled(&world.alice.run_on(&mut strangers, &d)), 0);
    }
    // Another domain, for which the number is one of its own.
    let bobs = world.bob().queue.id;
    assert_eq!(bobs, id);
    assert_eq!(cancelled(&world.bob().run(&everything(bobs))), 0);
    // Numbers of no queue, and such as look alike in their lowest bits.
    for number in [id + 32, id + 4096, 77, u32::MAX] {
        assert_eq!(
            cancelled(&world.alice.run_on(&mut own, &everything(number))),
            0
        );
    }
    std::thread::sleep(MISTAKE);
    assert!(world.alice.queue.poll().is_none(), "it waits still");
    // One's own.
    assert_eq!(cancelled(&world.alice.run_on(&mut own, &everything(id))), 1);
    assert_eq!(ended(&world.alice.queue.wait()), (ABORTED, 0));
    // A number that was a queue's.
    world
        .alice
        .queue_request(RequestKind::QueueDestroy)
        .unwrap();
    assert_eq!(cancelled(&world.alice.run_on(&mut own, &everything(id))), 0);
    go_on(&world);
}

#[test]
fn what_is_malformed_is_refused_and_ends_nothing() {
    let (mut world, slot) = hanging(0);
    world.ask_read(slot, 0, 4096);
    wait_for_requests(&world, 1);
    let fields = |change: fn(&mut CancelFields)| {
        let mut fields = CancelFields {
            flags: cancel_flags::EVERYTHING,
            ..CancelFields::default()
        };
        change(&mut fields);
        Descriptor::new(Opcode::Cancel, Flags::NONE).with_operands(fields.to_bytes())
    };
    let all = everything(0);
    let slotted = |src, dst| Descriptor {
        word0: Word0::new(src, dst, false).0,
        ..all
    };
    let not_0 = Status::ReservedNotZero;
    let mut another = world.alice.another_queue(world.alice.context, 2);
    for (d, status) in [
        (flagged(all, Flags::BLOCK_ON_FAULT), Status::BadFlags),
        (flagged(all, Flags::NO_WAIT), Status::BadFlags),
        (slotted(1, 0), not_0),
        (slotted(0, 1), not_0),
        (Descriptor { src: 1, ..all }, not_0),
        (Descriptor { dst: 1, ..all }, not_0),
        (
            Descriptor {
                status_array: 32,
                ..all
            },
            not_0,
        ),
        (Descriptor { op2: 1, ..all }, not_0),
        (fields(|f| f.flags = 3), not_0),
        (fields(|f| f.flags = 0x80), not_0),
        (fields(|f| f.first = 1), not_0),
        (fields(|f| f.reserved9[0] = 1), not_0),
        (
            Descriptor {
                int_handle: 1,
                ..all
            },
            Status::BadInterruptHandle,
        ),
        (Descriptor { size: 1, ..all }, Status::BadCount),
        (range(0, 0, 0), Status::BadCount),
        (range(0, 0, (1 << 15) + 1), Status::BadCount),
        (range(0, 0, u32::MAX), Status::BadCount),
    ] {
        let done = world.alice.run_on(&mut another, &d);
        assert_eq!(ended(&done), (Some(status), 0), "{d:?}");
    }
    assert!(world.alice.queue.poll().is_none(), "it waits still");
    // In a queue that nobody serves any more, and one that has never waited.
    assert_eq!(
        cancelled(&world.alice.run_on(&mut another, &range(0, 0, 1 << 15))),
        0
    );
    // With a fence it waits for what it was to end.
    world.alice.submit(&flagged(all, Flags::FENCE));
    std::thread::sleep(MISTAKE);
    assert!(world.alice.queue.poll().is_none(), "it waits still");
    go_on(&world);
    assert_eq!(world.alice.queue.wait().status(), SUCCESS);
    assert_eq!(cancelled(&world.alice.queue.wait()), 0);
}

#[test]
fn queues_may_cancel_each_other_and_end_meanwhile() {
    let (mut world, slot) = hanging(0);
    let context = world.alice.context;
    for round in 0..200_u64 {
        let mut queues = [(); 2].map(|()| world.alice.another_queue(context, 16));
        for i in 0..2 {
            let other = queues[1 - i].id;
            let at = (round * 2 + i as u64) % 64 * 4096;
            world
                .alice
                .submit_on(&mut queues[i], &read(slot, at, 0, 4096));
            world.alice.submit_on(&mut queues[i], &everything(other));
            world.alice.submit_on(&mut queues[i], &everything(0));
        }
        let [mut first, mut second] = queues;
        if round % 2 == 0 {
            std::mem::swap(&mut first, &mut second);
        }
        std::mem::swap(&mut world.alice.queue, &mut first);
        world
            .alice
            .queue_request(RequestKind::QueueDestroy)
            .unwrap();
        std::mem::swap(&mut world.alice.queue, &mut first);
        for queue in [&mut first, &mut second] {
            assert_eq!(ended(&queue.wait()), (ABORTED, 0));
            for _ in 0..2 {
                let status = queue.wait().status();
                assert!(matches!(status, SUCCESS | ABORTED), "{status:?}");
            }
        }
        std::mem::swap(&mut world.alice.queue, &mut second);
        world
            .alice
            .queue_request(RequestKind::QueueDestroy)
            .unwrap();
        std::mem::swap(&mut world.alice.queue, &mut second);
        if round % 10 == 9 {
            // Requests that nobody waits for hold what was lent.
            go_on(&world);
            world.replace(&blk(Mischief::Hangs, 0, PEER_DISK));
        }
    }
    world.check_memory("after all");
}

/// Reads that complete while they are cancelled, on several workers between which queues move: each ends
/// once, tells what is there, and is counted if it was cancelled.
#[test]
fn who_completes_at_the_same_time_is_not_counted() {
    const ROUNDS: u64 = 400;
    const READS: u64 = 8;
    const SIZE: u64 = 160 << 10;
    let engine = Engine::new(EngineConfig {
        workers: 2,
        park_us: 50,
        ..EngineConfig::default()
    })
    .unwrap();
    world::create(&engine, "alice");
    let mut alice = Vm::boot(&engine, "alice");
    let disk = Disk::new(&pattern(DISK));
    attach(&engine, "disk", &disk.path());
    grant(&engine, "disk", "alice");
    let slot = open(&mut alice, "disk").unwrap().slot as u16;
    let expected = pattern(DISK);
    let mut another = alice.another_queue(alice.context, 16);
    let id = alice.queue.id;
    let (mut successes, mut aborts) = (0_u32, 0_u32);
    for round in 0..ROUNDS {
        if round % 5 == 0 {
            for queue in 0..8 {
                engine
                    .inner
                    .core
                    .workers()
                    .move_queue(queue, (round / 5 % 2) as usize);
            }
        }
        alice.fill(0, READS * SIZE, 0xee);
        let first = alice.queue.published();
        for i in 0..READS {
            alice.submit(&read(slot, i * SIZE, i * SIZE, SIZE));
        }
        // Some of them, at another moment each time.
        for _ in 0..round % 40 * 50 {
            std::hint::spin_loop();
        }
        let wanted = match round % 3 {
            0 => everything(id),
            1 => range(id, first + 2, 4),
            _ => range(id, first, READS as u32),
        };
        let count = cancelled(&alice.run_on(&mut another, &wanted));
        let mut seen = 0;
        for i in 0..READS {
            let done = alice.queue.wait();
            let bytes = u64::from(done.bytes_completed);
            match done.status() {
                SUCCESS => successes += 1,
                ABORTED => seen += 1,
                status => panic!("{status:?}"),
            }
            assert!(bytes == SIZE || done.status() == ABORTED);
            let (from, to) = ((i * SIZE) as usize, (i * SIZE + bytes) as usize);
            let there = alice.read(i * SIZE, SIZE);
            assert!(
                there[..bytes as usize] == expected[from..to],
                "{round}: {i}"
            );
            assert!(there[bytes as usize..].iter().all(|&byte| byte == 0xee));
        }
        assert_eq!(count, seen, "{round}");
        assert!(alice.queue.is_idle());
        aborts += seen;
    }
    assert!(successes > 0 && aborts > 0, "{successes} and {aborts}");
}

#[test]
fn revocation_and_cancel_at_the_same_time_end_each_once() {
    let (mut world, slot) = hanging(0);
    let mut another = world.alice.another_queue(world.alice.context, 16);
    let id = world.alice.queue.id;
    for round in 0..20 {
        let rights = Rights::BLOCK_READ;
        let cut = derive(&mut world.alice, slot, 0, 1 << 20, rights).unwrap();
        let before = peer(&world).served();
        world.ask_read(cut, 0, 4096);
        world.ask_read(cut, 8192, 4096);
        wait_for_requests(&world, before + 2);
        if round % 2 == 0 {
            world.alice.submit_on(&mut another, &everything(id));
            world.alice.revoke(cut.into()).unwrap();
        } else {
            world.alice.revoke(cut.into()).unwrap();
            world.alice.submit_on(&mut another, &everything(id));
        }
        let count = cancelled(&another.wait());
        let ends = [(); 2].map(|()| world.alice.queue.wait());
        let by_cancel = ends.iter().filter(|done| done.status() == ABORTED);
        assert_eq!(by_cancel.count() as u32, count);
        for done in ends {
            let status = done.status();
            assert!(
                matches!(status, ABORTED | Some(Status::Revoked)),
                "{status:?}"
            );
        }
        let slot = cut.into();
        world
            .alice
            .slot_request(RequestKind::CapDrop, slot)
            .unwrap();
        if round % 8 == 7 {
            go_on(&world);
            world.replace(&blk(Mischief::Hangs, 0, PEER_DISK));
        }
    }
    go_on(&world);
    world.check_memory("after all");
}
