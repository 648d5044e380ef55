//! Loom model of parking at a port: no change of the port is missed by a queue that parks.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use super::seats::Seats;

/// A side of a port, its readiness and the doorbell reduced to a flag each.
struct Model {
    seats: Seats,
    ready: AtomicBool,
    rung: AtomicBool,
}

fn change(model: &Model) {
    model.ready.store(true, Ordering::Relaxed);
    model
        .seats
        .for_each(|_| model.rung.store(true, Ordering::Relaxed));
}

/// Whether the queue stays parked.
fn park(model: &Model, domain: u32) -> bool {
    let Some(seat) = model.seats.take(domain) else {
        return false;
    };
    if model.ready.load(Ordering::Relaxed) {
        model.seats.leave(seat);
        return false;
    }
    true
}

#[test]
fn loom_who_parks_is_rung_for() {
    loom::model(|| {
        let model = Arc::new(Model {
            seats: Seats::new(),
            ready: AtomicBool::new(false),
            rung: AtomicBool::new(false),
        });
        let parker = thread::spawn({
            let model = model.clone();
            move || park(&model, 1)
        });
        change(&model);
        let is_parked = parker.join().unwrap();
        assert!(!is_parked || model.rung.load(Ordering::Relaxed));
    });
}

#[test]
fn loom_who_shares_a_seat_keeps_it_when_the_other_leaves() {
    loom::model(|| {
        let model = Arc::new(Model {
            seats: Seats::new(),
            ready: AtomicBool::new(false),
            rung: AtomicBool::new(false),
        });
        let first = model.seats.take(1).expect("all are free");
        let parker = thread::spawn({
            let model = model.clone();
            move || park(&model, 1)
        });
        model.seats.leave(first);
        change(&model);
        let is_parked = parker.join().unwrap();
        assert!(!is_parked || model.rung.load(Ordering::Relaxed));
    });
}
