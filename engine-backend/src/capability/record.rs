//! [`Record`]: the audit trail of one capability, and [`Trail`]: those of the past.
//!
//! Written where the tree changes and nowhere else, so it costs no transfer anything:
//! bytes are what the capability counts anyway. Past records are kept in a ring for each
//! owner; what falls out of it is counted.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use byway_protocols::Rights;

use super::{Holder, Traffic};

/// Past records that are kept for each owner.
pub const PAST_MAX: usize = 4096;

/// Milliseconds since 1970 on the host's clock.
pub(super) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    // Before 1970 there was no engine: such a clock is not set.
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// How a capability ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its holder let go of it.
    Dropped,
    /// It, or one that it was derived from, was revoked by this domain.
    Revoked {
        /// Which.
        by: u32,
    },
    /// The operator took the link away that it, or such a one, was given along.
    LinkEnded,
    /// The context was destroyed whose address space it was over.
    ContextDestroyed,
    /// The owner was reset, or went.
    OwnerReset,
}

/// When and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// How.
    pub how: Ending,
}

impl End {
    pub(super) fn now(how: Ending) -> Self {
        Self {
            at_ms: wall_ms(),
            how,
        }
    }
}

/// Who gave what to whom, how much went through it, and how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Its number among all over the same owner's memory, never used twice.
    pub id: u64,
    /// Number of what it was derived from; `None` = a context's own address space.
    pub parent: Option<u64>,
    /// Who held that, and so gave this.
    pub giver: Holder,
    /// Who holds it, or did last.
    pub holder: Holder,
    /// When it was given, in milliseconds since 1970.
    pub given_ms: u64,
    /// First byte, an address in the owner's address space.
    pub base: u64,
    /// Bytes that it spans.
    pub length: u64,
    /// Rights.
    pub rights: Rights,
    /// Badge.
    pub badge: u64,
    /// Steps from the context's own address space.
    pub depth: u32,
    /// Bytes moved through it itself.
    pub traffic: Traffic,
    /// `None` while it lives.
    pub end: Option<End>,
}

/// Records of capabilities that are gone, the latest [`PAST_MAX`] of them.
#[derive(Debug, Default)]
pub(super) struct Trail {
    past: VecDeque<Record>,
    forgotten: u64,
}

impl Trail {
    pub(super) fn push(&mut self, record: Record) {
        if self.past.len() >= PAST_MAX {
            self.past.pop_front();
            self.forgotten += 1;
        }
        self.past.push_back(record);
    }
    /// The latest `limit`, oldest first.
    pub(super) fn latest(&self, limit: usize) -> Vec<Record> {
        let skip = self.past.len().saturating_sub(limit);
        self.past.iter().skip(skip).copied().collect()
    }
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

/// What an owner's books say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Audit {
    /// Capabilities that live, in no particular order.
    pub live: Vec<Record>,
    /// How many live in all.
    pub live_total: u64,
    /// Capabilities that are gone, oldest end first.
    pub past: Vec<Record>,
    /// How many past records are not kept any more.
    pub forgotten: u64,
}
