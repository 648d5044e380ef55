//! [`Ram`]: the engine's mapping of a domain's RAM, in the form that `virtio-queue` reads.
//!
//! The same mapping as everywhere else, so that its SIGBUS protection covers virtqueues
//! too; no second one is made.

use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use crate::memory::{GuestMemory, HostSpan};

/// Regions of a domain's RAM, by address.
#[derive(Debug, Default)]
pub(super) struct Ram {
    /// Dropped before `_spans`, which keep what it points to mapped.
    view: GuestMemoryMmap,
    _spans: Vec<HostSpan>,
}

impl Ram {
    /// What is mapped of `memory` now. Regions that the engine may not write to are left
    /// out: no virtqueue can be there.
    pub(super) fn of(memory: &GuestMemory) -> Self {
        let spans: Vec<_> = memory
            .regions()
            .into_iter()
            .filter_map(|(gpa, size)| memory.contiguous(gpa, size))
            .collect();
        let regions = spans.iter().filter_map(region).collect();
        Self {
            // Regions do not overlap and are not empty, else they were not in `memory`.
            view: GuestMemoryMmap::from_arc_regions(regions).unwrap_or_default(),
            _spans: spans,
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
