//! Revocation, whatever the number of descendants, and invalidation: from the call to the end of the grace period, a worker
//! being busy with copies all the time.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use byway_engine::capability::{Capability, Ending, Held, Holder, Terms};
use byway_engine::testing::{Guest, PageSize, Process, Submitter};
use byway_protocols::{Rights, Status};

use super::harness::{Harness, VA, copy};
use super::{percentile, timed};
use crate::bench::quiet::{Quiet, Watch};
use crate::bench::report::Row;

/// Bytes that the copies move back and forth.
const DATA: u64 = 32 << 20;
/// Descendants of the capability that has many.
const MANY: usize = 65_536;
/// Descendants that hang together; the first is a child of what is revoked, the others are its children.
const GROUP: usize = 64;

/// A worker in the middle of long copies.
struct Busy {
    harness: Harness,
    submitter: Submitter,
    process: Process,
}

impl Busy {
    fn new() -> Result<Self> {
        let guest = Guest::sealed(1, 2 * DATA);
        let process = Process::new(&guest, 2);
        process.map(VA, DATA, PageSize::Large);
        let harness = Harness::new(1_000_000)?;
        let submitter = Submitter::new(&process, 64, true);
        harness.attach(&submitter);
        let mut busy = Self {
            harness,
            submitter,
            process,
        };
        busy.feed()?;
        // Until the worker runs there is nothing to observe.
        busy.harness.wait(&mut busy.submitter)?;
        Ok(busy)
    }

    /// Keeps the ring full.
    fn feed(&mut self) -> Result<()> {
        while let Some(completion) = self.submitter.poll() {
            let ok = completion.status() == Some(Status::Success);
            ensure!(ok, "a copy ended with {completion:?}");
        }
        let long = copy(VA, VA + DATA / 2, (DATA / 2) as u32);
        while self.submitter.outstanding() < 32 {
            self.submitter.submit(&long);
        }
        Ok(())
    }

    /// Takes `count` timings of `f`, of which the host disturbed some.
    fn watch(&mut self, count: u32, mut f: impl FnMut(&mut Self) -> Result<f64>) -> Result<Watch> {
        let mut watch = Watch::default();
        for _ in 0..count {
            self.feed()?;
            let before = self.harness.worker_load()?;
            let ns = f(self)?;
            watch.add(ns, &before, &self.harness.worker_load()?);
        }
        Ok(watch)
    }
}

fn row(case: &str, watch: &Watch) -> Row {
    let mut samples = watch.values().to_vec();
    Row {
        case: case.to_owned(),
        p50_ns: watch.median(),
        p99_ns: Some(percentile(&mut samples, 0.99)),
        samples: Some(samples.len() as u64),
        disturbed_share: Some(watch.disturbed_share()),
        ..Row::default()
    }
}

fn derive(from: &Arc<Capability>) -> Result<Held> {
    let terms = Terms {
        length: 1 << 20,
        rights: Rights::ALL,
        ..Terms::default()
    };
    from.derive(terms, Holder::Nobody, None)
        .ok()
        .context("a capability cannot be derived")
}

/// Derives so many from `top`, in groups; a holder who keeps them all, as slots would.
fn derive_many(top: &Held, count: usize) -> Result<Vec<Held>> {
    let mut below: Vec<Held> = Vec::with_capacity(count);
    for i in 0..count {
        let parent = match i % GROUP {
            0 => top.capability(),
            n => below[i - n].capability(),
        };
        let held = derive(parent)?;
        below.push(held);
    }
    Ok(below)
}

/// Times one revocation of a capability with so many descendants, its grace period included.
///
/// [`MANY`] are derived before it in any case, those that are not its descendants from another capability: what
/// differs is the tree alone, and neither how many there are nor how much else has gone through the caches.
fn revoke(
    busy: &mut Busy,
    root: &Arc<Capability>,
    descendants: usize,
    watch: &mut Watch,
) -> Result<()> {
    let (beside, top) = (derive(root)?, derive(root)?);
    let below = derive_many(&top, descendants)?;
    let others = derive_many(&beside, MANY - descendants)?;
    let owner = top.owner().clone();
    let mut grave = None;
    busy.feed()?;
    let before = busy.harness.worker_load()?;
    let ns = timed(|| {
        grave = Some(owner.revoke(&top, Ending::Revoked { by: 1 }));
        busy.harness.epochs.synchronize();
    });
    watch.add(ns, &before, &busy.harness.worker_load()?);
    let left = below.iter().filter(|held| held.is_valid()).count();
    ensure!(left == 0, "{left} descendants outlived their revocation");
    ensure!(
        others.iter().all(|held| held.is_valid()),
        "a revocation took what does not descend"
    );
    while !grave.as_mut().is_none_or(|g| g.reap(256, |_| ())) {}
    let mut grave = owner.revoke(&beside, Ending::Revoked { by: 1 });
    busy.harness.epochs.synchronize();
    while !grave.reap(256, |_| ()) {}
    Ok(())
}

/// Rows for a capability with one descendant and with [`MANY`], and the ratio of the medians.
///
/// # Errors
/// When a descendant outlives its revocation or the worker cannot be observed.
pub fn descendants(quick: bool, rows: &mut Vec<Row>) -> Result<Quiet<f64>> {
    let mut busy = Busy::new()?;
    let guest = busy.process.guest().clone();
    let root = Capability::root(guest.owner(), busy.process.space().clone());
    let rounds = if quick { 80 } else { 400 };
    let (mut one, mut many) = (Watch::default(), Watch::default());
    for _ in 0..rounds {
        // In turns, so that both see the same host.
        revoke(&mut busy, root.capability(), 1, &mut one)?;
        revoke(&mut busy, root.capability(), MANY, &mut many)?;
    }
    rows.push(row("revoke, 1 descendant", &one));
    rows.push(row("revoke, 65,536 descendants", &many));
    let (one, many) = (
        one.quiet("revocation with 1 descendant"),
        many.quiet("revocation with 65,536 descendants"),
    );
    Ok(one.and(many, |one, many| many / one))
}

/// Rows for the invalidation of a page and of an address space.
///
/// # Errors
/// When a copy fails or the worker cannot be observed.
pub fn invalidation(quick: bool, rows: &mut Vec<Row>) -> Result<()> {
    let count = if quick { 2000 } else { 10_000 };
    let mut busy = Busy::new()?;
    let page = busy.watch(count, |busy| {
        Ok(timed(|| {
            let harness = &busy.harness;
            harness.invalidations.push(busy.process.space(), VA, 1);
            harness.epochs.synchronize();
        }))
    })?;
    let space = busy.watch(count, |busy| {
        Ok(timed(|| {
            busy.process.space().invalidate_all();
            busy.harness.epochs.synchronize();
        }))
    })?;
    rows.push(row("invalidate a page", &page));
    rows.push(row("invalidate an address space", &space));
    Ok(())
}
