//! Search for words in which two ranges differ, each byte loaded once: what is found is what was compared.
//!
//! Safety of every function here: the ranges are mapped and readable, and hold no memory that Rust knows about. The
//! processor has the vectors named.

use std::arch::asm;

use super::copy;
use super::cpu::Simd;

/// Bytes of a word.
pub const WORD: usize = 8;

/// Bytes of a step.
pub const STEP: usize = 128;

/// A step in which the two differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Bytes before it, all equal.
    pub offset: usize,
    /// Bit n: word n differs.
    pub words: u16,
}

/// Compares whole steps, `len` being at least one. Gives the bytes found equal and, for the step behind them if there is
/// one, which words are equal; its bytes of `b` go to `found`.
///
/// # Safety
/// See the module; the processor has AVX2.
unsafe fn avx2_steps(a: u64, b: u64, len: usize, found: &mut [u8; STEP]) -> (usize, u16) {
    debug_assert!(len >= STEP);
    let (mut done, mut m0, mut m1, mut m2, mut m3): (usize, u16, u16, u16, u16);
    // SAFETY: the loop reads whole steps inside `len`; `found` has room for one.
    unsafe {
        asm!(
            "xor {done:e}, {done:e}",
            "2:",
            "vmovdqu ymm4, [{b} + {done}]",
            "vmovdqu ymm5, [{b} + {done} + 32]",
            "vmovdqu ymm6, [{b} + {done} + 64]",
            "vmovdqu ymm7, [{b} + {done} + 96]",
            "vpcmpeqq ymm0, ymm4, [{a} + {done}]",
            "vpcmpeqq ymm1, ymm5, [{a} + {done} + 32]",
            "vpcmpeqq ymm2, ymm6, [{a} + {done} + 64]",
            "vpcmpeqq ymm3, ymm7, [{a} + {done} + 96]",
            "vpand ymm8, ymm0, ymm1",
            "vpand ymm9, ymm2, ymm3",
            "vpand ymm8, ymm8, ymm9",
            "vpmovmskb {m0:e}, ymm8",
            "cmp {m0:e}, -1",
            "jne 3f",
            "add {done}, 128",
            "lea {next}, [{done} + 128]",
            "cmp {next}, {len}",
            "jbe 2b",
            "3:",
            "vmovdqu [{found}], ymm4",
            "vmovdqu [{found} + 32], ymm5",
            "vmovdqu [{found} + 64], ymm6",
            "vmovdqu [{found} + 96], ymm7",
            "vmovmskpd {m0:e}, ymm0",
            "vmovmskpd {m1:e}, ymm1",
            "vmovmskpd {m2:e}, ymm2",
            "vmovmskpd {m3:e}, ymm3",
            "vzeroupper",
            a = in(reg) a, b = in(reg) b, len = in(reg) len, found = in(reg) found.as_mut_ptr(),
            done = out(reg) done, next = out(reg) _,
            m0 = out(reg) m0, m1 = out(reg) m1, m2 = out(reg) m2, m3 = out(reg) m3,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _,
            out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _,
            out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _,
            out("xmm14") _, out("xmm15") _,
            options(nostack),
        );
    }
    (done, m0 | m1 << 4 | m2 << 8 | m3 << 12)
}

/// The same with vectors of a line.
///
/// # Safety
/// See the module; the processor has AVX-512.
unsafe fn avx512_steps(a: u64, b: u64, len: usize, found: &mut [u8; STEP]) -> (usize, u16) {
    debug_assert!(len >= STEP);
    let (mut done, mut m0, mut m1): (usize, u16, u16);
    // SAFETY: the loop reads whole steps inside `len`; `found` has room for one.
    unsafe {
        asm!(
            "xor {done:e}, {done:e}",
            ".p2align 5",
            "2:",
            "vmovdqu64 zmm16, [{b} + {done}]",
            "vmovdqu64 zmm17, [{b} + {done} + 64]",
            "vpxorq zmm18, zmm16, [{a} + {done}]",
            "vpxorq zmm19, zmm17, [{a} + {done} + 64]",
            "vporq zmm20, zmm18, zmm19",
            "vptestmq k1, zmm20, zmm20",
            "kortestw k1, k1",
            "jne 3f",
            "add {done}, 128",
            "lea {next}, [{done} + 128]",
            "cmp {next}, {len}",
            "jbe 2b",
            "3:",
            "vmovdqu64 [{found}], zmm16",
            "vmovdqu64 [{found} + 64], zmm17",
            "vptestmq k1, zmm18, zmm18",
            "kmovw {m0:e}, k1",
            "vptestmq k1, zmm19, zmm19",
            "kmovw {m1:e}, k1",
            a = in(reg) a, b = in(reg) b, len = in(reg) len, found = in(reg) found.as_mut_ptr(),
            done = out(reg) done, next = out(reg) _, m0 = out(reg) m0, m1 = out(reg) m1,
            out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _, out("zmm20") _, out("k1") _,
            options(nostack),
        );
    }
    (done, !(m0 | m1 << 8))
}

/// Compares up to a step on private copies; which words differ.
///
/// # Safety
/// See the module.
unsafe fn step(a: u64, b: u64, len: usize, found: &mut [u8; STEP]) -> u16 {
    debug_assert!(len <= STEP && len.is_multiple_of(WORD));
    let mut mine = [0_u8; STEP];
    // SAFETY: the caller's guarantee; the copies have room for a step.
    unsafe {
        copy::small(mine.as_mut_ptr().expose_provenance() as u64, a, len);
        copy::small(found.as_mut_ptr().expose_provenance() as u64, b, len);
    }
    let words = mine[..len]
        .as_chunks::<WORD>()
        .0
        .iter()
        .zip(found.as_chunks::<WORD>().0);
    words
        .enumerate()
        .fold(0, |mask, (i, (x, y))| mask | u16::from(x != y) << i)
}

/// The first step of `len` bytes, whole words, in which `a` and `b` differ; `None` when they do not. The bytes of `b` in
/// that step, as far as the ranges reach, go to `found`.
///
/// # Safety
/// See the module.
pub(super) unsafe fn first(
    simd: Simd,
    a: u64,
    b: u64,
    len: usize,
    found: &mut [u8; STEP],
) -> Option<Step> {
    let mut offset = 0;
    if simd != Simd::Sse2 && len >= STEP {
        // SAFETY: the caller's guarantee.
        let (done, equal) = unsafe {
            if simd == Simd::Avx512 {
                avx512_steps(a, b, len, found)
            } else {
                avx2_steps(a, b, len, found)
            }
        };
        if equal != u16::MAX {
            return Some(Step {
                offset: done,
                words: !equal,
            });
        }
        offset = done;
    }
    while offset < len {
        let part = STEP.min(len - offset);
        // SAFETY: a part of the ranges.
        let words = unsafe { step(a + offset as u64, b + offset as u64, part, found) };
        if words != 0 {
            return Some(Step { offset, words });
        }
        offset += part;
    }
    None
}
