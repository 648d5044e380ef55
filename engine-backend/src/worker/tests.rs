//! Workers on in-memory guests: real threads, real rings.

mod bursts;
mod keys;
mod several;

use std::sync::Arc;
use std::time::{Duration, Instant};

use byway_protocols::ring::QueueState;
use byway_protocols::{Completion, Descriptor, Flags, Opcode, Rights, Status, Word0};

use super::{WorkerConfig, WorkerError, Workers};
use crate::device::tests::driver::PATIENCE;
use crate::epoch::Epochs;
use crate::iotlb::Invalidations;
use crate::testing::{Guest, PageSize, Process, Recorder, Submitter, pte};

const VA: u64 = 0x7000_0000_0000;
const MIB: u64 = 1 << 20;

struct Engine {
    workers: Workers,
    epochs: Arc<Epochs>,
}

fn engine(count: usize, park_us: u32) -> Engine {
    let epochs = Arc::new(Epochs::new(count));
    let invalidations = Arc::new(Invalidations::new(count));
    let config = WorkerConfig {
        count,
        cpus: Vec::new(),
        park_us,
    };
    Engine {
        workers: Workers::start(config, epochs.clone(), invalidations).unwrap(),
        epochs,
    }
}

fn process(id: u32, data: u64) -> Process {
    let guest = Guest::new(id, (data + 6 * MIB).next_multiple_of(2 * MIB));
    let process = Process::new(&guest, 8);
    process.map(VA, data, PageSize::Large);
    process
}

impl Engine {
    fn queue(&self, process: &Process, entries: u32) -> Submitter {
        let submitter = Submitter::new(process, entries, false);
        self.workers.attach(submitter.queue().clone());
        submitter
    }

    /// Waits for the oldest completion, kicking where asked, as a library would.
    fn wait(&self, submitter: &mut Submitter) -> Completion {
        if submitter.needs_kick() {
            self.workers.wake(submitter.queue().domain());
        }
        submitter.wait()
    }

    fn run(&self, submitter: &mut Submitter, descriptor: &Descriptor) -> Completion {
        submitter.submit(descriptor);
        self.wait(submitter)
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Makes attempts until one comes in time, and says so: whatever does not last as long as the host may keep this thread
/// from its core is over before something happens to it.
fn again_if_too_late(mut attempt: impl FnMut() -> bool) {
    const ATTEMPTS: u32 = 100;
    for attempted in 1..=ATTEMPTS {
        if attempt() {
            return;
        }
        println!("attempt {attempted} came too late");
    }
    panic!("{ATTEMPTS} attempts were all too late");
}

fn nop() -> Descriptor {
    Descriptor::new(Opcode::Nop, Flags::NONE)
}

fn memmove(src: u64, dst: u64, size: u64) -> Descriptor {
    Descriptor {
        src,
        dst,
        size: size as u32,
        ..Descriptor::new(Opcode::Memmove, Flags::NONE)
    }
}

/// A long one, back and forth within `data` bytes.
fn long(data: u64) -> Descriptor {
    memmove(VA, VA + data / 2, data / 2)
}

fn status(c: &Completion) -> Status {
    c.status().expect("a known status")
}

#[test]
fn numbers_of_workers_are_checked() {
    for count in [0, 3] {
        let result = Workers::start(
            WorkerConfig {
                count,
                ..WorkerConfig::default()
            },
            Arc::new(Epochs::new(2)),
            Arc::new(Invalidations::new(2)),
        );
        assert!(matches!(
            result,
            Err(WorkerError::Count { asked, max: 2 }) if asked == count
        ));
    }
}

#[test]
fn descriptors_are_served_in_order_over_many_laps() {
    let engine = engine(1, 200);
    let alice = process(1, 2 * MIB);
    let mut queue = engine.queue(&alice, 4);
    assert_eq!(queue.state(), QueueState::Running as u32);
    for i in 0..1000_u64 {
        // Each is a copy whose size tells it from its neighbours.
        queue.submit(&memmove(VA, VA + MIB, 1 + i));
        if i >= 3 {
            let c = engine.wait(&mut queue);
            assert_eq!(
                (status(&c), c.bytes_completed),
                (Status::Success, i as u32 - 2)
            );
        }
    }
    for i in 998..=1000 {
        assert_eq!(engine.wait(&mut queue).bytes_completed, i);
    }
    // Counters are published at the end of a chunk, after its completions.
    until("counters", || queue.queue().stats().descriptors == 1000);
    let stats = queue.queue().stats();
    assert_eq!((stats.bytes, stats.failures), (500_500, 0));
    until("worker's counters", || {
        engine.workers.stats()[0].descriptors == 1000
    });
    let stats = engine.workers.stats()[0];
    assert_eq!(stats.bytes, 500_500);
    assert!(stats.chunks > 0 && stats.iotlb.hits > 0 && stats.tid > 0);
}

#[test]
fn refusals_end_where_they_are_and_stop_nothing() {
    let engine = engine(1, 200);
    let alice = process(1, 2 * MIB);
    let mut queue = engine.queue(&alice, 16);
    queue.submit(&Descriptor::with_code(0xfe, Flags::NONE));
    queue.submit(&nop());
    queue.submit(&memmove(VA, 0x1000, 8));
    queue.submit(&memmove(VA, VA + 64, 8));
    let got: Vec<_> = (0..4).map(|_| status(&engine.wait(&mut queue))).collect();
    assert_eq!(
        got,
        [
            Status::BadOpcode,
            Status::Success,
            Status::Stage1NotPresent,
            Status::Success
        ]
    );
    until("counters", || queue.queue().stats().descriptors == 4);
    assert_eq!(queue.queue().stats().failures, 2);
}

#[test]
fn a_long_copy_blocks_no_other_queue() {
    let engine = engine(1, 200);
    let (alice, bob) = (process(1, 2 * MIB), process(2, 2 * MIB));
    // The longest copy there is, over the same memory again and again.
    let window = VA + (1 << 32);
    let entry = alice.entry_of(VA).expect("a mapped page");
    let gpa = alice.guest().read_u64(entry) & pte::FRAME;
    for page in 0..1024 {
        alice.map_page(window + page * 2 * MIB, gpa, PageSize::Large, pte::USER);
    }
    let copy = |flags| Descriptor {
        size: 1 << 31,
        src: window,
        dst: window,
        ..Descriptor::new(Opcode::Memmove, flags)
    };
    again_if_too_late(|| {
        let order = Arc::new(Recorder::default());
        let queue = |process| {
            let queue = Submitter::with_recorder(process, 4, false, order.clone());
            engine.workers.attach(queue.queue().clone());
            queue
        };
        engine.workers.pause_domain(1);
        engine.workers.pause_domain(2);
        let mut busy = queue(&alice);
        let mut same_domain = queue(&alice);
        let mut quick = queue(&bob);
        let loud = Flags::REQUEST_INTERRUPT;
        busy.submit(&copy(Flags::NONE));
        busy.submit(&copy(loud));
        same_domain.submit(&Descriptor::new(Opcode::Nop, loud));
        quick.submit(&Descriptor::new(Opcode::Nop, loud));
        engine.workers.resume_domain(1);
        engine.workers.resume_domain(2);
        // Bob's came to work before all of a copy.
        let is_in_time = busy.poll().is_none();
        for queue in [&mut quick, &mut same_domain, &mut busy] {
            while queue.outstanding() > 0 {
                assert_eq!(status(&queue.wait()), Status::Success);
            }
        }
        let mut told = Vec::new();
        until("three interrupts", || {
            told.extend(order.next_interrupt());
            told.len() == 3
        });
        for queue in [&quick, &same_domain, &busy] {
            engine.workers.detach(queue.queue().id());
        }
        if is_in_time {
            assert_eq!(told[2], busy.queue().id(), "{told:?}");
        }
        is_in_time
    });
}

#[test]
fn an_idle_queue_parks_and_a_kick_wakes_it() {
    let engine = engine(1, 50);
    let (alice, bob) = (process(1, 2 * MIB), process(2, 2 * MIB));
    let mut queue = engine.queue(&alice, 4);
    let mut other = engine.queue(&bob, 4);
    for round in 1..=20_u64 {
        until("parking", || queue.needs_kick());
        // The worker looks once more after it has said so: it has done so when it serves somebody else.
        engine.run(&mut other, &nop());
        assert_eq!(queue.taken(), round as u32 - 1);
        until("sleep", || engine.workers.stats()[0].sleeps >= round);
        queue.submit(&nop());
        std::thread::sleep(Duration::from_micros(200));
        assert!(queue.poll().is_none(), "a parked queue was polled");
        // Another domain's doorbell is none of its business.
        engine.workers.wake(77);
        std::thread::sleep(Duration::from_micros(200));
        assert!(queue.poll().is_none(), "woken by another's doorbell");
        engine.workers.wake(1);
        assert_eq!(status(&queue.wait()), Status::Success);
    }
}

#[test]
fn a_doorbell_wakes_only_queues_with_work() {
    let engine = engine(1, 50);
    let alice = process(1, 2 * MIB);
    let mut queues = [engine.queue(&alice, 4), engine.queue(&alice, 4)];
    until("parking", || queues.iter().all(Submitter::needs_kick));
    queues[0].submit(&nop());
    engine.workers.wake(1);
    queues[0].wait();
    assert!(queues[1].needs_kick());
}

#[test]
fn no_wake_up_is_lost() {
    // Parks after every idle moment, so that nearly each descriptor meets the race.
    let engine = engine(1, 0);
    let alice = process(1, 2 * MIB);
    let mut queue = engine.queue(&alice, 4);
    for i in 0..3000 {
        if i % 3 == 0 {
            std::thread::yield_now();
        }
        assert_eq!(status(&engine.run(&mut queue, &nop())), Status::Success);
    }
    until("counters", || engine.workers.stats()[0].parked > 0);
}

#[test]
fn no_park_means_no_park() {
    let engine = engine(1, 0);
    let alice = process(1, 2 * MIB);
    let mut queue = Submitter::new(&alice, 4, true);
    engine.workers.attach(queue.queue().clone());
    queue.submit(&nop());
    assert_eq!(status(&queue.wait()), Status::Success);
    let sleeps = engine.workers.stats()[0].sleeps;
    std::thread::sleep(Duration::from_millis(20));
    assert!(!queue.needs_kick());
    queue.submit(&nop());
    assert_eq!(status(&queue.wait()), Status::Success);
    assert_eq!(engine.workers.stats()[0].sleeps, sleeps);
}

#[test]
fn detach_ends_what_is_in_flight_and_what_waits() {
    let engine = engine(1, 200);
    let data = 512 * MIB;
    let alice = process(1, data);
    again_if_too_late(|| {
        let mut queue = engine.queue(&alice, 8);
        let chunks = engine.workers.stats()[0].chunks;
        queue.submit(&long(data));
        for _ in 0..5 {
            queue.submit(&nop());
        }
        if queue.needs_kick() {
            engine.workers.wake(1);
        }
        until("the copy's start", || {
            engine.workers.stats()[0].chunks > chunks + 10
        });
        engine.workers.detach(queue.queue().id());
        assert_eq!(queue.state(), QueueState::Dead as u32);
        assert_eq!(queue.taken(), 6);
        let first = queue.poll().expect("a completion");
        if first.status() == Some(Status::Success) {
            return false;
        }
        assert_eq!(status(&first), Status::Aborted);
        assert!(first.bytes_completed > 0 && u64::from(first.bytes_completed) < data / 2);
        // Not a byte more.
        let done = u64::from(first.bytes_completed);
        let marker = alice.read(VA + data / 2 + done, 4096);
        for _ in 0..5 {
            let c = queue.poll().expect("a completion");
            assert_eq!((status(&c), c.bytes_completed), (Status::Aborted, 0));
        }
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(alice.read(VA + data / 2 + done, 4096), marker);
        // Nobody reads the ring any more, and a second detach finds nothing.
        queue.submit(&nop());
        engine.workers.wake(1);
        std::thread::sleep(Duration::from_millis(5));
        assert!(queue.poll().is_none());
        engine.workers.detach(queue.queue().id());
        true
    });
}

#[test]
fn parked_queues_can_be_detached_too() {
    let engine = engine(2, 50);
    let alice = process(1, 2 * MIB);
    let mut queues: Vec<_> = (0..6).map(|_| engine.queue(&alice, 4)).collect();
    until("parking", || queues.iter().all(Submitter::needs_kick));
    for queue in &mut queues {
        queue.submit(&nop());
        engine.workers.detach(queue.queue().id());
        assert_eq!(status(&queue.wait()), Status::Aborted);
    }
    // Their places are used again.
    let mut again = engine.queue(&alice, 4);
    assert_eq!(status(&engine.run(&mut again, &nop())), Status::Success);
}

#[test]
fn a_paused_domain_is_quiet_until_it_resumes() {
    let engine = engine(2, 50);
    let data = 64 * MIB;
    let (alice, bob) = (process(1, data), process(2, 2 * MIB));
    let mut paused = engine.queue(&alice, 4);
    let mut other = engine.queue(&bob, 4);
    paused.submit(&long(data));
    paused.submit(&nop());
    engine.workers.wake(1);
    engine.workers.pause_domain(1);
    let before = paused.queue().stats();
    assert_eq!(status(&engine.run(&mut other, &nop())), Status::Success);
    let mut late = engine.queue(&alice, 4);
    late.submit(&nop());
    engine.workers.wake(1);
    std::thread::sleep(Duration::from_millis(20));
    assert!(late.poll().is_none());
    assert_eq!(paused.queue().stats(), before);
    engine.workers.resume_domain(1);
    assert_eq!(status(&late.wait()), Status::Success);
    assert_eq!(status(&paused.wait()), Status::Success);
    assert_eq!(status(&paused.wait()), Status::Success);
}

#[test]
fn dropping_the_workers_ends_every_descriptor() {
    let data = 512 * MIB;
    let alice = process(1, data);
    again_if_too_late(|| {
        let engine = engine(2, 200);
        let mut queues: Vec<_> = (0..3).map(|_| engine.queue(&alice, 4)).collect();
        for queue in &mut queues {
            queue.submit(&long(data));
            queue.submit(&nop());
        }
        engine.workers.wake(1);
        drop(engine);
        let mut ends = Vec::new();
        for queue in &mut queues {
            assert_eq!(queue.state(), QueueState::Dead as u32);
            ends.extend((0..2).map(|_| status(&queue.poll().expect("a completion"))));
        }
        let is_in_time = !ends.contains(&Status::Success);
        assert!(!is_in_time || ends == [Status::Aborted; 6], "{ends:?}");
        is_in_time
    });
}

#[test]
fn interrupts_come_once_until_armed() {
    let engine = engine(1, 200);
    let alice = process(1, 2 * MIB);
    let mut queue = engine.queue(&alice, 16);
    let loud = Descriptor::new(Opcode::Nop, Flags::REQUEST_INTERRUPT);
    engine.run(&mut queue, &nop());
    for _ in 0..3 {
        engine.run(&mut queue, &loud);
    }
    // Refused ones are completions as well.
    engine.run(
        &mut queue,
        &Descriptor::with_code(0xfe, Flags::REQUEST_INTERRUPT),
    );
    until("the chunk's end", || queue.queue().stats().descriptors == 5);
    assert_eq!(queue.recorder().interrupts(), 1);
    queue.queue().arm();
    assert_eq!(queue.recorder().interrupts(), 2);
    queue.queue().arm();
    assert_eq!(queue.recorder().interrupts(), 2);
    engine.run(&mut queue, &loud);
    until("the interrupt", || queue.recorder().interrupts() == 3);
}

#[test]
fn revoke_in_mid_copy_is_short_and_final() {
    let engine = engine(1, 200);
    let data = 256 * MIB;
    let (alice, bob) = (process(1, data), process(2, data));
    let mut queue = engine.queue(&alice, 4);
    again_if_too_late(|| {
        let slot = bob.give(&alice, VA, data, Rights::WRITE);
        let chunks = engine.workers.stats()[0].chunks;
        queue.submit(&Descriptor {
            word0: Word0::new(0, slot, false).0,
            src: VA,
            dst: 0,
            size: data as u32,
            ..Descriptor::new(Opcode::Memmove, Flags::NONE)
        });
        engine.workers.wake(1);
        until("the copy's start", || {
            engine.workers.stats()[0].chunks > chunks + 10
        });
        bob.revoke(&alice, slot);
        engine.epochs.synchronize();
        // From here on not a byte may land: paint the rest and look again.
        let paint = [0x5a; 64];
        for at in (0..data).step_by(1 << 20) {
            bob.write(VA + at, &paint);
        }
        let c = engine.wait(&mut queue);
        for at in (0..data).step_by(1 << 20) {
            assert_eq!(bob.read(VA + at, 64), paint, "a byte landed at {at:#x}");
        }
        if c.status() == Some(Status::Success) {
            alice.context().slots().clear(&engine.epochs);
            return false;
        }
        assert_eq!(status(&c), Status::Revoked);
        assert!(c.bytes_completed > 0 && u64::from(c.bytes_completed) < data);
        true
    });
}

#[test]
fn several_workers_serve_many_domains_at_once() {
    let engine = engine(3, 50);
    let processes: Vec<_> = (1..=4).map(|id| process(id, 2 * MIB)).collect();
    std::thread::scope(|scope| {
        for process in &processes {
            for lane in 0..2_u64 {
                let engine = &engine;
                scope.spawn(move || {
                    let mut queue = engine.queue(process, 8);
                    let (src, dst) = (VA + lane * 65536, VA + MIB + lane * 65536);
                    for i in 0..200_u64 {
                        let word = (i << 32 | lane).to_le_bytes();
                        process.write(src + i, &word);
                        let c = engine.run(&mut queue, &memmove(src, dst, 20_000));
                        assert_eq!(status(&c), Status::Success);
                        assert_eq!(process.read(dst + i, 8), word);
                    }
                    engine.workers.detach(queue.queue().id());
                });
            }
        }
    });
    until("all chunks", || {
        let done: u64 = engine.workers.stats().iter().map(|s| s.descriptors).sum();
        done == 1600
    });
}

#[test]
fn lost_memory_is_reported_and_hurts_nobody_else() {
    let engine = engine(1, 200);
    let (alice, bob) = (process(1, 2 * MIB), process(2, 2 * MIB));
    let mut queue = engine.queue(&alice, 4);
    let mut other = engine.queue(&bob, 4);
    let lost = VA + 16 * MIB;
    let gpa = alice.map(lost, 2 * MIB, PageSize::Large);
    let copy = memmove(lost, VA, 64);
    assert_eq!(status(&engine.run(&mut queue, &copy)), Status::Success);

    // The ring stays, but the engine lets go of the whole region.
    let (start, _) = alice.guest().ram();
    alice.guest().file().set_len(gpa - start).unwrap();
    queue.submit(&copy);
    engine.workers.wake(1);
    let id = queue.queue().id();
    until("the report", || {
        queue.recorder().next_death() == Some((id, Status::RegionGone))
    });
    until("the failure", || queue.queue().stats().failures == 1);
    engine.workers.detach(id);
    assert_eq!(queue.recorder().next_death(), None);
    let c = engine.run(&mut other, &memmove(VA, VA + MIB, 64));
    assert_eq!(status(&c), Status::Success);
}

#[test]
fn a_lost_ring_is_noticed_by_polling_it() {
    let engine = engine(1, 1_000_000);
    let alice = process(1, 2 * MIB);
    let queue = engine.queue(&alice, 4);
    alice.guest().file().set_len(0).unwrap();
    until("the report", || queue.recorder().next_death().is_some());
}

/// Completions are the domain's memory, too, and stand apart from the header here.
#[test]
fn completions_are_marked_in_the_dirty_log() {
    let engine = engine(1, 200);
    let process = process(1, 2 * MIB);
    let mut submitter = Submitter::new(&process, 256, true);
    engine.workers.attach(submitter.queue().clone());
    let memory = process.guest().memory();
    memory.set_dirty_log(true);
    engine.epochs.synchronize();
    let nop = Descriptor::new(Opcode::Nop, Flags::NONE);
    // The completions begin and end inside a page.
    let bytes = 256 * Completion::SIZE as u64;
    let (first, last) = (
        submitter.completions_gpa() & !0xfff,
        (submitter.completions_gpa() + bytes - 1) & !0xfff,
    );
    let mut marked_last_at = None;
    for n in 0..256 {
        assert_eq!(
            engine.run(&mut submitter, &nop).status(),
            Some(Status::Success)
        );
        engine.epochs.synchronize();
        let is_marked = |page| memory.take_dirty(page, 4096).unwrap() == [1];
        let here = (submitter.completions_gpa() + 32 * n) & !0xfff;
        assert!(is_marked(here), "completion {n}");
        assert!(!is_marked(last), "completion {n} marks its own page only");
        if here == last {
            marked_last_at.get_or_insert(n);
        }
    }
    assert!(first != last && marked_last_at.is_some_and(|n| n > 0));
}
