//! Guest RAM under a device: added, removed, made read-only, taken away and given back, at
//! any moment.
//!
//! The order is always the same: first the stage-2 table, so that no walk finds what goes;
//! then the queues that have their rings there, which are resolved once and not walked
//! for; then one grace period, after which no chunk uses an old translation. The guest is
//! not asked.

use super::handle::removed;
use super::ram::Ram;
use super::vring::Running;
use super::{Device, State};
use crate::interface::{DirtyBitmap, DomainError, MemoryRegion};
use crate::memory::MemoryError;

impl Device {
    /// Maps a region and makes it known to the workers and the virtqueues.
    pub(super) fn add_region(&self, region: MemoryRegion) -> Result<(), DomainError> {
        let gone = self.with_state(|state| state.removed);
        if gone {
            return Err(removed());
        }
        // Mapping, and above all populating, takes long: not with the lock held.
        self.domain
            .memory()
            .add_region(region)
            .map_err(memory_error)?;
        self.with_state(|state| {
            state.ram = Ram::of(&self.domain.memory());
            if state.removed {
                for (gpa, size) in self.domain.memory().regions() {
                    // Gone meanwhile is as good.
                    let _ = self.take_region(state, gpa, size);
                }
                return Err(removed());
            }
            Ok(())
        })
    }

    /// Takes a region away; returns after the last access.
    pub(super) fn take_region(
        &self,
        state: &mut State,
        gpa: u64,
        size: u64,
    ) -> Result<(), DomainError> {
        let retired = self
            .domain
            .memory()
            .remove_region(gpa, size)
            .map_err(memory_error)?;
        state.ram = Ram::of(&self.domain.memory());
        self.stop_what_is_in(state, gpa, size);
        self.outlast();
        // SAFETY: the grace period is over. Translations are used by workers in chunks
        // only; what control threads use are spans, which keep their mapping, and so do devices; and the
        // virtqueues' view of RAM, which was replaced under the lock that guards it.
        let remains = unsafe { retired.free() };
        let endpoints = self.domain.core().workers().endpoints();
        if endpoints.reach_memory() && remains.are_used() {
            // A device that was given up. Not to be unmapped by whichever worker hears of its answer, either.
            endpoints.keep(remains);
        }
        Ok(())
    }

    /// Makes pages read-only or writable again; returns after the last forbidden write.
    pub(super) fn protect(
        &self,
        state: &mut State,
        gpa: u64,
        size: u64,
        writable: bool,
    ) -> Result<(), DomainError> {
        let memory = self.domain.memory();
        memory.protect(gpa, size, writable).map_err(memory_error)?;
        if !writable {
            self.stop_what_is_in(state, gpa, size);
            self.outlast();
        }
        Ok(())
    }

    /// Takes pages away; returns after the last access.
    pub(super) fn discard(
        &self,
        state: &mut State,
        gpa: u64,
        size: u64,
    ) -> Result<(), DomainError> {
        let retired = self.domain.memory().discard(gpa, size);
        let retired = retired.map_err(memory_error)?;
        self.stop_what_is_in(state, gpa, size);
        self.outlast();
        // SAFETY: the grace period is over, and workers walk in chunks only.
        unsafe { retired.free() };
        Ok(())
    }

    /// Gives back what was taken away of the range.
    pub(super) fn restore(&self, gpa: u64, size: u64) -> Result<(), DomainError> {
        self.domain
            .memory()
            .restore(gpa, size)
            .map_err(memory_error)
    }

    /// Turns the log of the engine's writes on or off.
    pub(super) fn set_dirty_log(&self, on: bool) {
        self.domain.memory().set_dirty_log(on);
        if on {
            // Chunks of before may write by translations that are not noted.
            self.domain.core().epochs().synchronize();
        }
    }

    /// Reads and clears the log; returns when the chunks in flight are over.
    pub(super) fn harvest_dirty(&self, gpa: u64, size: u64) -> Result<DirtyBitmap, DomainError> {
        let words = self.domain.memory().take_dirty(gpa, size);
        let words = words.map_err(memory_error)?;
        self.domain.core().epochs().synchronize();
        Ok(DirtyBitmap {
            guest_addr: gpa,
            words,
        })
    }

    /// Returns when nobody uses a translation of before: neither a worker nor, unless it was given up, a device.
    fn outlast(&self) {
        self.domain.core().epochs().synchronize();
        self.domain.outlast_memory();
        self.domain.wait_for_devices();
    }

    /// Ends what has its rings there; returns after the last access to them.
    fn stop_what_is_in(&self, state: &mut State, gpa: u64, size: u64) {
        state
            .vrings
            .iter_mut()
            .flatten()
            .filter(|vring| vring.touches(gpa, size))
            .for_each(Running::break_off);
        self.domain.stop_queues_in(gpa, size, state.stopped);
    }
}

fn memory_error(e: MemoryError) -> DomainError {
    match e {
        MemoryError::BadArgument(what) => DomainError::BadArgument(what),
        MemoryError::Region {
            guest_addr,
            size,
            what,
        } => DomainError::Region {
            guest_addr,
            size,
            what: what.to_string(),
        },
        MemoryError::Host { what, source } => DomainError::Host {
            what: what.to_string(),
            source,
        },
    }
}
