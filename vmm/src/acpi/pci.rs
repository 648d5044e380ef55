//! The PCI bus ([`crate::pci`]): its host bridge, and where its configuration space is.
//!
//! The bridge has no `_PRT`, since no function has an interrupt pin, and no `_OSC`: there is nothing of PCI Express to control.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Memory32Fixed, Name, ONE, Path,
    ResourceTemplate, ZERO,
};
use acpi_tables::mcfg::MCFG;
use acpi_tables::{Aml, AmlSink};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE};
use crate::layout::{
    PCI_CONFIG_PORT, PCI_CONFIG_PORTS, PCI_ECAM, PCI_ECAM_SIZE, PCI_WINDOW, PCI_WINDOW_SIZE,
};

/// Where configuration space is: segment 0, bus 0.
pub(super) fn mcfg() -> MCFG {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE, OEM_REVISION);
    mcfg.add_ecam(PCI_ECAM, 0, 0, 0);
    mcfg
}

/// The host bridge; and, as a resource of the board, the configuration space, without which Linux does not trust the MCFG.
pub(super) fn devices(sink: &mut dyn AmlSink) {
    Device::new(
        Path::new("PCI0"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0A08")),
            &Name::new(Path::new("_CID"), &EISAName::new("PNP0A03")),
            &Name::new(Path::new("_UID"), &ZERO),
            &Name::new(Path::new("_SEG"), &ZERO),
            &Name::new(Path::new("_BBN"), &ZERO),
            // DMA is cache-coherent.
            &Name::new(Path::new("_CCA"), &ONE),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![
                    &AddressSpace::<u16>::new_bus_number(0, 0),
                    &IO::new(PCI_CONFIG_PORT, PCI_CONFIG_PORT, 0, PCI_CONFIG_PORTS as u8),
                    &AddressSpace::<u32>::new_memory(
                        AddressSpaceCacheable::NotCacheable,
                        true,
                        PCI_WINDOW as u32,
                        (PCI_WINDOW + PCI_WINDOW_SIZE - 1) as u32,
                        None,
                    ),
                ]),
            ),
        ],
    )
    .to_aml_bytes(sink);
    Device::new(
        Path::new("MBRD"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0C02")),
            &Name::new(Path::new("_UID"), &ZERO),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![&Memory32Fixed::new(
                    true,
                    PCI_ECAM as u32,
                    PCI_ECAM_SIZE as u32,
                )]),
            ),
        ],
    )
    .to_aml_bytes(sink);
}
