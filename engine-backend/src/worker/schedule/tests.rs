//! Fairness on a virtual clock, on which one byte of work takes one tick.

use super::*;
use crate::interface::Share;
use crate::ops::budget::OPERATION_COST;
use proptest::prelude::*;

fn account(weight: u32) -> Arc<Account> {
    Account::new(&Share {
        weight,
        ..Share::default()
    })
}

fn cost(cost: u64) -> Bill {
    Bill {
        cost,
        ..Bill::default()
    }
}

/// A queue on the virtual clock: `size` bytes an operation, `backlog` of them.
struct Fake {
    domain: u32,
    size: u64,
    backlog: u64,
    served: u64,
}

/// Gives turns until `until` units of work are done; one unit takes one tick.
fn run(fakes: &mut [Fake], schedule: &mut Schedule, until: u64) -> Vec<(Key, u64)> {
    let mut now = 0;
    let mut log = Vec::new();
    while now < until {
        let Some(turn) = schedule.next(0, |key| fakes[key].backlog > 0) else {
            break;
        };
        let fake = &mut fakes[turn.key];
        let mut spent = 0;
        while spent < turn.budget && fake.backlog > 0 {
            spent += (fake.size + OPERATION_COST).min(turn.budget - spent + 4096);
            fake.backlog -= 1;
            fake.served += 1;
        }
        schedule.charge(0, &cost(spent));
        now += spent;
        log.push((turn.key, spent));
    }
    log
}

fn setup(kinds: &[(u32, u64, u64)]) -> (Vec<Fake>, Schedule) {
    let mut schedule = Schedule::default();
    let fakes = kinds
        .iter()
        .enumerate()
        .map(|(key, &(domain, size, backlog))| {
            schedule.add(domain, key, &account(1));
            Fake {
                domain,
                size,
                backlog,
                served: 0,
            }
        })
        .collect();
    (fakes, schedule)
}

fn work_of(log: &[(Key, u64)], fakes: &[Fake], domain: u32) -> u64 {
    log.iter()
        .filter(|(key, _)| fakes[*key].domain == domain)
        .map(|(_, spent)| spent)
        .sum()
}

#[test]
fn domains_share_whatever_their_queues_and_sizes() {
    // One queue of tiny operations against eight of large ones.
    let mut kinds = vec![(1, 64, u64::MAX)];
    kinds.extend([(2, 1 << 20, u64::MAX); 8]);
    let (mut fakes, mut schedule) = setup(&kinds);
    let log = run(&mut fakes, &mut schedule, 100 << 20);
    let (a, b) = (work_of(&log, &fakes, 1), work_of(&log, &fakes, 2));
    let share = a as f64 / (a + b) as f64;
    assert!((0.49..0.51).contains(&share), "{share}");
    // Among the eight too.
    let served: Vec<_> = fakes[1..].iter().map(|f| f.served).collect();
    let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
    assert!(most - least <= 2, "{served:?}");
}

#[test]
fn a_flood_delays_a_newcomer_by_one_chunk() {
    let (mut fakes, mut schedule) = setup(&[(1, 64, 0), (2, 1 << 20, u64::MAX)]);
    run(&mut fakes, &mut schedule, 10 << 20);
    fakes[0].backlog = 1;
    let log = run(&mut fakes, &mut schedule, 1 << 20);
    let before: u64 = log
        .iter()
        .take_while(|(key, _)| *key != 0)
        .map(|(_, spent)| spent)
        .sum();
    assert!(before <= CHUNK_BYTES + 8192, "{before}");
}

#[test]
fn one_queue_alone_gets_whole_chunks() {
    let (mut fakes, mut schedule) = setup(&[(1, 1 << 20, u64::MAX)]);
    let log = run(&mut fakes, &mut schedule, 64 << 20);
    let mean = log.iter().map(|(_, s)| s).sum::<u64>() / log.len() as u64;
    assert!(mean > CHUNK_BYTES * 3 / 4, "{mean}");
}

/// Its chunks are longer for as long as nobody else is polled, and it owes nothing for that afterwards.
#[test]
fn the_only_queue_gets_longer_chunks_and_owes_nothing_for_them() {
    let (mut fakes, mut schedule) = setup(&[(1, 64 << 10, u64::MAX)]);
    let log = run(&mut fakes, &mut schedule, 64 << 20);
    assert!(log.iter().all(|(_, spent)| *spent >= LONE_BYTES), "{log:?}");
    for domain in [1, 2] {
        schedule.add(domain, 1, &account(1));
        fakes.truncate(1);
        fakes.push(Fake {
            domain,
            size: 64 << 10,
            backlog: u64::MAX,
            served: 0,
        });
        let log = run(&mut fakes, &mut schedule, 1 << 20);
        let longest = log.iter().map(|(_, spent)| *spent).max();
        assert!(longest < Some(CHUNK_BYTES + 8192), "{log:?}");
        let works = [0, 1].map(|queue| {
            let of = log.iter().filter(|(key, _)| *key == queue);
            of.map(|(_, spent)| spent).sum::<u64>()
        });
        assert!(
            works[0].abs_diff(works[1]) <= CHUNK_BYTES + 8192,
            "{works:?}"
        );
        schedule.remove(domain, 1);
    }
    // A limit is looked at between chunks.
    let limited = account(1);
    limited.set_on_clock(
        &Share {
            bytes_per_s: 1 << 30,
            ..Share::default()
        },
        1 << 30,
    );
    let mut schedule = Schedule::default();
    schedule.add(1, 0, &limited);
    let turn = schedule.next(1 << 40, |_| true).unwrap();
    assert!(turn.budget <= CHUNK_BYTES + OPERATION_COST, "{turn:?}");
}

#[test]
fn paused_domains_get_no_turn() {
    let (mut fakes, mut schedule) = setup(&[(1, 64, 100), (2, 64, 100)]);
    schedule.set_paused(1, true);
    run(&mut fakes, &mut schedule, u64::MAX);
    assert_eq!((fakes[0].served, fakes[1].served), (0, 100));
    assert!(!schedule.is_idle());
    schedule.remove(2, 1);
    assert!(schedule.is_idle());
    schedule.set_paused(1, false);
    run(&mut fakes, &mut schedule, u64::MAX);
    assert_eq!(fakes[0].served, 100);
}

#[test]
fn a_pause_outlives_the_queues() {
    let mut schedule = Schedule::default();
    schedule.set_paused(7, true);
    schedule.add(7, 0, &account(1));
    assert_eq!(schedule.next(0, |_| true), None);
    schedule.remove(7, 0);
    schedule.add(7, 1, &account(1));
    assert_eq!(schedule.next(0, |_| true), None);
    schedule.set_paused(7, false);
    assert_eq!(schedule.next(0, |_| true).map(|t| t.key), Some(1));
}

proptest! {
    /// Whatever comes and goes, every queue with work is served, and nobody else.
    #[test]
    fn nobody_is_forgotten(
        steps in proptest::collection::vec((0_u8..4, 0_u32..4, 0_usize..12), 1..80),
    ) {
        let mut schedule = Schedule::default();
        let mut present: Vec<(u32, Key)> = Vec::new();
        let mut next_key = 0;
        for (what, domain, which) in steps {
            match what {
                0 | 1 => {
                    schedule.add(domain, next_key, &account(domain * 5 + 1));
                    present.push((domain, next_key));
                    next_key += 1;
                }
                2 if !present.is_empty() => {
                    let (domain, key) = present.swap_remove(which % present.len());
                    schedule.remove(domain, key);
                }
                _ => {
                    if let Some(turn) = schedule.next(0, |key| key % 3 == which % 3) {
                        schedule.charge(0, &cost(turn.budget + 100));
                    }
                }
            }
            let mut wanted: Vec<Key> = present.iter().map(|(_, key)| *key).collect();
            let mut polled: Vec<Key> = schedule.polled().collect();
            wanted.sort_unstable();
            polled.sort_unstable();
            prop_assert_eq!(&wanted, &polled);
            for &key in &wanted {
                let found = schedule.next(0, |k| k == key).map(|turn| turn.key);
                prop_assert_eq!(found, Some(key));
            }
        }
    }
}

mod searches;
mod shares;
