//! Cache-line flushes: the gentlest instruction that the processor has.
//!
//! None of them reads or changes data; all but CLFLUSH are ordered by the fence of
//! `finish` only.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;

use crate::memory::HostAddr;

/// Bytes of a line, on every x86-64 processor there is.
const LINE: u64 = 64;

/// What the processor has beside CLFLUSH, which every one has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flush {
    optimised: bool,
    write_back: bool,
}

impl Flush {
    /// What this processor has.
    pub(super) fn detect() -> Self {
        // Leaf 7 exists wherever there is more than CLFLUSH; else it reads as that of
        // the highest leaf, so its number is asked first.
        let ebx = if __cpuid_count(0, 0).eax >= 7 {
            __cpuid_count(7, 0).ebx
        } else {
            0
        };
        Self {
            optimised: ebx & 1 << 23 != 0,
            write_back: ebx & 1 << 24 != 0,
        }
    }

    /// Flushes every line that has a byte of the range.
    ///
    /// # Safety
    /// The range is mapped and readable.
    pub(super) unsafe fn lines(self, at: HostAddr, len: usize, keep: bool) {
        let end = at.0 + len as u64;
        let mut line = at.0 & !(LINE - 1);
        while line < end {
            // SAFETY: the line has a mapped byte, and pages hold whole lines.
            unsafe {
                if keep && self.write_back {
                    asm!("clwb [{l}]", l = in(reg) line, options(nostack, preserves_flags));
                } else if self.optimised {
                    asm!("clflushopt [{l}]", l = in(reg) line, options(nostack, preserves_flags));
                } else {
                    asm!("clflush [{l}]", l = in(reg) line, options(nostack, preserves_flags));
                }
            }
            line += LINE;
        }
    }
}
