//! The ring's protocol in every interleaving of a submitter and an engine.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p byway-ring --release loom_`.

use crate::memory::{Shared, fence};
use crate::queue::{LOOK_AT_HEADER_EVERY, Options, Queue};
use byway_protocols::ring::QueueState;
use byway_protocols::{Completion, Descriptor, Flags, Opcode, RingPosition, Status, Word0};
use core::sync::atomic::Ordering;
use loom::sync::Arc;
use loom::thread;

use crate::memory::Lines;

const PAYLOADS: [u64; 3] = [0x11, 0x22, 0x33];

fn start(entries: u32) -> RingPosition {
    RingPosition::new(entries).unwrap()
}

fn queue(entries: u32) -> (Queue<1>, Arc<Lines>) {
    let (shared, lines) = Shared::model(entries as usize);
    (
        Queue::over(shared, start(entries), Options::default()),
        lines,
    )
}

fn descriptor(payload: u64) -> Descriptor {
    Descriptor {
        src: payload,
        ..Descriptor::new(Opcode::Nop, Flags::NONE)
    }
}

/// The engine's look at the next descriptor, as SPEC section 2.5 has it.
fn look(lines: &Lines, at: RingPosition) -> Option<u64> {
    let [word, payload] = &lines.ring[at.slot() as usize];
    let published = word.load(Ordering::Acquire);
    let phase = published & u64::from(Word0::PHASE) != 0;
    (phase == at.phase()).then(|| payload.load(Ordering::Relaxed))
}

/// The engine's completion: the payload comes back as the faulting address.
fn complete(lines: &Lines, at: RingPosition, payload: u64) {
    let [word, echo] = &lines.completions[at.slot() as usize];
    echo.store(payload, Ordering::Relaxed);
    let completion = Completion {
        status: Status::Success as u8,
        ..Completion::default()
    };
    word.store(
        completion.with_phase(at.phase()).publish_word(),
        Ordering::Release,
    );
}

/// Three descriptors through a ring of two: each arrives whole, once, and so does its completion.
#[test]
fn loom_descriptors_and_completions_arrive_whole_across_a_lap() {
    loom::model(|| {
        let (mut queue, lines) = queue(2);
        let engine = thread::spawn(move || {
            let mut at = start(2);
            for expected in PAYLOADS {
                let payload = loop {
                    match look(&lines, at) {
                        Some(payload) => break payload,
                        None => thread::yield_now(),
                    }
                };
                assert_eq!(payload, expected);
                complete(&lines, at, payload);
                at.advance();
            }
        });
        let mut submitted = PAYLOADS.iter();
        let mut seen = PAYLOADS.iter();
        for _ in 0..2 {
            queue.post(descriptor(*submitted.next().unwrap())).unwrap();
        }
        while queue.outstanding() != 0 {
            match queue.poll() {
                Some((_, completion)) => {
                    assert_eq!(completion.fault_addr, *seen.next().unwrap());
                    if let Some(payload) = submitted.next() {
                        queue.post(descriptor(*payload)).unwrap();
                    }
                }
                None => thread::yield_now(),
            }
        }
        engine.join().unwrap();
    });
}

/// Parking: the engine finds the descriptor by its last look, or the submitter learns that a
/// kick is due. Never neither.
#[test]
fn loom_no_descriptor_is_lost_to_parking() {
    loom::model(|| {
        let (mut queue, lines) = queue(2);
        let engine = thread::spawn(move || {
            lines.need_kick.store(1, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            look(&lines, start(2)).is_some()
        });
        let submitted = queue.submit(descriptor(1)).unwrap();
        let found = engine.join().unwrap();
        assert!(
            found || submitted.kick,
            "the descriptor would wait for ever"
        );
    });
}

/// A queue that dies: a completion that the engine wrote before is never replaced by an abort.
#[test]
fn loom_a_dying_queue_keeps_its_last_completions() {
    loom::model(|| {
        let (mut queue, lines) = queue(2);
        queue.post(descriptor(7)).unwrap();
        let engine = thread::spawn(move || {
            complete(&lines, start(2), 7);
            lines
                .state
                .store(QueueState::Dead as u32, Ordering::Release);
        });
        let dead = !queue.is_alive();
        match queue.poll_any() {
            Some((_, completion)) => assert_eq!(completion.status(), Some(Status::Success)),
            None => assert!(!dead, "a dead queue ends every descriptor"),
        }
        engine.join().unwrap();
    });
}

/// The same for a queue that is polled: the completion can arrive between the look at its line and
/// the look at the header.
#[test]
fn loom_a_polled_queue_keeps_its_last_completion_as_it_dies() {
    loom::model(|| {
        let (mut queue, lines) = queue(2);
        queue.post(descriptor(7)).unwrap();
        for _ in 1..LOOK_AT_HEADER_EVERY {
            assert!(queue.poll().is_none());
        }
        let engine = thread::spawn(move || {
            complete(&lines, start(2), 7);
            lines
                .state
                .store(QueueState::Dead as u32, Ordering::Release);
        });
        if let Some((_, completion)) = queue.poll() {
            assert_eq!(completion.status(), Some(Status::Success));
        }
        engine.join().unwrap();
    });
}

/// The async adapter: a task, whoever takes turns, and the engine.
#[cfg(feature = "async")]
mod asynchronous {
    use core::future::Future;
    use core::pin::Pin;
    use core::task::{Context, Poll, Waker};
    use std::task::Wake;

    use super::*;
    use crate::asynchronous::{Driver, Submission};

    type Turns = Driver<fn(), 1>;

    /// Whether a task was woken.
    #[derive(Debug, Default)]
    struct Woken(std::sync::atomic::AtomicBool);

    impl Wake for Woken {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    impl Woken {
        fn is_set(&self) -> bool {
            self.0.load(Ordering::SeqCst)
        }
    }

    fn driver() -> (Arc<Turns>, Arc<Lines>) {
        let (queue, lines) = queue(2);
        (Arc::new(Driver::new(queue, || ())), lines)
    }

    fn poll(
        future: &mut Submission<'_, fn(), 1>,
        woken: &std::sync::Arc<Woken>,
    ) -> Option<Completion> {
        let waker = Waker::from(woken.clone());
        match Pin::new(future).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(completion) => Some(completion),
            Poll::Pending => None,
        }
    }

    /// A task that is polled while another thread takes a turn and the engine completes: it has its completion, or it was
    /// woken, or a turn after that wakes it. Once, and whole.
    #[test]
    fn loom_a_task_has_its_completion_or_is_woken_for_it() {
        loom::model(|| {
            let (driver, lines) = driver();
            let mut future = driver.submit(descriptor(7)).unwrap();
            let engine = thread::spawn(move || {
                let payload = look(&lines, start(2)).expect("it was published before");
                complete(&lines, start(2), payload);
            });
            let turns = thread::spawn({
                let driver = driver.clone();
                move || driver.turn()
            });
            let woken = std::sync::Arc::default();
            let first = poll(&mut future, &woken);
            let delivered = turns.join().unwrap();
            engine.join().unwrap();
            let completion = first.unwrap_or_else(|| {
                let later = driver.turn();
                assert_eq!(delivered + later, 1, "one turn finds it");
                assert!(woken.is_set(), "nobody would poll it again");
                poll(&mut future, &woken).expect("it was woken for that")
            });
            assert_eq!(completion.fault_addr, 7);
            assert_eq!(driver.outstanding(), 0);
        });
    }

    /// A future that is dropped while a turn finds its completion: the slot is free for the next descriptor but one, whose
    /// completion is its own.
    #[test]
    fn loom_a_dropped_future_leaves_its_slot_free() {
        loom::model(|| {
            let (driver, lines) = driver();
            let future = driver.submit(descriptor(1)).unwrap();
            complete(&lines, start(2), 1);
            let turns = thread::spawn({
                let driver = driver.clone();
                move || driver.turn()
            });
            drop(future);
            turns.join().unwrap();
            driver.turn();
            let mut at = start(2);
            for payload in [2, 3] {
                at.advance();
                let mut next = driver
                    .submit(descriptor(payload))
                    .expect("the slot is free");
                complete(&lines, at, payload);
                let found = poll(&mut next, &std::sync::Arc::default());
                assert_eq!(found.map(|c| c.fault_addr), Some(payload));
            }
        });
    }

    /// Two tasks that share a driver: each gets its own completion, whoever takes the turn.
    #[test]
    fn loom_two_tasks_get_each_its_own() {
        loom::model(|| {
            let (driver, lines) = driver();
            let mut mine = driver.submit(descriptor(1)).unwrap();
            complete(&lines, start(2), 1);
            let other = thread::spawn({
                let driver = driver.clone();
                move || {
                    let mut theirs = driver.submit(descriptor(2)).unwrap();
                    let mut at = start(2);
                    at.advance();
                    complete(&lines, at, 2);
                    let found = poll(&mut theirs, &std::sync::Arc::default());
                    found.map(|c| c.fault_addr)
                }
            });
            let found = poll(&mut mine, &std::sync::Arc::default()).map(|c| c.fault_addr);
            assert_eq!(found, Some(1));
            assert_eq!(other.join().unwrap(), Some(2));
        });
    }
}
