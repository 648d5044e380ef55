//! Several workers with work each, and queues that move between them all the time: what
//! is taken away meanwhile is taken away from all of them.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const WORKERS: usize = 3;

/// Moves these queues round for as long as `f` runs.
fn with_moves<R>(engine: &Engine, queues: &[u32], f: impl FnOnce() -> R) -> R {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Stops them when `f` panics, too.
        let _stop = Stop(&stop);
        scope.spawn(|| {
            let mut to = 0;
            while !stop.load(Ordering::Relaxed) {
                for &queue in queues {
                    engine.workers.move_queue(queue, to % WORKERS);
                    to += 1;
                }
                std::thread::yield_now();
            }
        });
        f()
    })
}

fn numbers(queues: &[Submitter]) -> Vec<u32> {
    queues.iter().map(|q| q.queue().id()).collect()
}

/// A process whose window of `pages` large pages is one page of RAM, at `gpa`.
struct Window {
    process: Process,
    gpa: u64,
    bytes: u64,
}

const WINDOW: u64 = VA + (1 << 32);
const LARGE: u64 = 2 * MIB;

fn window(id: u32, pages: u64) -> Window {
    let guest = Guest::new(id, 16 * MIB);
    let process = Process::new(&guest, 8);
    process.map(VA, LARGE, PageSize::Large);
    let gpa = guest.alloc(LARGE, LARGE);
    let window = Window {
        process,
        gpa,
        bytes: pages * LARGE,
    };
    window.point_at(gpa);
    window
}

impl Window {
    fn point_at(&self, gpa: u64) {
        for va in (WINDOW..WINDOW + self.bytes).step_by(LARGE as usize) {
            self.process.map_page(va, gpa, PageSize::Large, pte::USER);
        }
    }
    fn paint(&self, value: u8) {
        let page = vec![value; LARGE as usize];
        self.process.guest().write(self.gpa, &page);
    }
    /// Whether all of the page behind it is still as it was painted, and stays so.
    fn assert_still(&self, value: u8) {
        std::thread::sleep(Duration::from_millis(10));
        let bytes = self.process.guest().read(self.gpa, LARGE);
        assert!(bytes.iter().all(|&b| b == value), "a byte has landed");
    }
}

/// Fills that a long writer has outstanding: they outlast whatever the host does with the test's own thread.
const LONG: u32 = 60;
/// Fills of one that is waited for to its end.
const SHORT: u32 = 4;

/// Four queues of alice's that write into bob's window, each with `fills` outstanding.
fn writers(
    engine: &Engine,
    alice: &Process,
    bob: &Window,
    fills: u32,
) -> (Vec<Submitter>, Vec<u16>) {
    let entries = fills.next_power_of_two();
    let slots = [(); 4].map(|()| bob.process.give(alice, WINDOW, bob.bytes, Rights::WRITE));
    let mut queues: Vec<_> = slots.map(|_| engine.queue(alice, entries)).into();
    until("work on all workers", || {
        for (queue, slot) in queues.iter_mut().zip(slots) {
            // A worker that gets no core for a while takes part later.
            while queue.poll().is_some() {}
            while queue.outstanding() < fills {
                queue.submit(&Descriptor {
                    word0: Word0::new(0, slot, false).0,
                    src: 0x1111_1111_1111_1111,
                    dst: 0,
                    size: bob.bytes as u32,
                    ..Descriptor::new(Opcode::Fill, Flags::NONE)
                });
            }
            if queue.needs_kick() {
                engine.workers.wake(queue.queue().domain());
            }
        }
        engine.workers.stats().iter().all(|s| s.chunks > 10)
    });
    (queues, slots.into())
}

/// How a writer's fills ended: `next` gives the next of what is outstanding. Those that were whole come first, then at most
/// one in part, then none of which any byte was written; the latter two by `status`.
fn assert_cut_short(
    queue: &mut Submitter,
    bytes: u64,
    expected: Status,
    mut next: impl FnMut(&mut Submitter) -> Completion,
) {
    let mut cut = 0;
    while queue.outstanding() > 0 {
        let c = next(queue);
        if cut == 0 && c.status() == Some(Status::Success) {
            continue;
        }
        cut += 1;
        assert_eq!(status(&c), expected);
        let done = u64::from(c.bytes_completed);
        assert!(done == 0 || cut == 1 && done < bytes, "{cut}: {done}");
    }
    assert!(cut > 0, "all fills were over");
}

#[test]
fn a_queue_that_moves_loses_nothing_and_keeps_its_order() {
    let engine = engine(WORKERS, 50);
    let processes: Vec<_> = (1..=2).map(|id| process(id, 2 * MIB)).collect();
    let mut queues: Vec<_> = processes.iter().map(|p| engine.queue(p, 8)).collect();
    let numbers = numbers(&queues);
    let all_served = || engine.workers.stats().iter().all(|s| s.descriptors > 0);
    let counts = with_moves(&engine, &numbers, || {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (queues.iter_mut().zip(&processes))
                .map(|(queue, process)| {
                    let engine = &engine;
                    scope.spawn(move || {
                        let mut i = 0_u64;
                        // A worker that gets no core for a while takes part later.
                        while i < 300 || (i < 100_000 && !all_served()) {
                            let at = i % 1000;
                            process.write(VA + at, &i.to_le_bytes());
                            // Several chunks, so that it moves in the middle of one.
                            let c = engine.run(queue, &memmove(VA, VA + MIB, 200_000));
                            assert_eq!(status(&c), Status::Success);
                            assert_eq!(c.bytes_completed, 200_000);
                            assert_eq!(process.read(VA + MIB + at, 8), i.to_le_bytes());
                            i += 1;
                        }
                        i
                    })
                })
                .collect();
            let joined = threads.into_iter().map(|t| t.join().unwrap());
            joined.collect::<Vec<_>>()
        })
    });
    for (queue, count) in queues.iter().zip(counts) {
        until("counters", || queue.queue().stats().descriptors == count);
        assert_eq!(queue.queue().stats().bytes, count * 200_000);
    }
    assert!(all_served(), "{:?}", engine.workers.stats());
}

#[test]
fn a_queue_parked_by_one_worker_is_woken_at_the_next() {
    let engine = engine(WORKERS, 20);
    let alice = process(1, 2 * MIB);
    let mut queue = engine.queue(&alice, 4);
    for round in 0..50 {
        until("parking", || queue.needs_kick());
        assert!(
            engine
                .workers
                .move_queue(queue.queue().id(), round % WORKERS)
        );
        assert_eq!(status(&engine.run(&mut queue, &nop())), Status::Success);
    }
}

#[test]
fn revoke_reaches_all_workers() {
    let engine = engine(WORKERS, 200);
    let alice = process(1, 2 * MIB);
    let bob = window(2, 1024);
    let (mut queues, slots) = writers(&engine, &alice, &bob, LONG);
    let numbers = numbers(&queues);
    with_moves(&engine, &numbers, || {
        for slot in slots {
            bob.process.revoke(&alice, slot);
        }
        engine.epochs.synchronize();
        bob.paint(0x5a);
        for queue in &mut queues {
            assert_cut_short(queue, bob.bytes, Status::Revoked, Submitter::wait);
        }
        bob.assert_still(0x5a);
    });
}

#[test]
fn invalidation_reaches_all_workers() {
    for by_range in [false, true] {
        let invalidations = Arc::new(Invalidations::new(WORKERS));
        let epochs = Arc::new(Epochs::new(WORKERS));
        let config = WorkerConfig {
            count: WORKERS,
            ..WorkerConfig::default()
        };
        let workers = Workers::start(config, epochs.clone(), invalidations.clone());
        let engine = Engine {
            workers: workers.unwrap(),
            epochs,
        };
        let alice = process(1, 2 * MIB);
        let bob = window(2, 128);
        let (mut queues, _) = writers(&engine, &alice, &bob, SHORT);
        let numbers = numbers(&queues);
        with_moves(&engine, &numbers, || {
            let elsewhere = bob.process.guest().alloc(LARGE, LARGE);
            bob.point_at(elsewhere);
            let space = bob.process.space();
            if by_range {
                let (pages, window) = (LARGE / 4096, bob.bytes / LARGE);
                for page in 0..window {
                    invalidations.push(space, WINDOW + page * LARGE, pages);
                }
            } else {
                space.invalidate_all();
            }
            engine.epochs.synchronize();
            bob.paint(0x5a);
            // They go on, in the page that is mapped now.
            for queue in &mut queues {
                while queue.outstanding() > 0 {
                    assert_eq!(status(&queue.wait()), Status::Success);
                }
            }
            bob.assert_still(0x5a);
        });
    }
}

#[test]
fn pause_reaches_all_workers() {
    let engine = engine(WORKERS, 200);
    let alice = process(1, 2 * MIB);
    let bob = window(2, 128);
    let (mut queues, _) = writers(&engine, &alice, &bob, SHORT);
    let numbers = numbers(&queues);
    with_moves(&engine, &numbers, || {
        engine.workers.pause_domain(1);
        bob.paint(0x5a);
        bob.assert_still(0x5a);
        engine.workers.resume_domain(1);
        for queue in &mut queues {
            while queue.outstanding() > 0 {
                assert_eq!(status(&queue.wait()), Status::Success);
            }
        }
    });
}

#[test]
fn detach_finds_a_queue_wherever_it_is() {
    let engine = engine(WORKERS, 200);
    let alice = process(1, 2 * MIB);
    let bob = window(2, 1024);
    for _ in 0..5 {
        let (mut queues, _) = writers(&engine, &alice, &bob, LONG);
        let numbers = numbers(&queues);
        with_moves(&engine, &numbers, || {
            for queue in &queues {
                engine.workers.detach(queue.queue().id());
                assert_eq!(queue.state(), QueueState::Dead as u32);
            }
            bob.paint(0x5a);
            for queue in &mut queues {
                assert_cut_short(queue, bob.bytes, Status::Aborted, |queue| {
                    queue.poll().expect("a completion")
                });
            }
            bob.assert_still(0x5a);
        });
        assert!(!engine.workers.move_queue(numbers[0], 0));
        alice.context().slots().clear(&engine.epochs);
    }
    assert!(!engine.workers.move_queue(1, WORKERS));
}

#[test]
fn the_end_of_the_workers_ends_what_moves() {
    let engine = engine(WORKERS, 200);
    let alice = process(1, 2 * MIB);
    let bob = window(2, 1024);
    let (mut queues, _) = writers(&engine, &alice, &bob, LONG);
    let numbers = numbers(&queues);
    with_moves(&engine, &numbers, || {
        std::thread::sleep(Duration::from_millis(5));
    });
    drop(engine);
    bob.paint(0x5a);
    for queue in &mut queues {
        assert_eq!(queue.state(), QueueState::Dead as u32);
        assert_cut_short(queue, bob.bytes, Status::Aborted, |queue| {
            queue.poll().expect("a completion")
        });
    }
    bob.assert_still(0x5a);
}

#[test]
fn a_worker_short_of_time_gives_a_queue_away() {
    let engine = engine(2, 1_000_000);
    let alice = process(1, 2 * MIB);
    // Two each; those of the second worker stay idle. So deep that the first has work while this thread waits
    // for a core.
    const DEPTH: u32 = 256;
    let mut queues: Vec<_> = (0..4).map(|_| engine.queue(&alice, DEPTH)).collect();
    let long = memmove(VA, VA + MIB, MIB / 2);
    let served = || engine.workers.stats()[1].descriptors;
    until("a queue on the other worker", || {
        for queue in [0, 2] {
            let queue = &mut queues[queue];
            while queue.poll().is_some() {}
            while queue.outstanding() < DEPTH {
                queue.submit(&long);
            }
        }
        engine.workers.rebalance();
        served() > 0
    });
}
