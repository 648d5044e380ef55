//! CRC-32C over private memory: the library, with values as RFC 3720 writes them.

use crc_fast::{CrcAlgorithm, Digest};

/// A CRC-32C under way. Cheap to make; holds no memory of its own.
pub(super) struct Crc32c(Digest);

impl Crc32c {
    /// Goes on after bytes of which `crc` is the checksum; 0 before the first.
    pub(super) fn after(crc: u32) -> Self {
        // The library's state is the register, which is inverted at both ends.
        let state = u64::from(!crc);
        Self(Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, state))
    }

    /// Takes in more bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all so far.
    pub(super) fn value(&self) -> u32 {
        self.0.finalize() as u32
    }
}
