//! The memory of a batch's own: the list of its elements and the array of their completions.

use byway_protocols::Status;

use crate::address_space::Access;
use crate::backend::Backend;
use crate::context::Target;
use crate::ops::chunk::{Chunk, Failure, Piece};

/// All of it, in one chunk.
pub(super) struct Tables<'t> {
    pub(super) list: Table<'t>,
    pub(super) records: Table<'t>,
}

/// One part of it, gone through entry by entry. A page that was translated in a chunk stays usable to its end, so
/// it is looked up once for all entries in it, where each use need not be noted by itself.
pub(super) struct Table<'t> {
    target: &'t Target<'t>,
    entry: u64,
    access: Access,
    /// What a fault in it is, if mending the page mends the batch.
    fault: Status,
    /// What is left of the page, from the entry in hand on; nothing where it is to be looked up.
    page: Piece,
}

impl<'t> Table<'t> {
    pub(super) fn new(target: &'t Target<'t>, entry: u64, access: Access, fault: Status) -> Self {
        Self {
            target,
            entry,
            access,
            fault,
            page: Piece::NONE,
        }
    }

    /// The entry in hand, whose number is `index`, and what follows it in its page.
    #[inline(always)]
    pub(super) fn find<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        index: u32,
    ) -> Result<Piece, Failure> {
        if self.page.len == 0 {
            return self.look_up(chunk, index);
        }
        Ok(self.page)
    }

    #[inline(never)]
    fn look_up<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        index: u32,
    ) -> Result<Piece, Failure> {
        let page = chunk
            .page(self.target, u64::from(index) * self.entry, self.access)
            .map_err(|f| met_in(self.target, f, self.fault))?;
        if chunk.iotlb.around(self.access).is_some() {
            self.page = page;
        }
        Ok(page)
    }

    /// Where the entries from the one in hand on are, those that are known to lie in one page.
    #[inline(always)]
    pub(super) fn known(&self) -> Piece {
        self.page
    }

    /// The entry that many further on is in hand.
    #[inline(always)]
    pub(super) fn pass(&mut self, entries: u32) {
        if self.page.len != 0 {
            self.page.take_front(self.entry * u64::from(entries));
        }
    }
}

/// A fault on the batch's own memory: in one's own domain, a status that names which
/// part it was, if mending the page mends the batch.
fn met_in(target: &Target<'_>, failure: Failure, status: Status) -> Failure {
    if target.own && failure.status.is_resumable() {
        Failure { status, ..failure }
    } else {
        failure
    }
}
