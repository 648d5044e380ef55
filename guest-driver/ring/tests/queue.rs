//! The queue against a fake engine on the other side of its memory.

mod common;

use byway_protocols::ring::QueueState;
use byway_protocols::{Descriptor, Flags, Opcode, Status, Word0};
use byway_ring::queue::{LOOK_AROUND_EVERY, LOOK_AT_HEADER_EVERY};
use byway_ring::{
    Options, Queue, QueueError, QueueMemory, SubmitError, Ticket, UnknownTicket, WaitError,
};
use common::{Engine, Memory, success};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A descriptor in which a number can be found again.
fn numbered(number: u64) -> Descriptor {
    Descriptor {
        src: number,
        op2: !number,
        ..Descriptor::new(Opcode::Nop, Flags::NONE)
    }
}

fn pair(entries: u32) -> (Queue, Engine) {
    let memory = Memory::new(entries);
    let engine = Engine::start(&memory, 7);
    (memory.queue(Options::default()), engine)
}

#[test]
fn one_at_a_time_over_many_laps() {
    for entries in [2, 4, 64] {
        let (mut queue, mut engine) = pair(entries);
        for number in 0..u64::from(entries) * 5 + 1 {
            let submitted = queue.submit(numbered(number)).unwrap();
            assert!(!submitted.kick);
            assert_eq!(queue.poll(), None);
            let (at, descriptor) = engine.take().unwrap();
            assert_eq!((descriptor.src, descriptor.op2), (number, !number));
            assert!(engine.take().is_none(), "one descriptor was published");
            engine.complete(at, success(number));
            let (ticket, completion) = queue.poll().unwrap();
            assert_eq!(ticket, submitted.ticket);
            assert_eq!(completion, success(number).with_phase(at.phase()));
            assert_eq!((queue.poll(), queue.outstanding()), (None, 0));
        }
    }
}

#[test]
fn every_byte_but_the_phase_goes_out_as_given() {
    let (mut queue, mut engine) = pair(4);
    for lap in 0..16u8 {
        let bytes = std::array::from_fn(|index| (index as u8).wrapping_mul(37) ^ lap ^ 0xa5);
        let given = Descriptor::from_bytes(&bytes);
        queue.post(given).unwrap();
        let (at, taken) = engine.take().unwrap();
        assert_eq!(taken.slots().phase(), at.phase());
        let same_phase = |d: Descriptor| Descriptor {
            word0: Word0(d.word0).with_phase(false).0,
            ..d
        };
        assert_eq!(same_phase(taken), same_phase(given));
        engine.complete(at, success(0));
        queue.poll().unwrap();
    }
}

#[test]
fn a_full_ring_takes_nothing_until_its_oldest_is_consumed() {
    let (mut queue, mut engine) = pair(4);
    let tickets: Vec<Ticket> = (0..4).map(|n| queue.post(numbered(n)).unwrap()).collect();
    assert_eq!((queue.room(), queue.outstanding()), (0, 4));
    assert_eq!(queue.post(numbered(9)), Err(SubmitError::Full));
    assert_eq!(queue.submit_burst(&[numbered(9)]), Err(SubmitError::Full));

    // Younger ones first: consumed, but the slot that comes next is the oldest's.
    let taken: Vec<_> = (0..4).map(|_| engine.take().unwrap().0).collect();
    for index in [3, 1, 2] {
        engine.complete(taken[index], success(index as u64));
        let completion = queue.poll_ticket(tickets[index]).unwrap().unwrap();
        assert_eq!(completion.fault_addr, index as u64);
        assert_eq!(queue.post(numbered(9)), Err(SubmitError::Full));
    }
    assert_eq!((queue.room(), queue.outstanding()), (0, 1));
    engine.complete(taken[0], success(0));
    assert_eq!(queue.poll().unwrap().0, tickets[0]);
    assert_eq!((queue.room(), queue.outstanding()), (4, 0));

    let burst = queue.submit_burst(&[4, 5, 6, 7, 8].map(numbered)).unwrap();
    assert_eq!((burst.count, burst.first.sequence()), (4, 4));
    for number in 4..8 {
        assert_eq!(engine.take().unwrap().1.src, number);
    }
}

#[test]
fn an_empty_burst_publishes_nothing() {
    let (mut queue, mut engine) = pair(2);
    engine.set_need_kick(true);
    let burst = queue.submit_burst(&[]).unwrap();
    assert_eq!((burst.count, burst.kick), (0, false));
    assert!(engine.take().is_none());
}

#[test]
fn a_younger_completion_is_found_though_the_oldest_is_late() {
    let (mut queue, mut engine) = pair(8);
    let tickets: Vec<Ticket> = (0..8).map(|n| queue.post(numbered(n)).unwrap()).collect();
    let taken: Vec<_> = (0..8).map(|_| engine.take().unwrap().0).collect();
    engine.complete(taken[5], success(5));
    let found = (0..LOOK_AROUND_EVERY).find_map(|_| queue.poll()).unwrap();
    assert_eq!((found.0, found.1.fault_addr), (tickets[5], 5));

    // Where one was found there may be more: the next fruitless poll looks at once.
    engine.complete(taken[3], success(3));
    assert_eq!(queue.poll().unwrap().0, tickets[3]);
    assert_eq!(queue.poll(), None);

    engine.complete(taken[6], success(6));
    assert_eq!(queue.poll(), None, "the look around is over");
    assert_eq!(queue.poll_any().unwrap().0, tickets[6]);
    assert_eq!(queue.poll_any(), None);
    assert_eq!(queue.outstanding(), 5);
}

#[test]
fn a_look_around_reaches_all_of_a_large_ring() {
    let (mut queue, mut engine) = pair(1024);
    let taken: Vec<_> = (0..1024)
        .map(|number| {
            queue.post(numbered(number)).unwrap();
            engine.take().unwrap().0
        })
        .collect();
    engine.complete(taken[1023], success(1023));
    let polls = 1024 / byway_ring::queue::LOOK_AROUND_MAX * LOOK_AROUND_EVERY;
    let found = (0..polls).find_map(|_| queue.poll()).unwrap();
    assert_eq!(found.0.sequence(), 1023);
}

#[test]
fn tickets_that_name_nothing_are_refused() {
    let (mut queue, mut engine) = pair(2);
    let ticket = queue.post(numbered(0)).unwrap();
    assert_eq!(queue.poll_ticket(ticket), Ok(None));
    assert_eq!(queue.wait(ticket, || false), Err(WaitError::GaveUp));
    let (at, _) = engine.take().unwrap();
    engine.complete(at, success(0));
    assert!(queue.wait(ticket, || unreachable!("it is there")).is_ok());
    assert_eq!(queue.poll_ticket(ticket), Err(UnknownTicket));
    assert_eq!(queue.wait(ticket, || true), Err(WaitError::UnknownTicket));

    // A ticket of a queue that is further on names nothing here.
    let (mut other, _engine) = pair(4);
    other.post(numbered(0)).unwrap();
    let ahead = other.post(numbered(1)).unwrap();
    other.post(numbered(2)).unwrap();
    let (mut short, _engine) = pair(4);
    short.post(numbered(0)).unwrap();
    assert_eq!(short.poll_ticket(ahead), Err(UnknownTicket));
}

#[test]
fn a_parked_queue_asks_for_one_kick_for_each_publication() {
    let (mut queue, engine) = pair(8);
    assert!(engine.park());
    assert!(!queue.kick_due(), "nothing was posted");
    assert!(queue.submit(numbered(0)).unwrap().kick);
    assert!(!queue.kick_due(), "a kick for it was reported before");
    assert!(queue.submit(numbered(1)).unwrap().kick);
    assert!(queue.submit_burst(&[2, 3].map(numbered)).unwrap().kick);
    queue.post(numbered(4)).unwrap();
    assert!(queue.kick_due());
    engine.set_need_kick(false);
    assert!(!queue.submit(numbered(5)).unwrap().kick);
}

#[test]
fn a_queue_that_never_parks_never_asks() {
    let memory = Memory::new(4);
    let engine = Engine::start(&memory, 1);
    let mut queue = memory.queue(Options { no_park: true });
    engine.set_need_kick(true);
    assert!(!queue.submit(numbered(0)).unwrap().kick);
}

#[test]
fn a_dead_queue_ends_every_descriptor() {
    let (mut queue, mut engine) = pair(8);
    let tickets: Vec<Ticket> = (0..5).map(|n| queue.post(numbered(n)).unwrap()).collect();
    let taken: Vec<_> = (0..3).map(|_| engine.take().unwrap().0).collect();
    engine.complete(taken[1], success(1));
    engine.set_state(QueueState::Dead);

    let mut ended = BTreeMap::new();
    for _ in 0..LOOK_AT_HEADER_EVERY + 5 {
        if let Some((ticket, completion)) = queue.poll() {
            assert!(
                ended
                    .insert(ticket.sequence(), completion.status().unwrap())
                    .is_none()
            );
        }
    }
    for ticket in &tickets {
        let expected = if *ticket == tickets[1] {
            Status::Success
        } else {
            Status::Aborted
        };
        assert_eq!(ended[&ticket.sequence()], expected);
    }
    assert_eq!((queue.poll(), queue.outstanding()), (None, 0));
    assert_eq!(queue.post(numbered(9)), Err(SubmitError::Dead));
    assert_eq!(queue.submit_burst(&[numbered(9)]), Err(SubmitError::Dead));
    assert!(!queue.is_alive());
}

#[test]
fn waiting_on_a_dead_queue_ends() {
    let (mut queue, engine) = pair(2);
    let ticket = queue.post(numbered(0)).unwrap();
    let mut looks = 0;
    let completion = queue.wait(ticket, || {
        looks += 1;
        if looks == 3 {
            engine.set_state(QueueState::Dead);
        }
        looks < 3 + LOOK_AT_HEADER_EVERY
    });
    assert_eq!(completion.unwrap().status(), Some(Status::Aborted));
}

#[test]
fn another_instance_means_death_and_so_does_the_kernels_word() {
    let (mut queue, engine) = pair(2);
    assert!(queue.is_alive());
    engine.set_instance(8);
    assert!(!queue.is_alive());
    engine.set_instance(7);
    assert!(!queue.is_alive(), "dead stays dead");

    let (mut queue, _engine) = pair(2);
    queue.post(numbered(0)).unwrap();
    queue.declare_dead();
    assert_eq!(queue.poll().unwrap().1.status(), Some(Status::Aborted));
}

#[test]
fn unfit_memory_is_refused() {
    let memory = Memory::new(64);
    let parts = memory.parts();
    // SAFETY: refused before anything is accessed; the valid one is a queue over zeroed memory.
    let build = |parts: QueueMemory| unsafe { Queue::<1>::new(parts, Options::default()) };
    for entries in [0, 1, 3, 48, 65536] {
        let error = build(QueueMemory { entries, ..parts }).unwrap_err();
        assert_eq!(error, QueueError::Entries(entries));
    }
    let error = build(QueueMemory {
        entries: 128,
        ..parts
    })
    .unwrap_err();
    assert_eq!(error, QueueError::Capacity(64));
    let shifted = NonNull::new(parts.completions.as_ptr().wrapping_byte_add(32)).unwrap();
    let error = build(QueueMemory {
        completions: shifted,
        ..parts
    })
    .unwrap_err();
    assert_eq!(error, QueueError::Alignment);
    assert!(build(parts).is_ok());
}

/// Both sides in threads: several laps, completions in a shuffled order, an engine that parks
/// whenever it finds nothing and sleeps until it is kicked.
#[test]
fn two_threads_lose_and_duplicate_nothing() {
    const COUNT: u64 = 60_000;
    /// Of whoever waits for the next completion.
    const PATIENCE: Duration = Duration::from_secs(30);
    let memory = Memory::new(16);
    let mut engine = Engine::start(&memory, 1);
    let mut queue = memory.queue(Options::default());
    let kicks = AtomicU32::new(0);
    let given_up = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut held = VecDeque::new();
            let mut done = 0;
            let mut answered = 0;
            while done < COUNT && !given_up.load(Ordering::Relaxed) {
                if let Some((at, descriptor)) = engine.take() {
                    held.push_back((at, descriptor.src));
                } else if let Some((at, number)) = held.pop_back() {
                    // The youngest first: as far out of order as it gets.
                    engine.complete(at, success(number));
                    done += 1;
                } else if engine.park() {
                    while kicks.load(Ordering::Relaxed) == answered
                        && !given_up.load(Ordering::Relaxed)
                    {
                        thread::yield_now();
                    }
                    answered = kicks.load(Ordering::Relaxed);
                    engine.set_need_kick(false);
                }
                if held.len() > 5 {
                    let (at, number) = held.remove(2).unwrap();
                    engine.complete(at, success(number));
                    done += 1;
                }
            }
        });

        let mut next = 0;
        let mut seen = vec![false; COUNT as usize];
        let mut deadline = Instant::now() + PATIENCE;
        while (next < COUNT || queue.outstanding() != 0) && Instant::now() < deadline {
            while next < COUNT && queue.room() != 0 {
                if queue.submit(numbered(next)).unwrap().kick {
                    kicks.fetch_add(1, Ordering::Relaxed);
                }
                next += 1;
            }
            match queue.poll() {
                Some((ticket, completion)) => {
                    deadline = Instant::now() + PATIENCE;
                    let number = completion.fault_addr;
                    assert_eq!(u64::from(ticket.sequence()), number);
                    assert_eq!((completion.op0, completion.op1), (!number, number << 32));
                    assert!(!std::mem::replace(&mut seen[number as usize], true));
                }
                None => thread::yield_now(),
            }
        }
        given_up.store(true, Ordering::Relaxed);
        assert!(seen.iter().all(|seen| *seen), "a descriptor was lost");
    });
}

#[derive(Debug, Clone)]
enum Step {
    Submit,
    Take,
    Complete(usize),
    Poll,
    PollAny,
    PollTicket(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Submit),
        3 => Just(Step::Take),
        3 => any::<usize>().prop_map(Step::Complete),
        2 => Just(Step::Poll),
        1 => Just(Step::PollAny),
        2 => any::<usize>().prop_map(Step::PollTicket),
    ]
}

proptest! {
    /// Any order of steps on both sides, against a model that has no ring: who is submitted,
    /// who is completed, who is consumed.
    #[test]
    fn any_order_of_steps_agrees_with_a_model(
        log_entries in 1u32..5,
        steps in prop::collection::vec(step(), 0..400),
    ) {
        let entries = 1 << log_entries;
        let (mut queue, mut engine) = pair(entries);
        let mut held = Vec::new();
        // By number: whether the engine has completed it; removed when consumed.
        let mut outstanding: BTreeMap<u64, bool> = BTreeMap::new();
        let mut tickets: Vec<Ticket> = Vec::new();
        for step in steps {
            let consumed = match step {
                Step::Submit => {
                    let number = tickets.len() as u64;
                    let oldest = outstanding.keys().next().copied().unwrap_or(number);
                    let free = number - oldest < u64::from(entries);
                    let ticket = queue.post(numbered(number));
                    prop_assert_eq!(ticket.is_ok(), free);
                    if let Ok(ticket) = ticket {
                        tickets.push(ticket);
                        outstanding.insert(number, false);
                    }
                    None
                }
                Step::Take => {
                    held.extend(engine.take().map(|(at, descriptor)| (at, descriptor.src)));
                    None
                }
                Step::Complete(pick) if !held.is_empty() => {
                    let (at, number) = held.swap_remove(pick % held.len());
                    engine.complete(at, success(number));
                    outstanding.insert(number, true);
                    None
                }
                Step::Complete(_) => None,
                Step::Poll => {
                    let found = queue.poll();
                    let oldest = outstanding.values().next() == Some(&true);
                    prop_assert!(found.is_some() || !oldest, "the oldest is complete");
                    found
                }
                Step::PollAny => {
                    let found = queue.poll_any();
                    prop_assert_eq!(found.is_some(), outstanding.values().any(|done| *done));
                    found
                }
                Step::PollTicket(pick) if !tickets.is_empty() => {
                    let number = pick % tickets.len();
                    let found = queue.poll_ticket(tickets[number]);
                    match outstanding.get(&(number as u64)) {
                        None => prop_assert_eq!(found, Err(UnknownTicket)),
                        Some(done) => prop_assert_eq!(found.unwrap().is_some(), *done),
                    }
                    found.ok().flatten().map(|completion| (tickets[number], completion))
                }
                Step::PollTicket(_) => None,
            };
            if let Some((ticket, completion)) = consumed {
                prop_assert_eq!(completion.fault_addr, u64::from(ticket.sequence()));
                prop_assert_eq!(outstanding.remove(&completion.fault_addr), Some(true));
            }
            prop_assert_eq!(queue.outstanding() as usize, outstanding.len());
        }
    }
}
