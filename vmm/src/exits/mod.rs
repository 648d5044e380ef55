//! The exit witness: what KVM and this VMM counted, sampled while a vCPU runs.
//!
//! No single counter can be trusted on every host (some never move although a
//! port exit happened), so a snapshot holds all of them, together with the names
//! that this kernel does not offer. Whoever claims "no exits" first provokes one
//! and checks that it was counted: by KVM_RUN ([`ExitSnapshot::sees_an_exit`]), and for a figure also by KVM itself
//! ([`crate::demo::exits`]).
//! Sampling costs the vCPU nothing: the counters are read from outside.

mod counts;
mod stats;

pub use counts::{RunCounts, RunExit};
pub use stats::{StatsError, StatsLayout, StatsSample, VcpuStats};

use serde::Serialize;

/// Counters read from KVM's statistics, by the kernel's names.
const EXITS: &str = "exits";
const IRQ_EXITS: &str = "irq_exits";
const INSN_EMULATION: &str = "insn_emulation";
const MMIO_EXITS: &str = "mmio_exits";
const IO_EXITS: &str = "io_exits";
const HYPERCALLS: &str = "hypercalls";
const HALT_EXITS: &str = "halt_exits";
const HALT_WAKEUP: &str = "halt_wakeup";
const SIGNAL_EXITS: &str = "signal_exits";
const REQUEST_IRQ_EXITS: &str = "request_irq_exits";

/// The counters that a snapshot looks for.
pub const WITNESS_COUNTERS: [&str; 10] = [
    EXITS,
    IRQ_EXITS,
    INSN_EMULATION,
    MMIO_EXITS,
    IO_EXITS,
    HYPERCALLS,
    HALT_EXITS,
    HALT_WAKEUP,
    SIGNAL_EXITS,
    REQUEST_IRQ_EXITS,
];

/// What was counted up to one moment, or, from [`Self::delta`], between two.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ExitSnapshot {
    /// Returns of `KVM_RUN` to this VMM, of any kind, signals included.
    pub kvm_run_returns: u64,
    /// Exits of any kind that KVM saw.
    pub exits: u64,
    /// Exits for host interrupts; those are the host's, not the guest's doing.
    pub irq_exits: u64,
    /// Instructions that KVM emulated.
    pub insn_emulation: u64,
    /// Exits for memory-mapped I/O.
    pub mmio_exits: u64,
    /// Exits for port I/O.
    pub io_exits: u64,
    /// Hypercalls.
    pub hypercalls: u64,
    /// Exits for `hlt`.
    pub halt_exits: u64,
    /// Wake-ups from `hlt`.
    pub halt_wakeup: u64,
    /// `KVM_RUN` cut short by a signal.
    pub signal_exits: u64,
    /// Exits because user space asked to inject an interrupt.
    pub request_irq_exits: u64,
    /// Names among [`WITNESS_COUNTERS`] that this kernel does not offer; their fields are 0
    /// and mean nothing.
    pub missing: Vec<&'static str>,
}

impl ExitSnapshot {
    /// Puts a sample of KVM's counters and the VMM's own count together.
    /// Without a sample every counter of KVM is missing.
    pub fn new(kvm_run_returns: u64, sample: Option<&StatsSample<'_>>) -> Self {
        let mut missing = Vec::new();
        let mut read = |name: &'static str| {
            sample
                .and_then(|sample| sample.get(name))
                .unwrap_or_else(|| {
                    missing.push(name);
                    0
                })
        };
        Self {
            kvm_run_returns,
            exits: read(EXITS),
            irq_exits: read(IRQ_EXITS),
            insn_emulation: read(INSN_EMULATION),
            mmio_exits: read(MMIO_EXITS),
            io_exits: read(IO_EXITS),
            hypercalls: read(HYPERCALLS),
            halt_exits: read(HALT_EXITS),
            halt_wakeup: read(HALT_WAKEUP),
            signal_exits: read(SIGNAL_EXITS),
            request_irq_exits: read(REQUEST_IRQ_EXITS),
            missing,
        }
    }

    /// What was counted since `earlier`. A counter that went back (a kernel reset
    /// it) gives 0.
    #[must_use]
    pub fn delta(&self, earlier: &Self) -> Self {
        Self {
            kvm_run_returns: self.kvm_run_returns.saturating_sub(earlier.kvm_run_returns),
            exits: self.exits.saturating_sub(earlier.exits),
            irq_exits: self.irq_exits.saturating_sub(earlier.irq_exits),
            insn_emulation: self.insn_emulation.saturating_sub(earlier.insn_emulation),
            mmio_exits: self.mmio_exits.saturating_sub(earlier.mmio_exits),
            io_exits: self.io_exits.saturating_sub(earlier.io_exits),
            hypercalls: self.hypercalls.saturating_sub(earlier.hypercalls),
            halt_exits: self.halt_exits.saturating_sub(earlier.halt_exits),
            halt_wakeup: self.halt_wakeup.saturating_sub(earlier.halt_wakeup),
            signal_exits: self.signal_exits.saturating_sub(earlier.signal_exits),
            request_irq_exits: self
                .request_irq_exits
                .saturating_sub(earlier.request_irq_exits),
            missing: self.missing.clone(),
        }
    }

    /// What was counted in `self` and in `further` together, both of them differences.
    #[must_use]
    pub fn plus(&self, further: &Self) -> Self {
        let mut missing = self.missing.clone();
        missing.extend(
            further
                .missing
                .iter()
                .filter(|name| !self.missing.contains(name)),
        );
        Self {
            kvm_run_returns: self.kvm_run_returns + further.kvm_run_returns,
            exits: self.exits + further.exits,
            irq_exits: self.irq_exits + further.irq_exits,
            insn_emulation: self.insn_emulation + further.insn_emulation,
            mmio_exits: self.mmio_exits + further.mmio_exits,
            io_exits: self.io_exits + further.io_exits,
            hypercalls: self.hypercalls + further.hypercalls,
            halt_exits: self.halt_exits + further.halt_exits,
            halt_wakeup: self.halt_wakeup + further.halt_wakeup,
            signal_exits: self.signal_exits + further.signal_exits,
            request_irq_exits: self.request_irq_exits + further.request_irq_exits,
            missing,
        }
    }

    /// Whether this difference holds a sign of a guest-made exit to user space:
    /// what a deliberate one must show before a figure of 0 means anything.
    pub fn sees_an_exit(&self) -> bool {
        self.kvm_run_returns > 0
    }

    /// Exits that are not the host's interrupts. Never negative: the two counters
    /// are not read at the same instant.
    pub fn other(&self) -> u64 {
        self.exits.saturating_sub(self.irq_exits)
    }

    /// Whether the counters that must stay 0 during polled transfers did.
    /// ([`Self::other`] is judged against an idle spin of the same length.)
    pub fn is_quiet(&self) -> bool {
        self.kvm_run_returns == 0
            && self.insn_emulation == 0
            && self.mmio_exits == 0
            && self.io_exits == 0
            && self.hypercalls == 0
    }
}

#[cfg(test)]
mod tests {
    use super::stats::tests::{reader, synthetic};
    use super::*;

    #[test]
    fn counters_that_are_not_offered_are_named() {
        let file = synthetic(&[("exits", 0, &[40]), ("irq_exits", 0, &[33])]);
        let layout = StatsLayout::parse(reader(&file)).unwrap();
        let snapshot = ExitSnapshot::new(5, Some(&layout.sample(reader(&file)).unwrap()));
        assert_eq!(snapshot.kvm_run_returns, 5);
        assert_eq!(snapshot.other(), 7);
        assert_eq!(snapshot.missing.len(), WITNESS_COUNTERS.len() - 2);
        assert!(snapshot.missing.contains(&"io_exits"));
        assert!(!snapshot.missing.contains(&"exits"));
    }

    #[test]
    fn without_statistics_all_are_missing() {
        assert_eq!(ExitSnapshot::new(0, None).missing, WITNESS_COUNTERS);
    }

    #[test]
    fn each_witness_breaks_the_quiet() {
        let quiet = ExitSnapshot {
            exits: 100,
            irq_exits: 100,
            halt_wakeup: 3,
            ..Default::default()
        };
        assert!(quiet.is_quiet());
        let loud: [fn(&mut ExitSnapshot); 5] = [
            |s| s.kvm_run_returns = 1,
            |s| s.insn_emulation = 1,
            |s| s.mmio_exits = 1,
            |s| s.io_exits = 1,
            |s| s.hypercalls = 1,
        ];
        for change in loud {
            let mut snapshot = quiet.clone();
            change(&mut snapshot);
            assert!(!snapshot.is_quiet(), "{snapshot:?}");
        }
    }

    #[test]
    fn a_delta_and_a_sum_cover_every_field() {
        let fields = |n| ExitSnapshot {
            kvm_run_returns: n,
            exits: n,
            irq_exits: n,
            insn_emulation: n,
            mmio_exits: n,
            io_exits: n,
            hypercalls: n,
            halt_exits: n,
            halt_wakeup: n,
            signal_exits: n,
            request_irq_exits: n,
            missing: vec!["x"],
        };
        assert_eq!(fields(9).delta(&fields(2)), fields(7));
        assert_eq!(fields(2).delta(&fields(9)), fields(0));
        assert_eq!(fields(2).plus(&fields(7)), fields(9));
        let other = ExitSnapshot {
            missing: vec!["y", "x"],
            ..fields(0)
        };
        assert_eq!(fields(1).plus(&other).missing, ["x", "y"]);
    }
}
