//! Futures for completions: with a tiny executor, an engine that completes in random orders, and
//! futures that are dropped at random.
#![cfg(not(loom))]

mod common;

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use byway_protocols::operands::CancelFields;
use byway_protocols::ring::QueueState;
use byway_protocols::{Completion, Descriptor, Opcode, Status};
use byway_ring::asynchronous::Driver;
use byway_ring::{Cancelled, Options, Request, SubmitError, WaitError};
use common::{Engine, Memory, success};
use proptest::prelude::*;

/// Counts wake-ups.
#[derive(Default)]
struct Counter(AtomicU32);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counter {
    fn take(&self) -> u32 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

fn poll<F: Future + Unpin>(future: &mut F, waker: &Arc<Counter>) -> Poll<F::Output> {
    let waker = Waker::from(waker.clone());
    Pin::new(future).poll(&mut Context::from_waker(&waker))
}

fn numbered(number: u64) -> Descriptor {
    Descriptor {
        src: number,
        ..Request::nop().into()
    }
}

/// As its executor would.
fn sweep<K: Fn()>(driver: &Driver<K>) -> u32 {
    driver.sweep()
}

#[test]
fn drivers_and_futures_go_from_thread_to_thread() {
    fn goes<T: Send + Sync>(_: &T) {}
    let memory = Memory::new(4);
    let driver = Driver::new(memory.queue(Options::default()), || ());
    goes(&driver);
    let submission = driver.submit(Request::nop()).unwrap();
    goes(&submission);
}

#[test]
fn a_task_is_woken_once_its_completion_is_there() {
    let memory = Memory::new(4);
    let mut engine = Engine::start(&memory, 1);
    let driver = Driver::new(memory.queue(Options::default()), || ());
    let waker = Arc::new(Counter::default());
    let mut submission = driver.submit(numbered(7)).unwrap();
    assert!(poll(&mut submission, &waker).is_pending());
    assert_eq!((driver.turn(), waker.take()), (0, 0));
    let (at, descriptor) = engine.take().unwrap();
    engine.complete(at, success(descriptor.src));
    assert_eq!((driver.turn(), waker.take()), (1, 1));
    let Poll::Ready(completion) = poll(&mut submission, &waker) else {
        panic!("woken for nothing");
    };
    assert_eq!(completion.fault_addr, 7);
    assert_eq!(driver.outstanding(), 0);
}

#[test]
fn the_last_task_that_polled_is_the_one_that_is_woken() {
    let memory = Memory::new(4);
    let mut engine = Engine::start(&memory, 1);
    let driver = Driver::new(memory.queue(Options::default()), || ());
    let [first, second] = [(); 2].map(|()| Arc::new(Counter::default()));
    let mut submission = driver.submit(numbered(1)).unwrap();
    assert!(poll(&mut submission, &first).is_pending());
    assert!(poll(&mut submission, &second).is_pending());
    let (at, _) = engine.take().unwrap();
    engine.complete(at, success(1));
    driver.turn();
    assert_eq!((first.take(), second.take()), (0, 1));
}

#[test]
fn kicks_are_given_where_they_are_due() {
    let memory = Memory::new(4);
    let mut engine = Engine::start(&memory, 1);
    let kicks = AtomicU32::new(0);
    let driver = Driver::new(memory.queue(Options::default()), || {
        kicks.fetch_add(1, Ordering::Relaxed);
    });
    assert!(engine.park());
    let submission = driver.submit(numbered(1)).unwrap();
    assert_eq!(kicks.load(Ordering::Relaxed), 1);
    engine.set_need_kick(false);
    let (at, _) = engine.take().unwrap();
    engine.complete(at, success(1));
    let done = driver.block_on(submission, || false).unwrap();
    assert_eq!(done.status(), Some(Status::Success));
}

#[test]
fn a_slot_is_full_until_its_completion_was_fetched() {
    let memory = Memory::new(2);
    let mut engine = Engine::start(&memory, 1);
    let driver = Driver::new(memory.queue(Options::default()), || ());
    let mut first = driver.submit(numbered(1)).unwrap();
    let mut second = driver.submit(numbered(2)).unwrap();
    assert_eq!(driver.submit(numbered(3)).err(), Some(SubmitError::Full));
    for _ in 0..2 {
        let (at, d) = engine.take().unwrap();
        engine.complete(at, success(d.src));
    }
    assert_eq!(driver.turn(), 2);
    // The ring has room, but the first completion would be lost.
    assert_eq!(driver.submit(numbered(3)).err(), Some(SubmitError::Full));
    let waker = Arc::new(Counter::default());
    assert!(poll(&mut first, &waker).is_ready());
    let third = driver.submit(numbered(3)).unwrap();
    assert!(poll(&mut second, &waker).is_ready());
    drop(third);
}

#[test]
fn what_waits_for_room_goes_on_when_there_is_some() {
    let memory = Memory::new(2);
    let mut engine = Engine::start(&memory, 1);
    let driver = Driver::new(memory.queue(Options::default()), || ());
    let all = async {
        let mut sum = 0;
        let older = [driver.submit(numbered(1)), driver.submit(numbered(2))];
        let mut third = pin!(driver.execute(numbered(4)));
        for older in older {
            sum += older.unwrap().await.fault_addr;
        }
        sum += third.as_mut().await.unwrap().fault_addr;
        sum
    };
    let sum = driver.block_on(all, || {
        if let Some((at, d)) = engine.take() {
            engine.complete(at, success(d.src));
        }
        true
    });
    assert_eq!(sum, Ok(7));
}

#[test]
fn a_dead_queue_ends_every_future() {
    let memory = Memory::new(4);
    let engine = Engine::start(&memory, 1);
    let driver = Driver::new(memory.queue(Options::default()), || ());
    let both = [1, 2].map(|number| driver.submit(numbered(number)).unwrap());
    engine.set_state(QueueState::Dead);
    assert!(!driver.is_alive());
    for submission in both {
        let completion = driver.block_on(submission, || true).unwrap();
        assert_eq!(completion.status(), Some(Status::Aborted));
    }
    assert_eq!(driver.submit(numbered(3)).err(), Some(SubmitError::Dead));
}

#[test]
fn who_gives_up_leaves_the_descriptor_outstanding() {
    let memory = Memory::new(4);
    let _engine = Engine::start(&memory, 1);
    let driver = Driver::new(memory.queue(Options::default()), || ());
    let submission = driver.submit(numbered(1)).unwrap();
    assert_eq!(
        driver.block_on(submission, || false),
        Err(WaitError::GaveUp)
    );
    assert_eq!(driver.outstanding(), 1);
}

#[test]
fn a_future_has_its_descriptor_cancelled_and_still_tells_how_it_ended() {
    let memory = Memory::new(4);
    let mut engine = Engine::start(&memory, 1);
    let driver = Driver::new(memory.queue(Options::default()), || ());
    for round in 0..6_u32 {
        let mut submission = driver.submit(numbered(1)).unwrap();
        let cancel = submission.cancel().unwrap();
        let (first, _) = engine.take().unwrap();
        let (second, d) = engine.take().unwrap();
        let fields = CancelFields::from_bytes(&d.operands());
        assert_eq!((d.code(), d.size), (Opcode::Cancel as u8, 1));
        assert_eq!(
            (fields.queue, fields.first, fields.flags),
            (0, 3 * round, 0)
        );
        let aborted = Completion {
            status: Status::Aborted as u8,
            ..success(0)
        };
        engine.complete(first, aborted);
        engine.complete(
            second,
            Completion {
                bytes_completed: 1,
                ..success(0)
            },
        );
        let told = driver.block_on(cancel, || true).unwrap();
        assert_eq!(Cancelled::of(&told).unwrap().descriptors, 1);
        let ended = driver.block_on(&mut submission, || true).unwrap();
        assert_eq!(ended.status(), Some(Status::Aborted));
        // Nothing is left to be given up.
        let nothing = submission.cancel().unwrap();
        let (at, d) = engine.take().unwrap();
        assert_eq!(d.code(), Opcode::Nop as u8);
        engine.complete(at, success(0));
        let told = driver.block_on(nothing, || true).unwrap();
        assert_eq!(Cancelled::of(&told).unwrap().descriptors, 0);
    }
    assert_eq!(driver.outstanding(), 0);
}

/// What happens next.
#[derive(Debug, Clone)]
enum Event {
    Submit,
    /// Completes one of those taken.
    Complete(prop::sample::Index),
    Turn,
    Sweep,
    /// Polls a task, woken or not.
    Poll(prop::sample::Index),
    Drop(prop::sample::Index),
}

fn event() -> impl Strategy<Value = Event> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => Just(Event::Submit),
        4 => index().prop_map(Event::Complete),
        2 => Just(Event::Turn),
        1 => Just(Event::Sweep),
        3 => index().prop_map(Event::Poll),
        1 => index().prop_map(Event::Drop),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the order of completions, polls and drops: every future that is kept gets its own
    /// completion once, after a wake-up if it was polled before, and nothing stays behind.
    #[test]
    fn completions_find_their_tasks(entries in 1..4_u32, events in prop::collection::vec(event(), 0..200)) {
        let memory = Memory::new(1 << entries);
        let mut engine = Engine::start(&memory, 1);
        let driver = Driver::new(memory.queue(Options::default()), || ());
        let mut tasks = Vec::new();
        let mut taken = Vec::new();
        let mut number = 0;
        let mut finished = 0_u64;
        for event in events {
            match event {
                Event::Submit => match driver.submit(numbered(number)) {
                    Ok(submission) => {
                        tasks.push((number, submission, Arc::new(Counter::default()), false));
                        number += 1;
                    }
                    Err(error) => prop_assert_eq!(error, SubmitError::Full),
                },
                Event::Complete(index) => {
                    while let Some(next) = engine.take() {
                        taken.push(next);
                    }
                    if !taken.is_empty() {
                        let (at, d) = taken.swap_remove(index.index(taken.len()));
                        engine.complete(at, success(d.src));
                    }
                }
                Event::Turn => { driver.turn(); }
                Event::Sweep => { sweep(&driver); }
                Event::Poll(index) if !tasks.is_empty() => {
                    let index = index.index(tasks.len());
                    let (number, submission, waker, polled) = &mut tasks[index];
                    match poll(submission, waker) {
                        Poll::Ready(completion) => {
                            prop_assert_eq!(completion.fault_addr, *number);
                            drop(tasks.swap_remove(index));
                            finished += 1;
                        }
                        Poll::Pending => {
                            prop_assert_eq!(waker.take(), 0, "woken before it was completed");
                            *polled = true;
                        }
                    }
                }
                Event::Drop(index) if !tasks.is_empty() => {
                    drop(tasks.swap_remove(index.index(tasks.len())));
                    finished += 1;
                }
                Event::Poll(_) | Event::Drop(_) => {}
            }
        }
        // Everything completes; those that were polled are woken, and nobody twice.
        taken.extend(std::iter::from_fn(|| engine.take()));
        for (at, d) in taken {
            engine.complete(at, success(d.src));
        }
        sweep(&driver);
        prop_assert_eq!(driver.outstanding(), 0);
        for (number, mut submission, waker, polled) in tasks {
            prop_assert_eq!(waker.take(), u32::from(polled));
            let Poll::Ready(completion) = poll(&mut submission, &waker) else {
                panic!("descriptor {number} was completed");
            };
            prop_assert_eq!(completion.fault_addr, number);
            finished += 1;
        }
        prop_assert_eq!(finished, number);
        // Every slot is free again.
        for _ in 0..1 << entries {
            prop_assert!(driver.submit(numbered(0)).is_ok());
        }
    }
}

/// Tasks on two threads, an engine on a third.
#[test]
fn tasks_of_several_threads_share_a_driver() {
    const EACH: u64 = 2000;
    let memory = Memory::new(8);
    let mut engine = Engine::start(&memory, 1);
    let driver = Driver::new(memory.queue(Options::default()), || ());
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let driver = &driver;
            scope.spawn(move || {
                for i in 0..EACH {
                    let number = thread * EACH + i;
                    let run = async { driver.execute(numbered(number)).await };
                    let done = driver.block_on(run, || {
                        std::thread::yield_now();
                        true
                    });
                    assert_eq!(done.unwrap().unwrap().fault_addr, number);
                }
            });
        }
        scope.spawn(move || {
            let mut left = 2 * EACH;
            while left > 0 {
                match engine.take() {
                    Some((at, d)) => {
                        engine.complete(at, success(d.src));
                        left -= 1;
                    }
                    None => std::thread::yield_now(),
                }
            }
        });
    });
    assert_eq!(driver.outstanding(), 0);
}
