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
    /// Slowest revocation seen, from request to acknowledgement in the engine, in microseconds.
    pub revoke_us_max: f64,
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

/// What KVM and the VMM counted, both VMs together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitReport {
    /// Whether a deliberate exit was counted before the measurement. If not, the numbers say nothing.
    pub witness_sees_an_exit: bool,
    /// Returns of KVM_RUN to the VMM.
    pub userspace: u64,
    /// Instructions that KVM emulated.
    pub emulated: u64,
    /// MMIO exits by KVM's statistics.
    pub mmio: u64,
    /// Port exits by KVM's statistics.
    pub io: u64,
    /// Hypercalls by KVM's statistics.
    pub hypercall: u64,
    /// Exits by interrupts of the host, its timer for one.
    pub irq: u64,
    /// Exits of every kind.
    pub total: u64,
    /// Exits but for host interrupts of an equally long idle spin.
    pub other_idle_same_time: u64,
}

impl ExitReport {
    /// Exits that neither a host interrupt nor an idle spin explains; `None` when the witness has not
    /// been seen to count, so that nothing can be said.
    #[must_use]
    pub fn caused_by_transfers(&self) -> Option<u64> {
        if !self.witness_sees_an_exit {
            return None;
        }
        let counted = self.userspace + self.emulated + self.mmio + self.io + self.hypercall;
        let other = self.total.saturating_sub(self.irq);
        // An idle spin of the same length has a few of its own: a migration of a timer, a host page moved.
        let noise = self.other_idle_same_time + self.other_idle_same_time / 2 + 16;
        Some(counted + other.saturating_sub(noise))
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

        let e = &self.exits;
        writeln!(
            f,
            "VM exits during the timed transfers: {} to user space, {} emulated, {} MMIO, {} port, {} hypercall; \
             {} by host interrupts of {} in all ({} other in an idle spin as long)",
            e.userspace,
            e.emulated,
            e.mmio,
            e.io,
            e.hypercall,
            e.irq,
            e.total,
            e.other_idle_same_time
        )?;
        match e.caused_by_transfers() {
            None => writeln!(
                f,
                "exits caused by transfers: not measured (the witness did not see a deliberate exit)"
            )?,
            Some(n) => writeln!(
                f,
                "exits caused by transfers: {n} (the witness counted a deliberate exit first)"
            )?,
        }
        writeln!(f)?;

        let mut refused = Table::new();
        refused.load_style(presets::UTF8_BORDERS_ONLY);
        refused.set_header(["refused on purpose", "status"]);
        for row in &self.refused {
            refused.add_row([&row.what, &row.status]);
        }
        writeln!(f, "{refused}")?;
        writeln!(
            f,
            "slowest revocation during copies: {:.1} us",
            self.revoke_us_max
        )?;
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
            total: 70,
            irq: 66,
            ..ExitReport::default()
        };
        assert_eq!(exits.caused_by_transfers(), None);
        exits.witness_sees_an_exit = true;
        assert_eq!(exits.caused_by_transfers(), Some(0));
        exits.userspace = 1;
        assert_eq!(exits.caused_by_transfers(), Some(1));
        exits.total = 10_000;
        assert!(exits.caused_by_transfers() > Some(9_000));
    }

    #[test]
    fn names() {
        assert_eq!(bytes_name(64), "64 B");
        assert_eq!(bytes_name(16 << 20), "16 MiB");
        assert_eq!(bytes_name((1 << 20) + 1), "1048577 B");
        assert_eq!(status_name(0xc1), "0x41 Stage1Permission on a write");
    }
}
