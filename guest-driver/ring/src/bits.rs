//! One bit per slot of a queue: submitted and not yet consumed.
//!
//! Owns nothing but the bits. Indices are masked, so no index can reach outside.

/// `WORDS * 64` bits.
#[derive(Debug)]
pub(crate) struct Bits<const WORDS: usize> {
    words: [u64; WORDS],
}

impl<const WORDS: usize> Bits<WORDS> {
    /// Number of bits; a power of two, proven when the type is used.
    pub(crate) const COUNT: u32 = {
        assert!(
            WORDS.is_power_of_two(),
            "the number of words must be a power of two"
        );
        assert!(WORDS <= 512, "a queue has at most 32768 entries");
        (WORDS * 64) as u32
    };

    pub(crate) const fn new() -> Self {
        Self { words: [0; WORDS] }
    }

    #[inline]
    fn word(slot: u32) -> usize {
        (slot & (Self::COUNT - 1)) as usize / 64
    }

    #[inline]
    pub(crate) fn set(&mut self, slot: u32) {
        self.words[Self::word(slot)] |= 1 << (slot % 64);
    }

    #[inline]
    pub(crate) fn clear(&mut self, slot: u32) {
        self.words[Self::word(slot)] &= !(1 << (slot % 64));
    }

    #[inline]
    pub(crate) fn get(&self, slot: u32) -> bool {
        self.words[Self::word(slot)] & (1 << (slot % 64)) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::Bits;

    #[test]
    fn each_slot_has_a_bit_of_its_own() {
        let mut bits = Bits::<2>::new();
        for slot in 0..Bits::<2>::COUNT {
            assert!(!bits.get(slot));
            bits.set(slot);
            assert!(bits.get(slot));
            assert!(!bits.get(slot + 1) || slot + 1 == Bits::<2>::COUNT);
        }
        for slot in 0..Bits::<2>::COUNT {
            bits.clear(slot);
            assert!(!bits.get(slot));
        }
    }
}
