//! Hints: which lines will be needed soon. They access nothing, never fault, and may name any address.

use super::HostAddr;

/// Bytes of a line.
pub const LINE: usize = 64;

/// The line with this address will be read soon.
#[inline(always)]
pub fn reads_soon(at: HostAddr) {
    let line: *const i8 = std::ptr::without_provenance(at.0 as usize);
    // SAFETY: a hint that may name any address.
    unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line) };
}

/// The line with this address will be written soon.
#[inline(always)]
pub fn writes_soon(at: HostAddr) {
    // In assembly, since the compiler makes a prefetch for reading of the intrinsic unless
    // it may assume more than the oldest processors; one that does not know `prefetchw`
    // takes it for a NOP.
    // SAFETY: a hint that may name any address and changes nothing.
    unsafe {
        std::arch::asm!(
            "prefetchw [{}]", in(reg) at.0,
            options(nostack, nomem, preserves_flags)
        );
    }
}
