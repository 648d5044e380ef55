//! Register state in which a vCPU starts: the PVH entry or the 64-bit Linux entry.

use kvm_bindings::{Msrs, kvm_dtable, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::layout::{BOOT_GDT, BOOT_PAGE_TABLES, PAGE_SIZE, PVH_START_INFO, ZERO_PAGE};

/// How the boot vCPU enters the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// PVH: 32-bit protected mode without paging, EBX = `hvm_start_info`.
    Pvh(u64),
    /// Linux boot protocol: 64-bit mode, RSI = `boot_params`.
    Linux64(u64),
}

/// GDT entries: flat segments for both protocols. The Linux protocol asks for code at
/// selector 0x10 and data at 0x18.
const GDT: [u64; 5] = [
    0,
    0x00cf_9b00_0000_ffff, // 0x08: 32-bit code
    0x00af_9b00_0000_ffff, // 0x10: 64-bit code
    0x00cf_9300_0000_ffff, // 0x18: data
    0x0000_8b00_0000_0067, // 0x20: busy 32-bit TSS
];
const CODE32: u16 = 0x08;
const CODE64: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 of RFLAGS always reads as 1.
const RFLAGS_FIXED: u64 = 1 << 1;

const PTE_PRESENT: u64 = 1;
const PTE_WRITE: u64 = 1 << 1;
const PDE_LARGE: u64 = 1 << 7;
/// Page directories in the boot tables: each maps 1 GiB by 2 MiB pages.
const BOOT_DIRECTORIES: u64 = 4;

const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs on, everything write-back.
const MTRR_ON_WRITE_BACK: u64 = 1 << 11 | 6;

const LAPIC_LVT0: usize = 0x350;
const LAPIC_LVT1: usize = 0x360;
const LVT_MODE_EXTINT: u32 = 7 << 8;
const LVT_MODE_NMI: u32 = 4 << 8;
const LVT_MODE_MASK: u32 = 7 << 8;

/// Writes the GDT and, for the Linux protocol, page tables that map 4 GiB.
///
/// # Errors
/// When RAM does not reach that far.
pub fn write_boot_tables(memory: &GuestMemoryMmap, entry: Entry) -> Result<(), GuestMemoryError> {
    for (index, descriptor) in (0u64..).zip(GDT) {
        memory.write_obj(descriptor, GuestAddress(BOOT_GDT + index * 8))?;
    }
    if let Entry::Linux64(_) = entry {
        write_page_tables(memory)?;
    }
    Ok(())
}

fn write_page_tables(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    let pdpt = BOOT_PAGE_TABLES + PAGE_SIZE;
    let directories = pdpt + PAGE_SIZE;
    let link = PTE_PRESENT | PTE_WRITE;
    memory.write_obj(pdpt | link, GuestAddress(BOOT_PAGE_TABLES))?;
    for gib in 0..BOOT_DIRECTORIES {
        let directory = directories + gib * PAGE_SIZE;
        memory.write_obj(directory | link, GuestAddress(pdpt + gib * 8))?;
        for slot in 0..512 {
            let page = gib << 30 | slot << 21;
            memory.write_obj(page | link | PDE_LARGE, GuestAddress(directory + slot * 8))?;
        }
    }
    Ok(())
}

/// Puts a vCPU into its start state. Only the boot vCPU (`Some(entry)`) gets registers; the
/// others wait for INIT and SIPI as KVM made them.
///
/// # Errors
/// What KVM says.
pub fn set_up(vcpu: &VcpuFd, entry: Option<Entry>) -> Result<(), kvm_ioctls::Error> {
    set_msrs(vcpu)?;
    set_lapic(vcpu)?;
    let Some(entry) = entry else { return Ok(()) };
    vcpu.set_fpu(&kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..Default::default()
    })?;
    let mut sregs = vcpu.get_sregs()?;
    let mut regs = kvm_regs {
        rflags: RFLAGS_FIXED,
        ..Default::default()
    };
    match entry {
        Entry::Pvh(rip) => {
            regs.rip = rip;
            regs.rbx = PVH_START_INFO;
            protected_mode(&mut sregs);
        }
        Entry::Linux64(rip) => {
            regs.rip = rip;
            regs.rsi = ZERO_PAGE;
            long_mode(&mut sregs);
        }
    }
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&regs)
}

fn protected_mode(sregs: &mut kvm_sregs) {
    segments(sregs, CODE32, false);
    sregs.cr0 = CR0_PE | CR0_ET;
    sregs.cr3 = 0;
    sregs.cr4 = 0;
    sregs.efer = 0;
}

fn long_mode(sregs: &mut kvm_sregs) {
    segments(sregs, CODE64, true);
    sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
    sregs.cr3 = BOOT_PAGE_TABLES;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME | EFER_LMA;
}

fn segments(sregs: &mut kvm_sregs, code: u16, long: bool) {
    let flat = kvm_segment {
        limit: 0xffff_ffff,
        present: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment {
        selector: code,
        type_: 0xb,
        l: long.into(),
        db: (!long).into(),
        ..flat
    };
    let data = kvm_segment {
        selector: DATA,
        type_: 3,
        db: 1,
        ..flat
    };
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.ss = data;
    sregs.tr = kvm_segment {
        selector: TASK,
        limit: 0x67,
        type_: 0xb,
        present: 1,
        ..Default::default()
    };
    sregs.gdt = kvm_dtable {
        base: BOOT_GDT,
        limit: (size_of_val(&GDT) - 1) as u16,
        ..Default::default()
    };
    sregs.idt = kvm_dtable::default();
}

fn set_msrs(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let entries = [
        (MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        (MSR_MTRR_DEF_TYPE, MTRR_ON_WRITE_BACK),
    ]
    .map(|(index, data)| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    });
    for entry in entries {
        // The list holds one entry and fits.
        let Ok(msrs) = Msrs::from_entries(&[entry]) else {
            continue;
        };
        // Firmware sets both on a PC and guests work without either, so a KVM
        // that refuses one (set_msrs then reports 0 entries done) is no reason to stop.
        if vcpu.set_msrs(&msrs)? == 0 {
            tracing::debug!(
                msr = format_args!("{:#x}", entry.index),
                "KVM refuses an MSR"
            );
        }
    }
    Ok(())
}

/// LINT0 and LINT1 as firmware leaves them: external interrupts and NMI.
fn set_lapic(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let mut lapic = vcpu.get_lapic()?;
    for (register, mode) in [(LAPIC_LVT0, LVT_MODE_EXTINT), (LAPIC_LVT1, LVT_MODE_NMI)] {
        let bytes = &mut lapic.regs[register..register + 4];
        let mut word = 0;
        for (shift, byte) in (0..).step_by(8).zip(bytes.iter()) {
            word |= u32::from(*byte as u8) << shift;
        }
        word = word & !LVT_MODE_MASK | mode;
        for (byte, new) in bytes.iter_mut().zip(word.to_le_bytes()) {
            *byte = new as _;
        }
    }
    vcpu.set_lapic(&lapic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestMemoryMmap;

    #[test]
    fn boot_page_tables_map_the_first_four_gib_one_to_one() {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write_boot_tables(&memory, Entry::Linux64(0x100_0000)).unwrap();
        let entry = |table: u64, index: u64| -> u64 {
            memory
                .read_obj(GuestAddress((table & !0xfff) + index * 8))
                .unwrap()
        };
        for address in [0u64, 0x20_0000, 0x3fff_ffff, 0x1234_5678, 0xffff_ffff] {
            let pdpt = entry(BOOT_PAGE_TABLES, address >> 39);
            let directory = entry(pdpt, address >> 30 & 511);
            let page = entry(directory, address >> 21 & 511);
            assert_eq!(page & PDE_LARGE, PDE_LARGE);
            assert_eq!(page & !0xfff, address & !0x1f_ffff);
        }
    }

    #[test]
    fn ram_too_small_for_the_tables_is_an_error() {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x9000)]).unwrap();
        assert!(write_boot_tables(&memory, Entry::Linux64(0)).is_err());
        write_boot_tables(&memory, Entry::Pvh(0)).unwrap();
    }

    #[test]
    fn gdt_and_segments_agree() {
        for (selector, long, limit_high) in [(CODE32, false, 0xc), (CODE64, true, 0xa)] {
            let descriptor = GDT[usize::from(selector) / 8];
            assert_eq!(descriptor >> 52 & 0xf, limit_high, "G, D/B and L");
            let mut sregs = kvm_sregs::default();
            segments(&mut sregs, selector, long);
            assert_eq!(u64::from(sregs.cs.type_), descriptor >> 40 & 0xf);
            assert_eq!(u64::from(sregs.cs.l), descriptor >> 53 & 1);
            assert_eq!(u64::from(sregs.cs.db), descriptor >> 54 & 1);
        }
    }
}
