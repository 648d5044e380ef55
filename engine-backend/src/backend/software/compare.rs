//! Compare kernels: the offset of the first difference.
//!
//! What is compared is what was loaded, once: a guest that changes its memory meanwhile
//! gets an answer about one of the states it made.
//!
//! Safety of every function here: the ranges are mapped and readable, and hold no memory
//! that Rust knows about. The processor has the vectors named.

use std::arch::asm;
use std::arch::x86_64::__m128i;

use super::cpu::Simd;

/// The pattern in a vector register's form.
fn vector(pattern: u128) -> __m128i {
    // SAFETY: both are 16 bytes of plain data.
    unsafe { std::mem::transmute::<u128, __m128i>(pattern) }
}

/// Reads one byte.
///
/// # Safety
/// See the module.
unsafe fn byte(at: u64) -> u8 {
    let value: u8;
    // SAFETY: the caller's guarantee.
    unsafe {
        asm!("mov {v}, [{a}]", a = in(reg) at, v = out(reg_byte) value,
            options(nostack, preserves_flags, readonly));
    }
    value
}

macro_rules! ranges_loop {
    ($name:ident, $bytes:literal, $code:expr, $all:literal, $end:literal) => {
        /// Compares whole vectors, `len` being at least one. Gives the bytes found equal
        /// and the mask of equal bytes where the two differ, or the full mask.
        ///
        /// # Safety
        /// See the module.
        unsafe fn $name(a: u64, b: u64, len: usize) -> (usize, u32) {
            debug_assert!(len >= $bytes);
            let (mut done, mut mask): (usize, u32);
            // SAFETY: the loop reads whole vectors inside `len`.
            unsafe {
                asm!(
                    "xor {done:e}, {done:e}",
                    "2:",
                    $code,
                    concat!("cmp {mask:e}, ", $all),
                    "jne 3f",
                    concat!("add {done}, ", $bytes),
                    concat!("lea {next}, [{done} + ", $bytes, "]"),
                    "cmp {next}, {len}",
                    "jbe 2b",
                    "3:",
                    $end,
                    a = in(reg) a, b = in(reg) b, len = in(reg) len,
                    done = out(reg) done, mask = out(reg) mask, next = out(reg) _,
                    out("xmm0") _, out("xmm1") _,
                    options(nostack, readonly),
                );
            }
            (done, mask)
        }
    };
}

ranges_loop!(
    sse2_ranges,
    16,
    concat!(
        "movups xmm0, [{a} + {done}]\n",
        "movups xmm1, [{b} + {done}]\n",
        "pcmpeqb xmm0, xmm1\n",
        "pmovmskb {mask:e}, xmm0\n",
    ),
    "0xffff",
    ""
);
ranges_loop!(
    avx2_ranges,
    32,
    concat!(
        "vmovdqu ymm0, [{a} + {done}]\n",
        "vpcmpeqb ymm0, ymm0, [{b} + {done}]\n",
        "vpmovmskb {mask:e}, ymm0\n",
    ),
    "-1",
    "vzeroupper"
);

/// Offset of the first difference of two ranges.
///
/// # Safety
/// See the module.
pub(super) unsafe fn ranges(simd: Simd, a: u64, b: u64, len: usize) -> Option<usize> {
    let mut from = 0;
    if simd != Simd::Sse2 && len >= 32 {
        // SAFETY: the caller's guarantee.
        let (done, mask) = unsafe { avx2_ranges(a, b, len) };
        if mask != u32::MAX {
            return Some(done + mask.trailing_ones() as usize);
        }
        from = done;
    }
    if len - from >= 16 {
        // SAFETY: the rest of the ranges.
        let (done, mask) = unsafe { sse2_ranges(a + from as u64, b + from as u64, len - from) };
        if mask != 0xffff {
            return Some(from + done + mask.trailing_ones() as usize);
        }
        from += done;
    }
    // SAFETY: inside the ranges.
    (from..len).find(|&i| unsafe { byte(a + i as u64) != byte(b + i as u64) })
}

/// Compares whole vectors with the pattern, as the loops above.
///
/// # Safety
/// See the module.
unsafe fn sse2_value(a: u64, len: usize, pattern: u128) -> (usize, u32) {
    debug_assert!(len >= 16);
    let (mut done, mut mask): (usize, u32);
    // SAFETY: the loop reads whole vectors inside `len`.
    unsafe {
        asm!(
            "xor {done:e}, {done:e}",
            "2:",
            "movups {v}, [{a} + {done}]",
            "pcmpeqb {v}, {p}",
            "pmovmskb {mask:e}, {v}",
            "cmp {mask:e}, 0xffff",
            "jne 3f",
            "add {done}, 16",
            "lea {next}, [{done} + 16]",
            "cmp {next}, {len}",
            "jbe 2b",
            "3:",
            a = in(reg) a, len = in(reg) len, p = in(xmm_reg) vector(pattern),
            done = out(reg) done, mask = out(reg) mask, next = out(reg) _,
            v = out(xmm_reg) _,
            options(nostack, readonly),
        );
    }
    (done, mask)
}

/// Offset of the first byte that differs from the repeated pattern.
///
/// # Safety
/// See the module.
pub(super) unsafe fn value(a: u64, len: usize, pattern: u128) -> Option<usize> {
    let mut from = 0;
    if len >= 16 {
        // SAFETY: the caller's guarantee.
        let (done, mask) = unsafe { sse2_value(a, len, pattern) };
        if mask != 0xffff {
            return Some(done + mask.trailing_ones() as usize);
        }
        from = done;
    }
    let bytes = pattern.to_le_bytes();
    // SAFETY: inside the range; whole vectors before keep the pattern's phase.
    (from..len).find(|&i| unsafe { byte(a + i as u64) != bytes[i % 16] })
}
