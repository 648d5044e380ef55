//! Ports without workers.

use std::sync::Arc;

use super::*;
use crate::capability::Owner;

fn port(depth: usize) -> Arc<Port> {
    Arc::new(Port::new(depth, 8, Doorbell::silent(), None))
}

fn send(port: &Port, bytes: &[u8], badge: u64) -> bool {
    let room = port.room();
    let has_room = room.is_some();
    room.into_iter().for_each(|room| room.send(bytes, badge));
    has_room
}

fn receive(port: &Port) -> Option<(Vec<u8>, u64)> {
    let oldest = port.oldest().unwrap();
    let found = oldest.message().map(|m| (m.bytes().to_vec(), m.badge()));
    oldest.received();
    found
}

#[test]
fn messages_come_in_order_and_are_bounded() {
    let port = port(2);
    assert!(port.is_ready(Side::Sender) && !port.is_ready(Side::Receiver));
    assert!(send(&port, b"one", 1));
    assert!(send(&port, b"second", 2));
    assert!(!send(&port, b"third", 3));
    assert!(!port.is_ready(Side::Sender) && port.is_ready(Side::Receiver));
    assert_eq!(receive(&port), Some((b"one".to_vec(), 1)));
    assert!(send(&port, b"4", 4));
    assert_eq!(receive(&port), Some((b"second".to_vec(), 2)));
    // Nothing is left of a longer message that was in the same buffer.
    assert_eq!(receive(&port), Some((b"4".to_vec(), 4)));
    assert_eq!(receive(&port), None);
}

#[test]
fn what_is_looked_at_stays_the_oldest_and_room_unused_goes_back() {
    let port = port(1);
    drop(port.room());
    assert!(send(&port, b"a", 0));
    let oldest = port.oldest().unwrap();
    assert!(port.oldest().is_none(), "another one looks at it");
    assert!(!port.is_ready(Side::Receiver));
    drop(oldest);
    assert!(port.is_ready(Side::Receiver) && !port.is_ready(Side::Sender));
    assert_eq!(receive(&port), Some((b"a".to_vec(), 0)));
}

#[test]
fn a_wait_is_over_when_the_port_changes_or_a_right_ends() {
    let (port, owner) = (port(1), Owner::new(3));
    let wait = || Await::new(port.clone(), Side::Receiver, &owner, owner.epoch());
    let first = wait();
    let seat = first.park(7);
    assert!(seat.is_some());
    let mut rung = Vec::new();
    port.receivers.for_each(|domain| rung.push(domain));
    assert_eq!(rung, [7]);
    drop(seat);
    port.receivers.for_each(|_| panic!("nobody is parked"));
    assert!(!first.is_over());
    let _ = owner.bury_ended();
    assert!(first.is_over() && first.park(7).is_none());
    let second = wait();
    assert!(!second.is_over());
    send(&port, b"x", 0);
    assert!(second.is_over() && second.park(7).is_none());
    port.receivers.for_each(|_| panic!("nobody is parked"));
}

#[test]
fn who_finds_no_seat_stays_polled() {
    let (port, owner) = (port(1), Owner::new(3));
    let wait = Await::new(port.clone(), Side::Receiver, &owner, owner.epoch());
    let mut seats: Vec<_> = (1..=32).map(|domain| wait.park(domain)).collect();
    assert!(seats.iter().all(Option::is_some));
    assert!(wait.park(33).is_none());
    seats.remove(5);
    assert!(wait.park(33).is_some());
}

#[test]
fn queues_of_one_domain_share_a_seat() {
    let (port, owner) = (port(1), Owner::new(3));
    let wait = Await::new(port.clone(), Side::Receiver, &owner, owner.epoch());
    let rung = || {
        let mut rung = Vec::new();
        port.receivers.for_each(|domain| rung.push(domain));
        rung
    };
    let mut many: Vec<_> = (0..1000).map(|_| wait.park(7)).collect();
    assert!(many.iter().all(Option::is_some));
    let other = wait.park(8);
    assert_eq!(rung(), [7, 8]);
    many.truncate(1);
    assert_eq!(rung(), [7, 8]);
    many.clear();
    assert_eq!(rung(), [8]);
    drop(other);
    assert!(rung().is_empty());
}
