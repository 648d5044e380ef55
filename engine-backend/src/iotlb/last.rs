//! The translations that were used last: copies of entries, so that a stream of accesses to one page costs a few comparisons.

use super::Entry;

/// The last two for one kind of access. Two, since an operation goes back and forth between a list and what that names, or
/// between records and what they tell of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Last {
    entries: [Entry; 2],
    /// Which of them was used last.
    latest: bool,
}

impl Last {
    /// None.
    pub(super) const NONE: Self = Self {
        entries: [Entry::EMPTY; 2],
        latest: false,
    };

    /// The last one.
    #[inline(always)]
    pub(super) fn latest(&self) -> &Entry {
        &self.entries[usize::from(self.latest)]
    }

    /// The one before, if it translates `addr` of this space in this version: it is the last one now.
    #[inline(always)]
    pub(super) fn go_back(
        &mut self,
        space: u64,
        version: u64,
        addr: u64,
        write: bool,
    ) -> Option<&Entry> {
        let other = !self.latest;
        let entry = &self.entries[usize::from(other)];
        if !entry.matches(space, version, addr, write) {
            return None;
        }
        self.latest = other;
        Some(entry)
    }

    /// Puts another in the place of the one before, which is the last one now.
    pub(super) fn keep(&mut self, entry: &Entry) {
        self.latest = !self.latest;
        self.entries[usize::from(self.latest)] = *entry;
    }
}
