//! What an operation works with inside one chunk: operands checked against
//! capabilities, translated piece by piece, and accounted for.
//!
//! Everything here is good until the chunk's guard is dropped and is looked up again
//! in the next one. The only way from a guest's address to a host address.

use std::num::NonZeroU8;

use byway_protocols::{Completion, Rights, Status};

use super::budget::Budget;
use super::device;
use super::lease::Codecs;
use super::missing::{Asked, Missing};
use super::staging::Staging;
use super::window::Windows;
use super::{Outcome, Stand};
use crate::address_space::Fault;
use crate::backend::Backend;
use crate::context::{Context, Target};
use crate::epoch::{Awaited, ChunkGuard};
use crate::iotlb::Iotlb;
use crate::memory::{HostAddr, sigbus};
use crate::queue::PageNeed;
use crate::stage2::Access;

/// Smallest page there is, in bytes.
const PAGE: u64 = 4096;

/// Most pages that one piece is put together from, so that a chunk cannot hide many walks
/// between two looks at the clock.
const PAGES_PER_PIECE: u32 = 8;

/// A descriptor's operand as its submitter wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operand {
    /// Capability slot; 0 = the context's own address space.
    pub slot: u16,
    /// Address there, or offset into the capability.
    pub addr: u64,
}

impl Operand {
    /// The operand without its first `bytes` bytes.
    #[inline(always)]
    #[must_use]
    pub fn plus(self, bytes: u64) -> Self {
        Self {
            addr: self.addr.wrapping_add(bytes),
            ..self
        }
    }
}

/// Why an operation stops.
///
/// Two words, neither of them made of parts: so what may be one comes and goes in registers. In memory its parts would be
/// stored one by one, and whoever loads them as one waits for all stores before, a copy's among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// As a completion has it: the status, none of which is 0, and whether a write met it.
    code: NonZeroU8,
    /// Where, in the operand's own terms; 0 when it was no fault in memory.
    addr: u64,
}

impl From<Status> for Failure {
    #[inline]
    fn from(status: Status) -> Self {
        Self::at(status, Access::Read, 0)
    }
}

impl Failure {
    /// One that an access to `addr` met, in the operand's own terms.
    #[inline]
    #[must_use]
    pub fn at(status: Status, access: Access, addr: u64) -> Self {
        let write = match access {
            Access::Read => 0,
            Access::Write => Status::WRITE_FAULT,
        };
        let code = NonZeroU8::new(status as u8 | write);
        Self {
            code: code.expect("a status that is not 0"),
            addr,
        }
    }

    /// How it ends.
    #[must_use]
    pub fn status(self) -> Option<Status> {
        Status::from_code(self.code.get() & !Status::WRITE_FAULT)
    }

    /// The same met with another status.
    #[must_use]
    pub fn told_as(self, status: Status) -> Self {
        let write = self.code.get() & Status::WRITE_FAULT != 0;
        let access = if write { Access::Write } else { Access::Read };
        Self::at(status, access, self.addr)
    }

    /// The completion of an operation that stops with `done` bytes or descriptors done.
    #[must_use]
    pub fn completion(self, result: u8, done: u32) -> Completion {
        Completion {
            status: self.code.get(),
            result,
            bytes_completed: done,
            fault_addr: self.addr,
            ..Completion::default()
        }
    }
}

/// A translated, host-contiguous piece of an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Host address of its first byte.
    pub host: HostAddr,
    /// Bytes; 0 only in [`Piece::NONE`].
    pub len: u64,
}

impl Piece {
    /// No byte.
    pub const NONE: Self = Self {
        host: HostAddr(0),
        len: 0,
    };

    /// Cuts `len` bytes off its start and returns where they are.
    #[inline(always)]
    pub fn take_front(&mut self, len: u64) -> HostAddr {
        let host = self.host;
        self.host = HostAddr(host.0 + len);
        self.len -= len;
        host
    }

    /// Cuts `len` bytes off its end and returns where they are.
    #[inline(always)]
    pub fn take_back(&mut self, len: u64) -> HostAddr {
        self.len -= len;
        HostAddr(self.host.0 + self.len)
    }
}

/// A chunk under way.
#[derive(Debug)]
pub struct Chunk<'a, B> {
    /// Proof of it.
    pub guard: &'a ChunkGuard<'a>,
    /// Whether its end is waited for: the guard's, which is one load further away.
    pub awaited: Awaited<'a>,
    /// Whose descriptor is worked on.
    pub context: &'a Context,
    /// The worker's translations.
    pub iotlb: &'a mut Iotlb,
    /// What operands were found out about, for those that follow.
    pub windows: Windows<'a>,
    /// Moves the bytes.
    pub backend: &'a mut B,
    /// The worker's private memory.
    pub staging: &'a mut Staging,
    /// What is left of it.
    pub budget: Budget,
    /// Lost regions that the worker knows of.
    pub regions_lost: u64,
    /// The last fault that somebody may mend, until whoever it ended was looked at.
    pub missing: Option<Missing>,
    /// Where the descriptor stands, and what it waits for. Elsewhere, so that nothing has to be
    /// dropped with a chunk: that would be on the way of every short transfer.
    pub stand: &'a mut Stand,
    /// What transforming operations work with.
    pub codecs: &'a mut Codecs,
}

impl<'a, B> Chunk<'a, B> {
    /// Ends it. What is left of it.
    #[inline(always)]
    #[must_use]
    pub fn end(self) -> Budget {
        self.budget
    }

    /// Checks that `len` bytes of an operand may be accessed with the rights `need`.
    ///
    /// # Errors
    /// 48-4B, or 62 when the context's own address space has ended.
    #[inline(always)]
    pub fn resolve(&self, operand: Operand, len: u64, need: Rights) -> Result<Target<'a>, Failure> {
        let context: &'a Context = self.context;
        context
            .resolve(self.guard, operand.slot, operand.addr, len, need)
            .or_else(|status| {
                if operand.slot == device::SLOT {
                    // Made by the engine alone: no descriptor names it.
                    return Ok(Target::staged(device::space(), operand.addr));
                }
                Err(status)
            })
            .map_err(|status| {
                if operand.slot == 0 && status == Status::Revoked {
                    Status::Aborted.into()
                } else {
                    status.into()
                }
            })
    }

    /// Whether a long operation stops here, with a piece at least done, and goes on in another chunk: since this one is
    /// used up, or since somebody waits for its end.
    #[inline(always)]
    #[must_use]
    pub fn is_over(&mut self) -> bool {
        self.is_spent() || self.awaited.is_so()
    }

    /// The same for what goes on in small steps: so those who keep control threads waiting for chunks do not cut
    /// everybody's into single steps. After a slice, a chunk ends all the same when somebody waits, or may wait unseen:
    /// the kernel of an invalidation page that was entered.
    #[inline(always)]
    #[must_use]
    pub fn is_spent(&mut self) -> bool {
        if self.budget.is_over() {
            return true;
        }
        if self.budget.is_long() {
            if self.is_waited_for() {
                return true;
            }
            self.budget.begin_slice();
        }
        false
    }

    /// Whether some region lost its backing that the worker has not seen to: what was moved may be gone.
    #[inline(always)]
    pub(super) fn has_lost_regions(&self) -> bool {
        sigbus::generation() != self.regions_lost
    }

    #[inline(always)]
    fn is_waited_for(&self) -> bool {
        self.awaited.is_so() || self.iotlb.has_entered_pages()
    }

    /// Whether it has room for a piece of `bytes` bytes, as [`Self::room`] says.
    #[inline(always)]
    #[must_use]
    pub fn has_room(&self, bytes: u64) -> bool {
        bytes < self.budget.left() + PAGE
    }

    /// How long the next piece may be when `left` bytes are to be done. Never less than a
    /// page, so that the rest of a budget is not spent in crumbs; nor does it leave less than a
    /// page for another chunk, which would cost more than it does. Whoever overdraws pays in the
    /// next round.
    #[inline(always)]
    #[must_use]
    pub fn room(&self, left: u64) -> u64 {
        if self.has_room(left) {
            left
        } else {
            self.budget.left().max(PAGE)
        }
    }

    /// Translates one byte; the piece reaches to the end of its page.
    ///
    /// # Errors
    /// What a walk says, 45 in another domain's memory.
    #[inline(always)]
    pub fn page(
        &mut self,
        target: &Target<'_>,
        offset: u64,
        access: Access,
    ) -> Result<Piece, Failure> {
        if target.is_staged() {
            return self.staging.view.find(target.addr + offset);
        }
        // In range: the operand was resolved up to a byte beyond `offset`.
        match self
            .iotlb
            .translate(target.space, target.addr + offset, access)
        {
            Ok(span) => Ok(Piece {
                host: span.host,
                len: span.bytes,
            }),
            Err(fault) => Err(self.fault(target, fault)),
        }
    }

    /// The longest piece that starts at `offset`, at most `max` bytes. Pages that are
    /// not needed are not walked, so nothing is marked accessed or dirty for them.
    ///
    /// # Errors
    /// As [`Self::page`]; a fault behind the first page only shortens the piece.
    #[inline(always)]
    pub fn forward(
        &mut self,
        target: &Target<'_>,
        offset: u64,
        max: u64,
        access: Access,
    ) -> Result<Piece, Failure> {
        let page = self.page(target, offset, access)?;
        Ok(self.from_page(target, offset, page, max, access))
    }

    /// The same of all that is known to lie there: what lies behind `max` bytes of it, in the last page that was needed, stays
    /// usable to the chunk's end.
    ///
    /// # Errors
    /// As [`Self::forward`].
    #[inline(never)]
    pub fn around(
        &mut self,
        target: &Target<'_>,
        offset: u64,
        max: u64,
        access: Access,
    ) -> Result<Piece, Failure> {
        let page = self.page(target, offset, access)?;
        Ok(self.with_what_follows(target, offset, page, max, access))
    }

    /// The same where the first page is found already.
    #[inline(always)]
    pub fn from_page(
        &mut self,
        target: &Target<'_>,
        offset: u64,
        page: Piece,
        max: u64,
        access: Access,
    ) -> Piece {
        let mut piece = self.with_what_follows(target, offset, page, max, access);
        piece.len = piece.len.min(max);
        piece
    }

    /// A page, and where it has less than `max` bytes, what follows it on the host.
    #[inline(always)]
    fn with_what_follows(
        &mut self,
        target: &Target<'_>,
        offset: u64,
        page: Piece,
        max: u64,
        access: Access,
    ) -> Piece {
        if page.len < max {
            self.extended(target, offset, page, max, access)
        } else {
            page
        }
    }

    /// A piece that starts at `offset` with what follows it on the host. Comes and goes in registers, as whatever is asked for
    /// behind a copy should: what goes through memory in parts and is loaded as a whole waits for all stores before it.
    #[inline(never)]
    fn extended(
        &mut self,
        target: &Target<'_>,
        offset: u64,
        mut piece: Piece,
        max: u64,
        access: Access,
    ) -> Piece {
        for _ in 1..PAGES_PER_PIECE {
            if piece.len >= max {
                break;
            }
            let Ok(next) = self.page(target, offset + piece.len, access) else {
                self.missing = None;
                break;
            };
            if next.host.0 != piece.host.0 + piece.len {
                break;
            }
            piece.len += next.len;
        }
        piece
    }

    /// The longest piece that ends before `end`, at most `max` bytes.
    ///
    /// # Errors
    /// As [`Self::page`]; a fault below the first page only shortens the piece.
    #[inline]
    pub fn backward(
        &mut self,
        target: &Target<'_>,
        end: u64,
        max: u64,
        access: Access,
    ) -> Result<Piece, Failure> {
        let lowest = end - max;
        let mut start = page_start(target, end, lowest);
        let mut host = self
            .page(target, start, access)
            .map_err(|failure| Failure {
                // The byte that was wanted is the last of this part, not its first.
                addr: failure.addr + (end - 1 - start),
                ..failure
            })?
            .host;
        for _ in 1..PAGES_PER_PIECE {
            if start == lowest {
                break;
            }
            let below = page_start(target, start, lowest);
            let Ok(next) = self.page(target, below, access) else {
                self.missing = None;
                break;
            };
            if next.host.0 + (start - below) != host.0 {
                break;
            }
            (start, host) = (below, next.host);
        }
        Ok(Piece {
            host,
            len: end - start,
        })
    }

    /// Turns a fault into what the submitter may know: cause and address in its own
    /// domain's memory, the offset alone in a peer's. Notes it if somebody can be asked.
    #[cold]
    fn fault(&mut self, target: &Target<'_>, fault: Fault) -> Failure {
        let status = seen_as(target, fault.status);
        self.missing = Missing::of(target, &fault, status, self.context.domain());
        let access = if fault.write {
            Access::Write
        } else {
            Access::Read
        };
        Failure::at(status, access, fault.addr.wrapping_sub(target.base))
    }

    /// Whether what ended so is to wait for a page instead; see [`Asked::decide`].
    #[inline(always)]
    #[must_use]
    pub fn waits(
        &mut self,
        asked: &mut Asked,
        block: bool,
        outcome: &mut Outcome,
    ) -> Option<PageNeed> {
        let missing = self.missing.take()?;
        asked.decide(missing, block, outcome)
    }
}

impl<B: Backend> Chunk<'_, B> {
    /// Ends a chunk's work on operands: waits until the backend has moved what it was
    /// given, then accounts for `read` and `written` bytes that were moved through operands. But
    /// for the short way, the one place between the bytes and the completion, and thus where the
    /// written pages enter a dirty log: after the bytes, before anyone is told.
    ///
    /// # Errors
    /// 5A (45 in another domain's memory) when a region lost its backing meanwhile:
    /// what was moved may be gone.
    #[inline(always)]
    pub fn settle(&mut self, moved: &[(&Target<'_>, Access, u64)]) -> Result<(), Failure> {
        self.backend.finish();
        for &(target, access, bytes) in moved {
            match access {
                Access::Read => target.account(bytes, 0),
                Access::Write => target.account(0, bytes),
            }
        }
        if self.iotlb.has_writes() {
            self.log_writes();
        }
        if self.has_lost_regions() {
            for &(target, access, _) in moved {
                if target.space.memory().is_dead() {
                    let status = seen_as(target, Status::RegionGone);
                    return Err(Failure::at(status, access, target.addr - target.base));
                }
            }
        }
        Ok(())
    }

    /// Marks the written pages, once all of their bytes are there.
    #[cold]
    pub(super) fn log_writes(&mut self) {
        self.backend.finish();
        self.iotlb.log_writes();
    }
}

/// Start of the 4 KiB page that holds the byte before `end`, but not below `lowest`;
/// offsets into the operand.
#[inline]
fn page_start(target: &Target<'_>, end: u64, lowest: u64) -> u64 {
    let last = target.addr + end - 1;
    ((last & !(PAGE - 1)).saturating_sub(target.addr)).max(lowest)
}

/// What the submitter is told of a status met in an operand's memory: in another
/// domain's, nothing but that it was there.
#[inline]
pub(super) fn seen_as(target: &Target<'_>, status: Status) -> Status {
    if target.own {
        status
    } else {
        Status::RemoteFault
    }
}
