//! Slots: pieces of staging, each with the request that it is used for.
//!
//! A slot has one owner at a time. Whoever took it submits a request by it, and is told how that
//! ended by the slot's state; whoever goes before that leaves an orphan, which nobody takes
//! before the device has answered.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::device::{Outcome, Request};

/// Most slots of an attachment.
pub const SLOTS_MAX: usize = 64;

/// Bytes between the staging of one slot and that of the next, and most of one request.
pub const SLOT_BYTES: u32 = 128 << 10;

/// Nobody's, or held by an owner who has not asked for anything.
const QUIET: u8 = 0;
/// The device has it.
const UNDER_WAY: u8 = 1;
/// The device is done with it; its owner has not looked yet.
const ENDED: u8 = 2;
/// The device has it, and nobody waits for it.
const ORPHAN: u8 = 3;

/// One slot.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Slot {
    state: AtomicU8,
    /// See [`Self::fence`].
    fenced: AtomicBool,
    writes: AtomicBool,
    /// The device reaches a guest's memory: it has it until it has answered.
    lends: AtomicBool,
    holder: AtomicU32,
    /// Whose bytes may be in its staging.
    domain: AtomicU32,
    /// Blocks that the request is about.
    first: AtomicU64,
    blocks: AtomicU64,
    /// Tick at which it was submitted.
    since: AtomicU64,
    outcome: AtomicU64,
}

/// How an owner let go of a slot.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parting {
    /// It is free again.
    Free,
    /// The device has it still.
    Orphan,
}

impl Slot {
    /// The last domain to use it, and from now on this one.
    pub(super) fn change_domain(&self, domain: u32) -> u32 {
        self.domain.swap(domain, Ordering::Relaxed)
    }
    /// The domain that has it, or had it when it became an orphan; 0 = none.
    pub(super) fn holder(&self) -> u32 {
        self.holder.load(Ordering::Relaxed)
    }
    /// Notes who has it.
    pub(super) fn set_holder(&self, domain: u32) {
        self.holder.store(domain, Ordering::Relaxed);
    }

    /// Notes what is asked of the device, before it is.
    pub(super) fn begin(&self, request: &Request, now: u64) {
        let (first, blocks, writes) = range(request);
        self.first.store(first, Ordering::Relaxed);
        self.blocks.store(blocks, Ordering::Relaxed);
        self.writes.store(writes, Ordering::Relaxed);
        self.since.store(now, Ordering::Relaxed);
        self.state.store(UNDER_WAY, Ordering::Release);
    }
    /// Notes whether the device reaches a guest's memory by it. Before [`Self::begin`].
    pub(super) fn set_lends(&self, lends: bool) {
        self.lends.store(lends, Ordering::Relaxed);
    }
    /// Whether it does, if it was begun.
    pub(super) fn lends(&self) -> bool {
        self.lends.load(Ordering::Relaxed)
    }
    /// It was not asked after all.
    pub(super) fn cancel(&self) {
        self.state.store(QUIET, Ordering::Release);
    }

    /// The device has answered. `None`: it had not been asked. True: nobody waited, and the
    /// slot is free.
    pub(super) fn end(&self, outcome: Outcome) -> Option<bool> {
        self.outcome.store(pack(outcome), Ordering::Relaxed);
        let (from, to) = (UNDER_WAY, ENDED);
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        match self.state.compare_exchange(from, to, success, failure) {
            Ok(_) => Some(false),
            Err(ORPHAN) => {
                self.fenced.store(false, Ordering::Relaxed);
                self.state.store(QUIET, Ordering::Release);
                Some(true)
            }
            Err(_) => None,
        }
    }

    /// How it ended, for its owner; `None` while it has not.
    #[inline]
    pub(super) fn ended(&self) -> Option<Outcome> {
        let has_ended = self.state.load(Ordering::Acquire) == ENDED;
        has_ended.then(|| unpack(self.outcome.load(Ordering::Relaxed)))
    }

    /// Its owner goes.
    pub(super) fn part(&self) -> Parting {
        // What it writes may come after all that is asked from now on, and must not.
        if self.state.load(Ordering::Acquire) == UNDER_WAY {
            self.fence();
            let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
            let to_orphan = self
                .state
                .compare_exchange(UNDER_WAY, ORPHAN, success, failure);
            if to_orphan.is_ok() {
                return Parting::Orphan;
            }
        }
        self.fenced.store(false, Ordering::Relaxed);
        self.state.store(QUIET, Ordering::Release);
        Parting::Free
    }

    /// Whether the device has it.
    pub(super) fn is_under_way(&self) -> bool {
        matches!(self.state.load(Ordering::Acquire), UNDER_WAY | ORPHAN)
    }
    /// Ticks for which the device has had it.
    pub(super) fn age(&self, now: u64) -> Option<u64> {
        let age = now.saturating_sub(self.since.load(Ordering::Relaxed));
        self.is_under_way().then_some(age)
    }

    /// Has whatever is about the same blocks wait until the device has answered, if it writes.
    /// True if it does.
    pub(super) fn fence(&self) -> bool {
        let fences = self.is_under_way() && self.writes.load(Ordering::Relaxed);
        if fences {
            self.fenced.store(true, Ordering::SeqCst);
        }
        fences
    }
    /// Whether it holds requests back.
    pub(super) fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::SeqCst) && self.is_under_way()
    }
    /// Whether a request has to wait for it.
    pub(super) fn is_in_the_way(&self, request: &Request) -> bool {
        if !self.fenced.load(Ordering::Acquire) || !self.is_under_way() {
            return false;
        }
        let (first, blocks, _) = range(request);
        let mine = self.first.load(Ordering::Relaxed);
        let end = mine + self.blocks.load(Ordering::Relaxed);
        first < end && mine < first + blocks
    }
}

/// First block, blocks, and whether they may change. All that there are for a flush, which is
/// in nobody's way.
fn range(request: &Request) -> (u64, u64, bool) {
    match *request {
        Request::Read { lba, blocks, .. } | Request::Compare { lba, blocks, .. } => {
            (lba, blocks.into(), false)
        }
        Request::Write { lba, blocks, .. }
        | Request::Discard { lba, blocks }
        | Request::WriteZeroes { lba, blocks } => (lba, blocks.into(), true),
        Request::Flush => (0, 1 << 62, false),
    }
}

fn pack(outcome: Outcome) -> u64 {
    match outcome {
        Outcome::Done => 0,
        Outcome::Gone => 1,
        Outcome::Failed {
            device_status,
            bytes_done,
        } => 2 | u64::from(device_status) << 16 | u64::from(bytes_done) << 32,
    }
}

fn unpack(word: u64) -> Outcome {
    match word & 3 {
        0 => Outcome::Done,
        1 => Outcome::Gone,
        _ => Outcome::Failed {
            device_status: (word >> 16) as u16,
            bytes_done: (word >> 32) as u32,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(lba: u64) -> Request {
        Request::WriteZeroes { lba, blocks: 4 }
    }

    #[test]
    fn outcomes_come_back_as_they_were() {
        let failed = Outcome::Failed {
            device_status: 0xfffe,
            bytes_done: 0x8000_0001,
        };
        for outcome in [Outcome::Done, Outcome::Gone, failed] {
            assert_eq!(unpack(pack(outcome)), outcome);
        }
    }

    #[test]
    fn a_slot_ends_once() {
        let slot = Slot::default();
        assert_eq!(slot.end(Outcome::Done), None, "never begun");
        slot.begin(&write(0), 0);
        assert_eq!(slot.ended(), None);
        assert_eq!(slot.end(Outcome::Done), Some(false));
        assert_eq!(slot.end(Outcome::Done), None, "twice");
        assert_eq!(slot.ended(), Some(Outcome::Done));
        assert_eq!(slot.part(), Parting::Free);
        assert_eq!(slot.ended(), None);
    }

    #[test]
    fn what_an_orphan_writes_is_waited_for() {
        let slot = Slot::default();
        slot.begin(&write(10), 0);
        assert!(!slot.is_in_the_way(&write(10)), "its owner may reorder");
        assert_eq!(slot.part(), Parting::Orphan);
        for lba in [7, 10, 13] {
            assert!(slot.is_in_the_way(&write(lba)), "{lba}");
        }
        for lba in [6, 14] {
            assert!(!slot.is_in_the_way(&write(lba)), "{lba}");
        }
        assert!(slot.is_in_the_way(&Request::Flush));
        assert_eq!(slot.end(Outcome::Done), Some(true));
        assert!(!slot.is_in_the_way(&write(10)));
        let at = super::super::device::StagingRange {
            offset: 0,
            length: 2048,
        };
        let read = Request::Read {
            lba: 10,
            blocks: 4,
            at,
        };
        slot.begin(&read, 0);
        assert_eq!(slot.part(), Parting::Orphan);
        assert!(!slot.is_in_the_way(&write(10)), "a read harms nobody");
    }
}
