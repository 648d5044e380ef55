//! [`Lent`]: a piece of a guest's memory in the hands of a device.
//!
//! A device's request is carried out when its device likes: after the chunk that began it, after the right to it has
//! ended, and after the region that it lies in has gone. So what it is given keeps its mapping, whatever else happens
//! to the domain: no address in it can come to mean something else.

use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use super::mapping::Mapping;
use super::{DirtyLog, GuestMemory};

/// Most parts of one: 128 KiB in pages of 4 KiB, the first of which begins anywhere.
pub const LENT_PARTS_MAX: usize = 33;

/// Bytes that lie together in the host's address space and in guest-physical memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LentPart {
    /// Host address of the first.
    pub host: u64,
    /// Guest-physical address of the first.
    pub gpa: u64,
    /// How many.
    pub bytes: u64,
}

/// Parts that one request is to be about, in their order.
#[derive(Debug)]
pub struct LentParts {
    parts: [LentPart; LENT_PARTS_MAX],
    count: usize,
}

impl Default for LentParts {
    fn default() -> Self {
        Self {
            parts: [LentPart::default(); LENT_PARTS_MAX],
            count: 0,
        }
    }
}

impl LentParts {
    /// Adds bytes behind all others. False: there are as many parts as can be.
    #[must_use]
    pub fn push(&mut self, part: LentPart) -> bool {
        if let Some(last) = self.count.checked_sub(1).map(|last| &mut self.parts[last])
            && last.host + last.bytes == part.host
            && last.gpa + last.bytes == part.gpa
        {
            last.bytes += part.bytes;
            return true;
        }
        let Some(place) = self.parts.get_mut(self.count) else {
            return false;
        };
        *place = part;
        self.count += 1;
        true
    }
    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[LentPart] {
        &self.parts[..self.count]
    }
}

/// What never comes back, and is never unmapped.
static KEPT_FOR_EVER: Mutex<Vec<Lent>> = Mutex::new(Vec::new());

/// Memory that a device was given.
#[derive(Debug)]
pub struct Lent {
    parts: LentParts,
    is_written: bool,
    log: Arc<DirtyLog>,
    /// What the addresses are in.
    _mapping: Arc<Mapping>,
}

impl Lent {
    /// What it consists of.
    #[must_use]
    pub fn parts(&self) -> &[LentPart] {
        self.parts.all()
    }
    /// Nobody will hear of the device's answer: it stays mapped until the process ends.
    pub fn keep_for_ever(self) {
        // Each change adds a whole entry.
        let kept = KEPT_FOR_EVER.lock();
        kept.unwrap_or_else(PoisonError::into_inner).push(self);
    }
    /// The device has answered: what it may have written is marked in the log, if that is on.
    pub fn note_written(&self) {
        if self.is_written && self.log.is_on() {
            for part in self.parts() {
                self.log.mark(part.gpa, part.bytes);
            }
        }
    }
}

/// What is left of a region that is gone; dropped when nobody uses its mapping any more.
#[derive(Debug)]
#[must_use = "it unmaps the region when dropped"]
pub struct Remains(pub(super) Arc<Mapping>);

impl Remains {
    /// Whether somebody has a part of it still.
    #[must_use]
    pub fn are_used(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl GuestMemory {
    /// Lends parts, each translated in this chunk, to a device that writes them, or reads them. `None` where that cannot be:
    /// they are in several regions, or regions come or go just now.
    ///
    /// Never waits, and takes no lock that others may wait for long.
    #[must_use]
    pub fn lend(&self, parts: LentParts, is_written: bool) -> Option<Lent> {
        let regions = match self.regions.try_read() {
            Ok(regions) => regions,
            Err(TryLockError::Poisoned(e)) => e.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let first = parts.all().first()?;
        let region = regions.iter().find(|r| {
            first
                .gpa
                .checked_sub(r.guest_addr)
                .is_some_and(|offset| offset < r.size)
        })?;
        let base = region.mapping.base().as_ptr().addr() as u64;
        let is_inside = |part: &LentPart| {
            let offset = part.gpa.checked_sub(region.guest_addr);
            // Where this region is at this place, and not one of before.
            offset.is_some_and(|offset| {
                part.bytes <= region.size.saturating_sub(offset) && part.host == base + offset
            })
        };
        if !parts.all().iter().all(is_inside) || (is_written && !region.writable) {
            return None;
        }
        Some(Lent {
            is_written,
            log: Arc::clone(&self.dirty),
            _mapping: Arc::clone(&region.mapping),
            parts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::test_ram::TestRam;
    use crate::stage2::Access;

    fn parts(of: &[(&TestRam, u64, u64)]) -> LentParts {
        let mut parts = LentParts::default();
        for &(ram, gpa, bytes) in of {
            let host = ram.memory.stage2().walk(gpa, Access::Read).unwrap().host.0;
            assert!(parts.push(LentPart { host, gpa, bytes }));
        }
        parts
    }

    #[test]
    fn parts_that_touch_are_one_and_there_is_an_end_to_them() {
        let mut parts = LentParts::default();
        let at = |n: u64| LentPart {
            host: 0x10_0000 + n * 4096,
            gpa: n * 4096,
            bytes: 4096,
        };
        assert!(parts.push(at(0)) && parts.push(at(1)));
        assert_eq!(parts.all().len(), 1);
        assert_eq!(parts.all()[0].bytes, 8192);
        // Beside each other for the host alone.
        let apart = LentPart { gpa: 0, ..at(2) };
        assert!(parts.push(apart));
        assert_eq!(parts.all().len(), 2);
        for n in 2..LENT_PARTS_MAX as u64 {
            assert!(parts.push(at(2 * n)));
        }
        assert!(!parts.push(at(100)));
    }

    #[test]
    fn what_is_lent_stays_mapped_when_its_region_goes() {
        let ram = TestRam::new(&[(0, 1 << 20, true), (1 << 20, 1 << 20, false)]);
        let lent = ram.memory.lend(parts(&[(&ram, 8192, 4096)]), true).unwrap();
        let at = lent.parts()[0].host as usize;
        let byte = || {
            // SAFETY: mapped for as long as `lent` lives, which is what is tested.
            unsafe { std::ptr::with_exposed_provenance_mut::<u8>(at).write_volatile(7) }
        };
        let retired = ram.memory.remove_region(0, 1 << 20).unwrap();
        // SAFETY: there are no workers here, nor translations that are used.
        let remains = unsafe { retired.free() };
        assert!(remains.are_used());
        byte();
        drop(lent);
        assert!(!remains.are_used());
    }

    #[test]
    fn only_what_is_there_and_writable_is_lent() {
        let ram = TestRam::new(&[(0, 1 << 20, true), (1 << 20, 1 << 20, false)]);
        let lend = |of: &[(&TestRam, u64, u64)], written| ram.memory.lend(parts(of), written);
        assert!(lend(&[(&ram, 1 << 20, 4096)], true).is_none(), "read-only");
        assert!(lend(&[(&ram, 1 << 20, 4096)], false).is_some());
        let end = (1 << 20) - 4096;
        assert!(lend(&[(&ram, end, 4096)], true).is_some());
        assert!(lend(&[(&ram, end, 8192)], true).is_none(), "beyond the end");
        let both = [(&ram, end, 4096), (&ram, 1 << 20, 4096)];
        assert!(lend(&both, false).is_none(), "two regions");
        assert!(ram.memory.lend(LentParts::default(), false).is_none());
        let stale = parts(&[(&ram, 0, 4096)]);
        let retired = ram.memory.remove_region(0, 1 << 20).unwrap();
        assert!(ram.memory.lend(stale, true).is_none(), "gone");
        // SAFETY: there are no workers here, nor translations that are used.
        drop(unsafe { retired.free() });
    }
}
