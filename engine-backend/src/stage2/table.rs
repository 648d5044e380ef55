//! Table pages: the unsafe part of stage 2, where an entry's frame becomes a reference.
//!
//! Invariant, kept by [`super::edit`]: the frame of a present, non-leaf entry is a table
//! that [`publish`] made and that is not freed before a grace period has passed since the
//! entry was changed.

use std::ptr::{NonNull, with_exposed_provenance_mut};
use std::sync::atomic::{AtomicU64, Ordering};

use super::entry::Entry;

/// One page of 512 entries.
#[repr(C, align(4096))]
pub(super) struct Table([AtomicU64; 512]);

impl Table {
    /// A table that maps nothing.
    pub(super) fn new() -> Box<Self> {
        Box::new(Self([const { AtomicU64::new(0) }; 512]))
    }

    /// The cell at an index below 512.
    #[inline]
    pub(super) fn cell(&self, index: usize) -> &AtomicU64 {
        &self.0[index & 511]
    }

    /// Reads an entry; what it points to is initialised.
    #[inline]
    pub(super) fn load(&self, index: usize) -> Entry {
        Entry(self.cell(index).load(Ordering::Acquire))
    }

    /// Writes an entry, after everything written before.
    pub(super) fn store(&self, index: usize, entry: Entry) {
        self.cell(index).store(entry.0, Ordering::Release);
    }

    /// Whether no entry is present.
    pub(super) fn is_empty(&self) -> bool {
        (0..512).all(|i| !self.load(i).is_present())
    }
}

/// Turns a table into a frame for [`Entry::table`]; it is freed by [`retire`].
pub(super) fn publish(table: Box<Table>) -> u64 {
    Box::into_raw(table).expose_provenance() as u64
}

/// The table that a present, non-leaf entry points to.
///
/// # Safety
/// - `entry` was read from a table of a living tree, is present and not a leaf;
/// - no grace period passes while the reference is in use.
#[inline]
pub(super) unsafe fn child<'a>(entry: Entry) -> &'a Table {
    let table = with_exposed_provenance_mut::<Table>(entry.frame() as usize);
    // SAFETY: the module's invariant: `publish` made it, and the caller keeps it alive.
    unsafe { &*table }
}

/// The table that an entry pointed to before it was changed, to be freed later.
///
/// # Safety
/// `entry` was present and not a leaf, and has been taken out of its tree for good.
pub(super) unsafe fn retire(entry: Entry) -> NonNull<Table> {
    let table = with_exposed_provenance_mut::<Table>(entry.frame() as usize);
    // SAFETY: a published frame is the address of a box, never 0.
    unsafe { NonNull::new_unchecked(table) }
}

/// Frees a retired table, not what its entries point to.
///
/// # Safety
/// `table` came from [`retire`], is freed once, and a grace period has passed since.
pub(super) unsafe fn free(table: NonNull<Table>) {
    // SAFETY: `publish` took it from a box of this type; the caller owns it alone.
    drop(unsafe { Box::from_raw(table.as_ptr()) });
}
