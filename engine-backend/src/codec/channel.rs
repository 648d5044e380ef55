//! Keys of sealed messages: XAES-256-GCM (C2SP), which is AES-256-GCM under a key that is
//! derived from a longer nonce.
//!
//! A nonce has 24 bytes: 12 that are drawn at random when a channel key is loaded, and a
//! message's number. So whoever loads the same key again, on this host or another one, never
//! meets a nonce that was used before, without keeping anything.

use aws_lc_sys as lc;
use byway_protocols::codec::SealHeader;
use zeroize::{Zeroize, Zeroizing};

use super::CipherError;
use super::cipher::BLOCK_BYTES;

/// Bytes of a channel key, and of the keys derived from it.
const KEY_BYTES: usize = 32;

/// A derived key, overwritten when it is dropped.
pub type Derived = Zeroizing<[u8; KEY_BYTES]>;

/// An expanded key, overwritten when it is dropped.
struct Schedule(lc::AES_KEY);

impl Schedule {
    fn new(key: &[u8]) -> Result<Self, CipherError> {
        if key.len() != KEY_BYTES {
            return Err(CipherError);
        }
        let mut schedule = Self(lc::AES_KEY {
            rd_key: [0; 60],
            rounds: 0,
        });
        let bits = 8 * KEY_BYTES as u32;
        // SAFETY: the key has as many bits as said; the schedule is written.
        let result = unsafe { lc::AES_set_encrypt_key(key.as_ptr(), bits, &mut schedule.0) };
        if result == 0 {
            Ok(schedule)
        } else {
            Err(CipherError)
        }
    }

    fn encrypt(&self, block: &[u8; BLOCK_BYTES]) -> [u8; BLOCK_BYTES] {
        let mut out = [0; BLOCK_BYTES];
        // SAFETY: both are blocks, and the schedule was made by `new`.
        unsafe { lc::AES_encrypt(block.as_ptr(), out.as_mut_ptr(), &self.0) };
        out
    }
}

impl Drop for Schedule {
    fn drop(&mut self) {
        self.0.rd_key.zeroize();
    }
}

/// The key of messages whose nonces begin with these 12 bytes: CMAC under the channel key in
/// counter mode (SP 800-108), as XAES-256-GCM says.
///
/// # Errors
/// A key of another length.
pub fn derive(key: &[u8], object: &[u8; 12]) -> Result<Derived, CipherError> {
    let schedule = Schedule::new(key)?;
    // CMAC's first subkey: twice the encrypted zero block, in GF(2^128).
    let zero = u128::from_be_bytes(schedule.encrypt(&[0; BLOCK_BYTES]));
    let reduced = if zero >> 127 == 1 { 0x87 } else { 0 };
    let subkey = Zeroizing::new(((zero << 1) ^ reduced).to_be_bytes());
    let mut derived = Derived::default();
    for (counter, half) in (1..).zip(derived.chunks_exact_mut(BLOCK_BYTES)) {
        let mut block = [0, counter, b'X', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        block[4..].copy_from_slice(object);
        for (byte, mask) in block.iter_mut().zip(subkey.iter()) {
            *byte ^= mask;
        }
        let mut made = schedule.encrypt(&block);
        half.copy_from_slice(&made);
        made.zeroize();
    }
    Ok(derived)
}

/// The nonce under the derived key, with room to a block.
#[must_use]
pub fn iv(header: &SealHeader) -> [u8; BLOCK_BYTES] {
    let mut iv = [0; BLOCK_BYTES];
    iv[..12].copy_from_slice(&header.to_bytes()[12..]);
    iv
}

#[cfg(test)]
mod tests {
    use byway_protocols::codec::KeyAlgorithm;

    use super::*;
    use crate::codec::{Cipher, Direction};

    fn sealed(key: u8, aad: &[u8]) -> Vec<u8> {
        let header = SealHeader::from_bytes(b"ABCDEFGHIJKLMNOPQRSTUVWX");
        let derived = derive(&[key; 32], &header.object).unwrap();
        let mut cipher = Cipher::new(KeyAlgorithm::Channel256).unwrap();
        let start = cipher.start(derived.as_slice(), &iv(&header), Direction::Encrypt);
        start.unwrap();
        cipher.authenticate(aad).unwrap();
        let mut data = b"XAES-256-GCM".to_vec();
        cipher.apply(&mut data).unwrap();
        data.extend(cipher.seal().unwrap());
        data
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The vectors of the C2SP specification: the two have the two forms of the subkey.
    #[test]
    fn keys_are_derived_as_the_specification_says() {
        assert_eq!(
            hex(&sealed(1, b"")),
            "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"
        );
        assert_eq!(
            hex(&sealed(3, b"c2sp.org/XAES-256-GCM")),
            "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"
        );
        assert!(derive(&[0; 16], &[0; 12]).is_err());
    }
}
