//! The IOTLB: one per worker, in front of the walkers.
//!
//! Owns cached translations, nothing else. An entry is good for the address space whose
//! number it carries, in the version (stage-1 generation plus stage-2 epoch) that was
//! read *before* its walk: a change during the walk makes it stale at once. It allows
//! writes only when the walk that filled it set D in both stages. Faults are never
//! cached, and an entry that does not allow the access is walked again before it faults.
//!
//! Ranges are invalidated by messages ([`Invalidations`]) that the worker carries out at
//! the start of its next chunk. Address spaces with an invalidation page, and domains
//! whose writes are logged, take the slower ways of `special`; others pay nothing for it.

mod entry;
mod invalidations;
mod last;
mod special;
#[cfg(test)]
mod tests;

pub use invalidations::Invalidations;

use crate::address_space::walk;
use crate::address_space::{AddressSpace, Fault};
use crate::stage2::{Access, HostAddr};
use entry::{Array, Entry, Size};
use last::Last;
use special::Special;

/// A translated piece of memory, up to the end of its page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Host address of the first byte.
    pub host: HostAddr,
    /// Bytes from there to the end of the page; not 0.
    pub bytes: u64,
    /// Guest-physical address of the first byte.
    pub gpa: u64,
}

/// The whole of a page that was translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Around {
    /// Its first address.
    pub first: u64,
    /// Its last one.
    pub last: u64,
    /// Host address of the first.
    pub host: HostAddr,
}

/// What an IOTLB counted since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IotlbStats {
    /// Translations found.
    pub hits: u64,
    /// Translations not found, found for reading only, or out of date.
    pub misses: u64,
    /// Walks that ended in a block of 4 KiB, 2 MiB, 1 GiB.
    pub walks: [u64; 3],
    /// Walks that ended in a fault.
    pub faults: u64,
}

/// One worker's cache of translations.
#[derive(Debug)]
pub struct Iotlb {
    /// The last translations used for reading, and for writing.
    last: [Last; 2],
    arrays: [Array; 3],
    stats: IotlbStats,
    special: Special,
}

impl Default for Iotlb {
    fn default() -> Self {
        Self::new()
    }
}

impl Iotlb {
    /// An empty one with room for 2048 translations of 4 KiB, 512 of 2 MiB and 16 of
    /// 1 GiB; all its memory is allocated here.
    #[must_use]
    pub fn new() -> Self {
        Self::for_worker(0)
    }

    /// The same for the worker with this number, by which invalidation pages know it.
    #[must_use]
    pub fn for_worker(worker: usize) -> Self {
        Self {
            special: Special::new(worker),
            last: [Last::NONE; 2],
            arrays: [
                Array::new(Size::Page4K, 512),
                Array::new(Size::Page2M, 128),
                Array::new(Size::Page1G, 4),
            ],
            stats: IotlbStats::default(),
        }
    }

    /// Translates, walking on a miss. Must run inside a chunk, after
    /// [`Self::catch_up`]; what it returns is good until that chunk ends.
    ///
    /// # Errors
    /// As the walk says.
    #[inline(always)]
    pub fn translate(
        &mut self,
        space: &AddressSpace,
        addr: u64,
        access: Access,
    ) -> Result<Span, Fault> {
        let version = space.version();
        let last = self.last[access as usize].latest();
        if last.matches(space.id(), version, addr, access == Access::Write) {
            self.stats.hits += 1;
            return Ok(span(last, addr));
        }
        self.look_back(space, version, addr, access)
    }

    /// The page that the last translation for this access ended in, for whoever uses it again
    /// in the same chunk. `None`: each access to it is to be translated by itself.
    #[inline]
    #[must_use]
    pub fn around(&self, access: Access) -> Option<Around> {
        self.last[access as usize]
            .latest()
            .around(access == Access::Write)
    }

    /// Translates by the one before the last, if that is it.
    #[inline(never)]
    fn look_back(
        &mut self,
        space: &AddressSpace,
        version: u64,
        addr: u64,
        access: Access,
    ) -> Result<Span, Fault> {
        let last = &mut self.last[access as usize];
        if let Some(entry) = last.go_back(space.id(), version, addr, access == Access::Write) {
            self.stats.hits += 1;
            return Ok(span(entry, addr));
        }
        self.look_up(space, version, addr, access)
    }

    #[inline(never)]
    fn look_up(
        &mut self,
        space: &AddressSpace,
        version: u64,
        addr: u64,
        access: Access,
    ) -> Result<Span, Fault> {
        let version = if space.has_page() {
            self.enter(space, addr, access)?
        } else {
            version
        };
        let write = access == Access::Write;
        for array in &self.arrays {
            if let Some(entry) = array.find(space.id(), version, addr, write) {
                self.stats.hits += 1;
                self.last[access as usize].keep(entry);
                return Ok(span(entry, addr));
            }
        }
        self.stats.misses += 1;
        let walked = walk::translate(space, addr, access);
        let leaf = walked.as_ref().ok().filter(|_| space.has_tables());
        let counts = space.memory().walks();
        counts.note(self.special.worker(), leaf.map(|w| w.guest_page_bytes));
        let walked = walked.inspect_err(|_| self.stats.faults += 1)?;
        let logged = write && space.memory().dirty_log().is_on();
        let walked = if logged {
            self.note_write(space, addr, walked)
        } else {
            walked
        };
        let entry = Entry::new(space.id(), version, addr, &walked);
        self.stats.walks[entry.size() as usize] += 1;
        self.arrays[entry.size() as usize].insert(entry);
        self.last[access as usize].keep(&entry);
        Ok(span(&entry, addr))
    }

    /// Carries out the invalidations that wait for this worker. To be called
    /// at the start of every chunk, after its fence; one load when none waits.
    ///
    /// # Panics
    /// When `worker` is not below the number that `invalidations` was made for.
    #[inline]
    pub fn catch_up(&mut self, invalidations: &Invalidations, worker: usize) {
        if invalidations.is_pending(worker) {
            invalidations.deliver(worker, self);
        }
    }

    /// Drops every translation that stems from a page of the guest which overlaps `pages`
    /// pages of 4096 bytes from `addr` on; 0 pages mean the whole space.
    pub fn drop_range(&mut self, space_id: u64, addr: u64, pages: u64) {
        let (first, last) = match pages.checked_sub(1) {
            None => (0, u64::MAX),
            Some(more) => (
                addr & !0xfff,
                more.checked_mul(4096)
                    .and_then(|bytes| (addr | 0xfff).checked_add(bytes))
                    .unwrap_or(u64::MAX),
            ),
        };
        self.last = [Last::NONE; 2];
        for array in &mut self.arrays {
            array.drop_range(space_id, first, last);
        }
    }

    /// Drops everything.
    pub fn flush(&mut self) {
        self.last = [Last::NONE; 2];
        for array in &mut self.arrays {
            array.flush();
        }
    }

    /// What it counted.
    #[must_use]
    pub fn stats(&self) -> &IotlbStats {
        &self.stats
    }
}

#[inline(always)]
fn span(entry: &Entry, addr: u64) -> Span {
    Span {
        host: entry.host(addr),
        bytes: entry.bytes_left(addr),
        gpa: entry.gpa(addr),
    }
}
