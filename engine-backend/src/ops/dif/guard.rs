//! The guard of a block's data: CRC-16/T10-DIF, folded 256 bytes at a time where the processor can.
//!
//! Blocks are short, and there are many of them: to begin and to end a checksum with the library takes as long as what is in
//! between. Here a block of 512 bytes is two steps. The polynomial is taken times x^48, and so are its remainders, which lie in the
//! upper bits of 64 for that; bits come as T10 wants them, the most significant first.

use std::arch::x86_64::*;

use byway_protocols::operands::dif_flags;
use crc_fast::{CrcAlgorithm, Digest};

use crate::backend::polynomial::{self, product};

/// Bytes of a step.
const STEP: usize = 256;

/// Vectors of 16 bytes in a step.
const LANES: usize = STEP / 16;

/// x^16 + this is the polynomial.
const POLYNOMIAL: u64 = 0x8bb7 << 48;

/// The guard in the form that `flags` (`dif_flags`) ask for.
pub(super) fn guard(data: &[u8], flags: u8) -> u16 {
    let seed = match flags & dif_flags::INVERT_CRC_SEED {
        0 => 0,
        _ => 0xffff,
    };
    let crc = checksum(data, seed);
    if flags & dif_flags::INVERT_CRC_RESULT != 0 {
        !crc
    } else {
        crc
    }
}

fn checksum(data: &[u8], seed: u16) -> u16 {
    let (steps, []) = data.as_chunks() else {
        return by_library(data, seed);
    };
    let [first, rest @ ..] = steps else {
        return by_library(data, seed);
    };
    if !can_fold() {
        return by_library(data, seed);
    }
    // SAFETY: the processor can.
    unsafe { fold(first, rest, seed) }
}

fn can_fold() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("vpclmulqdq")
        && is_x86_feature_detected!("pclmulqdq")
}

fn by_library(data: &[u8], seed: u16) -> u16 {
    if seed == 0 {
        // Without the library's state of a checksum under way: that is as large as half a block.
        return crc_fast::checksum(CrcAlgorithm::Crc16T10Dif, data) as u16;
    }
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc16T10Dif, seed.into());
    digest.update(data);
    digest.finalize() as u16
}

/// What 16 bytes are multiplied by to get `bits` bits further on: the lower half first.
const fn halves(bits: u32) -> [u64; 2] {
    [power(bits), power(bits + 64)]
}

/// To get a step further on.
const NEXT: [u64; 2] = halves(8 * STEP as u32);

/// To get each lane to where the last one is.
const TO_LAST: [[u64; 2]; LANES] = {
    let mut lanes = [[0; 2]; LANES];
    let mut lane = 0;
    while lane < LANES {
        lanes[lane] = halves(128 * (LANES - 1 - lane) as u32);
        lane += 1;
    }
    lanes
};

const fn power(exponent: u32) -> u64 {
    polynomial::power(exponent, POLYNOMIAL)
}

const QUOTIENT: u64 = polynomial::quotient(POLYNOMIAL);

/// The checksum of `first` and the steps that follow, after one that has come to `seed`.
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq,pclmulqdq")]
fn fold(first: &[u8; STEP], rest: &[[u8; STEP]], seed: u16) -> u16 {
    let next = broadcast(NEXT);
    let mut sums = load(first);
    // What came before is added to the first two bytes, which are the highest of the first lane's upper half.
    let seed = _mm512_set_epi64(0, 0, 0, 0, 0, 0, i64::from(seed) << 48, 0);
    sums[0] = _mm512_xor_si512(sums[0], seed);
    for step in rest {
        let added = load(step);
        for (sum, added) in sums.iter_mut().zip(added) {
            *sum = _mm512_xor_si512(times(*sum, next), added);
        }
    }
    let mut last = _mm512_setzero_si512();
    for (sum, powers) in sums.into_iter().zip(TO_LAST.as_chunks::<4>().0) {
        let [a, b, c, d] = powers.map(|[low, high]| [low.cast_signed(), high.cast_signed()]);
        let powers = _mm512_set_epi64(d[1], d[0], c[1], c[0], b[1], b[0], a[1], a[0]);
        last = _mm512_xor_si512(last, times(sum, powers));
    }
    let half = _mm256_xor_si256(
        _mm512_castsi512_si256(last),
        _mm512_extracti64x4_epi64::<1>(last),
    );
    let lane = _mm_xor_si128(
        _mm256_castsi256_si128(half),
        _mm256_extracti128_si256::<1>(half),
    );
    register(lane)
}

/// A step, the most significant byte of each lane first.
#[target_feature(enable = "avx512f,avx512bw")]
fn load(step: &[u8; STEP]) -> [__m512i; 4] {
    let reverse = _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let reverse = _mm512_broadcast_i32x4(reverse);
    let (vectors, _) = step.as_chunks::<64>();
    std::array::from_fn(|i| {
        // SAFETY: 64 bytes of `step`, at any address.
        let bytes = unsafe { _mm512_loadu_si512(vectors[i].as_ptr().cast()) };
        _mm512_shuffle_epi8(bytes, reverse)
    })
}

/// Both halves of each lane times those of `powers`, added.
#[target_feature(enable = "avx512f,vpclmulqdq")]
fn times(lanes: __m512i, powers: __m512i) -> __m512i {
    _mm512_xor_si512(
        _mm512_clmulepi64_epi128::<0x00>(lanes, powers),
        _mm512_clmulepi64_epi128::<0x11>(lanes, powers),
    )
}

#[target_feature(enable = "avx512f")]
fn broadcast([low, high]: [u64; 2]) -> __m512i {
    _mm512_broadcast_i32x4(_mm_set_epi64x(high.cast_signed(), low.cast_signed()))
}

/// The remainder of 16 bytes, two of 0 behind them.
#[target_feature(enable = "pclmulqdq")]
fn register(lane: __m128i) -> u16 {
    let [low, high] = polynomial::halves(lane);
    // Times x^64, of which x^16 is for the zeroes and the rest goes with the polynomial's: the upper half by way of its power.
    let [rest, carry] = product(high, const { power(128) });
    let high = carry ^ low;
    // The remainder of that by Barrett's way.
    let quotient = product(high, QUOTIENT)[1] ^ high;
    ((rest ^ product(quotient, POLYNOMIAL)[0]) >> 48) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The check value of CRC-16/T10-DIF, and the CRC test cases of SBC-3, section 4.22.4.
    #[test]
    fn the_guard_is_that_of_the_standard() {
        assert_eq!(guard(b"123456789", 0), 0xd0db);
        let ascending: [u8; 32] = std::array::from_fn(|i| i as u8);
        let descending: [u8; 32] = std::array::from_fn(|i| 0xff - i as u8);
        let mut two_ones = [0; 32];
        two_ones[..2].fill(0xff);
        for (data, value) in [
            ([0; 32], 0),
            ([0xff; 32], 0xa293),
            (ascending, 0x0224),
            (two_ones, 0x21b8),
            (descending, 0xa0b7),
        ] {
            assert_eq!(guard(&data, 0), value, "{data:02x?}");
        }
        assert_eq!(guard(&[0; 512], 0), 0);
        let data: Vec<u8> = (0..=255).cycle().take(520).collect();
        for len in [1, 7, 256, 512, 520] {
            let data = &data[..len];
            assert_eq!(guard(data, 0), bitwise(data, 0), "{len}");
            assert_eq!(
                guard(data, dif_flags::INVERT_CRC_SEED),
                bitwise(data, 0xffff)
            );
            assert_eq!(guard(data, dif_flags::INVERT_CRC_RESULT), !bitwise(data, 0));
        }
    }

    fn bitwise(data: &[u8], seed: u16) -> u16 {
        data.iter().fold(seed, |crc, &byte| {
            (0..8).fold(crc ^ u16::from(byte) << 8, |c, _| {
                (c << 1) ^ (0x8bb7 & (c >> 15).wrapping_neg())
            })
        })
    }

    proptest! {
        #[test]
        fn blocks_of_all_sizes_and_seeds_have_the_guard_of_the_definition(
            data in proptest::collection::vec(any::<u8>(), 0..4200),
            steps in 0..17_usize,
            seed: u16,
        ) {
            prop_assert_eq!(checksum(&data, seed), bitwise(&data, seed));
            let whole = &data[..data.len().min(STEP * steps) & !(STEP - 1)];
            prop_assert_eq!(checksum(whole, seed), bitwise(whole, seed));
            prop_assert_eq!(by_library(whole, seed), bitwise(whole, seed));
        }
    }
}
