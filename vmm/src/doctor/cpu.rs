//! The CPU's instructions that copy and wait, and how many cores there are.

use std::thread::available_parallelism;

use super::Row;
use super::kvm::cpuinfo_flags;
use crate::host;

/// `(item, flags in /proc/cpuinfo, what goes without)`
const FEATURES: [(&str, &[&str], &str); 7] = [
    (
        "cpu.avx2",
        &["avx2"],
        "large copies use SSE2 or rep movsb; nothing to do",
    ),
    (
        "cpu.avx512",
        &["avx512f", "avx512vl"],
        "large copies use AVX2; nothing to do",
    ),
    (
        "cpu.erms",
        &["erms"],
        "copies use SIMD at all sizes; nothing to do",
    ),
    (
        "cpu.fsrm",
        &["fsrm"],
        "short copies use SIMD; nothing to do",
    ),
    (
        "cpu.movdir64b",
        &["movdir64b"],
        "needed for DSA dedicated queues only; nothing to do without DSA",
    ),
    (
        "cpu.enqcmd",
        &["enqcmd"],
        "needed for DSA shared queues only; nothing to do without DSA",
    ),
    (
        "cpu.waitpkg",
        &["waitpkg"],
        "waiting uses PAUSE; nothing to do",
    ),
];

pub(super) fn rows() -> Vec<Row> {
    let flags = cpuinfo_flags();
    let has = |name: &&str| flags.iter().any(|flag| flag == name);
    let mut rows: Vec<_> = FEATURES
        .iter()
        .map(|(item, wanted, without)| {
            let found = if wanted.iter().all(has) { "yes" } else { "no" };
            Row::either(item, found == "yes", found, *without)
        })
        .collect();
    rows.push(cores());
    rows.push(template());
    rows
}

fn template() -> Row {
    let template = host::recommended_template();
    Row::ok(
        "cpu.template",
        format!(
            "use `--cpu-template {template}`, or cpu_template = \"{template}\", for guests here"
        ),
    )
}

fn cores() -> Row {
    let cores = available_parallelism().map_or(1, usize::from);
    Row::either(
        "cpu.cores",
        cores >= 2,
        format!("{cores} usable by this process"),
        "a worker and a polling vCPU need a core each; give this process at least 2",
    )
}
