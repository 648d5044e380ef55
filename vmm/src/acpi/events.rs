//! The generic event device (ACPI 6.5, 5.6.9), which is what hardware-reduced ACPI has instead of general-purpose
//! events: an interrupt line for the power button, and one for memory that was added.

use acpi_tables::aml::{
    Arg, Device, EISAName, Equal, If, Interrupt, Method, Name, Notify, Path, ResourceTemplate, ZERO,
};
use acpi_tables::{Aml, AmlSink};

use super::memory;
use crate::layout::{ADDED_MEMORY_GSI, POWER_BUTTON_GSI};

/// The button was pressed (ACPI 6.5, table 5.132).
const PRESSED: u8 = 0x80;
/// A device may have come (ACPI 6.5, table 5.129).
const DEVICE_CHECK: u8 = 1;

/// The power button and the event device.
pub(super) fn devices(sink: &mut dyn AmlSink) {
    Device::new(
        Path::new("PWRB"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0C0C")),
            &Name::new(Path::new("_UID"), &ZERO),
        ],
    )
    .to_aml_bytes(sink);

    let line = |gsi| Interrupt::new(true, true, false, false, gsi);
    let button = Path::new("PWRB");
    let pressed = Notify::new(&button, &PRESSED);
    let names: Vec<_> = memory::names().map(|name| Path::new(&name)).collect();
    let checks: Vec<_> = names
        .iter()
        .map(|name| Notify::new(name, &DEVICE_CHECK))
        .collect();
    // A memory device without memory, or that the guest has already, is nothing new to it.
    let checks = checks.iter().map(|check| check as &dyn Aml).collect();
    Device::new(
        Path::new("GED_"),
        vec![
            &Name::new(Path::new("_HID"), &"ACPI0013"),
            &Name::new(Path::new("_UID"), &ZERO),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![&line(POWER_BUTTON_GSI), &line(ADDED_MEMORY_GSI)]),
            ),
            &Method::new(
                Path::new("_EVT"),
                1,
                true,
                vec![
                    &If::new(&Equal::new(&Arg(0), &POWER_BUTTON_GSI), vec![&pressed]),
                    &If::new(&Equal::new(&Arg(0), &ADDED_MEMORY_GSI), checks),
                ],
            ),
        ],
    )
    .to_aml_bytes(sink);
}
