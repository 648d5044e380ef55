//! A 64-byte copy with one queue registered, and with thousands that are idle.

use std::time::Duration;

use byway_engine::testing::{Guest, PageSize, Process, Submitter};
use serde_json::{Value, json};

use crate::bench::{Bench, VA, copy, latencies, percentile, timed};

const IDLE: usize = 16_384;
const ROUNDS: usize = 21;

struct Row {
    depth_1_ns: f64,
    depth_64_ns: f64,
    /// From a kick of the busy queue's own domain to the completion, the queue parked.
    kick_ns: f64,
}

fn row(idle: usize) -> Row {
    let bench = Bench::new(2000);
    let guest = Guest::new(1, 64 << 20);
    let process = Process::new(&guest, 2);
    process.map(VA, 2 << 20, PageSize::Large);
    let sleepers: Vec<Submitter> = (0..idle)
        .map(|_| {
            let submitter = Submitter::new(&process, 2, false);
            bench.attach(&submitter);
            submitter
        })
        .collect();
    while !sleepers.iter().all(Submitter::needs_kick) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut submitter = Submitter::new(&process, 128, false);
    bench.attach(&submitter);
    let small = copy(VA, VA + 4096, 64);

    let mut one = Vec::new();
    let mut many = Vec::new();
    for _ in 0..ROUNDS {
        submitter.submit(&small);
        bench.wait(&mut submitter);
        let mut samples = latencies(&mut submitter, &small, 2000);
        one.push(percentile(&mut samples, 0.5));
        const COUNT: u32 = 20_000;
        let ns = timed(|| {
            let (mut submitted, mut completed) = (0, 0);
            while completed < COUNT {
                while submitted < COUNT && submitter.outstanding() < 64 {
                    submitter.submit(&small);
                    submitted += 1;
                }
                completed += u32::from(submitter.poll().is_some());
            }
        });
        many.push(ns / f64::from(COUNT));
    }
    let mut kicks: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            while !submitter.needs_kick() {
                std::thread::sleep(Duration::from_millis(1));
            }
            submitter.submit(&small);
            timed(|| bench.wait(&mut submitter))
        })
        .collect();
    Row {
        depth_1_ns: percentile(&mut one, 0.5),
        depth_64_ns: percentile(&mut many, 0.5),
        kick_ns: percentile(&mut kicks, 0.5),
    }
}

pub fn figures() -> Value {
    let (alone, crowded) = (row(0), row(IDLE));
    let json = |r: &Row| {
        json!({
            "depth_1_ns": r.depth_1_ns,
            "depth_64_ns": r.depth_64_ns,
            "kick_ns": r.kick_ns,
        })
    };
    json!({
        "idle_queues": IDLE,
        "alone": json(&alone),
        "crowded": json(&crowded),
        "ratio_depth_1": crowded.depth_1_ns / alone.depth_1_ns,
        "ratio_depth_64": crowded.depth_64_ns / alone.depth_64_ns,
    })
}
