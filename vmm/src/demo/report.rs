//! What the demo found, as programs and as people read it.

use std::fmt;

use byway_protocols::Status;
use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

/// Everything that `byway demo --json FILE` writes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DemoReport {
    /// Whether every byte arrived, every refusal came, and every check held.
    pub verified: bool,
    /// Bytes moved and verified.
    pub bytes: u64,
    /// Time from start to end, in seconds.
    pub seconds: f64,
    /// Transfers made.
    pub transfers: u64,
    /// A row per size and direction.
    pub sizes: Vec<SizeRow>,
    /// Exits over all timed transfers.
    pub exits: ExitReport,
    /// Refusals provoked on purpose.
    pub refused: Vec<RefusalRow>,
    /// Slowest revocation seen, from request to acknowledgement in the engine, in microseconds; of those that the
    /// host left alone. `None`, in JSON `null`, when it disturbed all of them.
    pub revoke_us_max: Option<f64>,
    /// Slowest of those during which the worker or the thread that waited for it had no core; `None` when there was none.
    pub revoke_us_max_disturbed: Option<f64>,
    /// How many those were.
    pub revokes_disturbed: u32,
    /// Round trip of a cache line between the guest's core and the engine's, in nanoseconds.
    pub pingpong_ns: f64,
    /// What did not hold, in words; empty when `verified`.
    pub failures: Vec<String>,
}

/// One size in one direction.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SizeRow {
    /// Bytes of one transfer.
    pub bytes: u64,
    /// `put` (to the peer) or `get` (from it).
    pub direction: String,
    /// Gigabytes (10^9 bytes) per second with several transfers in flight.
    pub gbps: f64,
    /// Median latency of a transfer alone, submit to completion seen, in nanoseconds.
    pub p50_ns: u64,
    /// 99th percentile of the same.
    pub p99_ns: u64,
}

/// What KVM and the VMM counted, both VMs together. The figures are `None`, in JSON `null`, where they were not
/// measured, since the witness could not be seen to count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitReport {
    /// Whether deliberate exits before the measurement moved every counter that this host is known to move.
    pub witness_sees_an_exit: bool,
    /// What the witness lacks, in words; empty when it sees an exit.
    pub witness_lacks: Vec<String>,
    /// Counters of KVM's, by the kernel's names, that this host does not offer or that nobody has seen move, by a deliberate
    /// exit or later. A 0 of theirs says nothing; the other counters stand for them.
    pub counters_not_seen_to_move: Vec<String>,
    /// Returns of KVM_RUN to the VMM.
    pub userspace: Option<u64>,
    /// Instructions that KVM emulated.
    pub emulated: Option<u64>,
    /// MMIO exits by KVM's statistics.
    pub mmio: Option<u64>,
    /// Port exits by KVM's statistics.
    pub io: Option<u64>,
    /// Hypercalls by KVM's statistics.
    pub hypercall: Option<u64>,
    /// Exits by interrupts of the host, its timer for one.
    pub irq: Option<u64>,
    /// Exits of every kind.
    pub total: Option<u64>,
    /// Exits but for host interrupts while a guest spun idly for as long as all timed windows took together.
    pub other_idle_same_time: Option<u64>,
    /// Timed windows that were made again and are in no figure: the queue had parked in them, since a VM was without a core
    /// for longer than an idle queue is polled, or an interrupt had come late.
    pub windows_repeated: u64,
}

impl ExitReport {
    /// Exits that neither a host interrupt nor an idle spin explains; `None` when the witness has not
    /// been seen to count, so that nothing can be said.
    #[must_use]
    pub fn caused_by_transfers(&self) -> Option<u64> {
        if !self.witness_sees_an_exit {
            return None;
        }
        let counted = self.userspace? + self.emulated? + self.mmio? + self.io? + self.hypercall?;
        let other = self.total?.saturating_sub(self.irq?);
        let idle = self.other_idle_same_time?;
        // An idle spin of the same length has a few of its own: a migration of a timer, a host page moved.
        let noise = idle + idle / 2 + 16;
        Some(counted + other.saturating_sub(noise))
    }
}

impl fmt::Display for ExitReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(caused) = self.caused_by_transfers() else {
            let why = match &self.witness_lacks[..] {
                [] => "the witness did not see a deliberate exit".to_owned(),
                lacks => lacks.join("; "),
            };
            return writeln!(f, "exits caused by transfers: not measured ({why})");
        };
        let figure = |value: Option<u64>| value.unwrap_or_default();
        writeln!(
            f,
            "VM exits during the timed transfers: {} to user space, {} emulated, {} MMIO, {} port, {} hypercall; \
             {} by host interrupts of {} in all ({} other in an idle spin as long)",
            figure(self.userspace),
            figure(self.emulated),
            figure(self.mmio),
            figure(self.io),
            figure(self.hypercall),
            figure(self.irq),
            figure(self.total),
            figure(self.other_idle_same_time)
        )?;
        if self.windows_repeated > 0 {
            writeln!(
                f,
                "{} timed windows were made again: the queue had parked in them for want of a core, or an interrupt had come late",
                self.windows_repeated
            )?;
        }
        if !self.counters_not_seen_to_move.is_empty() {
            writeln!(
                f,
                "never seen to move on this host, so that a 0 of theirs says nothing alone: {}",
                self.counters_not_seen_to_move.join(", ")
            )?;
        }
        writeln!(
            f,
            "exits caused by transfers: {caused} (the witness counted deliberate exits first)"
        )
    }
}

/// One refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalRow {
    /// What was tried.
    pub what: String,
    /// Status that came back, by name and code.
    pub status: String,
}

/// A descriptor's status byte for people: name and code, with the fault's direction.
#[must_use]
pub fn status_name(byte: u8) -> String {
    let code = byte & !Status::WRITE_FAULT;
    let name = Status::from_code(code).map_or("unknown", Status::name);
    let write = if byte & Status::WRITE_FAULT != 0 {
        " on a write"
    } else {
        ""
    };
    format!("{code:#04x} {name}{write}")
}

/// Bytes for people: the largest binary unit that divides them.
#[must_use]
pub fn bytes_name(bytes: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} B")
}

impl fmt::Display for DemoReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sizes = Table::new();
        sizes.load_style(presets::UTF8_BORDERS_ONLY);
        sizes.set_header(["size", "direction", "GB/s", "p50 ns", "p99 ns"]);
        for row in &self.sizes {
            sizes.add_row([
                bytes_name(row.bytes),
                row.direction.clone(),
                format!("{:.2}", row.gbps),
                row.p50_ns.to_string(),
                row.p99_ns.to_string(),
            ]);
        }
        for column in [0, 2, 3, 4] {
            if let Some(column) = sizes.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        writeln!(f, "{sizes}")?;
        writeln!(
            f,
            "cache-line round trip between the same two cores: {:.0} ns",
            self.pingpong_ns
        )?;
        writeln!(f)?;

        writeln!(f, "{}", self.exits)?;

        let mut refused = Table::new();
        refused.load_style(presets::UTF8_BORDERS_ONLY);
        refused.set_header(["refused on purpose", "status"]);
        for row in &self.refused {
            refused.add_row([&row.what, &row.status]);
        }
        writeln!(f, "{refused}")?;
        match self.revoke_us_max {
            Some(us) => writeln!(f, "slowest revocation during copies: {us:.1} us")?,
            None => writeln!(f, "slowest revocation during copies: not measured")?,
        }
        if let Some(us) = self.revoke_us_max_disturbed {
            writeln!(
                f,
                "  the host took a core away during {} more, the slowest of which took {us:.1} us",
                self.revokes_disturbed
            )?;
        }
        writeln!(
            f,
            "{} transfers, {:.2} GiB, {:.1} s",
            self.transfers,
            self.bytes as f64 / f64::from(1 << 30),
            self.seconds
        )?;
        if self.verified {
            writeln!(
                f,
                "verified: every byte was checked by the process that received it"
            )
        } else {
            writeln!(f, "NOT verified:")?;
            self.failures
                .iter()
                .try_for_each(|failure| writeln!(f, "  - {failure}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_count_only_beside_a_witness() {
        let mut exits = ExitReport {
            total: Some(70),
            irq: Some(66),
            userspace: Some(0),
            emulated: Some(0),
            mmio: Some(0),
            io: Some(0),
            hypercall: Some(0),
            other_idle_same_time: Some(0),
            ..ExitReport::default()
        };
        assert_eq!(exits.caused_by_transfers(), None);
        assert_eq!(
            exits.to_string(),
            "exits caused by transfers: not measured (the witness did not see a deliberate exit)\n"
        );
        exits.witness_lacks = vec!["KVM's statistics have no exits".to_owned()];
        assert!(exits.to_string().contains("have no exits"));
        exits.witness_lacks.clear();
        exits.witness_sees_an_exit = true;
        assert_eq!(exits.caused_by_transfers(), Some(0));
        assert!(exits.to_string().contains("by transfers: 0"), "{exits}");
        assert!(!exits.to_string().contains("never seen"), "{exits}");
        exits.counters_not_seen_to_move = vec!["io_exits".to_owned()];
        assert!(exits.to_string().contains("alone: io_exits"), "{exits}");
        exits.userspace = Some(1);
        assert_eq!(exits.caused_by_transfers(), Some(1));
        exits.total = Some(10_000);
        assert!(exits.caused_by_transfers() > Some(9_000));
        exits.emulated = None;
        assert_eq!(exits.caused_by_transfers(), None);
    }

    #[test]
    fn names() {
        assert_eq!(bytes_name(64), "64 B");
        assert_eq!(bytes_name(16 << 20), "16 MiB");
        assert_eq!(bytes_name((1 << 20) + 1), "1048577 B");
        assert_eq!(status_name(0xc1), "0x41 Stage1Permission on a write");
    }
}
