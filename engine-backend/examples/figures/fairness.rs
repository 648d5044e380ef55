//! Floods beside each other, and a victim beside a flood. The floods' rings are filled
//! beforehand and their owners sleep, so that only the worker decides who gets what.

use std::time::Duration;

use byway_engine::interface::Share;
use byway_engine::testing::{Guest, PageSize, Process, Submitter};
use byway_protocols::{Descriptor, Flags, Opcode};
use serde_json::{Value, json};

use crate::bench::{Bench, VA, copy, latencies, percentile};

const MIB: u64 = 1 << 20;

fn tenant(id: u32, weight: u32) -> Process {
    let guest = Guest::new(id, 64 * MIB);
    guest.account().set_share(&Share {
        weight,
        ..Share::default()
    });
    let process = Process::new(&guest, 2);
    process.map(VA, 4 * MIB, PageSize::Large);
    process
}

/// Jain's index: 1 = equal.
fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|x| x * x).sum();
    sum * sum / (shares.len() as f64 * squares)
}

/// What three floods of weights 1, 2 and 4 get by the time the first has nothing left.
fn mix(sizes: [u32; 3]) -> Value {
    const ENTRIES: u32 = 4096;
    let bench = Bench::new(1_000_000);
    let weights = [1, 2, 4];
    let mut queues = Vec::new();
    for (i, (size, weight)) in sizes.into_iter().zip(weights).enumerate() {
        let process = tenant(i as u32 + 1, weight);
        bench.workers.pause_domain(i as u32 + 1);
        let mut submitter = Submitter::new(&process, ENTRIES, true);
        bench.attach(&submitter);
        for _ in 0..ENTRIES {
            submitter.submit(&copy(VA, VA + 2 * MIB, size));
        }
        queues.push((process, submitter));
    }
    for i in 0..queues.len() {
        bench.workers.resume_domain(i as u32 + 1);
    }
    // Work as the scheduler counts it, when the first is through with its own.
    let done = loop {
        let work: Vec<u64> = queues.iter().map(|(_, q)| q.queue().work()).collect();
        let ended = |q: &Submitter| q.queue().stats().descriptors >= u64::from(ENTRIES);
        if queues.iter().any(|(_, q)| ended(q)) {
            break work;
        }
        std::thread::sleep(Duration::from_micros(20));
    };
    let shares: Vec<f64> = done
        .iter()
        .zip(weights)
        .map(|(&work, weight)| work as f64 / f64::from(weight))
        .collect();
    json!({ "sizes": sizes, "weights": weights, "work": done, "jain": jain(&shares) })
}

/// A victim's latency alone and beside one flood, in nanoseconds.
fn victim(size: u32, flood: &Descriptor) -> Value {
    let bench = Bench::new(1_000_000);
    let (alice, bob) = (tenant(1, 1), tenant(2, 1));
    let mut submitter = Submitter::new(&alice, 64, true);
    bench.attach(&submitter);
    let own = copy(VA, VA + 2 * MIB, size);
    let mut alone = latencies(&mut submitter, &own, 2000);
    let mut flooder = Submitter::new(&bob, 4096, true);
    bench.attach(&flooder);
    let mut beside = Vec::new();
    while beside.len() < 2000 {
        while flooder.poll().is_some() {}
        while flooder.outstanding() < 4096 {
            flooder.submit(flood);
        }
        beside.extend(latencies(&mut submitter, &own, 20));
    }
    // Half of the worker is its share: twice the time alone is what it can expect.
    let (a, b) = (percentile(&mut alone, 0.99), percentile(&mut beside, 0.99));
    json!({
        "size": size,
        "flood_size": flood.size,
        "alone_p99_ns": a,
        "beside_p99_ns": b,
        "ratio_to_share": b / (2.0 * a),
    })
}

pub fn figures() -> Value {
    let large = copy(VA, VA + 2 * MIB, MIB as u32);
    let small = copy(VA, VA + 2 * MIB, 64);
    let nop = Descriptor::new(Opcode::Nop, Flags::NONE);
    json!({
        "mixes": [
            mix([64, 4096, 65_536]),
            mix([65_536, 4096, 64]),
            mix([1 << 20, 64, 4096]),
        ],
        "victims": [
            victim(1 << 20, &large),
            victim(1 << 20, &small),
            victim(1 << 20, &nop),
            victim(64, &large),
        ],
    })
}
