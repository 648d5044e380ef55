//! [`Key`]: key material, as an object that capabilities name.
//!
//! The tree's entries own it, so that it is overwritten as soon as the last capability to
//! it was revoked or dropped, whoever keeps a tombstone. Capabilities themselves refer to
//! it weakly. Nothing shows its bytes: they go to the ciphers and nowhere else.

use std::sync::atomic::{AtomicU64, Ordering};

use byway_protocols::codec::{KEY_BYTES_MAX, KeyAlgorithm};
use zeroize::Zeroizing;

/// Numbers of keys that were loaded, none used twice.
static LOADED: AtomicU64 = AtomicU64::new(0);

/// A key.
pub struct Key {
    id: u64,
    algorithm: KeyAlgorithm,
    bytes: Zeroizing<[u8; KEY_BYTES_MAX]>,
}

impl Key {
    /// Takes a copy of the first [`KeyAlgorithm::key_bytes`] bytes. `None` when the rest is
    /// not 0, or when the two halves of a key of XTS are equal, which would leave it
    /// without a tweak.
    #[must_use]
    pub fn new(algorithm: KeyAlgorithm, bytes: &[u8; KEY_BYTES_MAX]) -> Option<Self> {
        let (used, unused) = bytes.split_at(algorithm.key_bytes());
        let (first, second) = used.split_at(used.len() / 2);
        let twice = algorithm == KeyAlgorithm::AesXts256 && first == second;
        (!twice && unused.iter().all(|&b| b == 0)).then(|| Self {
            id: LOADED.fetch_add(1, Ordering::Relaxed),
            algorithm,
            bytes: Zeroizing::new(*bytes),
        })
    }
    /// Tells it from every other key, so that a slot that was filled anew is noticed.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }
    /// What it is for.
    #[must_use]
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }
    /// Its bytes, for a cipher.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.key_bytes()]
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key")
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_keys_are_taken() {
        let mut bytes = [0; KEY_BYTES_MAX];
        bytes[..16].fill(7);
        assert!(Key::new(KeyAlgorithm::AesCbc128, &bytes).is_some());
        bytes[16] = 1;
        assert!(Key::new(KeyAlgorithm::AesCbc128, &bytes).is_none());
        let key = Key::new(KeyAlgorithm::AesGcm256, &bytes).unwrap();
        assert_eq!(key.bytes(), &bytes[..32]);
        assert!(Key::new(KeyAlgorithm::AesXts256, &[3; 64]).is_none());
    }

    #[test]
    fn its_bytes_are_not_shown() {
        let key = Key::new(KeyAlgorithm::AesXts256, &std::array::from_fn(|i| i as u8)).unwrap();
        assert_eq!(format!("{key:?}"), "Key { algorithm: AesXts256, .. }");
    }
}
