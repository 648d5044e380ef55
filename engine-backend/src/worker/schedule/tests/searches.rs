//! What it costs others to look for work among the many queues of a domain: a flood of
//! queues that are polled, but have work for a moment only, on a virtual clock on which
//! every look takes its time.

use std::cell::Cell;

use super::*;

/// Queues of the flood.
const QUEUES: usize = 4000;
/// The victim's only queue, of domain 1.
const VICTIM: Key = 0;
/// Ticks of a look at a queue; a byte takes one.
const LOOK: u64 = LOOK_COST as u64;
/// Bytes of an operation of the flood's.
const SMALL: u64 = 64 + OPERATION_COST;

/// What a worker came to.
#[derive(Debug, Default)]
struct Ran {
    now: u64,
    victim: u64,
    flood: u64,
    /// Looks at the flood's queues between two at the victim's, at most.
    looks_max: u64,
    /// Work of the victim's that was charged to it.
    victim_charged: u64,
}

/// Lets a worker go round for `span` ticks. Of the flood's queues every `one_in`th look finds
/// work, of one small operation; the victim always has some.
fn run_beside(weight: u32, one_in: u64, span: u64) -> Ran {
    let mut schedule = Schedule::default();
    schedule.add(1, VICTIM, &account(1));
    for key in 1..=QUEUES {
        schedule.add(2, key, &account(weight));
    }
    let mut ran = Ran::default();
    let (now, looks, looks_in_row) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let mut free_since = 0;
    while now.get() < span {
        let turn = schedule.next(now.get(), |key| {
            now.set(now.get() + LOOK);
            if key == VICTIM {
                looks_in_row.set(0);
                return true;
            }
            looks.set(looks.get() + 1);
            looks_in_row.set(looks_in_row.get() + 1);
            ran.looks_max = ran.looks_max.max(looks_in_row.get());
            looks.get() % one_in == 0
        });
        let turn = turn.expect("the victim has work");
        // As the worker's thread does it.
        if turn.was_searched_for {
            free_since = now.get();
        }
        let bytes = match turn.key {
            VICTIM => turn.budget,
            _ => SMALL,
        };
        now.set(now.get() + bytes);
        let busy = now.get() - free_since;
        free_since = now.get();
        schedule.charge(now.get(), &cost(busy.min(CHUNK_BYTES).max(bytes)));
        if turn.key == VICTIM {
            ran.victim += bytes;
            ran.victim_charged += busy;
        } else {
            ran.flood += bytes;
        }
    }
    ran.now = now.get();
    ran
}

#[test]
fn a_flood_of_briefly_active_queues_leaves_a_victim_half_of_its_share() {
    for weight in [1, 10] {
        for one_in in [2, 50, 1000, u64::MAX] {
            let ran = run_beside(weight, one_in, 64 << 20);
            let case = format!("weight {weight}, one in {one_in}: {ran:?}");
            let part = ran.victim as f64 / ran.now as f64;
            let share = 1.0 / f64::from(1 + weight);
            assert!(part > share / 2.0, "{part} of {share}, {case}");
        }
    }
}

#[test]
fn nobody_waits_for_more_than_a_visits_looks() {
    for one_in in [1000, u64::MAX] {
        let ran = run_beside(1, one_in, 16 << 20);
        // One visit before the victim's turn and, its credit spent, one more after it.
        assert!(ran.looks_max <= 2 * LOOKS_MAX as u64, "{ran:?}");
    }
}

#[test]
fn looks_at_others_queues_are_not_charged() {
    let ran = run_beside(1, u64::MAX, 16 << 20);
    let others = ran.victim_charged - ran.victim;
    // A look at its own queue before each turn.
    assert!(others <= ran.victim / 16, "{others}: {ran:?}");
}

/// The search goes on where it has stopped: a queue's work is found after one look at each
/// of the others, whatever the weights.
#[test]
fn every_queue_comes_to_its_turn() {
    for weight in [1, 1000] {
        let mut schedule = Schedule::default();
        schedule.add(1, VICTIM, &account(1000));
        for key in 1..=QUEUES {
            schedule.add(2, key, &account(weight));
        }
        for wanted in [1, 63, 64, 65, QUEUES / 2, QUEUES] {
            let mut looks = 0;
            let found = (0..2 * QUEUES).find(|_| {
                let turn = schedule.next(0, |key| {
                    looks += usize::from(key != VICTIM);
                    key == wanted || key == VICTIM
                });
                let turn = turn.expect("the victim has work");
                schedule.charge(0, &cost(turn.budget));
                turn.key == wanted
            });
            assert!(found.is_some(), "{wanted} of weight {weight}");
            assert!(looks <= QUEUES + 1, "{wanted} of weight {weight}: {looks}");
        }
    }
}
