//! [`Ram`]: the engine's mapping of a domain's RAM, in the form that `virtio-queue` reads.
//!
//! The same mapping as everywhere else, so that its SIGBUS protection covers virtqueues
//! too; no second one is made. What is inside a region but read-only or taken away is in
//! the view nevertheless: [`Ram::allows`] tells.

use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use crate::memory::{GuestMemory, HostSpan};

/// Regions of a domain's RAM, by address.
#[derive(Debug, Default)]
pub(super) struct Ram {
    /// Dropped before `_spans`, which keep what it points to mapped.
    view: GuestMemoryMmap,
    memory: Arc<GuestMemory>,
    _spans: Vec<HostSpan>,
}

impl Ram {
    /// What is mapped of `memory` now. Regions that the engine may not write to are left
    /// out: no virtqueue can be there.
    pub(super) fn of(memory: &Arc<GuestMemory>) -> Self {
        let spans = memory.writable_regions();
        let regions = spans.iter().filter_map(region).collect();
        Self {
            // Regions do not overlap and are not empty, else they were not in `memory`.
            view: GuestMemoryMmap::from_arc_regions(regions).unwrap_or_default(),
            memory: Arc::clone(memory),
            _spans: spans,
        }
    }
    /// Whether a buffer is there, and writable if it is to be written. Holds while the
    /// device's lock is held: what takes memory away takes that first.
    pub(super) fn allows(&self, gpa: u64, len: u64, write: bool) -> bool {
        self.memory.allows(gpa, len, write)
    }
    /// Marks `bytes` bytes that were written in the dirty log, if it is on.
    pub(super) fn log(&self, gpa: u64, bytes: usize) {
        let log = self.memory.dirty_log();
        if log.is_on() && bytes != 0 {
            log.mark(gpa, bytes as u64);
        }
    }
    /// For reading and writing.
    pub(super) fn view(&self) -> &GuestMemoryMmap {
        &self.view
    }
}

fn region(span: &HostSpan) -> Option<Arc<GuestRegionMmap>> {
    // SAFETY: the span is a valid mapping of just this start and size. It is kept beside
    // the view, which is all that holds the region, and keeps the mapping alive. The
    // region does not own the memory and will not unmap it.
    let mapping = unsafe {
        MmapRegion::build_raw(
            span.host().0 as *mut u8,
            span.len(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
        )
    };
    let region = GuestRegionMmap::new(mapping.ok()?, GuestAddress(span.gpa()))?;
    Some(Arc::new(region))
}
