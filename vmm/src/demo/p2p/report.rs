//! What `byway demo p2p` found, as programs and as people read it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Everything that `byway demo p2p --json FILE` writes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct P2pReport {
    /// Whether every byte arrived and every check held.
    pub verified: bool,
    /// Bytes moved in timed runs.
    pub bytes: u64,
    /// A row for each way that was timed.
    pub paths: Vec<PathRow>,
    /// What the usual path is here.
    pub usual_path: String,
    /// What the path without guests is.
    pub without_guests: String,
    /// Checks by programs of others, each named with what it saw.
    pub checked_by: Vec<String>,
    /// Checks that this host lacks the program for, and figures that it does not give.
    pub skipped: Vec<String>,
    /// What did not hold, in words; empty when `verified`.
    pub failures: Vec<String>,
}

/// One way, with transfers of 128 KiB, 16 in flight.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PathRow {
    /// Where the bytes come from.
    pub from: String,
    /// Where they go.
    pub to: String,
    /// Gigabytes (10^9 bytes) a second.
    pub gbps: f64,
    /// VM exits that the timed transfers of all rows caused; `None` where they were not measured.
    pub exits: Option<u64>,
    /// System calls that the engine made to drive the devices and to wait for them, for each MiB.
    pub syscalls_per_mib: f64,
    /// Those of them that drove the device: none while it is polled and shares its queues with the engine.
    pub driver_syscalls_per_mib: f64,
    /// Processor time of the engine's worker, in seconds for each GiB.
    pub cpu_s_per_gib: f64,
    /// Gigabytes a second on the usual path, where there is one to compare with.
    pub usual_path_gbps: Option<f64>,
    /// Processor time of that, of every thread of both VMs, in seconds for each GiB.
    pub usual_path_cpu_s_per_gib: Option<f64>,
    /// VM exits of both VMs that were not for the host's interrupts, over as many bytes as the path's own figures are of; `None` where they were
    /// not measured.
    pub usual_path_exits: Option<u64>,
    /// Gigabytes a second of the same between two threads of the host, without guests.
    pub without_guests_gbps: Option<f64>,
    /// Processor time of that, in seconds for each GiB.
    pub without_guests_cpu_s_per_gib: Option<f64>,
}

impl fmt::Display for P2pReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.paths {
            write!(
                f,
                "{} -> {}: {:.2} GB/s, {:.2} system calls/MiB to drive it and {:.2} to sleep meanwhile, {:.2} CPU s/GiB",
                row.from,
                row.to,
                row.gbps,
                row.driver_syscalls_per_mib,
                row.syscalls_per_mib - row.driver_syscalls_per_mib,
                row.cpu_s_per_gib
            )?;
            match row.exits {
                Some(exits) => write!(f, ", {exits} exits")?,
                None => write!(f, ", exits not measured")?,
            }
            if let (Some(gbps), Some(cpu)) = (row.usual_path_gbps, row.usual_path_cpu_s_per_gib) {
                write!(f, "; usual path {gbps:.2} GB/s, {cpu:.2} CPU s/GiB")?;
                if let Some(exits) = row.usual_path_exits {
                    write!(f, ", {exits} exits")?;
                }
            }
            let without = (row.without_guests_gbps, row.without_guests_cpu_s_per_gib);
            if let (Some(gbps), Some(cpu)) = without {
                write!(f, "; without guests {gbps:.2} GB/s, {cpu:.2} CPU s/GiB")?;
            }
            writeln!(f)?;
        }
        if !self.usual_path.is_empty() {
            writeln!(f, "usual path: {}", self.usual_path)?;
            writeln!(f, "without guests: {}", self.without_guests)?;
        }
        for check in &self.checked_by {
            writeln!(f, "checked: {check}")?;
        }
        for skipped in &self.skipped {
            writeln!(f, "skipped: {skipped}")?;
        }
        let end = if self.verified {
            "all held"
        } else {
            "did not hold"
        };
        write!(f, "{end}")
    }
}
