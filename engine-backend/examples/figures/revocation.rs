//! Revocation, whatever the number of descendants, and invalidation: from the call to the
//! end of the grace period, a worker being busy with copies all the time.

use std::sync::Arc;

use byway_engine::capability::{Capability, Ending, Held, Holder, Terms};
use byway_engine::testing::{Guest, PageSize, Process, Submitter};
use byway_protocols::Rights;
use serde_json::{Value, json};

use crate::bench::{Bench, VA, copy, percentile, timed};

const DATA: u64 = 32 << 20;

/// A worker in the middle of long copies.
struct Busy {
    bench: Bench,
    submitter: Submitter,
    process: Process,
}

impl Busy {
    fn new() -> Self {
        let guest = Guest::new(1, 2 * DATA);
        let process = Process::new(&guest, 2);
        process.map(VA, DATA, PageSize::Large);
        let bench = Bench::new(1_000_000);
        let submitter = Submitter::new(&process, 64, true);
        bench.attach(&submitter);
        Self {
            bench,
            submitter,
            process,
        }
    }
    /// Keeps the ring full.
    fn feed(&mut self) {
        while let Some(completion) = self.submitter.poll() {
            assert_eq!(completion.status, 1);
        }
        let long = copy(VA, VA + DATA / 2, (DATA / 2) as u32);
        while self.submitter.outstanding() < 32 {
            self.submitter.submit(&long);
        }
    }
    /// Median and 99th percentile of `count` timings of `f`, in nanoseconds.
    fn measure(&mut self, count: usize, mut f: impl FnMut(&Bench, &Process) -> f64) -> Value {
        let mut samples = Vec::with_capacity(count);
        for _ in 0..count {
            self.feed();
            samples.push(f(&self.bench, &self.process));
        }
        json!({
            "p50": percentile(&mut samples, 0.5),
            "p99": percentile(&mut samples, 0.99),
        })
    }
}

fn derive(from: &Arc<Capability>) -> Held {
    let terms = Terms {
        length: 1 << 20,
        rights: Rights::ALL,
        ..Terms::default()
    };
    from.derive(terms, Holder::Nobody, None)
        .expect("terms that can be derived")
}

/// One revocation of a capability with so many descendants.
fn revoke(bench: &Bench, root: &Held, descendants: usize) -> f64 {
    let top = derive(root.capability());
    // A holder who keeps them all, as slots would.
    let mut below: Vec<Held> = Vec::with_capacity(descendants);
    for i in 0..descendants {
        let parent = match i % 64 {
            0 => top.capability(),
            n => below[i - n].capability(),
        };
        below.push(derive(parent));
    }
    let owner = top.owner().clone();
    let mut grave = None;
    let ns = timed(|| {
        grave = Some(owner.revoke(&top, Ending::Revoked { by: 1 }));
        bench.epochs.synchronize();
    });
    assert!(below.iter().all(|held| !held.is_valid()));
    while !grave.as_mut().is_none_or(|g| g.reap(256, |_| ())) {}
    ns
}

pub fn figures() -> Value {
    let mut busy = Busy::new();
    let guest = busy.process.guest().clone();
    let root = Capability::root(guest.owner(), busy.process.space().clone());
    let one = busy.measure(400, |bench, _| revoke(bench, &root, 1));
    let many = busy.measure(60, |bench, _| revoke(bench, &root, 65_536));
    let median = |v: &Value| v["p50"].as_f64().unwrap_or(f64::NAN);
    json!({
        "descendants_1_ns": one,
        "descendants_65536_ns": many,
        "ratio": median(&many) / median(&one),
    })
}

pub fn invalidation() -> Value {
    let mut busy = Busy::new();
    let page = busy.measure(2000, |bench, process| {
        timed(|| {
            bench.invalidations.push(process.space(), VA, 1);
            bench.epochs.synchronize();
        })
    });
    let space = busy.measure(2000, |bench, process| {
        timed(|| {
            process.space().invalidate_all();
            bench.epochs.synchronize();
        })
    });
    json!({ "page_ns": page, "space_ns": space })
}
