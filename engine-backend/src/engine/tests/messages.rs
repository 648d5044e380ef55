//! Messages between two VMs: in order, flow-controlled, and what ends those that wait.

use byway_protocols::control::{PortCreateReply, PortCreateRequest, RequestKind};
use byway_protocols::event::EventKind;
use byway_protocols::{
    Completion, ControlStatus, Descriptor, Flags, Opcode, Rights, Status, Word0,
};

use super::world::{BUFFER, Queue, Vm, copy, create, everything, link, range, until};
use crate::{Engine, EngineConfig};

const DEPTH: u32 = 4;
const BYTES: u32 = 256;
const BADGE: u64 = 0xbad6e;

/// Alice holds the right to send to a port of bob's.
struct World {
    engine: Engine,
    alice: Vm,
    bob: Vm,
    /// Bob's slot of the port.
    port: u32,
    /// Alice's.
    to: u16,
}

fn create_port(vm: &mut Vm, depth: u32, bytes: u32) -> Result<u32, ControlStatus> {
    let q = PortCreateRequest {
        context: vm.context,
        slot: 0,
        depth,
        bytes,
        badge: BADGE,
    };
    let reply = vm.ask(RequestKind::PortCreate, &q.to_bytes())?;
    Ok(PortCreateReply::from_bytes(&reply).slot)
}

/// With so many workers, that park what is idle for `park_us`.
fn world(workers: u32, park_us: u32) -> World {
    let engine = Engine::new(EngineConfig {
        workers,
        park_us,
        ..EngineConfig::default()
    })
    .unwrap();
    create(&engine, "alice");
    create(&engine, "bob");
    link(&engine, "alice", "bob");
    link(&engine, "bob", "alice");
    let mut alice = Vm::boot(&engine, "alice");
    let mut bob = Vm::boot(&engine, "bob");
    let port = create_port(&mut bob, DEPTH, BYTES).unwrap();
    let offer = bob.offer(port, alice.id, Rights::SEND).unwrap();
    let to = alice.accept(offer).unwrap();
    World {
        engine,
        alice,
        bob,
        port,
        to,
    }
}

fn send(to: u16, at: u64, size: u32) -> Descriptor {
    Descriptor {
        word0: Word0::new(0, to, false).0,
        src: BUFFER + at,
        size,
        ..Descriptor::new(Opcode::Send, Flags::NONE)
    }
}

fn receive(from: u32, at: u64, size: u32) -> Descriptor {
    Descriptor {
        word0: Word0::new(from as u16, 0, false).0,
        dst: BUFFER + at,
        size,
        ..Descriptor::new(Opcode::Receive, Flags::NONE)
    }
}

fn no_wait(d: Descriptor) -> Descriptor {
    Descriptor {
        flags_opcode: d.flags_opcode | Flags::NO_WAIT.0,
        ..d
    }
}

fn status(c: &Completion) -> Status {
    c.status().unwrap()
}

impl World {
    /// Waits until every queue is parked and the workers sleep.
    fn wait_until_parked(&self) {
        let sleeps = |w: &Self| {
            w.engine
                .stats()
                .workers
                .iter()
                .map(|s| s.sleeps)
                .sum::<u64>()
        };
        let parked = |w: &Self| {
            w.engine
                .stats()
                .workers
                .iter()
                .map(|s| s.parked)
                .sum::<u64>()
        };
        let (before, workers) = (parked(self), self.engine.stats().workers.len() as u64);
        until("the workers sleep", || {
            sleeps(self) >= workers && (before > 0 || parked(self) > 0)
        });
        // What was counted may be from before the queues had work: time for them to park.
        std::thread::sleep(std::time::Duration::from_millis(30));
    }

    /// Sends more than the port holds.
    fn flood(&mut self) {
        for i in 0..DEPTH + 2 {
            let d = send(self.to, u64::from(i), 1);
            self.alice.submit(&d);
        }
        for _ in 0..DEPTH {
            assert_eq!(status(&self.alice.queue.wait()), Status::Success);
        }
    }
}

fn messages_arrive(workers: u32, park_us: u32) {
    let mut w = world(workers, park_us);
    const COUNT: u32 = 200;
    let size = |i: u32| 1 + i % BYTES;
    let (mut sent, mut done, mut received) = (0, 0, 0);
    // The sender is always ahead, as far as the port lets it.
    while received < COUNT {
        while sent < COUNT && sent - done < 8 {
            let at = u64::from(sent % 8) * 256;
            w.alice.fill(at, u64::from(size(sent)), sent as u8);
            w.alice.submit(&send(w.to, at, size(sent)));
            sent += 1;
        }
        let d = receive(w.port, 0, BYTES);
        let c = w.bob.run(&d);
        assert_eq!(status(&c), Status::Success);
        assert_eq!((c.bytes_completed, c.op0), (size(received), BADGE));
        let bytes = w.bob.read(0, u64::from(size(received)));
        assert!(
            bytes.iter().all(|&b| b == received as u8),
            "{received}: {bytes:?}"
        );
        received += 1;
        while let Some(c) = w.alice.queue.poll() {
            assert_eq!(
                (status(&c), c.bytes_completed),
                (Status::Success, size(done))
            );
            done += 1;
        }
        assert!(done <= received + DEPTH, "more is sent than the port holds");
    }
}

#[test]
fn messages_arrive_in_order_by_one_worker() {
    messages_arrive(1, 1_000_000);
}

#[test]
fn messages_arrive_in_order_by_two_workers_that_park_at_once() {
    messages_arrive(2, 1);
}

#[test]
fn either_side_waits_for_the_other_polled_or_parked() {
    for (workers, park_us) in [(1, 1_000_000), (1, 1), (2, 1)] {
        let mut w = world(workers, park_us);
        // The receiver first.
        w.bob.fill(0, 64, 0);
        w.bob.submit(&receive(w.port, 0, 64));
        if park_us == 1 {
            w.wait_until_parked();
        }
        assert!(w.bob.queue.poll().is_none());
        w.alice.fill(0, 64, 7);
        assert_eq!(w.alice.run_for(&send(w.to, 0, 64)), Status::Success);
        let c = w.bob.queue.wait();
        assert_eq!((status(&c), c.bytes_completed), (Status::Success, 64));
        assert_eq!(w.bob.read(0, 64), [7; 64]);
        // The sender first, until the port is full.
        w.flood();
        if park_us == 1 {
            w.wait_until_parked();
        }
        assert!(w.alice.queue.poll().is_none());
        for _ in 0..DEPTH + 2 {
            let d = receive(w.port, 0, 64);
            assert_eq!(w.bob.run_for(&d), Status::Success);
        }
        for _ in 0..2 {
            assert_eq!(status(&w.alice.queue.wait()), Status::Success);
        }
    }
}

#[test]
fn a_receiver_that_sleeps_is_interrupted() {
    let mut w = world(1, 1);
    let d = receive(w.port, 0, 64);
    w.bob.submit(&Descriptor {
        flags_opcode: d.flags_opcode | Flags::REQUEST_INTERRUPT.0,
        ..d
    });
    w.wait_until_parked();
    assert_eq!(w.alice.run_for(&send(w.to, 0, 3)), Status::Success);
    let event = w.bob.driver.wait_event();
    assert_eq!(event.kind, EventKind::Completion as u16);
    assert_eq!(event.object, w.bob.queue.id);
    assert_eq!(w.bob.queue.wait().bytes_completed, 3);
}

#[test]
fn who_does_not_wait_is_told_and_a_message_that_does_not_fit_stays() {
    let mut w = world(1, 1_000_000);
    let none = w.bob.run(&no_wait(receive(w.port, 0, 64)));
    assert_eq!((status(&none), none.bytes_completed), (Status::NotReady, 0));
    w.alice.fill(0, 100, 9);
    for _ in 0..DEPTH {
        assert_eq!(
            w.alice.run_for(&no_wait(send(w.to, 0, 100))),
            Status::Success
        );
    }
    assert_eq!(
        w.alice.run_for(&no_wait(send(w.to, 0, 1))),
        Status::NotReady
    );
    // Too small, and not there.
    w.bob.fill(0, 100, 0);
    let small = w.bob.run(&receive(w.port, 0, 99));
    assert_eq!(
        (status(&small), small.op0, small.op1),
        (Status::Overflow, BADGE, 100)
    );
    assert_eq!(w.bob.read(0, 100), [0; 100]);
    let nowhere = Descriptor {
        dst: 0x1000,
        ..receive(w.port, 0, 100)
    };
    assert_eq!(w.bob.run_for(&nowhere), Status::Stage1NotPresent);
    for _ in 0..DEPTH {
        let c = w.bob.run(&receive(w.port, 0, 100));
        assert_eq!((status(&c), c.bytes_completed), (Status::Success, 100));
        assert_eq!(w.bob.read(0, 100), [9; 100]);
    }
    // A fault of the sender's takes no room.
    let nothing = Descriptor {
        src: 0x1000,
        ..send(w.to, 0, 100)
    };
    for _ in 0..=DEPTH {
        assert_eq!(w.alice.run_for(&nothing), Status::Stage1NotPresent);
    }
    assert_eq!(
        w.bob.run_for(&no_wait(receive(w.port, 0, 64))),
        Status::NotReady
    );
}

#[test]
fn a_port_is_no_memory_and_rights_to_it_are_checked() {
    let mut w = world(1, 1_000_000);
    let own = (0, BUFFER);
    for d in [
        copy(own, (w.to, 0), 64),
        copy((w.to, 0), own, 64),
        receive(u32::from(w.to), 0, 64),
    ] {
        assert_eq!(w.alice.run_for(&d), Status::MissingRight);
    }
    assert_eq!(w.alice.run_for(&send(w.to, 0, BYTES + 1)), Status::Overflow);
    assert_eq!(w.alice.run_for(&send(w.to, 0, 4097)), Status::BadSize);
    assert_eq!(w.alice.run_for(&send(0, 0, 1)), Status::NoCapability);
    assert_eq!(w.alice.run_for(&send(w.to + 1, 0, 1)), Status::NoCapability);
    let (_, memory) = w.bob.give_buffer(&mut w.alice, Rights(3));
    assert_eq!(w.alice.run_for(&send(memory, 0, 1)), Status::MissingRight);
    for (depth, bytes) in [(0, 1), (1, 0), (65, 1), (1, 4097)] {
        let refused = create_port(&mut w.bob, depth, bytes);
        assert_eq!(refused, Err(ControlStatus::BadArgument));
    }
}

#[test]
fn those_that_wait_end_with_the_right() {
    type End = fn(&mut World);
    let ends: [End; 3] = [
        |w| w.bob.revoke(w.port).unwrap(),
        |w| w.bob.destroy_context(w.bob.context).unwrap(),
        |w| w.bob.device.reset(),
    ];
    for park_us in [1_000_000, 1] {
        for end in ends {
            let mut w = world(1, park_us);
            w.flood();
            if park_us == 1 {
                w.wait_until_parked();
            }
            end(&mut w);
            for _ in 0..2 {
                assert_eq!(status(&w.alice.queue.wait()), Status::Revoked);
            }
        }
    }
}

#[test]
fn those_that_wait_end_with_their_queue_and_leave_the_port() {
    for park_us in [1_000_000, 1] {
        let mut w = world(1, park_us);
        w.flood();
        let more = receive(w.port, 0, 64);
        if park_us == 1 {
            w.wait_until_parked();
        }
        w.alice.queue_request(RequestKind::QueueDestroy).unwrap();
        for _ in 0..2 {
            assert_eq!(status(&w.alice.queue.wait()), Status::Aborted);
        }
        // What the port has is received; what waited is not in it.
        for _ in 0..DEPTH {
            assert_eq!(w.bob.run_for(&more), Status::Success);
        }
        assert_eq!(w.bob.run_for(&no_wait(more)), Status::NotReady);
    }
}

/// Many more than a port has seats: none of them keeps a worker polling.
#[test]
fn however_many_queues_wait_at_a_port_the_worker_sleeps() {
    let mut w = world(1, 1);
    let mut queues = Vec::new();
    for i in 0..100 {
        w.bob.create_queue();
        w.bob.submit(&receive(w.port, 64 * i, 64));
        let fresh = Queue::new(&w.bob.guest);
        queues.push(std::mem::replace(&mut w.bob.queue, fresh));
    }
    let sleeps = || w.engine.stats().workers[0].sleeps;
    let before = sleeps();
    // It is awake at least once more from now on.
    w.alice.driver.control.kick();
    until("the worker sleeps", || sleeps() > before);
    for _ in &queues {
        assert_eq!(w.alice.run_for(&send(w.to, 0, 64)), Status::Success);
    }
    for mut queue in queues {
        assert_eq!(status(&queue.wait()), Status::Success);
    }
}

/// However often either side is cancelled, polled or parked: it ends once, the port loses nothing, and what
/// was behind it goes on.
#[test]
fn those_that_wait_are_cancelled_polled_or_parked() {
    for (workers, park_us) in [(1, 1_000_000), (2, 20)] {
        let mut w = world(workers, park_us);
        let id = w.bob.queue.id;
        let mut another = w.bob.another_queue(w.bob.context, 2);
        for round in 0..30_u32 {
            w.bob.submit(&receive(w.port, 0, BYTES));
            w.bob.submit(&receive(w.port, 256, BYTES));
            w.bob.fill(512, 8, 7);
            let copied = copy((0, BUFFER + 512), (0, BUFFER + 1024), 8);
            w.bob.submit(&copied);
            if round % 3 == 2 {
                // Long enough to be parked.
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            let first = 4 * round;
            // One that is behind others that have not started.
            let behind = w.bob.run_on(&mut another, &range(id, first + 2, 1));
            assert_eq!(
                (status(&behind), behind.bytes_completed),
                (Status::Success, 0)
            );
            // It may not have begun yet: then it is not there to be cancelled.
            let mut one = Completion::default();
            until("it waits, and is cancelled", || {
                one = w.bob.run_on(&mut another, &range(id, first, 1));
                one.bytes_completed != 0
            });
            assert_eq!((status(&one), one.bytes_completed), (Status::Success, 1));
            let c = w.bob.queue.wait();
            assert_eq!((status(&c), c.bytes_completed), (Status::Aborted, 0));
            // The second waits in its place, and gets what is sent.
            w.alice.fill(0, 3, round as u8);
            assert_eq!(w.alice.run_for(&send(w.to, 0, 3)), Status::Success);
            let c = w.bob.queue.wait();
            assert_eq!((status(&c), c.bytes_completed), (Status::Success, 3));
            assert_eq!(w.bob.read(256, 3), [round as u8; 3]);
            assert_eq!(status(&w.bob.queue.wait()), Status::Success);
            // And a sender without room.
            w.flood();
            let senders = w.alice.queue.id;
            let mut alices = w.alice.another_queue(w.alice.context, 2);
            let mut c = Completion::default();
            until("they wait, and are cancelled", || {
                c = w.alice.run_on(&mut alices, &everything(senders));
                c.bytes_completed != 0
            });
            assert_eq!((status(&c), c.bytes_completed), (Status::Success, 2));
            for _ in 0..2 {
                assert_eq!(status(&w.alice.queue.wait()), Status::Aborted);
            }
            std::mem::swap(&mut w.alice.queue, &mut alices);
            w.alice.queue_request(RequestKind::QueueDestroy).unwrap();
            std::mem::swap(&mut w.alice.queue, &mut alices);
            for _ in 0..DEPTH {
                assert_eq!(
                    w.bob
                        .run_on(&mut another, &receive(w.port, 0, BYTES))
                        .bytes_completed,
                    1
                );
            }
            assert_eq!(
                w.bob.run_on(&mut another, &everything(id)).bytes_completed,
                0
            );
            let last = Descriptor::new(Opcode::Nop, Flags::NONE);
            assert_eq!(w.bob.run_for(&last), Status::Success);
        }
    }
}
