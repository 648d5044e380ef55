//! Log lines on the serial port, from any process.
//!
//! Each byte leaves the VM: never to be used while exits are counted, and sparingly otherwise.

use core::arch::asm;
use core::fmt::{self, Write};

const PORT: u16 = 0x3f8;

/// The serial port as a writer.
pub struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                out(PORT, b'\r');
            }
            out(PORT, byte);
        }
        Ok(())
    }
}

/// Writes to an I/O port; the bitmap in the trap area must allow it.
pub fn out(port: u16, value: u8) {
    // SAFETY: the ports that the bitmap allows are the serial port, 0x80 (which does nothing) and
    // 0x64, whose reset command is meant where it is given; memory is not affected.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags))
    }
}

/// Writes one line.
macro_rules! log {
    ($($argument:tt)*) => {{
        use core::fmt::Write as _;
        // The writer cannot fail.
        let _ = writeln!($crate::serial::Serial, $($argument)*);
    }};
}
pub(crate) use log;
