//! What deliberate exits prove about the counters: which may be believed when they say 0.
//!
//! Takes counts and gives a report; touches no guest.

use crate::demo::report::ExitReport;
use crate::exits::ExitSnapshot;
use crate::host::KvmKind;

/// Deliberate exits of each sort, by a port and by MMIO.
pub(super) const ON_PURPOSE: u64 = 4;

/// Counters of KVM without which nothing can be said of exits.
const NEEDED: [&str; 3] = ["exits", "irq_exits", "insn_emulation"];

/// What was seen of the counters before the measurement.
#[derive(Debug)]
pub(super) struct Proof {
    /// Why the counters cannot be believed; empty when they can.
    lacks: Vec<String>,
    /// Counters of KVM's that no deliberate exit moved, or that this kernel does not offer.
    unseen: Vec<&'static str>,
}

impl Proof {
    /// Judges [`ON_PURPOSE`] deliberate exits by a port and as many by MMIO of one VM. `missing_elsewhere` names the
    /// counters that another VM of the measurement has not.
    ///
    /// A counter that this kind of KVM is known to move has to have moved. Of an unknown kind only those are asked that all
    /// kinds move.
    pub(super) fn of(
        kind: Option<KvmKind>,
        port: &ExitSnapshot,
        mmio: &ExitSnapshot,
        missing_elsewhere: &[&'static str],
    ) -> Self {
        let missing = |name: &&str| {
            [&port.missing[..], &mmio.missing, missing_elsewhere]
                .iter()
                .any(|names| names.contains(name))
        };
        let mut lacks: Vec<_> = NEEDED
            .iter()
            .filter(|name| missing(name))
            .map(|name| format!("KVM's statistics have no {name}"))
            .collect();
        let by_kind = kind.is_some_and(KvmKind::counts_io_by_kind);
        // What each sort of exit has to move, and whether it did. A port's takes no emulator on hardware.
        for (counter, how, needed, moved) in [
            ("KVM_RUN", "port", true, port.kvm_run_returns >= ON_PURPOSE),
            ("KVM_RUN", "MMIO", true, mmio.kvm_run_returns >= ON_PURPOSE),
            ("exits", "port", true, port.other() >= ON_PURPOSE),
            ("exits", "MMIO", true, mmio.other() >= ON_PURPOSE),
            (
                "insn_emulation",
                "MMIO",
                true,
                mmio.insn_emulation >= ON_PURPOSE,
            ),
            ("io_exits", "port", by_kind, port.io_exits >= ON_PURPOSE),
            ("mmio_exits", "MMIO", by_kind, mmio.mmio_exits >= ON_PURPOSE),
        ] {
            if needed && !moved {
                lacks.push(format!(
                    "{counter} did not count {ON_PURPOSE} deliberate {how} exits"
                ));
            }
        }
        let both = port.plus(mmio);
        let unseen = counters(&both)
            .into_iter()
            .filter(|(name, value)| missing(name) || *value == 0)
            .map(|(name, _)| name)
            .collect();
        Self { lacks, unseen }
    }

    /// The report of what was `counted` in the measurement, beside `idle` exits other than host interrupts of an equally
    /// long spin: figures where the counters can be believed, none where they cannot.
    pub(super) fn report(self, counted: &ExitSnapshot, idle: u64) -> ExitReport {
        let sees = self.lacks.is_empty();
        let figure = |value: u64| sees.then_some(value);
        // What moved later has been seen to count, too.
        let unseen = counters(counted)
            .into_iter()
            .filter(|(name, value)| {
                self.unseen.contains(name) && (*value == 0 || counted.missing.contains(name))
            })
            .map(|(name, _)| name.to_owned())
            .collect();
        ExitReport {
            witness_sees_an_exit: sees,
            witness_lacks: self.lacks,
            counters_not_seen_to_move: unseen,
            userspace: figure(counted.kvm_run_returns),
            emulated: figure(counted.insn_emulation),
            mmio: figure(counted.mmio_exits),
            io: figure(counted.io_exits),
            hypercall: figure(counted.hypercalls),
            irq: figure(counted.irq_exits),
            total: figure(counted.exits),
            other_idle_same_time: figure(idle),
            windows_repeated: 0,
        }
    }
}

/// The counters of KVM's that the report shows.
fn counters(counted: &ExitSnapshot) -> [(&'static str, u64); 6] {
    [
        ("exits", counted.exits),
        ("irq_exits", counted.irq_exits),
        ("insn_emulation", counted.insn_emulation),
        ("mmio_exits", counted.mmio_exits),
        ("io_exits", counted.io_exits),
        ("hypercalls", counted.hypercalls),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deliberate exits as PVM counts them: by port, by MMIO.
    fn on_pvm() -> [ExitSnapshot; 2] {
        [(); 2].map(|()| ExitSnapshot {
            kvm_run_returns: 4,
            exits: 40,
            irq_exits: 1,
            insn_emulation: 30,
            ..ExitSnapshot::default()
        })
    }

    /// And as hardware counts them.
    fn on_hardware() -> [ExitSnapshot; 2] {
        let one = ExitSnapshot {
            kvm_run_returns: 4,
            exits: 5,
            irq_exits: 1,
            ..ExitSnapshot::default()
        };
        [
            ExitSnapshot {
                io_exits: 4,
                ..one.clone()
            },
            ExitSnapshot {
                mmio_exits: 4,
                insn_emulation: 4,
                ..one
            },
        ]
    }

    fn judged(kind: Option<KvmKind>, seen: &[ExitSnapshot; 2]) -> ExitReport {
        let window = ExitSnapshot {
            exits: 70,
            irq_exits: 66,
            ..ExitSnapshot::default()
        };
        Proof::of(kind, &seen[0], &seen[1], &[]).report(&window, 3)
    }

    /// Nothing in the report may look like a figure.
    fn assert_not_measured(report: &ExitReport, lack: &str) {
        assert!(!report.witness_sees_an_exit, "{report:?}");
        assert_eq!(report.caused_by_transfers(), None, "{report:?}");
        assert!(
            report.witness_lacks.iter().any(|text| text.contains(lack)),
            "{report:?}"
        );
        let json = serde_json::to_value(report).unwrap();
        for name in [
            "userspace",
            "emulated",
            "mmio",
            "io",
            "hypercall",
            "irq",
            "total",
            "other_idle_same_time",
        ] {
            assert_eq!(json.get(name), Some(&serde_json::Value::Null), "{name}");
        }
    }

    #[test]
    fn a_witness_that_counts_is_believed_and_says_what_nobody_saw_move() {
        let report = judged(Some(KvmKind::Pvm), &on_pvm());
        assert_eq!(report.caused_by_transfers(), Some(0), "{report:?}");
        assert_eq!((report.io, report.total), (Some(0), Some(70)));
        assert_eq!(report.other_idle_same_time, Some(3));
        assert_eq!(
            report.counters_not_seen_to_move,
            ["mmio_exits", "io_exits", "hypercalls"]
        );
        for kind in [KvmKind::Vmx, KvmKind::Svm] {
            let report = judged(Some(kind), &on_hardware());
            assert_eq!(report.caused_by_transfers(), Some(0), "{report:?}");
            assert_eq!(report.counters_not_seen_to_move, ["hypercalls"]);
        }
    }

    #[test]
    fn statistics_that_stand_still_are_not_measured() {
        let still = [(); 2].map(|()| ExitSnapshot {
            kvm_run_returns: 4,
            ..ExitSnapshot::default()
        });
        assert_not_measured(&judged(None, &still), "exits did not count");
        assert_not_measured(&judged(None, &Default::default()), "KVM_RUN did not count");
    }

    #[test]
    fn each_counter_that_has_to_move_is_asked_for() {
        type Stop = fn(&mut [ExitSnapshot; 2]);
        let stops: [(&str, Stop); 5] = [
            ("KVM_RUN did not count 4 deliberate port", |seen| {
                seen[0].kvm_run_returns = 3;
            }),
            ("KVM_RUN did not count 4 deliberate MMIO", |seen| {
                seen[1].kvm_run_returns = 0;
            }),
            ("exits did not count 4 deliberate port", |seen| {
                seen[0].exits = seen[0].irq_exits;
            }),
            ("exits did not count 4 deliberate MMIO", |seen| {
                seen[1].exits = seen[1].irq_exits;
            }),
            ("insn_emulation did not count", |seen| {
                seen[1].insn_emulation = 0;
            }),
        ];
        for (lack, stop) in stops {
            for (kind, mut seen) in [
                (Some(KvmKind::Pvm), on_pvm()),
                (None, on_pvm()),
                (Some(KvmKind::Svm), on_hardware()),
            ] {
                stop(&mut seen);
                assert_not_measured(&judged(kind, &seen), lack);
            }
        }
    }

    #[test]
    fn hardware_has_to_count_ports_and_mmio_apart() {
        for (lack, stop) in [
            (
                "io_exits did not count",
                (|seen| seen[0].io_exits = 0) as fn(&mut [ExitSnapshot; 2]),
            ),
            ("mmio_exits did not count", |seen| seen[1].mmio_exits = 0),
        ] {
            let mut seen = on_hardware();
            stop(&mut seen);
            assert_not_measured(&judged(Some(KvmKind::Vmx), &seen), lack);
            // Nobody knows what another kind moves.
            assert!(judged(None, &seen).witness_sees_an_exit);
        }
    }

    #[test]
    fn a_counter_that_is_not_offered_is_named_and_missed_where_needed() {
        for name in NEEDED {
            let mut seen = on_pvm();
            seen.iter_mut().for_each(|sort| sort.missing = vec![name]);
            assert_not_measured(&judged(Some(KvmKind::Pvm), &seen), name);
            // One VM alone without it is as bad.
            let [port, mmio] = on_pvm();
            let proof = Proof::of(Some(KvmKind::Pvm), &port, &mmio, &[name]);
            assert_not_measured(&proof.report(&ExitSnapshot::default(), 0), name);
        }
        let mut seen = on_hardware();
        seen.iter_mut()
            .for_each(|sort| sort.missing = vec!["hypercalls", "halt_exits"]);
        let report = judged(Some(KvmKind::Svm), &seen);
        assert_eq!(report.caused_by_transfers(), Some(0));
        assert_eq!(report.counters_not_seen_to_move, ["hypercalls"]);
    }

    #[test]
    fn a_counter_that_moves_later_has_been_seen() {
        let [port, mmio] = on_pvm();
        let window = ExitSnapshot {
            io_exits: 1,
            ..ExitSnapshot::default()
        };
        let report = Proof::of(Some(KvmKind::Pvm), &port, &mmio, &[]).report(&window, 0);
        assert_eq!(report.caused_by_transfers(), Some(1));
        assert_eq!(
            report.counters_not_seen_to_move,
            ["mmio_exits", "hypercalls"]
        );
    }
}
