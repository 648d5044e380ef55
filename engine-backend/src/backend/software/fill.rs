//! Fill kernels: a 16-byte pattern over and over. `rdi` is the destination.
//!
//! Safety of every function here: the range is mapped and writable, and holds no memory
//! that Rust knows about. The processor has the vectors named.

use std::arch::asm;
use std::arch::x86_64::__m128i;

use super::copy::AHEAD;
use super::cpu::Simd;

/// Longest range that is written without a loop, in bytes.
const SHORT: usize = 128;

/// The pattern in a vector register's form.
fn vector(pattern: u128) -> __m128i {
    // SAFETY: both are 16 bytes of plain data.
    unsafe { std::mem::transmute::<u128, __m128i>(pattern) }
}

/// Writes up to 15 bytes of the pattern.
///
/// # Safety
/// See the module.
unsafe fn tail(mut dst: u64, len: usize, pattern: u128) {
    debug_assert!(len < 16);
    let mut rest = pattern;
    for part in [8_usize, 4, 2, 1] {
        if len & part == 0 {
            continue;
        }
        let value = rest as u64;
        // SAFETY: the parts add up to `len`.
        unsafe {
            match part {
                8 => asm!("mov [{d}], {v}", d = in(reg) dst, v = in(reg) value,
                    options(nostack, preserves_flags)),
                4 => asm!("mov [{d}], {v:e}", d = in(reg) dst, v = in(reg) value,
                    options(nostack, preserves_flags)),
                2 => asm!("mov [{d}], {v:x}", d = in(reg) dst, v = in(reg) value,
                    options(nostack, preserves_flags)),
                _ => asm!("mov [{d}], {v:l}", d = in(reg) dst, v = in(reg) value,
                    options(nostack, preserves_flags)),
            }
        }
        dst += part as u64;
        rest >>= 8 * part;
    }
}

/// Writes `len` bytes, 16 at a time.
///
/// # Safety
/// See the module.
unsafe fn short(mut dst: u64, mut len: usize, pattern: u128) {
    while len >= 16 {
        // SAFETY: 16 bytes are left.
        unsafe {
            asm!("movups [{d}], {p}", d = in(reg) dst, p = in(xmm_reg) vector(pattern),
                options(nostack, preserves_flags));
        }
        dst += 16;
        len -= 16;
    }
    // Most ranges end with their last whole vector.
    if len != 0 {
        // SAFETY: what is left of the range.
        unsafe { tail(dst, len, pattern) };
    }
}

/// Whole steps are written while `more` bytes beyond the step are left; each begins with `first`.
macro_rules! fill_loop {
    ($name:ident, $bytes:literal, $widen:literal, $v:tt, $store:literal, $end:literal) => {
        fill_loop!($name, $bytes, $widen, $v, $store, $end, more 0, first []);
    };
    (
        $name:ident, $bytes:literal, $widen:literal, $v:tt, $store:literal, $end:literal,
        more $more:expr, first [$($first:literal)*]
    ) => {
        /// Writes whole steps of four vectors, `len` being at least one, and gives back
        /// what is left.
        ///
        /// # Safety
        /// See the module; for a streaming store `dst` is a multiple of 64.
        unsafe fn $name(dst: u64, len: usize, pattern: u128) -> usize {
            debug_assert!(len >= 4 * $bytes + $more);
            let mut left = len;
            // SAFETY: the loop writes whole steps inside `len`.
            unsafe {
                asm!(
                    $widen,
                    "2:",
                    $($first,)*
                    concat!($store, " [rdi], ", $v),
                    concat!($store, " [rdi + ", $bytes, "], ", $v),
                    concat!($store, " [rdi + 2*", $bytes, "], ", $v),
                    concat!($store, " [rdi + 3*", $bytes, "], ", $v),
                    concat!("add rdi, 4*", $bytes),
                    concat!("sub rcx, 4*", $bytes),
                    concat!("cmp rcx, 4*", $bytes, " + {more}"),
                    "jae 2b",
                    $end,
                    more = const $more,
                    inout("rdi") dst => _, inout("rcx") left,
                    inout("xmm0") vector(pattern) => _, out($v) _,
                    out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                    out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _,
                    out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _,
                    out("xmm14") _, out("xmm15") _,
                    options(nostack),
                );
            }
            left
        }
    };
}

fill_loop!(sse2, 16, "movaps xmm1, xmm0", "xmm1", "movups", "");
fill_loop!(sse2_stream, 16, "movaps xmm1, xmm0", "xmm1", "movntps", "");
fill_loop!(
    avx2,
    32,
    "vinserti128 ymm1, ymm0, xmm0, 1",
    "ymm1",
    "vmovdqu",
    "vzeroupper"
);
fill_loop!(
    avx2_ahead, 32, "vinserti128 ymm1, ymm0, xmm0, 1", "ymm1", "vmovdqu", "vzeroupper",
    more AHEAD, first ["prefetchw [rdi + {more}]" "prefetchw [rdi + {more} + 64]"]
);
fill_loop!(
    avx2_stream,
    32,
    "vinserti128 ymm1, ymm0, xmm0, 1",
    "ymm1",
    "vmovntdq",
    "vzeroupper"
);
fill_loop!(
    avx512,
    64,
    "vshufi32x4 zmm16, zmm0, zmm0, 0",
    "zmm16",
    "vmovdqu64",
    ""
);
fill_loop!(
    avx512_ahead, 64, "vshufi32x4 zmm16, zmm0, zmm0, 0", "zmm16", "vmovdqu64", "",
    more AHEAD, first [
        "prefetchw [rdi + {more}]" "prefetchw [rdi + {more} + 64]"
        "prefetchw [rdi + {more} + 128]" "prefetchw [rdi + {more} + 192]"
    ]
);
fill_loop!(
    avx512_stream,
    64,
    "vshufi32x4 zmm16, zmm0, zmm0, 0",
    "zmm16",
    "vmovntdq",
    ""
);

/// A loop: where it begins, bytes, and the pattern; what it has left.
type Loop = unsafe fn(u64, usize, u128) -> usize;

/// Whole steps of `step` bytes, `len` being at least one, by a loop that asks ahead for the lines and one that does not.
/// Gives back what is left.
///
/// # Safety
/// See the module.
#[inline(always)]
unsafe fn in_steps(
    step: usize,
    ahead: Loop,
    plain: Loop,
    dst: u64,
    len: usize,
    pattern: u128,
) -> usize {
    // SAFETY: the caller's guarantee, over parts of the range; steps are multiples of 16, so the pattern's phase is kept.
    unsafe {
        let left = if len >= step + AHEAD {
            ahead(dst, len, pattern)
        } else {
            len
        };
        if left < step {
            return left;
        }
        plain(dst + (len - left) as u64, left, pattern)
    }
}

/// Fills with the processor's own loop, of words that are one half of the pattern each: its halves are the same.
///
/// # Safety
/// See the module.
pub(super) unsafe fn string(dst: u64, len: usize, pattern: u128) {
    const WORD: usize = size_of::<u64>();
    debug_assert_eq!(pattern as u64, (pattern >> 64) as u64);
    // SAFETY: it writes whole words inside `len`; the ABI keeps the direction flag clear. What is left keeps the phase.
    unsafe {
        asm!("rep stosq", inout("rcx") len / WORD => _, inout("rdi") dst => _, in("rax") pattern as u64,
             options(nostack, preserves_flags));
        let done = len - len % WORD;
        tail(dst + done as u64, len % WORD, pattern);
    }
}

/// Fills `len` bytes, the pattern's byte 0 first, past the caches when `stream`.
///
/// # Safety
/// See the module.
pub(super) unsafe fn fill(simd: Simd, dst: u64, len: usize, pattern: u128, stream: bool) {
    // A line of room for the way to an aligned address, then a step at least.
    if len < SHORT + 256 {
        // SAFETY: the caller's guarantee.
        unsafe { short(dst, len, pattern) };
        return;
    }
    let head = (dst.wrapping_neg() & 63) as usize;
    let turned = pattern.rotate_right(8 * (head as u32 & 15));
    // SAFETY: the caller's guarantee, over parts of the range; what follows `head` is
    // longer than a step and aligned to a line.
    unsafe {
        short(dst, head, pattern);
        let (dst, len) = (dst + head as u64, len - head);
        let left = match (simd, stream) {
            (Simd::Sse2, false) => sse2(dst, len, turned),
            (Simd::Sse2, true) => sse2_stream(dst, len, turned),
            (Simd::Avx2, false) => in_steps(4 * 32, avx2_ahead, avx2, dst, len, turned),
            (Simd::Avx2, true) => avx2_stream(dst, len, turned),
            (Simd::Avx512, false) => in_steps(4 * 64, avx512_ahead, avx512, dst, len, turned),
            (Simd::Avx512, true) => avx512_stream(dst, len, turned),
        };
        // Steps are multiples of 16, so the pattern's phase is kept.
        short(dst + (len - left) as u64, left, turned);
    }
}
