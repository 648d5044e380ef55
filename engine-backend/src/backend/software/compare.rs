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

/// Bytes to a step of the loops below.
const STEP: usize = 128;

macro_rules! step_loop {
    ($(#[$doc:meta])* $name:ident, $before:expr, $compare:expr) => {
        $(#[$doc])*
        /// Compares whole steps, `len` being at least one. Gives the bytes found equal, and where the two differ the mask of
        /// equal bytes in the step behind these, lowest first; all ones where they do not.
        ///
        /// # Safety
        /// See the module.
        unsafe fn $name(a: u64, b: u64, len: usize) -> (usize, u128) {
            debug_assert!(len >= STEP);
            let (mut done, mut m0, mut m1, mut m2, mut m3): (usize, u32, u32, u32, u32);
            // SAFETY: the loop reads whole steps inside `len`; each byte is loaded once, and it is the comparison that
            // was made in the loop that the masks are taken of.
            unsafe {
                asm!(
                    $before,
                    "xor {done:e}, {done:e}",
                    ".p2align 5",
                    "2:",
                    $compare,
                    "vpand ymm4, ymm0, ymm1",
                    "vpand ymm5, ymm2, ymm3",
                    "vpand ymm4, ymm4, ymm5",
                    "vpmovmskb {m0:e}, ymm4",
                    "cmp {m0:e}, -1",
                    "jne 3f",
                    "add {done}, 128",
                    "lea {next}, [{done} + 128]",
                    "cmp {next}, {len}",
                    "jbe 2b",
                    "3:",
                    "vpmovmskb {m0:e}, ymm0",
                    "vpmovmskb {m1:e}, ymm1",
                    "vpmovmskb {m2:e}, ymm2",
                    "vpmovmskb {m3:e}, ymm3",
                    "vzeroupper",
                    a = in(reg) a, b = in(reg) b, len = in(reg) len,
                    done = out(reg) done, next = out(reg) _,
                    m0 = out(reg) m0, m1 = out(reg) m1, m2 = out(reg) m2, m3 = out(reg) m3,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                    out("xmm4") _, out("xmm5") _, out("xmm6") _,
                    options(nostack, readonly),
                );
            }
            let masks = [m0, m1, m2, m3].map(u128::from);
            (done, masks[0] | masks[1] << 32 | masks[2] << 64 | masks[3] << 96)
        }
    };
}

step_loop!(
    /// Of two ranges.
    ///
    avx2_ranges_by_steps,
    "",
    concat!(
        "vmovdqu ymm0, [{a} + {done}]\n",
        "vmovdqu ymm1, [{a} + {done} + 32]\n",
        "vmovdqu ymm2, [{a} + {done} + 64]\n",
        "vmovdqu ymm3, [{a} + {done} + 96]\n",
        "vpcmpeqb ymm0, ymm0, [{b} + {done}]\n",
        "vpcmpeqb ymm1, ymm1, [{b} + {done} + 32]\n",
        "vpcmpeqb ymm2, ymm2, [{b} + {done} + 64]\n",
        "vpcmpeqb ymm3, ymm3, [{b} + {done} + 96]\n",
    )
);
step_loop!(
    /// With a pattern of 16 bytes, over and over, that the engine has at `b`.
    ///
    avx2_value_by_steps,
    "vbroadcasti128 ymm6, [{b}]",
    concat!(
        "vpcmpeqb ymm0, ymm6, [{a} + {done}]\n",
        "vpcmpeqb ymm1, ymm6, [{a} + {done} + 32]\n",
        "vpcmpeqb ymm2, ymm6, [{a} + {done} + 64]\n",
        "vpcmpeqb ymm3, ymm6, [{a} + {done} + 96]\n",
    )
);

/// Offset of the first difference of two ranges.
///
/// # Safety
/// See the module.
pub(super) unsafe fn ranges(simd: Simd, a: u64, b: u64, len: usize) -> Option<usize> {
    if simd != Simd::Sse2 && len >= STEP {
        // SAFETY: the caller's guarantee.
        let (done, mask) = unsafe { avx2_ranges_by_steps(a, b, len) };
        if mask != u128::MAX {
            return Some(done + mask.trailing_ones() as usize);
        }
        // SAFETY: the rest of the ranges, less than a step.
        let rest =
            unsafe { ranges_below_a_step(simd, a + done as u64, b + done as u64, len - done) };
        return rest.map(|offset| done + offset);
    }
    // SAFETY: the caller's guarantee.
    unsafe { ranges_below_a_step(simd, a, b, len) }
}

/// The same, a vector at a time.
///
/// # Safety
/// See the module.
unsafe fn ranges_below_a_step(simd: Simd, a: u64, b: u64, len: usize) -> Option<usize> {
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
pub(super) unsafe fn value(simd: Simd, a: u64, len: usize, pattern: u128) -> Option<usize> {
    let mut from = 0;
    if simd != Simd::Sse2 && len >= STEP {
        let pattern = pattern.to_le_bytes();
        let at = pattern.as_ptr().expose_provenance() as u64;
        // SAFETY: the caller's guarantee; the pattern lives as long as the call.
        let (done, mask) = unsafe { avx2_value_by_steps(a, at, len) };
        if mask != u128::MAX {
            return Some(done + mask.trailing_ones() as usize);
        }
        from = done;
    }
    if len - from >= 16 {
        // SAFETY: the rest of the range; whole steps before keep the pattern's phase.
        let (done, mask) = unsafe { sse2_value(a + from as u64, len - from, pattern) };
        if mask != 0xffff {
            return Some(from + done + mask.trailing_ones() as usize);
        }
        from += done;
    }
    let bytes = pattern.to_le_bytes();
    // SAFETY: inside the range; whole vectors before keep the pattern's phase.
    (from..len).find(|&i| unsafe { byte(a + i as u64) != bytes[i % 16] })
}
