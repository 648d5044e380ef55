//! KVM: the device, its kind, the capabilities that Byway uses, the counters it offers.

use std::fs;

use kvm_bindings::{
    KVM_CAP_BINARY_STATS_FD, KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_HLT,
    KVM_X86_DISABLE_EXITS_MWAIT, KVM_X86_DISABLE_EXITS_PAUSE,
};
use kvm_ioctls::{Cap, Kvm};

use super::{Row, witness};
use crate::exits::{VcpuStats, WITNESS_COUNTERS};
use crate::host::{self, KVM_PATH, KvmKind, NoKvm};

pub(super) fn rows() -> Vec<Row> {
    let kvm = match host::open_kvm() {
        Ok(kvm) => kvm,
        Err(error) => return vec![unusable(&error), kind()],
    };
    let mut rows = vec![
        Row::ok(
            "kvm.device",
            format!("{KVM_PATH}, API version {}", kvm.get_api_version()),
        ),
        kind(),
    ];
    rows.extend(capabilities(&kvm));
    rows.push(disable_exits(&kvm));
    rows.extend(counters(&kvm));
    rows.push(witness::row(&kvm));
    rows
}

fn unusable(error: &NoKvm) -> Row {
    let (found, advice) = match error {
        NoKvm::Absent => (
            format!("no {KVM_PATH}"),
            "modprobe kvm_intel or kvm_amd; in a VM, have its host enable nested virtualisation",
        ),
        NoKvm::Forbidden => (
            format!("{KVM_PATH} may not be opened"),
            "join the group kvm (usermod -aG kvm USER, log in again), or run as root",
        ),
        NoKvm::Broken(error) => (
            format!("{KVM_PATH} cannot be opened: {error}"),
            "see the kernel's log: dmesg | grep -i kvm",
        ),
        NoKvm::Version(version) => (
            format!("{KVM_PATH} has API version {version}"),
            "use a Linux kernel with API version 12",
        ),
    };
    Row::missing("kvm.device", found, advice)
}

fn kind() -> Row {
    let Some(kind) = KvmKind::of_host() else {
        return Row::lacking(
            "kvm.kind",
            "unknown: none of kvm_intel, kvm_amd, kvm_pvm in /sys/module",
            "nothing to do if kvm.device is ok; figures may differ from the published ones",
        );
    };
    let flags = cpuinfo_flags();
    let nested = if flags.iter().any(|flag| flag == "hypervisor") {
        ", in a VM itself"
    } else {
        ""
    };
    let found = format!("{}{nested}", kind.name());
    if kind == KvmKind::Pvm {
        return Row::lacking(
            "kvm.kind",
            found,
            "stock Linux guests need VMX or SVM; bare-metal guests run at full speed in ring 3",
        );
    }
    Row::ok("kvm.kind", found)
}

pub(super) fn cpuinfo_flags() -> Vec<String> {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("flags"))
        .and_then(|rest| rest.split_once(':'))
        .map(|(_, flags)| flags.split_whitespace().map(str::to_owned).collect())
        .unwrap_or_default()
}

fn capabilities(kvm: &Kvm) -> Vec<Row> {
    [
        ("kvm.user-memory", Cap::UserMemory),
        ("kvm.irqchip", Cap::Irqchip),
        ("kvm.irqfd", Cap::Irqfd),
        ("kvm.ioeventfd", Cap::Ioeventfd),
        ("kvm.immediate-exit", Cap::ImmediateExit),
    ]
    .into_iter()
    .map(|(item, cap)| {
        if kvm.check_extension(cap) {
            Row::ok(item, "offered")
        } else {
            Row::missing(item, "not offered", "use a newer kernel (5.15 or later)")
        }
    })
    .collect()
}

fn disable_exits(kvm: &Kvm) -> Row {
    let mask = kvm.check_extension_raw(u64::from(KVM_CAP_X86_DISABLE_EXITS)) as u32;
    let names: Vec<_> = [
        (KVM_X86_DISABLE_EXITS_PAUSE, "PAUSE"),
        (KVM_X86_DISABLE_EXITS_HLT, "HLT"),
        (KVM_X86_DISABLE_EXITS_MWAIT, "MWAIT"),
    ]
    .into_iter()
    .filter(|(bit, _)| mask & bit != 0)
    .map(|(_, name)| name)
    .collect();
    let found = if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    };
    Row::either(
        "kvm.disable-exits",
        mask & KVM_X86_DISABLE_EXITS_PAUSE != 0,
        found,
        "polling guests may exit now and then on PAUSE; nothing to do on PVM, which never does",
    )
}

/// What the statistics file of a vCPU offers. A VM is made for this and goes again.
fn counters(kvm: &Kvm) -> Vec<Row> {
    const FILE: &str = "kvm.statistics";
    const COUNTERS: &str = "kvm.exit-counters";
    let advice = "exits cannot be measured: use Linux 5.14 or later";
    if kvm.check_extension_raw(u64::from(KVM_CAP_BINARY_STATS_FD)) <= 0 {
        return vec![Row::lacking(FILE, "not offered", advice)];
    }
    let stats = kvm
        .create_vm()
        .map_err(|error| error.to_string())
        .and_then(|vm| {
            vm.create_irq_chip().map_err(|error| error.to_string())?;
            let vcpu = vm.create_vcpu(0).map_err(|error| error.to_string())?;
            VcpuStats::open(&vcpu).map_err(|error| error.to_string())
        });
    let stats = match stats {
        Ok(stats) => stats,
        Err(error) => return vec![Row::lacking(FILE, error, advice)],
    };
    let names: Vec<_> = stats.names().collect();
    let (offered, lacking): (Vec<_>, Vec<_>) = WITNESS_COUNTERS
        .iter()
        .copied()
        .partition(|name| names.contains(name));
    let mut found = offered.join(" ");
    if !lacking.is_empty() {
        found += &format!("; not: {}", lacking.join(" "));
    }
    vec![
        Row::ok(FILE, format!("{} counters per vCPU", names.len())),
        Row::either(
            COUNTERS,
            lacking.is_empty(),
            found,
            "figures of counters that are not offered are shown as not measured",
        ),
    ]
}
