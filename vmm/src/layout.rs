//! The guest-physical address map: every fixed address of a Byway VM, in one place.
//!
//! Low memory follows what Firecracker and Cloud Hypervisor use, so that stock
//! kernels find what they expect where they expect it. Nothing here allocates.
//!
//! | range | use |
//! | --- | --- |
//! | `0x500` | boot GDT |
//! | `0x6000`, `0x7000` | PVH start info and its tables, or the Linux zero page |
//! | `0x9000`-`0xefff` | boot page tables (64-bit Linux protocol only) |
//! | `0x2_0000` | kernel command line |
//! | `0x9_fc00`-`0xf_ffff` | reserved; places for added memory at `0xd_f000`, ACPI tables from `0xe_0000`, code for a reset at `0xf_fff0` |
//! | `0x10_0000` and up | kernel, initramfs, RAM |
//! | `0xc000_0000`-`0xffff_ffff` | no RAM: virtio-mmio from `0xd000_0000`, PCI's configuration space at `0xe000_0000` and its BARs from `0xe400_0000`, IOAPIC, LAPIC |
//! | `0x1_0000_0000` and up | the rest of RAM |

/// Bytes in one page.
pub const PAGE_SIZE: u64 = 4096;
/// Bytes in a 2 MiB page.
pub const LARGE_PAGE_SIZE: u64 = 2 << 20;

/// Boot GDT.
pub const BOOT_GDT: u64 = 0x500;
/// `hvm_start_info` of the PVH protocol.
pub const PVH_START_INFO: u64 = 0x6000;
/// `hvm_modlist_entry` array.
pub const PVH_MODULES: u64 = 0x6040;
/// `hvm_memmap_table_entry` array.
pub const PVH_MEMORY_MAP: u64 = 0x7000;
/// `boot_params` of the Linux protocol.
pub const ZERO_PAGE: u64 = 0x7000;
/// First of the boot page tables: one PML4, one PDPT, four page directories.
pub const BOOT_PAGE_TABLES: u64 = 0x9000;
/// Kernel command line, NUL-terminated.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// Most bytes of a command line, the NUL included (Linux' own bound on x86).
pub const COMMAND_LINE_MAX: usize = 2048;
/// Where usable low memory ends.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// Where the VMM tells the guest's ACPI of added memory: one page.
pub const MEMORY_SLOTS: u64 = 0xd_f000;
/// Start of the ACPI tables; the RSDP comes first, where a scan would find it too.
pub const ACPI_TABLES: u64 = 0xe_0000;
/// End of the ACPI tables.
pub const ACPI_TABLES_END: u64 = RESET_VECTOR;
/// Where a processor begins after a reset, as far as real mode reaches (f000:fff0).
pub const RESET_VECTOR: u64 = 0xf_fff0;
/// Where high memory starts: nothing of a kernel may be loaded below.
pub const HIGH_RAM: u64 = 0x10_0000;

/// Where RAM stops below 4 GiB.
pub const RAM_HOLE_START: u64 = 0xc000_0000;
/// Where RAM goes on above the hole.
pub const RAM_HOLE_END: u64 = 0x1_0000_0000;

/// First virtio-mmio register window.
pub const VIRTIO_MMIO: u64 = 0xd000_0000;
/// Size of one virtio-mmio register window.
pub const VIRTIO_MMIO_SIZE: u64 = PAGE_SIZE;
/// Configuration space of the PCI bus, where a VM has one.
pub const PCI_ECAM: u64 = 0xe000_0000;
/// Bytes of it: one bus.
pub const PCI_ECAM_SIZE: u64 = 1 << 20;
/// Where BARs of PCI devices can be.
pub const PCI_WINDOW: u64 = 0xe400_0000;
/// Bytes of that.
pub const PCI_WINDOW_SIZE: u64 = 64 << 20;
/// I/O APIC.
pub const IO_APIC: u32 = 0xfec0_0000;
/// Local APIC.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// One page that VMX hosts without unrestricted guest mode use for identity paging.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages that VMX hosts use for a TSS.
pub const KVM_TSS: u64 = 0xfffb_d000;

/// COM1.
pub const COM1_PORT: u16 = 0x3f8;
/// Ports of COM1.
pub const COM1_PORTS: u16 = 8;
/// i8042 data and command ports; only the reset command does something.
pub const I8042_PORT: u16 = 0x60;
/// Ports from [`I8042_PORT`].
pub const I8042_PORTS: u16 = 5;
/// ACPI sleep control, sleep status and reset registers, one byte each.
pub const ACPI_PM_PORT: u16 = 0x600;
/// Ports from [`ACPI_PM_PORT`].
pub const ACPI_PM_PORTS: u16 = 3;
/// Address and data of PCI's configuration space.
pub const PCI_CONFIG_PORT: u16 = 0xcf8;
/// Ports from [`PCI_CONFIG_PORT`].
pub const PCI_CONFIG_PORTS: u16 = 8;

/// Interrupt of COM1.
pub const COM1_GSI: u32 = 4;
/// Interrupts of the virtio-mmio devices, by window: what the I/O APIC has beside COM1, the host's wake-up (6),
/// the clock that a PC has at 8, and ACPI's events (9).
pub const VIRTIO_MMIO_GSIS: [u32; 15] = [5, 7, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22];
/// Interrupt by which the host program wakes a guest that sleeps.
pub const WAKE_GSI: u32 = 6;
/// Interrupt of the ACPI generic event device that tells of the power button.
pub const POWER_BUTTON_GSI: u32 = 9;
/// Interrupt of the ACPI generic event device that tells of added memory.
pub const ADDED_MEMORY_GSI: u32 = 23;

const _: () = {
    assert!(VIRTIO_MMIO + VIRTIO_MMIO_SIZE * VIRTIO_MMIO_GSIS.len() as u64 <= PCI_ECAM);
    assert!(PCI_ECAM + PCI_ECAM_SIZE <= PCI_WINDOW);
    assert!(PCI_WINDOW + PCI_WINDOW_SIZE <= IO_APIC as u64);
};
