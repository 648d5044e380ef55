//! Shares of the workers, as the operator sets them and as guests feel them.

use byway_protocols::{Rights, Status};

use super::world::{BUFFER, copy, create, engine, pair, until};
use crate::interface::{Action, Admin, AdminError, Reply, Share};
use crate::{Engine, EngineConfig};

fn set(engine: &Engine, name: &str, share: Share) -> Result<Reply, AdminError> {
    let name = name.to_owned();
    engine.act(Action::Quota { name, share })
}

#[test]
fn shares_are_checked() {
    let engine = engine();
    create(&engine, "alice");
    assert_eq!(set(&engine, "alice", Share::default()), Ok(Reply::Done));
    assert!(matches!(
        set(&engine, "bob", Share::default()),
        Err(AdminError::Unknown(_))
    ));
    for bad in [
        Share {
            weight: 0,
            ..Share::default()
        },
        Share {
            burst_us: 1_000_001,
            ..Share::default()
        },
    ] {
        let refused = set(&engine, "alice", bad);
        assert!(matches!(refused, Err(AdminError::BadQuota(_))));
    }
}

/// A rate so low that what waits is seen to wait, and taken back again.
#[test]
fn a_limit_stops_a_domain_and_nobody_else_until_it_is_lifted() {
    let (engine, mut alice, mut bob) = pair();
    let limit = Share {
        operations_per_s: 1,
        burst_us: 0,
        ..Share::default()
    };
    let small = copy((0, BUFFER), (0, BUFFER + 4096), 64);
    // The chunk that meets the limit first passes, and uses up an hour.
    let limited = Share {
        bytes_per_s: 1,
        ..limit
    };
    assert_eq!(set(&engine, "alice", limited), Ok(Reply::Done));
    // In one chunk, however long the host keeps the worker from it.
    let large = copy((0, BUFFER), (0, BUFFER + (4 << 20)), 4096);
    alice.submit(&large);
    assert_eq!(alice.queue.wait().status(), Some(Status::Success));
    // The chunk is over when bob has had one.
    assert_eq!(bob.run_for(&small), Status::Success);
    alice.submit(&large);
    for _ in 0..100 {
        assert_eq!(bob.run_for(&small), Status::Success);
    }
    assert!(alice.queue.poll().is_none());
    assert_eq!(set(&engine, "alice", Share::default()), Ok(Reply::Done));
    assert_eq!(alice.queue.wait().status(), Some(Status::Success));
}

#[test]
fn worker_time_is_on_the_list() {
    let (engine, mut alice, mut bob) = pair();
    let (_, remote) = bob.give_buffer(&mut alice, Rights::ALL);
    let put = copy((0, BUFFER), (remote, 0), 4 << 20);
    assert_eq!(alice.run_for(&put), Status::Success);
    // Charged to who asked, not to whose memory it is.
    until("the time is told", || {
        let rows = engine.stats().domains;
        rows[0].busy_ns > 0 && rows[1].busy_ns < rows[0].busy_ns
    });
}

/// With several workers, one of them busy with all the work there is, queues move until
/// both have some.
#[test]
fn queues_move_to_the_worker_that_has_time() {
    let engine = Engine::new(EngineConfig {
        workers: 2,
        ..EngineConfig::default()
    })
    .unwrap();
    create(&engine, "alice");
    let mut alice = super::world::Vm::boot(&engine, "alice");
    // Of four queues, two each; those of the second worker go.
    let mut queues = Vec::new();
    for _ in 0..4 {
        alice.create_queue();
        let fresh = super::world::Queue::new(&alice.guest);
        queues.push(std::mem::replace(&mut alice.queue, fresh));
    }
    let long = copy((0, BUFFER), (0, BUFFER + (8 << 20)), 8 << 20);
    // The first of the domain went to worker 0, so these are 1, 0, 1, 0.
    let mut busy = [queues.remove(3), queues.remove(1)];
    let chunks = || -> Vec<u64> { engine.stats().workers.iter().map(|w| w.chunks).collect() };
    let before = chunks();
    until("the other worker has work", || {
        for queue in &mut busy {
            while queue.poll().is_some() {}
            if queue.is_idle() {
                for _ in 0..8 {
                    queue.publish(&long);
                }
            }
            if queue.needs_kick() {
                alice.driver.control.kick();
            }
        }
        chunks()[1] > before[1] + 100
    });
}
