//! Exclusive or of several ranges in one go: each byte of a source is loaded once, each of the sum stored once.
//!
//! Safety of every function here: the ranges are mapped, the sources readable and the sum writable, and hold no
//! memory that Rust knows about, but for private memory that the caller has borrowed. The sum lies where one of the
//! sources does, or shares no byte with any. The processor has the vectors named.

use std::arch::asm;

use super::copy;
use super::cpu::Simd;

/// Most sources of one call.
pub const SUMMANDS_MAX: usize = 4;

/// Bytes of a step.
const STEP: usize = 64;

/// A step of four vectors of 16 bytes, of which `$add` adds one more source.
macro_rules! sse2_loads {
    () => {
        "movups xmm0, [{a} + {at}]
         movups xmm1, [{a} + {at} + 16]
         movups xmm2, [{a} + {at} + 32]
         movups xmm3, [{a} + {at} + 48]
        "
    };
    ($source:literal) => {
        concat!(
            "movups xmm4, [{",
            $source,
            "} + {at}]\n",
            "movups xmm5, [{",
            $source,
            "} + {at} + 16]\n",
            "xorps xmm0, xmm4\n",
            "xorps xmm1, xmm5\n",
            "movups xmm4, [{",
            $source,
            "} + {at} + 32]\n",
            "movups xmm5, [{",
            $source,
            "} + {at} + 48]\n",
            "xorps xmm2, xmm4\n",
            "xorps xmm3, xmm5\n",
        )
    };
    (store) => {
        "movups [{to} + {at}], xmm0
         movups [{to} + {at} + 16], xmm1
         movups [{to} + {at} + 32], xmm2
         movups [{to} + {at} + 48], xmm3
        "
    };
}

/// The same with two vectors of 32 bytes. Nothing is gained by whole lines, nor by asking for lines ahead: where the sources are
/// in the third cache the latter takes a fifth longer, and where they are in the second as long.
macro_rules! avx2_loads {
    () => {
        "vmovdqu ymm0, [{a} + {at}]
         vmovdqu ymm1, [{a} + {at} + 32]
        "
    };
    ($source:literal) => {
        concat!(
            "vpxor ymm0, ymm0, [{",
            $source,
            "} + {at}]\n",
            "vpxor ymm1, ymm1, [{",
            $source,
            "} + {at} + 32]\n",
        )
    };
    (store) => {
        "vmovdqu [{to} + {at}], ymm0
         vmovdqu [{to} + {at} + 32], ymm1
        "
    };
}

macro_rules! sum_loop {
    ($name:ident, $loads:ident, [$($source:ident $letter:literal),*], $end:literal) => {
        /// Adds whole steps, `len` being at least one.
        ///
        /// # Safety
        /// See the module.
        unsafe fn $name(to: u64, a: u64, $($source: u64,)* len: usize) {
            debug_assert!(len >= STEP && len.is_multiple_of(STEP));
            // SAFETY: the loop accesses whole steps inside `len`; all of a step is loaded before any of it is stored.
            unsafe {
                asm!(
                    "xor {at:e}, {at:e}",
                    "2:",
                    $loads!(),
                    $($loads!($letter),)*
                    $loads!(store),
                    "add {at}, 64",
                    "cmp {at}, {len}",
                    "jb 2b",
                    $end,
                    to = in(reg) to, a = in(reg) a, $($source = in(reg) $source,)*
                    len = in(reg) len, at = out(reg) _,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                    out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _,
                    out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _,
                    out("xmm14") _, out("xmm15") _,
                    options(nostack),
                );
            }
        }
    };
}

sum_loop!(sse2_two, sse2_loads, [b "b"], "");
sum_loop!(sse2_three, sse2_loads, [b "b", c "c"], "");
sum_loop!(sse2_four, sse2_loads, [b "b", c "c", d "d"], "");
sum_loop!(avx2_two, avx2_loads, [b "b"], "vzeroupper");
sum_loop!(avx2_three, avx2_loads, [b "b", c "c"], "vzeroupper");
sum_loop!(avx2_four, avx2_loads, [b "b", c "c", d "d"], "vzeroupper");

/// Writes the sum of 2 to [`SUMMANDS_MAX`] ranges of `len` bytes to `to`.
///
/// # Panics
/// With another number of ranges.
///
/// # Safety
/// See the module.
pub(super) unsafe fn sum(simd: Simd, to: u64, from: &[u64], len: usize) {
    let whole = len & !(STEP - 1);
    // SAFETY: the caller's guarantee, over whole steps of the ranges.
    unsafe {
        match (from, simd) {
            (&[_, _] | &[_, _, _] | &[_, _, _, _], _) if whole == 0 => {}
            (&[a, b], Simd::Sse2) => sse2_two(to, a, b, whole),
            (&[a, b, c], Simd::Sse2) => sse2_three(to, a, b, c, whole),
            (&[a, b, c, d], Simd::Sse2) => sse2_four(to, a, b, c, d, whole),
            (&[a, b], _) => avx2_two(to, a, b, whole),
            (&[a, b, c], _) => avx2_three(to, a, b, c, whole),
            (&[a, b, c, d], _) => avx2_four(to, a, b, c, d, whole),
            _ => unreachable!("{} summands", from.len()),
        }
    }
    let (at, rest) = (whole as u64, len - whole);
    if rest != 0 {
        let mut total = [0_u8; STEP];
        for source in from {
            let mut bytes = [0_u8; STEP];
            // SAFETY: less than a step, the rest of a source.
            unsafe {
                copy::small(
                    bytes.as_mut_ptr().expose_provenance() as u64,
                    source + at,
                    rest,
                )
            };
            total
                .iter_mut()
                .zip(bytes)
                .for_each(|(total, byte)| *total ^= byte);
        }
        // SAFETY: the rest of the sum's range.
        unsafe { copy::small(to + at, total.as_ptr().expose_provenance() as u64, rest) };
    }
}
