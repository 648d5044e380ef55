//! Which of KVM's counters really move: makes a tiny VM exit on purpose and looks.
//!
//! On some hosts counters exist that stay 0 whatever happens. A figure of 0 from such a
//! counter means nothing, so a user must be told.

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use vm_memory::{Bytes, GuestAddress};

use super::Row;
use crate::exits::{ExitSnapshot, VcpuStats};
use crate::layout::{HIGH_RAM, VIRTIO_MMIO};
use crate::memory::{GuestRam, HugePages, RAM_MIN, RamConfig};
use crate::vcpu::{Entry, set_up, write_boot_tables};
use crate::vm::create_vm;

const ITEM: &str = "kvm.exit-witness";
/// Exits of each kind to provoke.
const ROUNDS: usize = 4;
const EXITS: usize = 2 * ROUNDS;

pub(super) fn row(kvm: &Kvm) -> Row {
    match provoke(kvm) {
        Ok(seen) => judge(&seen),
        Err(error) => Row::lacking(
            ITEM,
            format!("a guest of a few instructions does not run: {error}"),
            "see the kernel's log: dmesg | grep -i kvm",
        ),
    }
}

fn judge(seen: &ExitSnapshot) -> Row {
    let counters = [
        ("exits", seen.exits),
        ("insn_emulation", seen.insn_emulation),
        ("mmio_exits", seen.mmio_exits),
        ("io_exits", seen.io_exits),
    ];
    let moved: Vec<_> = counters
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{name} +{count}"))
        .collect();
    let still: Vec<_> = counters
        .iter()
        .filter(|(_, count)| *count == 0)
        .map(|(name, _)| *name)
        .collect();
    let mut found = format!(
        "{ROUNDS} port and {ROUNDS} MMIO exits: KVM_RUN +{}",
        seen.kvm_run_returns
    );
    for name in moved {
        found += &format!(", {name}");
    }
    if still.is_empty() {
        return Row::ok(ITEM, found);
    }
    Row::lacking(
        ITEM,
        format!("{found}; unmoved: {}", still.join(" ")),
        "a 0 of an unmoved counter means nothing here; the others and KVM_RUN still tell exits",
    )
}

/// Lets a guest make [`EXITS`] exits and says what was counted.
fn provoke(kvm: &Kvm) -> Result<ExitSnapshot, Box<dyn std::error::Error>> {
    let ram = GuestRam::new(&RamConfig {
        size: RAM_MIN,
        huge_pages: HugePages::Off,
        populate: false,
    })?;
    let vm = create_vm(kvm)?;
    ram.register(&vm)?;
    let mut vcpu = vm.create_vcpu(0)?;
    vcpu.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)?;
    let entry = Entry::Pvh(HIGH_RAM);
    ram.memory().write_slice(&code(), GuestAddress(HIGH_RAM))?;
    write_boot_tables(ram.memory(), entry)?;
    set_up(&vcpu, Some(entry))?;

    let stats = VcpuStats::open(&vcpu)?;
    // The first entry into the guest has costs of its own; they are none of ours.
    exit_once(&mut vcpu)?;
    let before = ExitSnapshot::new(0, Some(&stats.sample()?));
    for _ in 0..EXITS {
        exit_once(&mut vcpu)?;
    }
    let after = ExitSnapshot::new(EXITS as u64, Some(&stats.sample()?));
    Ok(after.delta(&before))
}

/// One port exit to begin with, then [`ROUNDS`] of each kind. Straight-line code: it
/// cannot run on without an exit.
fn code() -> Vec<u8> {
    const OUT: [u8; 2] = [0xe6, 0x80]; // out 0x80, al
    let mut store = vec![0xa3]; // mov [VIRTIO_MMIO], eax
    store.extend((VIRTIO_MMIO as u32).to_le_bytes());
    let mut code = OUT.to_vec();
    for _ in 0..ROUNDS {
        code.extend(OUT);
    }
    for _ in 0..ROUNDS {
        code.extend(&store);
    }
    code
}

fn exit_once(vcpu: &mut VcpuFd) -> Result<(), Box<dyn std::error::Error>> {
    match vcpu.run()? {
        VcpuExit::IoOut(..) | VcpuExit::MmioWrite(..) => Ok(()),
        other => Err(format!("it came out with {other:?}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn counters_that_stay_still_are_named() {
        let mut seen = ExitSnapshot {
            kvm_run_returns: 8,
            exits: 9,
            insn_emulation: 8,
            ..Default::default()
        };
        let row = judge(&seen);
        assert_eq!(row.verdict, Verdict::Lacking);
        assert!(row.found.contains("exits +9, insn_emulation +8"), "{row:?}");
        assert!(
            row.found.ends_with("unmoved: mmio_exits io_exits"),
            "{row:?}"
        );
        (seen.mmio_exits, seen.io_exits) = (4, 4);
        assert_eq!(judge(&seen).verdict, Verdict::Ok);
    }

    #[test]
    fn a_guest_exits_as_often_as_asked() {
        let kvm = match crate::host::open_kvm() {
            Ok(kvm) => kvm,
            Err(error) => return eprintln!("SKIPPED: {error}"),
        };
        let seen = provoke(&kvm).unwrap();
        assert_eq!(seen.kvm_run_returns, EXITS as u64);
        assert!(seen.exits >= EXITS as u64, "{seen:?}");
    }
}
