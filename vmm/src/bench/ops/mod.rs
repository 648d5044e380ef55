//! `byway bench ops`: every operation, from its descriptor to its completion, beside the same library or the best host
//! code called directly.
//!
//! A worker with rings, page tables and an IOTLB carries the operations out on guests in memory of this process; the
//! library runs on the worker's own core, on the very same pages, while the worker sleeps. The two take turns, and what
//! counts is the median of the ratios of two turns that follow each other.

mod cases;
mod library;
mod table;
mod turns;

use anyhow::{Result, ensure};
use byway_engine::backend::dsa::{self, OFFLOADED};

pub use table::{OpsFigures, table};

use super::Progress;
use super::quiet::DISTURBED_SHARE_MAX;
use super::report::{Ratios, Row};
use cases::{Case, Guests};
use turns::{Measured, Turns};

/// Smallest operation that has a target, in bytes.
pub const TARGET_FROM: u64 = 64 << 10;
/// What an operation has to reach of its library.
pub const LIBRARY_MIN: f64 = 0.9;
/// What a fused operation has to be faster than the passes that it replaces, from `FUSED_FROM` on.
pub const FUSED_MIN: f64 = 1.3;
/// Above the last-level cache: both operands together are far larger than any host's share of one.
const FUSED_FROM: u64 = 64 << 20;

/// Times that all cases are measured one after the other, for a third of their windows each.
const SWEEPS: usize = 3;

/// What is written down for backends that this host has no device for.
const NO_DEVICE: &str = "not measured: no DSA work queue on this host (byway doctor); its model says nothing of a device's speed";

/// What is to be measured.
pub(super) struct Wanted<'w> {
    /// Fewer windows.
    pub(super) quick: bool,
    /// Parts of names of operations; all operations when there is none.
    pub(super) only: &'w [String],
}

impl Wanted<'_> {
    fn wants(&self, op: &str) -> bool {
        let op = op.to_lowercase();
        let mut parts = self.only.iter();
        self.only.is_empty() || parts.any(|part| op.contains(&part.to_lowercase()))
    }
}

/// Rows for each operation and backend; the lowest of each kind of ratio goes to `ratios`.
///
/// # Errors
/// When no operation is called as asked for, one fails, or the worker cannot be observed.
pub(super) fn measure(
    wanted: &Wanted<'_>,
    rows: &mut Vec<Row>,
    ratios: &mut Ratios,
    not_measured: &mut Vec<String>,
    progress: Progress<'_>,
) -> Result<()> {
    let mut plans = cases::all();
    plans.retain(|plan| wanted.wants(plan.op));
    ensure!(
        !plans.is_empty(),
        "no operation has {:?} in its name; the names are those of a report of all of them",
        wanted.only
    );
    let guests = Guests::new()?;
    let mut turns = Turns::new(&guests, wanted.quick)?;
    let mut measured: Vec<_> = plans.iter().map(|_| Measured::default()).collect();
    let mut told = Vec::new();
    for _ in 0..if wanted.quick { 1 } else { SWEEPS } {
        told.clear();
        for (plan, measured) in plans.iter().zip(&mut measured) {
            progress.next(plan.op)?;
            let case = plan.make(&guests, &mut turns)?;
            told.push(About::of(&case));
            turns.take(case, measured)?;
        }
    }
    for (about, measured) in told.into_iter().zip(&measured) {
        rows.push(software(about, measured, not_measured));
    }
    let offloaded = OFFLOADED.iter().map(|op| op.name());
    rows.extend(offloaded.filter(|op| wanted.wants(op)).map(on_dsa));
    let figures = || rows.iter().filter_map(|row| row.ops.as_ref());
    let lowest = |values: &mut dyn Iterator<Item = f64>| values.min_by(f64::total_cmp);
    ratios.ops_over_library_min = lowest(&mut figures().filter_map(OpsFigures::judged));
    ratios.fused_over_two_passes_min = lowest(&mut figures().filter_map(|f| f.over_two_passes));
    Ok(())
}

/// What a report says of a case beside what was measured.
struct About {
    op: &'static str,
    size: u64,
    moves: bool,
    staged: bool,
    is_fused: bool,
    note: Option<String>,
}

impl About {
    fn of(case: &Case) -> Self {
        Self {
            op: case.op,
            size: case.size,
            moves: case.moves,
            staged: case.staged,
            is_fused: case.passes.is_some(),
            note: case.note.clone(),
        }
    }
}

fn software(about: About, measured: &Measured, not_measured: &mut Vec<String>) -> Row {
    let About {
        op,
        size,
        moves,
        staged,
        is_fused,
        note,
    } = about;
    let gbps = |ns: f64| size as f64 / ns.max(1.0);
    let disturbed_share = measured.disturbed_share();
    let stands = disturbed_share <= DISTURBED_SHARE_MAX;
    let engine_ns = measured.engine.median().filter(|_| stands);
    if engine_ns.is_none() {
        not_measured.push(format!(
            "{op} of {size} bytes: the host disturbed {:.0} % of the windows; close other programs and run again",
            100.0 * disturbed_share
        ));
    }
    let ratio = measured.over_library.median().filter(|_| stands);
    let over = measured.over_passes.median().filter(|_| stands);
    Row {
        case: "ops".to_owned(),
        size,
        depth: measured.depth,
        gbps: engine_ns.map(gbps).filter(|_| moves),
        ops_per_s: engine_ns.map(|ns| 1e9 / ns),
        samples: Some(measured.samples),
        disturbed_share: Some(disturbed_share),
        note,
        ops: Some(OpsFigures {
            op: op.to_owned(),
            backend: "software".to_owned(),
            library_gbps: measured.library.median().map(gbps),
            over_library: ratio,
            staged,
            over_two_passes: over.filter(|_| is_fused && size >= FUSED_FROM),
            has_target: moves && size >= TARGET_FROM,
        }),
        ..Row::default()
    }
}

/// What a backend without a device has to say.
fn on_dsa(op: &str) -> Row {
    let queues = dsa::candidates();
    let has_device = queues.iter().any(|queue| queue.found.is_ok());
    let note = if has_device {
        "not measured: this case drives the software backend alone"
    } else {
        NO_DEVICE
    };
    Row {
        case: "ops".to_owned(),
        note: Some(note.to_owned()),
        ops: Some(OpsFigures {
            op: op.to_owned(),
            backend: "dsa".to_owned(),
            ..OpsFigures::default()
        }),
        ..Row::default()
    }
}

#[cfg(test)]
mod tests {
    use byway_protocols::Opcode;

    use super::*;

    #[test]
    fn every_operation_of_the_software_backend_has_a_case() {
        let cases = cases::all();
        for &opcode in Opcode::ALL {
            // Aliases are the same code. Messages have figures of their own, between two guests.
            let is_left_out = opcode.canonical() != opcode
                || matches!(
                    opcode,
                    Opcode::Send
                        | Opcode::Receive
                        | Opcode::DeviceTransfer
                        | Opcode::Cancel
                        | Opcode::Execute
                );
            let has = cases.iter().any(|case| case.op.starts_with(opcode.name()));
            assert_eq!(has, !is_left_out, "{}", opcode.name());
        }
    }

    #[test]
    fn every_case_is_carried_out_on_both_sides() {
        let guests = Guests::new().unwrap();
        let mut turns = Turns::new(&guests, true).unwrap();
        for plan in cases::all() {
            if plan.size > 64 << 10 {
                continue;
            }
            let mut case = plan.make(&guests, &mut turns).unwrap();
            for descriptor in case.passes.iter().flatten() {
                turns.run(descriptor).unwrap();
            }
            let done = turns.run(&case.descriptor).unwrap();
            let counts = !matches!(case.op, "Nop" | "Drain" | "Batch (16 copies)");
            assert_eq!(
                done.bytes_completed != 0,
                counts || case.op.starts_with("Batch")
            );
            if let Some(library) = &mut case.library {
                turns.asleep();
                library();
            }
        }
    }
}
