//! [`Key`]: key material, as an object that capabilities name.
//!
//! The tree's entries own it, so that it is overwritten as soon as the last capability to
//! it was revoked or dropped, whoever keeps a tombstone. Capabilities themselves refer to
//! it weakly. Nothing shows its bytes: they go to the ciphers and nowhere else.

use std::sync::atomic::{AtomicU64, Ordering};

use byway_protocols::codec::{KEY_BYTES_MAX, KeyAlgorithm, SEAL_MESSAGES_MAX, SealHeader};
use zeroize::Zeroizing;

/// Numbers of keys that were loaded, none used twice.
static LOADED: AtomicU64 = AtomicU64::new(0);

/// A key.
pub struct Key {
    id: u64,
    algorithm: KeyAlgorithm,
    bytes: Zeroizing<[u8; KEY_BYTES_MAX]>,
    nonces: Nonces,
}

/// Nonces of a channel key: all of its holders draw from the same ones.
struct Nonces {
    /// Tells this object from others that the same bytes were loaded into, here and on
    /// other hosts.
    object: [u8; 12],
    /// Messages sealed so far.
    used: AtomicU64,
}

impl Key {
    /// Takes a copy of the first [`KeyAlgorithm::key_bytes`] bytes. `None` when the rest is
    /// not 0, when the two halves of a key of XTS are equal, which would leave it
    /// without a tweak, or when the host has no randomness for a channel key.
    #[must_use]
    pub fn new(algorithm: KeyAlgorithm, bytes: &[u8; KEY_BYTES_MAX]) -> Option<Self> {
        let (used, unused) = bytes.split_at(algorithm.key_bytes());
        let (first, second) = used.split_at(used.len() / 2);
        let twice = algorithm == KeyAlgorithm::AesXts256 && first == second;
        if twice || unused.iter().any(|&b| b != 0) {
            return None;
        }
        let mut object = [0; 12];
        if algorithm == KeyAlgorithm::Channel256 {
            fill_random(&mut object)?;
        }
        Some(Self {
            id: LOADED.fetch_add(1, Ordering::Relaxed),
            algorithm,
            bytes: Zeroizing::new(*bytes),
            nonces: Nonces {
                object,
                used: AtomicU64::new(0),
            },
        })
    }

    /// A nonce that nobody was given before, whoever else seals under this key at the same
    /// time. `None` once there are no more, and for keys other than a channel's.
    #[must_use]
    pub fn next_nonce(&self) -> Option<SealHeader> {
        if self.algorithm != KeyAlgorithm::Channel256 {
            return None;
        }
        let next = |used: u64| (used < SEAL_MESSAGES_MAX).then_some(used + 1);
        let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
        let used = self.nonces.used.fetch_update(success, failure, next).ok()?;
        Some(SealHeader {
            object: self.nonces.object,
            reserved12: 0,
            number: used + 1,
        })
    }

    /// Lets the next nonce be that of this message, for tests of the last ones.
    #[cfg(test)]
    pub(crate) fn with_messages(self, used: u64) -> Self {
        self.nonces.used.store(used, Ordering::Relaxed);
        self
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

/// Fills with bytes of the host's random number generator. `None` when it has none.
fn fill_random(bytes: &mut [u8]) -> Option<()> {
    // SAFETY: the pointer and the length are those of one slice.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    // Up to 256 bytes are never interrupted once the generator was seeded, which is while
    // the host boots.
    (got == bytes.len() as isize).then_some(())
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

    fn channel() -> Key {
        let mut bytes = [0; KEY_BYTES_MAX];
        bytes[..32].fill(9);
        Key::new(KeyAlgorithm::Channel256, &bytes).unwrap()
    }

    #[test]
    fn no_nonce_comes_twice_whoever_asks() {
        let (one, other) = (channel(), channel());
        // The same bytes, loaded twice.
        assert_ne!(one.nonces.object, other.nonces.object);
        let take = || {
            let numbers = (0..1000).map(|_| one.next_nonce().unwrap().number);
            numbers.collect::<Vec<_>>()
        };
        let mut numbers = std::thread::scope(|scope| {
            let threads = [scope.spawn(take), scope.spawn(take)];
            threads.map(|thread| thread.join().unwrap()).concat()
        });
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(1..=2000));
    }

    #[test]
    fn nonces_end_and_do_not_begin_again() {
        let key = channel().with_messages(SEAL_MESSAGES_MAX - 1);
        assert_eq!(key.next_nonce().unwrap().number, SEAL_MESSAGES_MAX);
        for _ in 0..3 {
            assert_eq!(key.next_nonce(), None);
        }
        let other = Key::new(KeyAlgorithm::AesCbc128, &[0; KEY_BYTES_MAX]).unwrap();
        assert_eq!(other.next_nonce(), None);
    }

    #[test]
    fn its_bytes_are_not_shown() {
        let key = Key::new(KeyAlgorithm::AesXts256, &std::array::from_fn(|i| i as u8)).unwrap();
        assert_eq!(format!("{key:?}"), "Key { algorithm: AesXts256, .. }");
    }
}
