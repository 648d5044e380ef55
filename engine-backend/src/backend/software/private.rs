//! [`Private`]: the way between guest memory and memory of the engine's own.
//!
//! What is to be looked at twice, or by code that takes slices, is taken into private
//! memory first, each byte by one load; results go out likewise. No Rust reference ever
//! points into guest memory.

use std::arch::asm;

use super::SMALL;
use super::copy;
use super::cpu::Simd;
use crate::backend::Order;
use crate::memory::HostAddr;

/// Copies between guest memory and slices, at once: unlike with a
/// [`Backend`](crate::backend::Backend), nothing is left to be finished.
#[derive(Debug, Clone, Copy)]
pub struct Private {
    simd: Simd,
}

impl Default for Private {
    fn default() -> Self {
        Self::new()
    }
}

impl Private {
    /// With the widest kernels that this processor has.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Simd::detect())
    }

    /// With kernels that the processor must have.
    pub(super) fn with(simd: Simd) -> Self {
        Self { simd }
    }

    /// Reads guest memory, each byte once.
    ///
    /// # Safety
    /// `into.len()` bytes from `from` on are mapped and readable, and hold no memory
    /// that Rust knows about.
    pub unsafe fn load(self, into: &mut [u8], from: HostAddr) {
        let to = into.as_mut_ptr().expose_provenance() as u64;
        // SAFETY: the caller's guarantee for the source; the destination is a slice.
        unsafe { self.copy(to, from.0, into.len()) };
    }

    /// Writes guest memory.
    ///
    /// # Safety
    /// As for [`Private::load`], and writable.
    pub unsafe fn store(self, to: HostAddr, from: &[u8]) {
        let src = from.as_ptr().expose_provenance() as u64;
        // SAFETY: the caller's guarantee for the destination; the source is a slice.
        unsafe { self.copy(to.0, src, from.len()) };
    }

    /// Reads guest memory, each byte once, and adds it to `into` by exclusive or.
    ///
    /// # Safety
    /// As for [`Private::load`].
    pub unsafe fn fold(self, into: &mut [u8], from: HostAddr) {
        let whole = match self.simd {
            Simd::Sse2 => into.len() & !15,
            Simd::Avx2 => into.len() & !31,
            Simd::Avx512 => into.len() & !63,
        };
        let to = into.as_mut_ptr().expose_provenance() as u64;
        let steps = into.len() & !127;
        if self.simd == Simd::Avx2 && steps != 0 {
            // SAFETY: whole steps of the slice and of the source; the processor has AVX2.
            unsafe {
                avx2_fold_by_steps(to, from.0, steps);
                return Self::with(Simd::Sse2)
                    .fold(&mut into[steps..], HostAddr(from.0 + steps as u64));
            }
        }
        // SAFETY: whole vectors of the slice and of the source, which the processor has.
        unsafe {
            match self.simd {
                _ if whole == 0 => {}
                Simd::Sse2 => sse2_fold(to, from.0, whole),
                Simd::Avx2 => avx2_fold(to, from.0, whole),
                Simd::Avx512 => avx512_fold(to, from.0, whole),
            }
        }
        let mut rest = [0; 64];
        let rest = &mut rest[..into.len() - whole];
        // SAFETY: the rest of the source.
        unsafe { self.load(rest, HostAddr(from.0 + whole as u64)) };
        for (into, from) in into[whole..].iter_mut().zip(rest) {
            *into ^= *from;
        }
    }

    /// # Safety
    /// Both ranges are mapped, and share no byte.
    unsafe fn copy(self, dst: u64, src: u64, len: usize) {
        // SAFETY: the caller's guarantee; the processor has `simd`.
        unsafe {
            if len <= SMALL {
                copy::small(dst, src, len);
            } else {
                copy::long(self.simd, dst, src, len, Order::Disjoint, false);
            }
        }
    }
}

/// Adds whole steps of 128 bytes, `len` being at least one.
///
/// # Safety
/// Both ranges are mapped, the first writable; the processor has AVX2.
unsafe fn avx2_fold_by_steps(into: u64, from: u64, len: usize) {
    debug_assert!(len >= 128 && len.is_multiple_of(128));
    // SAFETY: the loop accesses whole steps inside `len`.
    unsafe {
        asm!(
            "xor {at:e}, {at:e}",
            "2:",
            "vmovdqu ymm0, [{from} + {at}]",
            "vmovdqu ymm1, [{from} + {at} + 32]",
            "vmovdqu ymm2, [{from} + {at} + 64]",
            "vmovdqu ymm3, [{from} + {at} + 96]",
            "vpxor ymm0, ymm0, [{into} + {at}]",
            "vpxor ymm1, ymm1, [{into} + {at} + 32]",
            "vpxor ymm2, ymm2, [{into} + {at} + 64]",
            "vpxor ymm3, ymm3, [{into} + {at} + 96]",
            "vmovdqu [{into} + {at}], ymm0",
            "vmovdqu [{into} + {at} + 32], ymm1",
            "vmovdqu [{into} + {at} + 64], ymm2",
            "vmovdqu [{into} + {at} + 96], ymm3",
            "add {at}, 128",
            "cmp {at}, {len}",
            "jb 2b",
            "vzeroupper",
            into = in(reg) into, from = in(reg) from, len = in(reg) len,
            at = out(reg) _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            options(nostack),
        );
    }
}

macro_rules! fold_loop {
    ($name:ident, $bytes:literal, $step:expr, $end:literal) => {
        /// Adds whole vectors, `len` being at least one.
        ///
        /// # Safety
        /// Both ranges are mapped, the first writable; the processor has the vectors.
        unsafe fn $name(into: u64, from: u64, len: usize) {
            debug_assert!(len >= $bytes && len.is_multiple_of($bytes));
            // SAFETY: the loop accesses whole vectors inside `len`.
            unsafe {
                asm!(
                    "xor {at:e}, {at:e}",
                    "2:",
                    $step,
                    concat!("add {at}, ", $bytes),
                    "cmp {at}, {len}",
                    "jb 2b",
                    $end,
                    into = in(reg) into, from = in(reg) from, len = in(reg) len,
                    at = out(reg) _,
                    out("xmm0") _, out("xmm1") _,
                    options(nostack),
                );
            }
        }
    };
}

fold_loop!(
    sse2_fold,
    16,
    concat!(
        "movups xmm0, [{from} + {at}]\n",
        "movups xmm1, [{into} + {at}]\n",
        "xorps xmm0, xmm1\n",
        "movups [{into} + {at}], xmm0\n",
    ),
    ""
);
fold_loop!(
    avx2_fold,
    32,
    concat!(
        "vmovdqu ymm0, [{from} + {at}]\n",
        "vpxor ymm0, ymm0, [{into} + {at}]\n",
        "vmovdqu [{into} + {at}], ymm0\n",
    ),
    "vzeroupper"
);
fold_loop!(
    avx512_fold,
    64,
    concat!(
        "vmovdqu64 zmm0, [{from} + {at}]\n",
        "vpxorq zmm0, zmm0, [{into} + {at}]\n",
        "vmovdqu64 [{into} + {at}], zmm0\n",
    ),
    "vzeroupper"
);
