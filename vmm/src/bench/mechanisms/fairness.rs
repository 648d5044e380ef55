//! Floods beside each other, and a victim beside a flood. The floods' rings are filled beforehand and their owners sleep, so that
//! only the worker decides who gets what.

use std::time::Duration;

use anyhow::Result;
use byway_engine::interface::Share;
use byway_engine::testing::{Guest, PageSize, Process, Submitter};
use byway_protocols::{Descriptor, Flags, Opcode};

use super::harness::{Harness, VA, copy};
use super::percentile;
use crate::bench::quiet::{Quiet, RUN_DELAY_NS_MAX, Watch};
use crate::bench::report::Row;
use crate::measure::ThreadLoad;

const MIB: u64 = 1 << 20;
/// Entries of a flood's ring: so many that it outlasts by far what the host takes to notice that one has ended.
const ENTRIES: u32 = 32_768;
/// Long enough that no queue parks.
const PARK_US: u32 = 1_000_000;

/// The worst of what was measured.
#[derive(Debug, Clone)]
pub struct Fairness {
    /// Jain's index over what floods of different weights got, each by its weight; 1 = as they should.
    pub jain: f64,
    /// A victim's 99th percentile beside a flood over that with the half of a worker that is its share.
    pub victims: Quiet<f64>,
}

fn tenant(id: u32, weight: u32) -> Process {
    let guest = Guest::sealed(id, 64 * MIB);
    guest.account().set_share(&Share {
        weight,
        ..Share::default()
    });
    let process = Process::new(&guest, 2);
    process.map(VA, 4 * MIB, PageSize::Large);
    process
}

/// Jain's index of fairness: 1 = equal.
fn index(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|x| x * x).sum();
    sum * sum / (shares.len() as f64 * squares)
}

/// What three floods of weights 1, 2 and 4 get by the time one has nothing left.
fn mix(sizes: [u32; 3]) -> Result<f64> {
    let harness = Harness::new(PARK_US)?;
    let weights = [1, 2, 4];
    let mut queues = Vec::new();
    for ((id, size), weight) in (1_u32..).zip(sizes).zip(weights) {
        let process = tenant(id, weight);
        harness.workers.pause_domain(id);
        let mut submitter = Submitter::new(&process, ENTRIES, true);
        harness.attach(&submitter);
        for _ in 0..ENTRIES {
            submitter.submit(&copy(VA, VA + 2 * MIB, size));
        }
        queues.push((id, process, submitter));
    }
    for (id, ..) in &queues {
        harness.workers.resume_domain(*id);
    }
    // Work as the scheduler counts it, when the first is through with its own.
    let done: Vec<u64> = loop {
        let work = queues.iter().map(|(.., q)| q.queue().work()).collect();
        let ended = |q: &Submitter| q.queue().stats().descriptors >= u64::from(ENTRIES);
        if queues.iter().any(|(.., q)| ended(q)) {
            break work;
        }
        std::thread::sleep(Duration::from_micros(20));
    };
    let shares: Vec<f64> = done
        .iter()
        .zip(weights)
        .map(|(&work, weight)| work as f64 / f64::from(weight))
        .collect();
    Ok(index(&shares))
}

/// Latencies of a victim between two looks at what the host did. Few, so that most windows are quiet, and the flood
/// filled before each lasts for all of them.
const WINDOW: usize = 8;

/// Latencies of [`WINDOW`] operations, counted as disturbed if the host took a core from the worker or from this thread.
fn window(
    harness: &Harness,
    submitter: &mut Submitter,
    own: &Descriptor,
    watch: &mut Watch,
) -> Result<()> {
    // SAFETY: takes no argument and cannot fail.
    let tid = unsafe { libc::gettid() };
    let before = (harness.worker_load()?, ThreadLoad::of(tid)?);
    let found = harness.latencies(submitter, own, WINDOW)?;
    let after = (harness.worker_load()?, ThreadLoad::of(tid)?);
    let quiet = after.0.quiet_since(&before.0, RUN_DELAY_NS_MAX)
        && after.1.quiet_since(&before.1, RUN_DELAY_NS_MAX);
    for ns in found {
        watch.count(ns, quiet);
    }
    Ok(())
}

/// A victim's latencies alone and beside one flood, in nanoseconds.
fn victim(size: u32, flood: &Descriptor, count: usize) -> Result<(Watch, Watch)> {
    let harness = Harness::new(PARK_US)?;
    let (alice, bob) = (tenant(1, 1), tenant(2, 1));
    let mut submitter = Submitter::new(&alice, 64, true);
    harness.attach(&submitter);
    let own = copy(VA, VA + 2 * MIB, size);
    let (mut alone, mut beside) = (Watch::default(), Watch::default());
    // Before anything is timed, every page has been touched.
    harness.latencies(&mut submitter, &own, WINDOW)?;
    for _ in 0..count.div_ceil(WINDOW) {
        window(&harness, &mut submitter, &own, &mut alone)?;
    }
    let mut flooder = Submitter::new(&bob, ENTRIES, true);
    harness.attach(&flooder);
    for _ in 0..count.div_ceil(WINDOW) {
        while flooder.poll().is_some() {}
        while flooder.outstanding() < ENTRIES {
            flooder.submit(flood);
        }
        window(&harness, &mut submitter, &own, &mut beside)?;
    }
    Ok((alone, beside))
}

/// Rows for mixes of floods and for victims beside floods, and the worst of each.
///
/// # Errors
/// When a victim's copy fails or the host gives no thread.
pub fn measure(quick: bool, rows: &mut Vec<Row>) -> Result<Fairness> {
    let mut jain = 1.0_f64;
    let mut victims = Quiet::Measured(0.0);
    for sizes in [[64, 4096, 65_536], [65_536, 4096, 64], [1 << 20, 64, 4096]] {
        let found = mix(sizes)?;
        jain = jain.min(found);
        rows.push(Row {
            case: "three floods, weights 1, 2, 4".to_owned(),
            note: Some(format!("sizes {sizes:?}: Jain index {found:.4}")),
            ..Row::default()
        });
    }
    let count = if quick { 1000 } else { 5000 };
    let large = copy(VA, VA + 2 * MIB, MIB as u32);
    let small = copy(VA, VA + 2 * MIB, 64);
    let nop = Descriptor::new(Opcode::Nop, Flags::NONE);
    for (what, flood) in [
        ("1 MiB copies", large),
        ("64 B copies", small),
        ("NOPs", nop),
    ] {
        let (alone, beside) = victim(MIB as u32, &flood, count)?;
        let p99 = |watch: &Watch| percentile(&mut watch.values().to_vec(), 0.99);
        // Half of the worker is its share: twice the time alone is what it can expect.
        let ratio = p99(&beside) / (2.0 * p99(&alone));
        let share = alone.disturbed_share().max(beside.disturbed_share());
        rows.push(Row {
            case: "victim beside a flood".to_owned(),
            size: MIB,
            depth: 1,
            p50_ns: beside.median(),
            p99_ns: Some(p99(&beside)),
            samples: Some(count as u64),
            disturbed_share: Some(share),
            note: Some(format!(
                "{what}: alone p99 {:.0} ns, {ratio:.2} of its share's",
                p99(&alone)
            )),
            ..Row::default()
        });
        let quiet = alone
            .quiet("a victim alone")
            .and(beside.quiet("a victim beside a flood"), |_, _| ratio);
        victims = victims.and(quiet, f64::max);
    }
    Ok(Fairness { jain, victims })
}

#[cfg(test)]
mod tests {
    use super::index;

    #[test]
    fn jains_index_is_1_for_equals_and_1_over_n_for_a_monopoly() {
        assert!((index(&[3.0, 3.0, 3.0]) - 1.0).abs() < 1e-12);
        assert!((index(&[5.0, 0.0, 0.0, 0.0]) - 0.25).abs() < 1e-12);
    }
}
