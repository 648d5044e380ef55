//! What the benchmark measured, as programs and as people read it.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use super::ops::{self, OpsFigures};
use crate::demo::report::bytes_name;

/// Everything that `byway bench --json FILE` writes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct BenchReport {
    /// Whether the shorter programme ran.
    pub quick: bool,
    /// CPU model of the host.
    pub cpu: String,
    /// Figures side by side in one run, each with its target.
    pub ratios: Ratios,
    /// A row per measurement.
    pub rows: Vec<Row>,
    /// What was not measured, and why.
    pub not_measured: Vec<String>,
    /// Time of the whole run in seconds.
    pub seconds: f64,
}

/// The figures that have targets. `None`: not measured; [`BenchReport::not_measured`] says why.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Ratios {
    /// 64 B put alone, submit to completion seen in ring 3, over the cache-line round trip.
    pub put64_rtt_over_pingpong: Option<f64>,
    /// Time per 64 B put with 64 in flight, over the same round trip.
    pub op64_ns_over_pingpong: Option<f64>,
    /// 1 MiB put over the best host memcpy.
    pub put_1m_over_memcpy: Option<f64>,
    /// Exits other than host interrupts per polled transfer.
    pub exits_per_op: Option<f64>,
    /// From the start of the first VMM to the first transfer's completion, both VMs, in seconds.
    pub boot_to_first_transfer_s: Option<f64>,
    /// 99.9th percentile of a revocation while 1 GiB copies run, in microseconds.
    pub revoke_us_p999: Option<f64>,
    /// Median time of a revocation with 65,536 descendants over that with one.
    pub revoke_65536_over_1: Option<f64>,
    /// Median latency of a 64 B copy with 16,384 idle queues registered over that with none but its own.
    pub put64_16384_idle_over_1: Option<f64>,
    /// Jain's index over three floods, each by its weight; the worst mix.
    pub jain: Option<f64>,
    /// A victim's 99th percentile beside a flood over that of its share of the worker; the worst flood.
    pub victim_p99_over_share: Option<f64>,
    /// Throughput over that of the same library called directly; the worst operation of 64 KiB or more.
    pub ops_over_library_min: Option<f64>,
    /// A fused operation's over that of the passes that it replaces, above the last cache; the worst one.
    pub fused_over_two_passes_min: Option<f64>,
    /// Blocks of a file into another VM's process over fio, 128 KiB at a time.
    pub block_128k_over_fio: Option<f64>,
    /// The same, 4 KiB at a time and 32 in flight.
    pub block_4k_over_fio: Option<f64>,
}

/// One measurement. Figures that do not apply are null; what only some rows have is absent.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Row {
    /// What was measured.
    pub case: String,
    /// Bytes of one operation.
    pub size: u64,
    /// Operations in flight.
    pub depth: u64,
    /// Gigabytes (10^9 bytes) per second.
    pub gbps: Option<f64>,
    /// Operations per second.
    pub ops_per_s: Option<f64>,
    /// Median latency in nanoseconds.
    pub p50_ns: Option<f64>,
    /// 99th percentile in nanoseconds.
    pub p99_ns: Option<f64>,
    /// Exits other than host interrupts per operation.
    pub exits_per_op: Option<f64>,
    /// Samples taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<u64>,
    /// Share of samples during which the host took a core away or a page fault came; those are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disturbed_share: Option<f64>,
    /// What only rows of operations have.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub ops: Option<OpsFigures>,
    /// What only rows of blocks have.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub block: Option<BlockFigures>,
    /// Anything else worth knowing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What rows of blocks have beside the others.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct BlockFigures {
    /// Throughput over fio's on the same file and core; null for fio itself.
    pub over_fio: Option<f64>,
    /// Processor time of the worker, or of fio's thread, in seconds for each GiB.
    pub cpu_s_per_gib: Option<f64>,
    /// System calls of the worker for each MiB; null for fio, which does not tell.
    pub syscalls_per_mib: Option<f64>,
}

/// A figure's name, value, and largest (or smallest) value that meets the target.
struct Target {
    name: &'static str,
    value: Option<f64>,
    bound: f64,
    at_most: bool,
}

impl Ratios {
    fn targets(&self) -> [Target; 14] {
        let at_most = |name, value, bound| Target {
            name,
            value,
            bound,
            at_most: true,
        };
        let at_least = |name, value, bound| Target {
            name,
            value,
            bound,
            at_most: false,
        };
        [
            at_most("put64_rtt_over_pingpong", self.put64_rtt_over_pingpong, 1.6),
            at_most("op64_ns_over_pingpong", self.op64_ns_over_pingpong, 0.35),
            at_least("put_1m_over_memcpy", self.put_1m_over_memcpy, 0.9),
            at_most("exits_per_op", self.exits_per_op, 0.0),
            at_most(
                "boot_to_first_transfer_s",
                self.boot_to_first_transfer_s,
                2.0,
            ),
            at_most("revoke_us_p999", self.revoke_us_p999, 50.0),
            at_most("revoke_65536_over_1", self.revoke_65536_over_1, 1.5),
            at_most("put64_16384_idle_over_1", self.put64_16384_idle_over_1, 1.2),
            at_least("jain", self.jain, 0.95),
            at_most("victim_p99_over_share", self.victim_p99_over_share, 2.0),
            at_least(
                "ops_over_library_min",
                self.ops_over_library_min,
                ops::LIBRARY_MIN,
            ),
            at_least(
                "fused_over_two_passes_min",
                self.fused_over_two_passes_min,
                ops::FUSED_MIN,
            ),
            at_least("block_128k_over_fio", self.block_128k_over_fio, 0.95),
            at_least("block_4k_over_fio", self.block_4k_over_fio, 0.9),
        ]
    }
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(String::new, |v| format!("{v:.digits$}"))
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = Table::new();
        rows.load_style(presets::UTF8_BORDERS_ONLY);
        rows.set_header([
            "case",
            "size",
            "depth",
            "GB/s",
            "Mops/s",
            "p50 ns",
            "p99 ns",
            "exits/op",
            "disturbed",
            "note",
        ]);
        // Rows of operations have a table of their own.
        let others = || self.rows.iter().filter(|row| row.ops.is_none());
        for row in others() {
            rows.add_row([
                row.case.clone(),
                if row.size == 0 {
                    String::new()
                } else {
                    bytes_name(row.size)
                },
                if row.depth == 0 {
                    String::new()
                } else {
                    row.depth.to_string()
                },
                number(row.gbps, 2),
                number(row.ops_per_s.map(|v| v / 1e6), 3),
                number(row.p50_ns, 0),
                number(row.p99_ns, 0),
                number(row.exits_per_op, 6),
                number(row.disturbed_share.map(|v| v * 100.0), 1)
                    + if row.disturbed_share.is_some() {
                        " %"
                    } else {
                        ""
                    },
                row.note.clone().unwrap_or_default(),
            ]);
        }
        for column in 1..9 {
            if let Some(column) = rows.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        if others().next().is_some() {
            writeln!(f, "{rows}")?;
        }
        if let Some(table) = ops::table(&self.rows) {
            writeln!(f, "{table}")?;
        }
        let mut figures = Table::new();
        figures.load_style(presets::UTF8_BORDERS_ONLY);
        figures.set_header(["figure", "measured", "target", ""]);
        for target in self.ratios.targets() {
            let met = target.value.map(|v| {
                if target.at_most {
                    v <= target.bound
                } else {
                    v >= target.bound
                }
            });
            figures.add_row([
                target.name.to_owned(),
                target
                    .value
                    .map_or_else(|| "not measured".to_owned(), |v| format!("{v:.3}")),
                format!(
                    "{} {}",
                    if target.at_most {
                        "at most"
                    } else {
                        "at least"
                    },
                    target.bound
                ),
                match met {
                    Some(true) => "met",
                    Some(false) => "missed",
                    None => "",
                }
                .to_owned(),
            ]);
        }
        writeln!(f, "{figures}")?;
        for why in &self.not_measured {
            writeln!(f, "not measured: {why}")?;
        }
        write!(f, "{} - {:.1} s", self.cpu, self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_the_figures_that_programs_look_for() {
        let row = serde_json::to_value(Row {
            case: "boot".to_owned(),
            ..Row::default()
        })
        .unwrap();
        let mut keys: Vec<_> = row
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        keys.sort_unstable();
        let promised = "case depth exits_per_op gbps ops_per_s p50_ns p99_ns size";
        assert_eq!(keys.join(" "), promised);
        assert!(row["gbps"].is_null() && row["p99_ns"].is_null());
    }
}
