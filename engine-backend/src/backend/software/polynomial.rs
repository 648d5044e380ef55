//! Polynomials over two elements, of degree 63 at most, as checksums by folding need them. Bit n stands for x^n; a modulus is
//! x^64 + what is given of it.

use std::arch::x86_64::{
    __m128i, _mm_clmulepi64_si128, _mm_cvtsi64_si128, _mm_cvtsi128_si64, _mm_unpackhi_epi64,
};

/// The remainder of x^`exponent`.
#[must_use]
pub(crate) const fn power(exponent: u32, modulus: u64) -> u64 {
    let mut power = 1;
    let mut i = 0;
    while i < exponent {
        power = times_x(power, modulus);
        i += 1;
    }
    power
}

/// x^128 divided by the modulus, without its highest power.
#[must_use]
pub(crate) const fn quotient(modulus: u64) -> u64 {
    // After the first step of the division, which gives the highest power.
    let (mut rest, mut quotient, mut i) = (modulus, 0, 0);
    while i < 64 {
        quotient = quotient << 1 | rest >> 63;
        rest = times_x(rest, modulus);
        i += 1;
    }
    quotient
}

const fn times_x(power: u64, modulus: u64) -> u64 {
    (power << 1) ^ if power >> 63 != 0 { modulus } else { 0 }
}

/// The product of two, its lower half first.
#[target_feature(enable = "pclmulqdq")]
#[must_use]
pub(crate) fn product(a: u64, b: u64) -> [u64; 2] {
    let [a, b] = [a, b].map(|word| _mm_cvtsi64_si128(word.cast_signed()));
    halves(_mm_clmulepi64_si128::<0>(a, b))
}

/// 16 bytes as two numbers, the lower half first.
#[target_feature(enable = "sse2")]
#[must_use]
pub(crate) fn halves(bytes: __m128i) -> [u64; 2] {
    let high = _mm_unpackhi_epi64(bytes, bytes);
    [bytes, high].map(|half| _mm_cvtsi128_si64(half).cast_unsigned())
}
