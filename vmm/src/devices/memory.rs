//! Guest RAM as this process' own devices see it: a snapshot for each request, so that memory may be added and
//! removed meanwhile, and a log of the pages that they write.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::atomic::GuestMemoryLoadGuard;
use vm_memory::{
    GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryError, GuestMemoryMmap,
    GuestRegionMmap,
};

use crate::layout::PAGE_SIZE;

/// A snapshot: what it maps stays mapped as long as it is held.
pub type Snapshot = GuestMemoryLoadGuard<GuestMemoryMmap>;

/// Guest RAM, shared by the devices of one VM.
#[derive(Debug, Clone)]
pub struct DeviceMemory {
    regions: GuestMemoryAtomic<GuestMemoryMmap>,
    log: Arc<WriteLog>,
}

/// Which pages devices wrote, while somebody wants to know.
#[derive(Debug, Default)]
struct WriteLog {
    is_on: AtomicBool,
    pages: Mutex<BTreeSet<u64>>,
}

impl DeviceMemory {
    /// The RAM that a VM starts with.
    #[must_use]
    pub fn new(memory: GuestMemoryMmap) -> Self {
        Self {
            regions: GuestMemoryAtomic::new(memory),
            log: Arc::default(),
        }
    }

    /// The RAM as it is now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.regions.memory()
    }

    /// Adds a region for requests that start from now on.
    ///
    /// # Errors
    /// When it overlaps another.
    pub fn add(&self, region: Arc<GuestRegionMmap>) -> Result<(), GuestMemoryError> {
        let changed = self.snapshot().insert_region(region);
        self.replace(changed.map_err(|_| GuestMemoryError::HostAddressNotAvailable)?);
        Ok(())
    }

    /// Takes a region away from requests that start from now on; those under way may still write to it.
    pub fn remove(&self, start: u64, size: u64) {
        if let Ok((changed, _)) = self.snapshot().remove_region(GuestAddress(start), size) {
            self.replace(changed);
        }
    }

    fn replace(&self, regions: GuestMemoryMmap) {
        // Poisoned or not, what is inside is a whole map.
        let lock = self.regions.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
            .replace(regions);
    }

    /// Notes that a device has written `len` bytes at `addr`, before it tells the guest so.
    pub fn wrote(&self, addr: u64, len: u64) {
        if len == 0 || !self.log.is_on.load(Ordering::Acquire) {
            return;
        }
        let last = addr.saturating_add(len - 1) / PAGE_SIZE;
        self.log.pages().extend(addr / PAGE_SIZE..=last);
    }

    /// Turns the log on, with no page in it, or off.
    pub fn set_log(&self, on: bool) {
        self.log.pages().clear();
        self.log.is_on.store(on, Ordering::Release);
    }

    /// Numbers of the pages written since the last call, ascending.
    #[must_use]
    pub fn take_log(&self) -> BTreeSet<u64> {
        std::mem::take(&mut *self.log.pages())
    }
}

impl WriteLog {
    fn pages(&self) -> std::sync::MutexGuard<'_, BTreeSet<u64>> {
        // A set is a set, whoever panicked.
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestMemoryBackend};

    #[test]
    fn writes_are_logged_by_page_while_that_is_on() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let memory = DeviceMemory::new(memory);
        memory.wrote(0, 10);
        memory.set_log(true);
        memory.wrote(0x1fff, 2);
        memory.wrote(0x5000, 0);
        memory.wrote(0x6000, 0x1000);
        assert_eq!(memory.take_log().into_iter().collect::<Vec<_>>(), [1, 2, 6]);
        assert!(memory.take_log().is_empty());
        memory.wrote(u64::MAX, 5);
        memory.set_log(false);
        assert!(memory.take_log().is_empty());
    }

    #[test]
    fn a_region_comes_and_goes_and_a_snapshot_stays() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let memory = DeviceMemory::new(memory);
        let more = GuestRegionMmap::from_range(GuestAddress(1 << 32), 4096, None).unwrap();
        memory.add(Arc::new(more)).unwrap();
        let held = memory.snapshot();
        memory.remove(1 << 32, 4096);
        held.write_obj(7u8, GuestAddress(1 << 32)).unwrap();
        let now = memory.snapshot();
        assert!(now.write_obj(7u8, GuestAddress(1 << 32)).is_err());
        assert_eq!(now.num_regions(), 1);
    }
}
