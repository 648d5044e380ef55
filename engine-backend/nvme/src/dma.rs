//! [`Dma`]: how a controller reaches its host's memory.

use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress};

/// An address where the host has no memory for the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no memory at {0:#x}")]
pub struct BusError(pub u64);

/// Memory as a controller sees it. The host changes it at any time.
pub trait Dma {
    /// Copies bytes out.
    ///
    /// # Errors
    /// When they are not all there.
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), BusError>;

    /// Copies bytes in.
    ///
    /// # Errors
    /// When there is not room for all; some may have been written.
    fn write(&self, address: u64, from: &[u8]) -> Result<(), BusError>;

    /// Loads an aligned 32-bit number, before whatever is done next.
    ///
    /// # Errors
    /// When it is not there or not aligned.
    fn load(&self, address: u64) -> Result<u32, BusError>;

    /// Stores an aligned 32-bit number, after whatever was done before.
    ///
    /// # Errors
    /// When it is not there or not aligned.
    fn store(&self, address: u64, value: u32) -> Result<(), BusError>;

    /// Stores two aligned words, the second, which has the phase, after all else.
    ///
    /// # Errors
    /// When they are not there or not aligned.
    fn publish(&self, address: u64, words: [u64; 2]) -> Result<(), BusError>;
}

/// Guest memory of the `vm-memory` crate.
impl<M: Bytes<GuestAddress>> Dma for M {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), BusError> {
        let read = self.read_slice(into, GuestAddress(address));
        read.map_err(|_| BusError(address))
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), BusError> {
        let written = self.write_slice(from, GuestAddress(address));
        written.map_err(|_| BusError(address))
    }

    fn load(&self, address: u64) -> Result<u32, BusError> {
        let value = Bytes::load::<u32>(self, GuestAddress(address), Ordering::Acquire);
        value.map(u32::from_le).map_err(|_| BusError(address))
    }

    fn store(&self, address: u64, value: u32) -> Result<(), BusError> {
        let stored = Bytes::store(
            self,
            value.to_le(),
            GuestAddress(address),
            Ordering::Release,
        );
        stored.map_err(|_| BusError(address))
    }

    fn publish(&self, address: u64, words: [u64; 2]) -> Result<(), BusError> {
        let second = address.checked_add(8).ok_or(BusError(address))?;
        for (at, word, order) in [
            (address, words[0], Ordering::Relaxed),
            (second, words[1], Ordering::Release),
        ] {
            let stored = Bytes::store(self, word.to_le(), GuestAddress(at), order);
            stored.map_err(|_| BusError(at))?;
        }
        Ok(())
    }
}
