//! [`SlotTable`]: the capabilities that a context holds, read by workers without locks.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Capability, Held};
use crate::epoch::{ChunkGuard, Epochs};

/// Why a capability was not put into a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// There is no such slot.
    #[error("no such slot")]
    OutOfRange,
    /// Something is in it.
    #[error("slot in use")]
    InUse,
    /// No slot is empty.
    #[error("no empty slot")]
    Full,
}

/// A fixed number of slots. Slot 0 stands for the context's own address space and
/// is always empty here.
///
/// Invariant: each entry is null or came from `Held::into_raw` and owns it; a pointer
/// taken out is given back to a `Held` only after a grace period.
#[derive(Debug)]
pub struct SlotTable {
    /// A power of two of entries, those from `slots` on always null, so that an index
    /// can be masked.
    entries: Box<[AtomicPtr<Capability>]>,
    slots: u32,
    /// Taken by control threads for each change and each look, so that what one looks
    /// at is not taken out meanwhile.
    control: Mutex<()>,
}

impl SlotTable {
    /// Room for `slots` slots, slot 0 included.
    #[must_use]
    pub fn new(slots: u32) -> Self {
        let room = (slots.max(1) as usize).next_power_of_two();
        Self {
            entries: (0..room).map(|_| AtomicPtr::new(ptr::null_mut())).collect(),
            slots,
            control: Mutex::new(()),
        }
    }
    /// How many slots there are, slot 0 included.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// The capability in a slot, for the rest of the chunk. `None` when the slot is
    /// empty or there is none such.
    #[inline(always)]
    #[must_use]
    pub fn get<'g>(&'g self, _guard: &'g ChunkGuard<'_>, slot: u16) -> Option<&'g Capability> {
        if u32::from(slot) >= self.slots {
            return None;
        }
        // The comparison may be mispredicted; the mask is arithmetic and keeps even a
        // speculative load inside the table (Spectre variant 1). The table's length is
        // a power of two, so it changes no index that passed.
        let index = usize::from(slot) & (self.entries.len() - 1);
        // SAFETY: `index` is below the length, which is at least 1.
        let entry = unsafe { self.entries.get_unchecked(index) };
        let capability = entry.load(Ordering::Acquire);
        // SAFETY: by the table's invariant it is null or valid, and what is taken out of
        // the table lives until every chunk of that time has ended, this one included.
        unsafe { capability.as_ref() }
    }

    /// The capability in a slot, for control threads.
    #[must_use]
    pub fn peek(&self, slot: u32) -> Option<Arc<Capability>> {
        let _control = self.lock();
        let raw = self.entry(slot)?.load(Ordering::Acquire);
        if raw.is_null() {
            return None;
        }
        // SAFETY: not null, so it came from an `Arc` that the table owns; entries are
        // taken out under the lock that is held here, so it is still owned.
        unsafe {
            Arc::increment_strong_count(raw);
            Some(Arc::from_raw(raw))
        }
    }

    /// Puts a capability into a slot, 0 meaning the lowest empty one, and says which.
    ///
    /// # Errors
    /// See [`SlotError`]; the capability comes back.
    pub fn insert(&self, slot: u32, held: Held) -> Result<u16, (SlotError, Held)> {
        let _control = self.lock();
        match self.choose(slot) {
            Ok(slot) => {
                self.entries[usize::from(slot)]
                    .store(held.into_raw().cast_mut(), Ordering::Release);
                Ok(slot)
            }
            Err(e) => Err((e, held)),
        }
    }

    /// Which slot an insertion would take; see [`Self::insert`].
    ///
    /// # Errors
    /// See [`SlotError`].
    pub fn vacancy(&self, slot: u32) -> Result<u16, SlotError> {
        let _control = self.lock();
        self.choose(slot)
    }

    fn choose(&self, slot: u32) -> Result<u16, SlotError> {
        let is_empty = |e: &AtomicPtr<Capability>| e.load(Ordering::Relaxed).is_null();
        let chosen = if slot == 0 {
            (1..self.slots)
                .find(|&s| is_empty(&self.entries[s as usize]))
                .ok_or(SlotError::Full)?
        } else {
            let entry = self.entry(slot).ok_or(SlotError::OutOfRange)?;
            is_empty(entry).then_some(slot).ok_or(SlotError::InUse)?
        };
        // A word names slots with 15 bits; larger tables are not made.
        u16::try_from(chosen).map_err(|_| SlotError::OutOfRange)
    }

    /// Takes a capability out and waits for a grace period.
    pub fn remove(&self, slot: u32, epochs: &Epochs) -> Option<Held> {
        let raw = {
            let _control = self.lock();
            self.entry(slot)?.swap(ptr::null_mut(), Ordering::AcqRel)
        };
        if raw.is_null() {
            return None;
        }
        epochs.synchronize();
        // SAFETY: it came from `Held::into_raw`; the swap took it out, so nobody else
        // takes it, and no worker of the time before still uses it.
        Some(unsafe { Held::from_raw(raw) })
    }

    /// Takes all out, with one grace period for the lot.
    pub fn clear(&self, epochs: &Epochs) {
        let raws: Vec<_> = {
            let _control = self.lock();
            self.entries
                .iter()
                .map(|e| e.swap(ptr::null_mut(), Ordering::AcqRel))
                .filter(|raw| !raw.is_null())
                .collect()
        };
        if raws.is_empty() {
            return;
        }
        epochs.synchronize();
        for raw in raws {
            // SAFETY: as in `remove`.
            drop(unsafe { Held::from_raw(raw) });
        }
    }

    fn entry(&self, slot: u32) -> Option<&AtomicPtr<Capability>> {
        (slot != 0 && slot < self.slots).then(|| &self.entries[slot as usize])
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        // It guards no data that a panic could leave torn.
        self.control.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Drop for SlotTable {
    fn drop(&mut self) {
        for entry in &mut self.entries {
            let raw = *entry.get_mut();
            if !raw.is_null() {
                // SAFETY: it came from `Held::into_raw`; workers reach the table through
                // a reference, of which there is none any more.
                drop(unsafe { Held::from_raw(raw) });
            }
        }
    }
}
