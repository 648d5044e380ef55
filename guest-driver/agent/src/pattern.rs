//! Test patterns: bytes that follow from a seed and a position alone, so that either side can
//! make or check any part of a buffer without the rest.
//!
//! Word `i` (8 bytes, little-endian) is SplitMix64's `i`-th output: no word repeats within
//! any buffer, so a byte that lands in the wrong place is seen.

/// The `index`-th word of the pattern of `seed`.
#[must_use]
pub const fn word(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Fills `bytes` with the pattern of `seed`, from its beginning.
pub fn fill(bytes: &mut [u8], seed: u64) {
    let (words, tail) = bytes.as_chunks_mut::<8>();
    for (index, slot) in words.iter_mut().enumerate() {
        *slot = word(seed, index as u64).to_le_bytes();
    }
    let last = word(seed, words.len() as u64).to_le_bytes();
    tail.copy_from_slice(&last[..tail.len()]);
}

/// Offset of the first byte in which `bytes` differs from the pattern of `seed`, or `None`.
#[must_use]
pub fn first_mismatch(bytes: &[u8], seed: u64) -> Option<usize> {
    let (words, tail) = bytes.as_chunks::<8>();
    let in_word = |base: usize, found: &[u8], index: u64| {
        let expected = word(seed, index).to_le_bytes();
        found
            .iter()
            .zip(expected)
            .position(|(a, b)| *a != b)
            .map(|at| base + at)
    };
    for (index, found) in words.iter().enumerate() {
        if u64::from_le_bytes(*found) != word(seed, index as u64) {
            return in_word(index * 8, found, index as u64);
        }
    }
    in_word(words.len() * 8, tail, words.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::{fill, first_mismatch, word};

    #[test]
    fn first_word_is_splitmix64() {
        // Reference output of SplitMix64 for state 0.
        assert_eq!(word(0, 0), 0xE220_A839_7B1D_CDAF);
        assert_eq!(word(0, 1), 0x6E78_9E6A_A1B9_65F4);
    }

    #[test]
    fn a_mismatch_is_found_at_its_byte() {
        for len in [0, 1, 7, 8, 9, 63, 200] {
            let mut bytes = [0; 200];
            let bytes = &mut bytes[..len];
            fill(bytes, 42);
            assert_eq!(first_mismatch(bytes, 42), None, "{len}");
            for at in 0..len {
                bytes[at] ^= 0x10;
                assert_eq!(first_mismatch(bytes, 42), Some(at));
                bytes[at] ^= 0x10;
            }
        }
    }
}
