//! Finds the device behind a port or a guest-physical address.
//!
//! A bus is filled while the VM is built and read-only afterwards, so lookups take no
//! lock; each device has its own. Accesses to nothing read as all ones and are
//! otherwise ignored, as on a PC.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A device behind a range of addresses.
///
/// Offsets are relative to the range and `offset + data.len()` never exceeds it.
/// Both calls come from vCPU threads; data is little-endian.
pub trait BusDevice: Send {
    /// The guest reads `data.len()` bytes at `offset`. Fill all of `data`.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// The guest writes `data` at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// Two devices want the same address, or a range wraps or is empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bus range {base:#x}+{len:#x} is empty, wraps, or overlaps another")]
pub struct BusError {
    /// First address.
    pub base: u64,
    /// Number of addresses.
    pub len: u64,
}

struct Slot {
    base: u64,
    len: u64,
    device: Arc<Mutex<dyn BusDevice>>,
}

/// A port bus or a memory bus.
#[derive(Default)]
pub struct Bus {
    /// Sorted by base; ranges are disjoint.
    slots: Vec<Slot>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(
                self.slots
                    .iter()
                    .map(|slot| slot.base..slot.base + slot.len),
            )
            .finish()
    }
}

impl Bus {
    /// An empty bus.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a device at `len` addresses from `base`.
    ///
    /// # Errors
    /// When the range is empty, wraps, or overlaps another.
    pub fn insert(
        &mut self,
        base: u64,
        len: u64,
        device: Arc<Mutex<dyn BusDevice>>,
    ) -> Result<(), BusError> {
        let error = BusError { base, len };
        let end = base.checked_add(len).ok_or(error.clone())?;
        let at = self.slots.partition_point(|slot| slot.base < base);
        let clear_of_previous = at == 0 || {
            let previous = &self.slots[at - 1];
            previous.base + previous.len <= base
        };
        let clear_of_next = self.slots.get(at).is_none_or(|next| end <= next.base);
        if len == 0 || !clear_of_previous || !clear_of_next {
            return Err(error);
        }
        self.slots.insert(at, Slot { base, len, device });
        Ok(())
    }

    /// Carries a read to its device; returns whether there was one. Without one, or
    /// when the access leaves the device's range, `data` reads as all ones.
    pub fn read(&self, addr: u64, data: &mut [u8]) -> bool {
        let Some((slot, offset)) = self.find(addr, data.len()) else {
            data.fill(0xff);
            return false;
        };
        let mut device = slot.device.lock().unwrap_or_else(PoisonError::into_inner);
        device.read(offset, data);
        true
    }

    /// Carries a write to its device; returns whether there was one.
    pub fn write(&self, addr: u64, data: &[u8]) -> bool {
        let Some((slot, offset)) = self.find(addr, data.len()) else {
            return false;
        };
        let mut device = slot.device.lock().unwrap_or_else(PoisonError::into_inner);
        device.write(offset, data);
        true
    }

    fn find(&self, addr: u64, len: usize) -> Option<(&Slot, u64)> {
        let at = self.slots.partition_point(|slot| slot.base <= addr);
        let slot = self.slots.get(at.checked_sub(1)?)?;
        let offset = addr - slot.base;
        let end = offset.checked_add(len as u64)?;
        (end <= slot.len).then_some((slot, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Recorder {
        writes: Vec<(u64, Vec<u8>)>,
    }

    impl BusDevice for Recorder {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.writes.push((offset, data.to_vec()));
        }
    }

    fn bus_with(ranges: &[(u64, u64)]) -> (Bus, Vec<Arc<Mutex<Recorder>>>) {
        let mut bus = Bus::new();
        let devices = ranges
            .iter()
            .map(|(base, len)| {
                let device = Arc::new(Mutex::new(Recorder::default()));
                bus.insert(*base, *len, device.clone()).unwrap();
                device
            })
            .collect();
        (bus, devices)
    }

    #[test]
    fn accesses_reach_their_device_with_an_offset() {
        let (bus, devices) = bus_with(&[(0x1000, 0x100), (0x10, 8), (0x1100, 0x100)]);
        let mut byte = [0];
        assert!(bus.read(0x1007, &mut byte));
        assert_eq!(byte, [7]);
        assert!(bus.write(0x11ff, &[5]));
        assert_eq!(devices[2].lock().unwrap().writes, [(0xff, vec![5])]);
        assert!(devices[0].lock().unwrap().writes.is_empty());
    }

    #[test]
    fn holes_read_as_all_ones() {
        let (bus, _devices) = bus_with(&[(0x10, 8)]);
        for (addr, len) in [(0, 1), (0xf, 2), (0x18, 1), (0x17, 2), (u64::MAX, 8)] {
            let mut data = vec![0; len];
            assert!(!bus.read(addr, &mut data), "{addr:#x}");
            assert!(data.iter().all(|byte| *byte == 0xff));
            assert!(!bus.write(addr, &data));
        }
    }

    #[test]
    fn overlaps_and_wraps_are_refused() {
        let (mut bus, _devices) = bus_with(&[(0x100, 0x10)]);
        for (base, len) in [
            (0x100, 0x10),
            (0xff, 2),
            (0x10f, 1),
            (0x104, 1),
            (0, 0x1000),
            (0x200, 0),
            (u64::MAX, 2),
        ] {
            let device = Arc::new(Mutex::new(Recorder::default()));
            assert!(bus.insert(base, len, device).is_err(), "{base:#x}+{len:#x}");
        }
        let device = Arc::new(Mutex::new(Recorder::default()));
        bus.insert(0x110, 1, device).unwrap();
    }
}
