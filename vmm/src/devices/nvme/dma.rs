//! [`Ram`]: guest RAM for a controller: what is there now, and a note of each page that it writes.

use byway_nvme::dma::{BusError, Dma};
use vm_memory::GuestMemoryMmap;

use crate::devices::memory::{DeviceMemory, Snapshot};

/// Guest RAM as it was when this was made.
#[derive(Debug)]
pub(super) struct Ram<'a> {
    memory: &'a DeviceMemory,
    now: Snapshot,
}

impl<'a> Ram<'a> {
    pub(super) fn new(memory: &'a DeviceMemory) -> Self {
        Self {
            memory,
            now: memory.snapshot(),
        }
    }

    fn now(&self) -> &GuestMemoryMmap {
        &self.now
    }
}

impl Dma for Ram<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), BusError> {
        self.now().read(address, into)
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), BusError> {
        let written = self.now().write(address, from);
        // Part of it may have been, if it failed.
        self.memory.wrote(address, from.len() as u64);
        written
    }

    fn load(&self, address: u64) -> Result<u32, BusError> {
        Dma::load(self.now(), address)
    }

    fn store(&self, address: u64, value: u32) -> Result<(), BusError> {
        let stored = Dma::store(self.now(), address, value);
        self.memory.wrote(address, 4);
        stored
    }

    fn publish(&self, address: u64, words: [u64; 2]) -> Result<(), BusError> {
        let published = self.now().publish(address, words);
        self.memory.wrote(address, 16);
        published
    }
}
