//! What the guest's CPUID says: the host KVM's own list, masked by a [`super::Template`], with the few leaves
//! that differ from vCPU to vCPU put right.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// Leaf 1, EBX bits 31:24 and 23:16.
const APIC_ID_SHIFT: u32 = 24;
const LOGICAL_CPUS_SHIFT: u32 = 16;
/// Leaf 1, EDX: several logical CPUs in a package.
const HTT: u32 = 1 << 28;
/// Leaf 1, ECX.
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
const HYPERVISOR_BASE: u32 = 0x4000_0000;
/// Timing leaf that Linux and others read: EAX = TSC in kHz, EBX = APIC timer in kHz.
const HYPERVISOR_TIMING: u32 = 0x4000_0010;
/// KVM's local APIC timer runs at 1 GHz.
const APIC_TIMER_KHZ: u32 = 1_000_000;

/// Facts that the list depends on.
#[derive(Debug, Clone, Copy)]
pub struct CpuFacts {
    /// Number and APIC id of this vCPU.
    pub id: u8,
    /// vCPUs of the VM.
    pub count: u8,
    /// Frequency of the guest's TSC, if KVM says.
    pub tsc_khz: Option<u32>,
    /// Whether KVM emulates the TSC deadline timer.
    pub tsc_deadline: bool,
}

/// Adapts KVM's list to one vCPU.
///
/// # Errors
/// When an entry has to be added and the list is full (it cannot get that long).
pub fn adapt(cpuid: &mut CpuId, facts: &CpuFacts) -> Result<(), vmm_sys_util::fam::Error> {
    let id = u32::from(facts.id);
    let count = u32::from(facts.count);
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => {
                entry.ebx &= 0x0000_ffff;
                entry.ebx |= id << APIC_ID_SHIFT | count << LOGICAL_CPUS_SHIFT;
                entry.ecx |= HYPERVISOR | X2APIC;
                set(&mut entry.ecx, TSC_DEADLINE, facts.tsc_deadline);
                set(&mut entry.edx, HTT, count > 1);
            }
            // Cache sharing and cores per package: every vCPU is a core of one package.
            4 if entry.eax & 0x1f != 0 => {
                entry.eax &= 0x3fff;
                entry.eax |= (count.next_power_of_two() - 1) << 26;
            }
            // AMD's topology: bits of the APIC id that number cores, and how many cores; then this core.
            0x8000_0008 => {
                entry.ecx &= !0xffff;
                entry.ecx |= package_bits(count) << 12 | (count - 1);
            }
            0x8000_001e => {
                entry.eax = id;
                entry.ebx = id & 0xff;
                entry.ecx = 0;
            }
            HYPERVISOR_BASE if facts.tsc_khz.is_some() => {
                entry.eax = entry.eax.max(HYPERVISOR_TIMING);
            }
            _ => {}
        }
    }
    topologies(cpuid, id, count)?;
    if let Some(tsc_khz) = facts.tsc_khz {
        cpuid.retain(|entry| entry.function != HYPERVISOR_TIMING);
        cpuid.push(kvm_cpuid_entry2 {
            function: HYPERVISOR_TIMING,
            eax: tsc_khz,
            ebx: APIC_TIMER_KHZ,
            ..Default::default()
        })?;
    }
    Ok(())
}

/// Extended topology, in leaves 0xb and 0x1f where KVM has them: one thread a core, all cores in one
/// package. Sub-leaf 0 is the thread level, 1 the core level, 2 ends the list; KVM itself lists the first only.
fn topologies(cpuid: &mut CpuId, id: u32, count: u32) -> Result<(), vmm_sys_util::fam::Error> {
    const LEVEL_THREAD: u32 = 1;
    const LEVEL_CORE: u32 = 2;
    for function in [0xb, 0x1f] {
        let before = cpuid.as_slice().len();
        cpuid.retain(|entry| entry.function != function);
        if cpuid.as_slice().len() == before {
            continue;
        }
        let levels = [
            (0, 1, LEVEL_THREAD),
            (package_bits(count), count, LEVEL_CORE),
            (0, 0, 0),
        ];
        for (index, (eax, ebx, level)) in (0u32..).zip(levels) {
            cpuid.push(kvm_cpuid_entry2 {
                function,
                index,
                flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                eax,
                ebx,
                ecx: index | level << 8,
                edx: id,
                ..Default::default()
            })?;
        }
    }
    Ok(())
}

/// Bits of an APIC id that tell the cores of a package apart.
fn package_bits(count: u32) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

fn set(register: &mut u32, bit: u32, on: bool) {
    if on {
        *register |= bit;
    } else {
        *register &= !bit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            eax: 0x4000_0001,
            ebx: u32::MAX,
            ecx: 0,
            ..Default::default()
        }
    }

    fn adapted(facts: &CpuFacts) -> CpuId {
        let mut cpuid = CpuId::from_entries(&[
            entry(1, 0),
            entry(4, 0),
            // KVM lists no further sub-leaf.
            entry(0xb, 0),
            entry(HYPERVISOR_BASE, 0),
            entry(0x8000_0008, 0),
            entry(0x8000_001e, 0),
        ])
        .unwrap();
        adapt(&mut cpuid, facts).unwrap();
        cpuid
    }

    fn find(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *cpuid
            .as_slice()
            .iter()
            .find(|e| e.function == function && e.index == index)
            .unwrap()
    }

    const FACTS: CpuFacts = CpuFacts {
        id: 2,
        count: 3,
        tsc_khz: Some(2_900_000),
        tsc_deadline: true,
    };

    #[test]
    fn each_vcpu_sees_its_own_apic_id() {
        let cpuid = adapted(&FACTS);
        assert_eq!(find(&cpuid, 1, 0).ebx >> 24, 2);
        assert_eq!(find(&cpuid, 0xb, 0).edx, 2);
        assert_eq!(find(&cpuid, 0xb, 1).ebx, 3);
        assert_eq!(find(&cpuid, 0xb, 1).eax, 2, "three vCPUs need two bits");
        assert_eq!(find(&cpuid, 0xb, 2).ebx, 0, "end of the list");
        assert!(cpuid.as_slice().iter().all(|e| e.function != 0x1f));
        let cores = find(&cpuid, 0x8000_0008, 0).ecx;
        assert_eq!((cores & 0xff, cores >> 12 & 0xf), (2, 2));
        let this = find(&cpuid, 0x8000_001e, 0);
        assert_eq!((this.eax, this.ebx), (2, 2));
    }

    #[test]
    fn features_follow_the_host() {
        let with = find(&adapted(&FACTS), 1, 0);
        assert_eq!(with.ecx & TSC_DEADLINE, TSC_DEADLINE);
        assert_eq!(with.ecx & HYPERVISOR, HYPERVISOR);
        let without = adapted(&CpuFacts {
            tsc_deadline: false,
            count: 1,
            tsc_khz: None,
            ..FACTS
        });
        assert_eq!(find(&without, 1, 0).ecx & TSC_DEADLINE, 0);
        assert_eq!(find(&without, 1, 0).edx & HTT, 0);
        assert_eq!(find(&without, HYPERVISOR_BASE, 0).eax, 0x4000_0001);
    }

    #[test]
    fn the_timing_leaf_is_there_once() {
        let mut cpuid = adapted(&FACTS);
        adapt(&mut cpuid, &FACTS).unwrap();
        let timing: Vec<_> = cpuid
            .as_slice()
            .iter()
            .filter(|e| e.function == HYPERVISOR_TIMING)
            .collect();
        assert_eq!(timing.len(), 1);
        assert_eq!(timing[0].eax, 2_900_000);
        assert_eq!(find(&cpuid, HYPERVISOR_BASE, 0).eax, HYPERVISOR_TIMING);
    }
}
