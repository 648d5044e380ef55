//! The ways in which a guest ends its own VM.
//!
//! The ACPI sleep and reset registers that the FADT describes turn it off or have it start
//! anew. The i8042 reset command (what Firecracker guests use, and Linux with `reboot=k`) ends it for good: it is the
//! one way out for a guest that knows no ACPI.

use std::io;

use vm_superio::{I8042Device, Trigger};

use super::bus::BusDevice;
use crate::layout::ACPI_PM_PORT;

/// `SLP_EN` of the ACPI sleep control register (ACPI 6.5, 4.8.3.7).
const SLEEP_ENABLE: u8 = 1 << 5;
/// `SLP_TYPx`, bits 4:2.
const SLEEP_TYPE_SHIFT: u32 = 2;
const SLEEP_TYPE_MASK: u8 = 7;
/// Sleep type that the DSDT's `\_S5` names.
pub const SLEEP_TYPE_S5: u8 = 5;
/// Port of the ACPI reset register.
pub const RESET_REGISTER: u16 = ACPI_PM_PORT + RESET as u16;
/// Value that the FADT tells to write to the reset register.
pub const RESET_VALUE: u8 = 1;

/// Offsets within the ACPI register block; sleep status, at 1, reads as 0.
const SLEEP_CONTROL: u64 = 0;
const RESET: u64 = 2;

/// Ends the VM on the guest's demand.
pub trait PowerSwitch: Send {
    /// The guest wants its VM to end.
    fn power_off(&self);
    /// The guest wants it to start anew.
    fn reset(&self);
}

struct ResetTrigger<P>(P);

impl<P: PowerSwitch> Trigger for ResetTrigger<P> {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.power_off();
        Ok(())
    }
}

/// The i8042, as far as its reset command.
pub struct KeyboardController<P: PowerSwitch> {
    controller: I8042Device<ResetTrigger<P>>,
}

impl<P: PowerSwitch> KeyboardController<P> {
    /// A controller that ends the VM by `switch`.
    pub fn new(switch: P) -> Self {
        Self {
            controller: I8042Device::new(ResetTrigger(switch)),
        }
    }
}

impl<P: PowerSwitch> BusDevice for KeyboardController<P> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(self.controller.read(offset as u8));
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let [byte] = data {
            // The trigger cannot fail.
            let _ = self.controller.write(offset as u8, *byte);
        }
    }
}

/// The ACPI sleep control, sleep status and reset registers.
pub struct AcpiPower<P: PowerSwitch> {
    switch: P,
}

impl<P: PowerSwitch> AcpiPower<P> {
    /// Registers that end the VM by `switch`.
    pub fn new(switch: P) -> Self {
        Self { switch }
    }
}

impl<P: PowerSwitch> BusDevice for AcpiPower<P> {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let [byte] = data else { return };
        let sleep_type = byte >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK;
        match offset {
            SLEEP_CONTROL if byte & SLEEP_ENABLE != 0 && sleep_type == SLEEP_TYPE_S5 => {
                self.switch.power_off();
            }
            RESET if *byte == RESET_VALUE => self.switch.reset(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// What a reset adds, so that one number tells both.
    const RESETS: u32 = 100;

    impl PowerSwitch for Arc<AtomicU32> {
        fn power_off(&self) {
            self.fetch_add(1, Ordering::Relaxed);
        }

        fn reset(&self) {
            self.fetch_add(RESETS, Ordering::Relaxed);
        }
    }

    #[test]
    fn only_the_reset_command_ends_the_vm() {
        let offs = Arc::new(AtomicU32::new(0));
        let mut controller = KeyboardController::new(Arc::clone(&offs));
        for (offset, value) in [(0, 0xfe), (4, 0xff), (4, 0xd1)] {
            controller.write(offset, &[value]);
        }
        controller.write(4, &[0xfe, 0]);
        assert_eq!(offs.load(Ordering::Relaxed), 0);
        controller.write(4, &[0xfe]);
        assert_eq!(offs.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn acpi_ends_the_vm_on_s5_and_resets_it_on_reset() {
        let offs = Arc::new(AtomicU32::new(0));
        let mut acpi = AcpiPower::new(Arc::clone(&offs));
        let s5 = SLEEP_ENABLE | SLEEP_TYPE_S5 << SLEEP_TYPE_SHIFT;
        for (offset, value) in [(0, s5 & !SLEEP_ENABLE), (0, SLEEP_ENABLE), (1, s5), (2, 0)] {
            acpi.write(offset, &[value]);
        }
        assert_eq!(offs.load(Ordering::Relaxed), 0);
        acpi.write(0, &[s5]);
        assert_eq!(offs.load(Ordering::Relaxed), 1);
        acpi.write(2, &[RESET_VALUE]);
        assert_eq!(offs.load(Ordering::Relaxed), 1 + RESETS);
    }
}
