//! The memory of a batch's own: the list of its elements and the array of their completions.

use byway_protocols::Status;

use super::{Batch, ELEMENT, RECORD};
use crate::address_space::Access;
use crate::backend::Backend;
use crate::context::Target;
use crate::ops::chunk::{Chunk, Failure, Operand, Piece};
use crate::ops::short::Which;

/// All of it, in one chunk.
pub(super) struct Tables<'t, 'a> {
    pub(super) list: Table<'t, 'a>,
    pub(super) records: Table<'t, 'a>,
}

impl<'a> Tables<'_, 'a> {
    /// Where the entries from the one in hand on are, whose number is `index`: those that are known to lie in one page. None where
    /// each is to be looked up by itself, or not even the first one can be: whoever takes it up next meets the same, and tells.
    #[inline(always)]
    pub(super) fn known<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'a, B>,
        index: u32,
    ) -> (Piece, Piece) {
        // The place for a completion first: an element that ran has one.
        for table in [&mut self.records, &mut self.list] {
            if table.page.len == 0 && table.look_up(chunk, index).is_err() {
                chunk.missing = None;
                break;
            }
        }
        (self.list.page, self.records.page)
    }
}

/// One part of it, gone through entry by entry. A page that was translated in a chunk stays usable to its end, so
/// it is looked up once for all entries in it, where each use need not be noted by itself; and there is a window for the batches that
/// follow.
pub(super) struct Table<'t, 'a> {
    target: &'t Target<'a>,
    operand: Operand,
    entry: u64,
    access: Access,
    window: Which<'a>,
    /// What a fault in it is, if mending the page mends the batch.
    fault: Status,
    /// What is left of the page, from the entry in hand on; nothing where it is to be looked up.
    page: Piece,
}

impl<'t, 'a> Table<'t, 'a> {
    pub(super) fn of_elements(batch: &Batch, target: &'t Target<'a>) -> Self {
        Self {
            target,
            operand: batch.list,
            entry: ELEMENT,
            access: Access::Read,
            window: |windows| &mut windows.reads,
            fault: Status::BatchListFault,
            page: Piece::NONE,
        }
    }

    pub(super) fn of_records(batch: &Batch, target: &'t Target<'a>) -> Self {
        Self {
            target,
            operand: batch.records,
            entry: RECORD,
            access: Access::Write,
            window: |windows| &mut windows.fills,
            fault: Status::StatusArrayFault,
            page: Piece::NONE,
        }
    }

    /// The entry in hand, whose number is `index`, and what follows it in its page.
    #[inline(always)]
    pub(super) fn find<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'a, B>,
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
        chunk: &mut Chunk<'a, B>,
        index: u32,
    ) -> Result<Piece, Failure> {
        let page = chunk
            .page(self.target, u64::from(index) * self.entry, self.access)
            .map_err(|f| met_in(self.target, f, self.fault))?;
        if chunk.iotlb.around(self.access).is_some() {
            self.page = page;
            let (target, windows) = (*self.target, &mut chunk.windows);
            let found = windows.found(chunk.iotlb, self.operand, target, self.access, page.host);
            (self.window)(windows).open(&found);
        }
        Ok(page)
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
    if target.own && failure.status().is_some_and(Status::is_resumable) {
        failure.told_as(status)
    } else {
        failure
    }
}
