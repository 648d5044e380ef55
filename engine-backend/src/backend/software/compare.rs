//! Compare kernels: the offset of the first difference.
//!
//! What is compared is what was loaded, once: a guest that changes its memory meanwhile
//! gets an answer about one of the states it made.
//!
//! Safety of every function here: the ranges are mapped and readable, and hold no memory
//! that Rust knows about. The processor has the vectors named.

use std::arch::asm;
use std::arch::x86_64::__m128i;
use std::mem::MaybeUninit;

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
                    out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                    out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _,
                    out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _,
                    out("xmm14") _, out("xmm15") _,
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
    ($(#[$doc:meta])* $name:ident, $second:ident: $of:ty, [$($operand:tt)*], $before:expr, $compare:expr) => {
        $(#[$doc])*
        /// Compares whole steps, `len` being at least one. Gives the bytes found equal, and where the two differ the mask of
        /// equal bytes in the step behind these, lowest first; all ones where they do not.
        ///
        /// # Safety
        /// See the module.
        unsafe fn $name(a: u64, $second: $of, len: usize) -> (usize, u128) {
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
                    a = in(reg) a, $($operand)*, len = in(reg) len,
                    done = out(reg) done, next = out(reg) _,
                    m0 = out(reg) m0, m1 = out(reg) m1, m2 = out(reg) m2, m3 = out(reg) m3,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                    out("xmm4") _, out("xmm5") _, out("xmm6") _,
                    out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _,
                    out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _,
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
    avx2_ranges_by_steps, b: u64, [b = in(reg) b, out("xmm15") _],
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
    /// With 16 bytes, over and over. They come in a register: put down in halves they would be taken up as a whole, and that waits
    /// for all stores before, a completion's among them, whose line another core has.
    ///
    avx2_value_by_steps, pattern: __m128i, [inout("xmm15") pattern => _],
    "vinserti128 ymm6, ymm15, xmm15, 1",
    concat!(
        "vpcmpeqb ymm0, ymm6, [{a} + {done}]\n",
        "vpcmpeqb ymm1, ymm6, [{a} + {done} + 32]\n",
        "vpcmpeqb ymm2, ymm6, [{a} + {done} + 64]\n",
        "vpcmpeqb ymm3, ymm6, [{a} + {done} + 96]\n",
    )
);

/// Bytes to a step of the loops with vectors of a line.
const LONG_STEP: usize = 256;

/// In which bits two operands differ, in a step.
type Differences = [u8; LONG_STEP];

macro_rules! long_step_loop {
    ($(#[$doc:meta])* $name:ident, $second:ident: $of:ty, [$($operand:tt)*], $before:expr, $differences:expr) => {
        $(#[$doc])*
        /// Looks at whole steps, `len` being at least one. Gives the bytes found equal, and whether the step behind these
        /// differs: then all of `differences` is filled, and tells where.
        ///
        /// # Safety
        /// See the module.
        unsafe fn $name(a: u64, $second: $of, len: usize, differences: &mut MaybeUninit<Differences>) -> (usize, bool) {
            debug_assert!(len >= LONG_STEP);
            let (mut done, mut next): (usize, usize);
            // SAFETY: the loop reads whole steps inside `len`, each byte once; `differences` has room for one.
            unsafe {
                asm!(
                    $before,
                    "xor {done:e}, {done:e}",
                    ".p2align 5",
                    "2:",
                    $differences,
                    "vporq zmm20, zmm16, zmm17",
                    "vpternlogq zmm20, zmm18, zmm19, 0xfe",
                    "vptestmq k1, zmm20, zmm20",
                    "kortestw k1, k1",
                    "jne 3f",
                    "add {done}, 256",
                    "lea {next}, [{done} + 256]",
                    "cmp {next}, {len}",
                    "jbe 2b",
                    "xor {next:e}, {next:e}",
                    "jmp 4f",
                    "3:",
                    "vmovdqu64 [{d}], zmm16",
                    "vmovdqu64 [{d} + 64], zmm17",
                    "vmovdqu64 [{d} + 128], zmm18",
                    "vmovdqu64 [{d} + 192], zmm19",
                    "mov {next:e}, 1",
                    "4:",
                    a = in(reg) a, $($operand)*, len = in(reg) len, d = in(reg) differences.as_mut_ptr(),
                    done = out(reg) done, next = out(reg) next,
                    out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _, out("zmm20") _,
                    out("zmm21") _, out("k1") _,
                    options(nostack),
                );
            }
            (done, next != 0)
        }
    };
}

long_step_loop!(
    /// Of two ranges.
    ///
    avx512_ranges_by_steps, b: u64, [b = in(reg) b],
    "",
    concat!(
        "vmovdqu64 zmm16, [{a} + {done}]\n",
        "vpxorq zmm16, zmm16, [{b} + {done}]\n",
        "vmovdqu64 zmm17, [{a} + {done} + 64]\n",
        "vpxorq zmm17, zmm17, [{b} + {done} + 64]\n",
        "vmovdqu64 zmm18, [{a} + {done} + 128]\n",
        "vpxorq zmm18, zmm18, [{b} + {done} + 128]\n",
        "vmovdqu64 zmm19, [{a} + {done} + 192]\n",
        "vpxorq zmm19, zmm19, [{b} + {done} + 192]\n",
    )
);
long_step_loop!(
    /// With 16 bytes, over and over; in a register, as above.
    ///
    avx512_value_by_steps, pattern: __m128i, [in("xmm15") pattern],
    "vshufi32x4 zmm21, zmm15, zmm15, 0",
    concat!(
        "vpxorq zmm16, zmm21, [{a} + {done}]\n",
        "vpxorq zmm17, zmm21, [{a} + {done} + 64]\n",
        "vpxorq zmm18, zmm21, [{a} + {done} + 128]\n",
        "vpxorq zmm19, zmm21, [{a} + {done} + 192]\n",
    )
);

/// Offset of the first byte that differs.
fn first(differences: &Differences) -> usize {
    let is_different = |&byte: &u8| byte != 0;
    differences
        .iter()
        .position(is_different)
        .unwrap_or(LONG_STEP)
}

/// Offset of the first difference of two ranges.
///
/// # Safety
/// See the module.
pub(super) unsafe fn ranges(simd: Simd, a: u64, b: u64, len: usize) -> Option<usize> {
    let mut from = 0;
    if simd == Simd::Avx512 && len >= LONG_STEP {
        let mut differences = MaybeUninit::uninit();
        // SAFETY: the caller's guarantee.
        let (done, differs) = unsafe { avx512_ranges_by_steps(a, b, len, &mut differences) };
        if differs {
            // SAFETY: filled, since there are some.
            return Some(done + first(unsafe { differences.assume_init_ref() }));
        }
        from = done;
    }
    if simd != Simd::Sse2 && len - from >= STEP {
        let (a, b) = (a + from as u64, b + from as u64);
        // SAFETY: the rest of the ranges.
        let (done, mask) = unsafe { avx2_ranges_by_steps(a, b, len - from) };
        if mask != u128::MAX {
            return Some(from + done + mask.trailing_ones() as usize);
        }
        from += done;
    }
    let (a, b) = (a + from as u64, b + from as u64);
    // SAFETY: the rest of the ranges, less than a step.
    let rest = unsafe { ranges_below_a_step(simd, a, b, len - from) };
    rest.map(|offset| from + offset)
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
    let bytes = pattern.to_le_bytes();
    if simd == Simd::Avx512 && len >= LONG_STEP {
        let mut differences = MaybeUninit::uninit();
        // SAFETY: the caller's guarantee.
        let (done, differs) =
            unsafe { avx512_value_by_steps(a, vector(pattern), len, &mut differences) };
        if differs {
            // SAFETY: filled, since there are some.
            return Some(done + first(unsafe { differences.assume_init_ref() }));
        }
        from = done;
    }
    if simd != Simd::Sse2 && len - from >= STEP {
        // SAFETY: as above, for the rest of the range; whole steps before keep the pattern's phase.
        let (done, mask) =
            unsafe { avx2_value_by_steps(a + from as u64, vector(pattern), len - from) };
        if mask != u128::MAX {
            return Some(from + done + mask.trailing_ones() as usize);
        }
        from += done;
    }
    if len - from >= 16 {
        // SAFETY: the rest of the range; whole steps before keep the pattern's phase.
        let (done, mask) = unsafe { sse2_value(a + from as u64, len - from, pattern) };
        if mask != 0xffff {
            return Some(from + done + mask.trailing_ones() as usize);
        }
        from += done;
    }
    // SAFETY: inside the range; whole vectors before keep the pattern's phase.
    (from..len).find(|&i| unsafe { byte(a + i as u64) != bytes[i % 16] })
}
