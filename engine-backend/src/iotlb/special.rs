//! What few translations need: an invalidation page to be entered first (SPEC section 10),
//! a dirty log to be told of the write. All of it off the usual way.

use std::sync::Arc;

use super::{Iotlb, Last, Size};
use crate::address_space::{Access, AddressSpace, Fault, Translation};
use crate::invalidation::{EnteredPage, Stale};
use crate::memory::{GuestMemory, LOG_PAGE};

/// Places set aside at the start; a chunk that needs more makes room once.
const ROOM: usize = 64;

/// What one worker has entered and written in this chunk.
#[derive(Debug)]
pub(super) struct Special {
    worker: usize,
    /// Goes up with each chunk that has entered a page; never 0.
    number: u64,
    entered: Vec<EnteredPage>,
    /// Pages translated for writing that are not marked yet.
    written: Vec<(Arc<GuestMemory>, u64)>,
}

// SAFETY: the entered pages, which alone are bound to a thread, are gone when a chunk ends,
// and an IOTLB changes hands between chunks only.
unsafe impl Send for Special {}

impl Special {
    pub(super) fn new(worker: usize) -> Self {
        Self {
            worker,
            number: 1,
            entered: Vec::with_capacity(ROOM),
            written: Vec::with_capacity(ROOM),
        }
    }
}

impl Special {
    /// Number of the worker.
    pub(super) fn worker(&self) -> usize {
        self.worker
    }
}

impl Iotlb {
    /// Enters the space's invalidation page unless it is entered already, and returns the
    /// version that translations are good for.
    #[cold]
    pub(super) fn enter(
        &mut self,
        space: &AddressSpace,
        addr: u64,
        access: Access,
    ) -> Result<u64, Fault> {
        let (worker, number) = (self.special.worker, self.special.number);
        let page = space.page().filter(|p| !p.is_entered(worker, number));
        if let Some(page) = page {
            let memory = space.memory();
            let entered = page.enter(memory, worker, number, |stale| match stale {
                Stale::Range { addr, pages } => self.drop_range(space.id(), addr, pages),
                // By its version, which costs no search.
                Stale::Everything => space.invalidate_all(),
            });
            let entered = entered.map_err(|fault| Fault {
                status: fault.status(),
                write: access == Access::Write,
                addr,
            })?;
            self.special.entered.extend(entered);
            if memory.dirty_log().is_on() {
                let written = (Arc::clone(memory), page.gpa());
                self.special.written.push(written);
            }
        }
        Ok(space.version())
    }

    /// Notes that the page of 4 KiB is going to be written. What it returns covers no other
    /// page, and allows no write without another walk: so each one is noted.
    #[cold]
    pub(super) fn note_write(
        &mut self,
        space: &AddressSpace,
        addr: u64,
        walked: Translation,
    ) -> Translation {
        let memory = Arc::clone(space.memory());
        self.special.written.push((memory, walked.gpa));
        debug_assert_eq!(walked.gpa % LOG_PAGE, addr % LOG_PAGE);
        Translation {
            page_bytes: Size::Page4K.bytes(),
            writable: false,
            ..walked
        }
    }

    /// Whether pages that were noted are not marked yet.
    #[inline(always)]
    #[must_use]
    pub fn has_writes(&self) -> bool {
        !self.special.written.is_empty()
    }

    /// Whether this chunk keeps the kernel of some invalidation page waiting for its end.
    #[inline(always)]
    #[must_use]
    pub fn has_entered_pages(&self) -> bool {
        !self.special.entered.is_empty()
    }

    /// Marks what was noted: once the bytes are there, before anybody is told.
    #[cold]
    pub fn log_writes(&mut self) {
        for (memory, gpa) in self.special.written.drain(..) {
            memory.dirty_log().mark(gpa, 1);
        }
    }

    /// Ends a chunk: what was written is marked, and the address spaces with an invalidation
    /// page are left. No access of the chunk may come after it.
    #[inline(always)]
    pub fn end_chunk(&mut self) {
        if self.has_writes() {
            self.log_writes();
        }
        if !self.special.entered.is_empty() {
            self.leave();
        }
    }

    #[cold]
    fn leave(&mut self) {
        self.special.entered.drain(..).for_each(EnteredPage::leave);
        self.special.number += 1;
        // The quick way does not ask whether a page is entered.
        self.last = [Last::NONE; 2];
    }
}
