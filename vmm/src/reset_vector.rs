//! Where a processor begins after a reset, and where a kernel goes that knows no other way to start anew.
//!
//! Linux takes hardware-reduced ACPI for a sign of UEFI, and asks UEFI for a reset instead of writing to the register that
//! the FADT names. Where there is none it falls back to what a PC's firmware has at this address, in real mode
//! (`machine_real_restart` of arch/x86). So there is code here, which writes to that register.

use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::devices::power::{RESET_REGISTER, RESET_VALUE};
use crate::layout::RESET_VECTOR;

/// Bytes of it: 16-bit code.
const CODE_BYTES: usize = 9;

/// The code: the register is written, and nothing comes after that.
fn code() -> [u8; CODE_BYTES] {
    let [low, high] = RESET_REGISTER.to_le_bytes();
    // mov $RESET_REGISTER, %dx; mov $RESET_VALUE, %al; out %al, (%dx); hlt; jmp to the hlt
    [0xba, low, high, 0xb0, RESET_VALUE, 0xee, 0xf4, 0xeb, 0xfd]
}

/// Writes the code.
///
/// # Errors
/// When RAM does not reach that far.
pub fn write(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    memory.write_slice(&code(), GuestAddress(RESET_VECTOR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{ACPI_PM_PORT, ACPI_TABLES_END, HIGH_RAM};

    #[test]
    fn it_writes_what_the_fadt_says_and_fits_below_high_memory() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write(&memory).unwrap();
        let mut found = [0; 16];
        // A far jump of Linux' goes to f000:fff0.
        let at = GuestAddress((0xf000 << 4) + 0xfff0);
        memory.read_slice(&mut found, at).unwrap();
        assert_eq!(
            found[..7],
            [0xba, 0x02, 0x06, 0xb0, RESET_VALUE, 0xee, 0xf4]
        );
        assert_eq!(RESET_REGISTER, ACPI_PM_PORT + 2);
        // The displacement counts from the end of the jump.
        let jump = CODE_BYTES as i32 + i32::from(found[8] as i8);
        assert_eq!(found[jump as usize], 0xf4);
        const {
            assert!(ACPI_TABLES_END <= RESET_VECTOR);
            assert!(RESET_VECTOR + CODE_BYTES as u64 <= HIGH_RAM);
        }
    }
}
