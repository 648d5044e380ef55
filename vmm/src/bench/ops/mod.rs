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
use cases::{Case, Guests, Plan};
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
/// Times that those are measured once more whose result is close to its target, on either side of it.
const SWEEPS_WHERE_CLOSE: usize = 6;
/// Distance from a target, as a share of it, that is close: by so much a neighbour of the host's has moved single results.
const CLOSE: f64 = 0.1;

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
            told.push(one(plan, &guests, &mut turns, measured, progress)?);
        }
    }
    // Decided once, and for both sides of a target alike: what is measured longer is told more exactly, and no better.
    let close: Vec<_> = (told.iter().zip(&measured))
        .map(|(about, measured)| about.is_close(measured))
        .collect();
    for _ in 0..if wanted.quick { 0 } else { SWEEPS_WHERE_CLOSE } {
        for ((plan, measured), _) in (plans.iter().zip(&mut measured))
            .zip(&close)
            .filter(|&(_, &is_close)| is_close)
        {
            one(plan, &guests, &mut turns, measured, progress)?;
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

/// Measures a case for its share of a sweep.
fn one(
    plan: &Plan,
    guests: &Guests,
    turns: &mut Turns<'_>,
    measured: &mut Measured,
    progress: Progress<'_>,
) -> Result<About> {
    progress.next(plan.op)?;
    let case = plan.make(guests, turns)?;
    let about = About::of(&case);
    turns.take(case, measured)?;
    Ok(about)
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

    /// Whether its library is a measure for it.
    fn has_target(&self) -> bool {
        self.moves && self.size >= TARGET_FROM
    }

    /// Whether passes that it replaces are.
    fn has_passes(&self) -> bool {
        self.is_fused && self.size >= FUSED_FROM
    }

    /// Whether what was measured is so close to a target that as much again may lie on its other side.
    fn is_close(&self, measured: &Measured) -> bool {
        let is_close = |found: Option<f64>, target: f64| {
            found.is_some_and(|found| (found / target - 1.0).abs() < CLOSE)
        };
        self.has_target() && is_close(measured.over_library.median(), LIBRARY_MIN)
            || self.has_passes() && is_close(measured.over_passes.median(), FUSED_MIN)
    }
}

fn software(about: About, measured: &Measured, not_measured: &mut Vec<String>) -> Row {
    let (has_target, has_passes) = (about.has_target(), about.has_passes());
    let About {
        op,
        size,
        moves,
        staged,
        note,
        ..
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
            over_two_passes: over.filter(|_| has_passes),
            has_target,
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
    fn what_lies_close_to_its_target_on_either_side_is_measured_longer() {
        let about = |size, moves, is_fused| About {
            op: "",
            size,
            moves,
            staged: false,
            is_fused,
            note: None,
        };
        let measured = |over_library, over_passes| {
            let mut measured = Measured::default();
            measured.over_library.count(over_library, true);
            measured.over_passes.count(over_passes, true);
            measured
        };
        let plain = about(TARGET_FROM, true, false);
        for (ratio, is_close) in [(0.8, false), (0.82, true), (0.98, true), (1.0, false)] {
            // No passes: what stands there for them is of no interest.
            assert_eq!(
                plain.is_close(&measured(ratio, FUSED_MIN)),
                is_close,
                "{ratio}"
            );
        }
        assert!(!plain.is_close(&Measured::default()));
        assert!(!about(TARGET_FROM - 1, true, false).is_close(&measured(0.9, 1.0)));
        assert!(!about(TARGET_FROM, false, false).is_close(&measured(0.9, 1.0)));
        let fused = about(FUSED_FROM, true, true);
        for (ratio, is_close) in [(1.16, false), (1.18, true), (1.42, true), (1.44, false)] {
            assert_eq!(fused.is_close(&measured(2.0, ratio)), is_close, "{ratio}");
        }
        assert!(!about(TARGET_FROM, true, true).is_close(&measured(2.0, 1.3)));
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
