//! `flood`: what a small transfer costs while another VM has the engine's queue full of large ones, and how evenly
//! equal VMs are served.
//!
//! The flood stands in its ring before the victim begins, and its owner sleeps: what is measured is the engine's
//! choice of whom to serve, not the host's choice of which vCPU to run. Figures are shown and never judged here;
//! the scheduler's own test does that on a virtual clock.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use byway_agent::commands::{Poll, Submit};
use byway_engine::Engine;
use byway_engine::interface::{Action, Admin, Reply};
use byway_protocols::Status;

use super::cast::{APP, Cast, memmove};
use super::plan::{Clock, Plan};
use super::report::CaseRow;
use crate::measure::Quantiles;
use crate::signals::Stop;
use crate::steer::{Guest, PAGE_2M, RunSpec};

/// Bytes of every buffer, and of each transfer of a flood.
const BUFFER: u64 = 16 << 20;
const FLOOD: u64 = BUFFER / 2;
/// Transfers in a flood: a full ring, 1 GiB, a good tenth of a second of an engine that serves nobody else.
const FLOOD_DEPTH: u64 = ENTRIES;
/// Bytes of the victim's transfers: a whole chunk, so that its share is half of the engine's turns.
const VICTIM: u64 = 64 << 10;
/// Transfers of the victim in one measurement.
const SAMPLES: u64 = 500;
/// Entries of the queues.
const ENTRIES: u64 = 128;
/// How long an idle queue is polled; long enough that no measurement begins with a kick.
const POLLED: Duration = Duration::from_millis(100);
/// How long floods may take that a fraction of a second is enough for.
const PATIENCE: Duration = Duration::from_secs(20);
const NAMES: [&str; 3] = ["alice", "bob", "carol"];

struct Party {
    guest: Guest,
    buffer: u64,
}

/// Runs the case.
///
/// # Errors
/// When the VMs cannot be made ready.
pub fn run(plan: &Plan<'_>) -> Result<CaseRow> {
    let cast = Cast::new(&NAMES, POLLED, plan.stop)?;
    let mut parties = Vec::new();
    for name in NAMES {
        let guest = cast.boot(name, BUFFER, ENTRIES)?;
        let buffer = guest.alloc(APP, BUFFER, PAGE_2M)?;
        parties.push(Party { guest, buffer });
    }
    let mut row = CaseRow::new("flood");
    let clock = plan.start();
    if let Err(error) = rounds(&cast.engine, &parties, plan, clock, &mut row) {
        row.error(&error);
    }
    row.seconds = clock.seconds();
    Ok(row)
}

fn rounds(
    engine: &Engine,
    parties: &[Party],
    plan: &Plan<'_>,
    clock: Clock<'_>,
    row: &mut CaseRow,
) -> Result<()> {
    let [flooder, victim, ..] = parties else {
        bail!("a flood needs two VMs");
    };
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    let mut jain = Vec::new();
    while !clock.is_over() {
        for party in parties {
            party.guest.sleep()?;
        }
        alone.extend(victim.samples(row)?);
        flooder.pour()?;
        flooder.guest.sleep()?;
        beside.extend(victim.samples(row)?);
        flooder.collect(row)?;
        jain.push(evenness(engine, parties, plan.stop, row)?);
    }
    // Descriptors of the victim that found the flood over count too: they are few, and the 99th percentile is
    // of the others.
    let p99 = |samples| Quantiles::new(samples).p99() as f64;
    if !alone.is_empty() && !beside.is_empty() {
        let share = 2.0 * p99(alone);
        row.victim_p99_ratio = Some(p99(beside) / share.max(1.0));
    }
    row.jain = jain.iter().copied().reduce(f64::min);
    Ok(())
}

/// Floods of all, at once; Jain's index of what each was served while all of them had something to be served.
fn evenness(engine: &Engine, parties: &[Party], stop: &Stop, row: &mut CaseRow) -> Result<f64> {
    let before = served(engine)?;
    for party in parties {
        party.pour()?;
        party.guest.sleep()?;
    }
    let start = served(engine)?;
    let whole = FLOOD * FLOOD_DEPTH;
    // Ends well before the first of them runs dry, even where one gets all.
    let end = await_served(&before, whole * 3 / 4, stop, PATIENCE, || served(engine))?;
    for party in parties {
        party.collect(row)?;
    }
    let shares: Vec<f64> = end
        .iter()
        .zip(&start)
        .map(|(end, start)| (end - start) as f64)
        .collect();
    Ok(jain_index(&shares))
}

/// Waits until one of those that had been served the bytes `before` has been served `least` more, as `now` tells.
fn await_served(
    before: &[u64],
    least: u64,
    stop: &Stop,
    patience: Duration,
    now: impl Fn() -> Result<Vec<u64>>,
) -> Result<Vec<u64>> {
    let deadline = Instant::now() + patience;
    loop {
        let now = now()?;
        let served = now.iter().zip(before).map(|(now, before)| now - before);
        let most = served.max().unwrap_or(least);
        if most >= least {
            return Ok(now);
        }
        // The floods' owners sleep: nothing that they have published and the engine has missed will ever be told it again.
        stop.check()?;
        ensure!(
            Instant::now() < deadline,
            "of floods that stand in their rings the engine has served {most} bytes of {least} in {patience:?}: it has \
             stopped serving, or was not told of them"
        );
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// 1 where all are equal, 1/n where one has all.
fn jain_index(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    if squares == 0.0 {
        return 1.0;
    }
    sum * sum / (shares.len() as f64 * squares)
}

/// Bytes that each domain was served, in the order of [`NAMES`].
fn served(engine: &Engine) -> Result<Vec<u64>> {
    let Reply::Domains { domains } = engine.act(Action::List)? else {
        bail!("the engine does not list its domains");
    };
    NAMES
        .iter()
        .map(|name| {
            let domain = domains.iter().find(|domain| domain.name == *name);
            Ok(domain.context("a domain is missing")?.bytes)
        })
        .collect()
}

impl Party {
    /// Fills the queue with large copies and returns at once.
    fn pour(&self) -> Result<()> {
        let copy = memmove((0, self.buffer), (0, self.buffer + FLOOD), FLOOD);
        let bytes: Vec<u8> = (0..FLOOD_DEPTH).flat_map(|_| copy.to_bytes()).collect();
        let mailbox = self.guest.mailbox();
        self.guest.wake()?;
        mailbox.channel(APP).bulk_write(0, &bytes);
        let submitted = self.guest.call(
            APP,
            Submit {
                queue: self.guest.queue(APP)?.queue,
                count: FLOOD_DEPTH,
            },
        )?;
        ensure!(
            submitted.count == FLOOD_DEPTH,
            "the queue took {} of {FLOOD_DEPTH} descriptors",
            submitted.count
        );
        Ok(())
    }

    /// Waits for the end of what was poured.
    fn collect(&self, row: &mut CaseRow) -> Result<()> {
        let done = self.guest.call(
            APP,
            Poll {
                queue: self.guest.queue(APP)?.queue,
                max: FLOOD_DEPTH,
                ticks: self.guest.ns_to_ticks(10_000_000_000),
            },
        )?;
        ensure!(
            done.count == FLOOD_DEPTH,
            "{} of {FLOOD_DEPTH} descriptors of a flood were completed",
            done.count
        );
        row.transfers += done.count;
        self.guest.sleep()
    }

    /// Latencies of small transfers, one at a time, in nanoseconds.
    fn samples(&self, row: &mut CaseRow) -> Result<Vec<u64>> {
        let copy = memmove((0, self.buffer), (0, self.buffer + FLOOD), VICTIM);
        // The first one may find the queue parked.
        self.guest.execute_one(APP, &copy)?;
        let done = self.guest.run(
            APP,
            &RunSpec {
                descriptor: copy,
                iterations: SAMPLES,
                depth: 1,
                stride: 0,
                samples: SAMPLES,
            },
        )?;
        row.transfers += done.completed;
        if done.failed != 0 {
            row.violation(format!(
                "{} of the victim's transfers failed, the first with {:#04x} instead of {:#04x}",
                done.failed,
                done.first_bad_status,
                Status::Success as u8
            ));
        }
        self.guest.sleep()?;
        Ok(done.samples_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::{await_served, jain_index};
    use crate::signals::{Interrupted, Stop};
    use std::time::{Duration, Instant};

    #[test]
    fn an_engine_that_serves_nobody_is_not_waited_for_for_ever() {
        let (stop, short) = (Stop::default(), Duration::from_millis(20));
        let wait = |served: u64, patience| {
            await_served(&[5, 5], 100, &stop, patience, || Ok(vec![5, served]))
        };
        assert_eq!(wait(105, short).unwrap(), [5, 105]);
        let stuck = wait(104, short).unwrap_err().to_string();
        assert!(stuck.contains("served 99 bytes of 100 in 20ms"), "{stuck}");
        stop.set();
        let since = Instant::now();
        let told = wait(104, Duration::from_secs(3600)).unwrap_err();
        assert!(told.is::<Interrupted>() && since.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn the_index_tells_even_from_uneven() {
        assert!((jain_index(&[5.0, 5.0, 5.0]) - 1.0).abs() < 1e-9);
        assert!((jain_index(&[9.0, 0.0, 0.0]) - 1.0 / 3.0).abs() < 1e-9);
        assert!(jain_index(&[4.0, 5.0, 6.0]) < 1.0);
    }
}
