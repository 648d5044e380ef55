//! ACPI tables that tell a stock kernel what this VM has: CPUs, COM1, virtio-mmio
//! devices (`LNRO0005`, since Debian kernels do not take them from the command line), a PCI bus where there is one, a power button,
//! places for memory that comes later, and how to power off.
//!
//! Hardware-reduced ACPI, as Firecracker and Cloud Hypervisor do: there is no PM timer, no SCI,
//! no 8259 and no 8254 to describe or emulate. Pure construction: bytes out, nothing kept.

mod events;
mod memory;
mod pci;

pub use memory::{MemorySlots, SLOTS as MEMORY_SLOTS};

use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, ONE, Package, Path, ResourceTemplate,
    Scope, ZERO,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::devices::power::{RESET_VALUE, SLEEP_TYPE_S5};
use crate::layout::{
    ACPI_PM_PORT, ACPI_TABLES, ACPI_TABLES_END, COM1_GSI, COM1_PORT, COM1_PORTS, IO_APIC,
    LOCAL_APIC,
};

const OEM_ID: [u8; 6] = *b"BYWAY ";
const OEM_TABLE: [u8; 8] = *b"BYWAYVMM";
const OEM_REVISION: u32 = 1;
/// Revision of a DSDT whose integers are 64 bits wide.
const DSDT_REVISION: u8 = 2;
/// IA-PC boot flags: no VGA to probe, no PCIe ASPM, no CMOS clock.
const BOOT_NO_VGA: u16 = 1 << 2;
const BOOT_NO_ASPM: u16 = 1 << 4;
const BOOT_NO_CMOS: u16 = 1 << 5;
const TABLE_ALIGN: u64 = 16;

/// A virtio-mmio register window to describe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MmioDevice {
    /// First address; below 4 GiB.
    pub base: u32,
    /// Bytes.
    pub size: u32,
    /// Interrupt line, edge-triggered and active high.
    pub gsi: u32,
}

/// The tables do not fit, or not into RAM.
#[derive(Debug, thiserror::Error)]
pub enum AcpiError {
    /// More devices or CPUs than there is room for.
    #[error("ACPI tables of {0} bytes do not fit below 1 MiB")]
    TooLarge(u64),
    /// RAM does not reach that far.
    #[error("cannot write ACPI tables")]
    Write(#[from] GuestMemoryError),
}

/// Writes all tables and returns the address of the RSDP. With `has_pci` there is a PCI bus.
///
/// # Errors
/// When they do not fit.
pub fn write(
    memory: &GuestMemoryMmap,
    cpus: u8,
    devices: &[MmioDevice],
    has_pci: bool,
) -> Result<u64, AcpiError> {
    let rsdp_addr = ACPI_TABLES;
    let mut writer = Writer {
        memory,
        next: rsdp_addr + (Rsdp::len() as u64).next_multiple_of(TABLE_ALIGN),
    };
    let dsdt = writer.put(&dsdt(devices, has_pci))?;
    let fadt = writer.put(&fadt(dsdt))?;
    let madt = writer.put(&madt(cpus))?;
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    if has_pci {
        xsdt.add_entry(writer.put(&pci::mcfg())?);
    }
    let xsdt = writer.put(&xsdt)?;
    memory.write_slice(&bytes_of(&Rsdp::new(OEM_ID, xsdt)), GuestAddress(rsdp_addr))?;
    Ok(rsdp_addr)
}

struct Writer<'a> {
    memory: &'a GuestMemoryMmap,
    next: u64,
}

impl Writer<'_> {
    fn put(&mut self, table: &dyn Aml) -> Result<u64, AcpiError> {
        let bytes = bytes_of(table);
        let at = self.next;
        let end = at + bytes.len() as u64;
        if end > ACPI_TABLES_END {
            return Err(AcpiError::TooLarge(end - ACPI_TABLES));
        }
        self.memory.write_slice(&bytes, GuestAddress(at))?;
        self.next = end.next_multiple_of(TABLE_ALIGN);
        Ok(at)
    }
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn dsdt(devices: &[MmioDevice], has_pci: bool) -> Sdt {
    let mut aml = Vec::new();
    serial_port(&mut aml);
    for (uid, device) in (0u32..).zip(devices) {
        virtio_mmio(&mut aml, uid, device);
    }
    if has_pci {
        pci::devices(&mut aml);
    }
    memory::devices(&mut aml);
    events::devices(&mut aml);
    let mut dsdt = Sdt::new(*b"DSDT", 36, DSDT_REVISION, OEM_ID, OEM_TABLE, OEM_REVISION);
    dsdt.append_slice(&Scope::raw(Path::new("\\_SB_"), aml));
    let sleep_type = SLEEP_TYPE_S5;
    Name::new(Path::new("\\_S5_"), &Package::new(vec![&sleep_type, &ZERO])).to_aml_bytes(&mut dsdt);
    dsdt
}

fn serial_port(sink: &mut dyn AmlSink) {
    Device::new(
        Path::new("COM1"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
            &Name::new(Path::new("_UID"), &ZERO),
            &Name::new(Path::new("_DDN"), &"COM1"),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![
                    &Interrupt::new(true, true, false, false, COM1_GSI),
                    &IO::new(COM1_PORT, COM1_PORT, 0, COM1_PORTS as u8),
                ]),
            ),
        ],
    )
    .to_aml_bytes(sink);
}

fn virtio_mmio(sink: &mut dyn AmlSink, uid: u32, device: &MmioDevice) {
    // Names have four characters; the configuration bounds the number of devices far below 4096.
    Device::new(
        Path::new(&format!("V{uid:03X}")),
        vec![
            &Name::new(Path::new("_HID"), &"LNRO0005"),
            &Name::new(Path::new("_UID"), &uid),
            // DMA is cache-coherent.
            &Name::new(Path::new("_CCA"), &ONE),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![
                    &Memory32Fixed::new(true, device.base, device.size),
                    &Interrupt::new(true, true, false, false, device.gsi),
                ]),
            ),
        ],
    )
    .to_aml_bytes(sink);
}

fn fadt(dsdt: u64) -> impl Aml {
    let register = |offset: u16| {
        GAS::new(
            AddressSpace::SystemIo,
            8,
            0,
            AccessSize::ByteAccess,
            u64::from(ACPI_PM_PORT + offset),
        )
    };
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::Headless);
    fadt.iapc_boot_arch = (BOOT_NO_VGA | BOOT_NO_ASPM | BOOT_NO_CMOS).into();
    fadt.sleep_control_reg = register(0);
    fadt.sleep_status_reg = register(1);
    fadt.reset_reg = register(2);
    fadt.reset_value = RESET_VALUE;
    fadt.finalize()
}

fn madt(cpus: u8) -> MADT {
    let mut madt = MADT::new(
        OEM_ID,
        OEM_TABLE,
        OEM_REVISION,
        LocalInterruptController::Address(LOCAL_APIC),
    );
    for id in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, IO_APIC, 0));
    madt
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{PCI_ECAM, PCI_ECAM_SIZE, PCI_WINDOW, PCI_WINDOW_SIZE};

    const DEVICE: MmioDevice = MmioDevice {
        base: 0xd000_0000,
        size: 0x1000,
        gsi: 5,
    };

    fn ram() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap()
    }

    fn read(memory: &GuestMemoryMmap, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn table(memory: &GuestMemoryMmap, at: u64) -> Vec<u8> {
        let length: u32 = memory.read_obj(GuestAddress(at + 4)).unwrap();
        read(memory, at, length as usize)
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    /// All tables but the RSDP and what lists them: FADT, MADT and what else there is, then the DSDT.
    fn tables(has_pci: bool) -> Vec<Vec<u8>> {
        let memory = ram();
        let rsdp_at = write(&memory, 3, &[DEVICE], has_pci).unwrap();
        let rsdp = read(&memory, rsdp_at, 36);
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        assert_eq!((sum(&rsdp[..20]), sum(&rsdp)), (0, 0));

        let xsdt = table(&memory, u64_at(&rsdp, 24));
        assert_eq!((&xsdt[..4], sum(&xsdt)), (&b"XSDT"[..], 0));
        let mut tables: Vec<_> = xsdt[36..]
            .chunks(8)
            .map(|entry| table(&memory, u64_at(entry, 0)))
            .collect();
        tables.push(table(&memory, u64_at(&tables[0], 140)));
        for table in &tables {
            assert_eq!(sum(table), 0, "{:?}", &table[..4]);
        }
        tables
    }

    fn holds(table: &[u8], needle: &[u8]) -> bool {
        table.windows(needle.len()).any(|window| window == needle)
    }

    #[test]
    fn every_table_is_reachable_and_sums_to_zero() {
        let tables = tables(false);
        let [fadt, madt, dsdt] = &tables[..] else {
            panic!("{} tables", tables.len());
        };
        assert_eq!((&fadt[..4], &madt[..4]), (&b"FACP"[..], &b"APIC"[..]));
        assert_eq!(madt.len(), 44 + 3 * 8 + 12);
        assert_eq!(&dsdt[..4], b"DSDT");
        let holds = |needle: &[u8]| holds(dsdt, needle);
        assert!(holds(b"LNRO0005") && holds(b"_S5_") && holds(b"COM1"));
        assert!(holds(&DEVICE.base.to_le_bytes()));
        assert!(holds(b"ACPI0013") && holds(b"PWRB") && holds(b"MEM7"));
        assert!(!holds(b"PCI0") && !holds(b"MBRD"));
    }

    #[test]
    fn a_pci_bus_is_told_of() {
        let tables = tables(true);
        let [_, _, mcfg, dsdt] = &tables[..] else {
            panic!("{} tables", tables.len());
        };
        assert_eq!((&mcfg[..4], mcfg.len()), (&b"MCFG"[..], 44 + 16));
        // Segment 0, buses 0 to 0.
        assert_eq!(u64_at(mcfg, 44), PCI_ECAM);
        assert_eq!(mcfg[52..], [0; 8]);
        // PNP0A08 and PNP0A03, as EISA has them.
        assert!(holds(dsdt, b"PCI0") && holds(dsdt, &[0x41, 0xd0, 0x0a, 0x08]));
        assert!(holds(dsdt, &[0x41, 0xd0, 0x0a, 0x03]) && holds(dsdt, b"_CRS"));
        // Bus 0; the window: both ends fixed, memory, not cacheable, writable.
        assert!(holds(
            dsdt,
            &[0x88, 13, 0, 2, 0xc, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]
        ));
        let (first, last) = (PCI_WINDOW as u32, (PCI_WINDOW + PCI_WINDOW_SIZE) as u32 - 1);
        let mut window = vec![0x87, 23, 0, 0, 0xc, 1, 0, 0, 0, 0];
        for word in [first, last, 0, last - first + 1] {
            window.extend(word.to_le_bytes());
        }
        assert!(holds(dsdt, &window));
        // The ports, which are the bridge's own, and the configuration space, which is the board's.
        assert!(holds(dsdt, &[0x47, 1, 0xf8, 0xc, 0xf8, 0xc, 0, 8]));
        let mut ecam = vec![0x86, 9, 0, 1];
        ecam.extend((PCI_ECAM as u32).to_le_bytes());
        ecam.extend((PCI_ECAM_SIZE as u32).to_le_bytes());
        assert!(holds(dsdt, b"MBRD") && holds(dsdt, &ecam));
    }

    #[test]
    fn the_fadt_names_the_power_registers() {
        let fadt = bytes_of(&fadt(0x1234));
        let flags = u32::from_le_bytes(fadt[112..116].try_into().unwrap());
        assert_ne!(flags & 1 << 20, 0, "hardware-reduced");
        assert_ne!(flags & 1 << 10, 0, "reset register");
        assert_eq!(u64_at(&fadt, 116 + 4), u64::from(ACPI_PM_PORT + 2));
        assert_eq!(fadt[128], RESET_VALUE);
        assert_eq!(u64_at(&fadt, 244 + 4), u64::from(ACPI_PM_PORT));
    }

    #[test]
    fn too_many_devices_are_an_error() {
        let devices = [DEVICE; 4000];
        assert!(matches!(
            write(&ram(), 1, &devices, true),
            Err(AcpiError::TooLarge(_))
        ));
    }
}
