//! Canaries: what a process writes into a page that is its own now, so that a byte written by anyone who had the
//! page before is seen.
//!
//! The first word says which place the page has and how often it was written; the rest follows from it
//! ([`crate::pattern`]). So a canary can be checked by whoever sees the page, and one that was copied
//! from another place is wrong.

use crate::pattern;

/// Words of a page of 4096 bytes.
pub const WORDS: usize = 512;

/// First word of the canary of place `place`, written for the `generation`-th time.
#[must_use]
pub const fn seed(place: u32, generation: u32) -> u64 {
    (place as u64) << 32 | generation as u64
}

/// Writes a canary.
pub fn write(page: &mut [u64; WORDS], seed: u64) {
    page[0] = seed;
    for (index, word) in page.iter_mut().enumerate().skip(1) {
        *word = pattern::word(seed, index as u64);
    }
}

/// The canary's seed, or the index of the first word that is not of a canary of `place`.
///
/// # Errors
/// That index.
pub fn check(page: &[u64; WORDS], place: u32) -> Result<u64, usize> {
    let seed = page[0];
    if seed >> 32 != u64::from(place) {
        return Err(0);
    }
    match (1..WORDS).find(|index| page[*index] != pattern::word(seed, *index as u64)) {
        Some(index) => Err(index),
        None => Ok(seed),
    }
}

#[cfg(test)]
mod tests {
    use super::{WORDS, check, seed, write};

    #[test]
    fn every_changed_word_is_seen() {
        let mut page = [0; WORDS];
        write(&mut page, seed(7, 3));
        assert_eq!(check(&page, 7), Ok(seed(7, 3)));
        for index in 0..WORDS {
            page[index] ^= 1 << (index % 64);
            // A changed generation makes another canary of it: the next word tells.
            assert!(check(&page, 7).is_err(), "word {index}");
            page[index] ^= 1 << (index % 64);
        }
    }

    #[test]
    fn a_canary_belongs_to_its_place() {
        let mut page = [0; WORDS];
        assert_eq!(check(&page, 7), Err(0));
        write(&mut page, seed(8, 1));
        assert_eq!(check(&page, 7), Err(0));
    }
}
