//! The short way: a MEMMOVE, a FILL, a comparison, a checksum or a COPY_SG of which each operand lies in one page, done in one go.
//!
//! Nearly all small messages are of this kind, and in a guest with large pages much of what is as long as a chunk. It does exactly
//! what [`Execution`](super::Execution) would, but keeps everything in registers: no state that
//! a later chunk would need is ever written to memory and read back. Whatever is not that
//! simple - refused, faulting, across a page's end, longer than what is left of the chunk - is left to the long way, from its
//! beginning. In a burst most of it is done once for many ([`Windows`](super::Windows)).

mod compare;
mod fill;
mod list;
mod rows;
mod sum;

use byway_protocols::{Completion, Descriptor, Opcode, PAGE_SIZE, Rights, Status};

use super::budget::{CHUNK_BYTES, OPERATION_COST};
use super::chunk::{Chunk, Failure, Operand, seen_as};
use super::memmove::{Memmove, apart, decide, decide_in_one};
use super::window::{Both, Found, Lone, Places, Windows};
use super::{Outcome, success, validate};
use crate::backend::{Backend, Hint, Order};
use crate::memory::HostAddr;
use crate::stage2::Access;

/// A short copy that was found to be in order: where its operands are on the host, and how it is to be done.
#[derive(Clone, Copy)]
pub(super) struct Short {
    from: HostAddr,
    to: HostAddr,
    order: Order,
    size: u32,
    cached: bool,
}

impl Short {
    /// The copy that a descriptor asks for, if that is what it asks for, both operands lie in windows, and it is of no more than a page, or
    /// the chunk has room for it and it is over when it returns. Its bytes are to be counted ([`Windows::moved`](super::Windows::moved)).
    #[inline(always)]
    pub(super) fn through<B: Backend>(d: &Descriptor, chunk: &Chunk<'_, B>) -> Option<Self> {
        let size = u64::from(d.size);
        let is_fit = size <= PAGE_SIZE || size <= B::IMMEDIATE && fits(d.size, chunk);
        if !is_copy(d) || !is_fit {
            return None;
        }
        Self::of(&validate::memmove(d).ok()?, chunk.windows.places())
    }

    #[inline(always)]
    fn of(memmove: &Memmove, windows: &Places) -> Option<Self> {
        let &Memmove {
            src,
            dst,
            size,
            cached,
            strict,
            ..
        } = memmove;
        let Both {
            src: from, dst: to, ..
        } = windows.both(src, dst, size.into())?;
        let order = if windows.are_apart {
            apart(strict)
        } else {
            // In one address space, in which the windows know where they are.
            let src = windows.src.address(src);
            let dst = windows.dst.address(dst);
            decide_in_one(src, dst, size.into(), strict).ok()?
        };
        Some(Self {
            from,
            to,
            order,
            size,
            cached,
        })
    }

    /// Where its source and its destination are.
    #[inline(always)]
    pub(super) fn places(self) -> (HostAddr, HostAddr) {
        (self.from, self.to)
    }

    /// Bytes.
    #[inline(always)]
    pub(super) fn size(self) -> u32 {
        self.size
    }

    /// The `result` of its completion.
    #[inline(always)]
    fn result(self) -> u8 {
        u8::from(self.order == Order::Descending)
    }

    /// Its completion when nothing was lost.
    #[inline(always)]
    pub(super) fn completion(self) -> Completion {
        Completion {
            result: self.result(),
            ..success(self.size)
        }
    }

    /// How it is to be done.
    #[inline(always)]
    pub(super) fn hint(self) -> Hint {
        Hint {
            order: self.order,
            total: self.size.into(),
            cached: self.cached,
        }
    }

    /// Does it, and charges the budget for it.
    #[inline(always)]
    pub(super) fn carry_out<B: Backend>(self, chunk: &mut Chunk<'_, B>) {
        let hint = self.hint();
        // SAFETY: both pages were translated in this chunk, one for reading and one for
        // writing, and hold `size` bytes; guest memory has no references.
        unsafe {
            (chunk.backend).copy(self.to, self.from, self.size as usize, hint);
        }
        chunk.budget.spend(OPERATION_COST + u64::from(self.size));
    }

    /// How it ended, once it is done.
    #[inline(always)]
    pub(super) fn outcome<B: Backend>(self, chunk: &Chunk<'_, B>, d: &Descriptor) -> Outcome {
        let (src, dst) = (validate::src_operand(d), validate::dst_operand(d));
        Outcome {
            completion: match check_regions(chunk, src, dst) {
                Ok(()) => self.completion(),
                Err(failure) => failure.completion(self.result(), self.size),
            },
            bytes: self.size.into(),
        }
    }
}

/// What a descriptor asks for, if that is a MEMMOVE of no more than a page, and in order.
#[inline(always)]
fn wanted(d: &Descriptor) -> Option<Memmove> {
    if !is_copy(d) || u64::from(d.size) > PAGE_SIZE {
        return None;
    }
    validate::memmove(d).ok()
}

#[inline(always)]
fn is_copy(d: &Descriptor) -> bool {
    let code = d.code();
    code == Opcode::Memmove as u8 || code == Opcode::InterDomainMemmove as u8
}

/// Whether the chunk has room for all of `size` bytes.
#[inline(always)]
fn fits<B: Backend>(size: u32, chunk: &Chunk<'_, B>) -> bool {
    let size = u64::from(size);
    size <= CHUNK_BYTES && chunk.has_room(size)
}

/// Carries the descriptor out if it is simple, and charges the budget for it; otherwise nothing
/// has happened, but that pages may have been marked accessed or dirty by walks that succeeded.
#[inline(always)]
pub fn try_short<B: Backend>(d: &Descriptor, chunk: &mut Chunk<'_, B>) -> Option<Outcome> {
    let memmove = wanted(d)?;
    copy(d, &memmove, chunk)
}

/// How an operation ended, as [`Outcome`], in words that are whole: of such as are put together from bytes in memory, whoever loads them
/// waits until all that was stored before, an operation's bytes among it, is in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    publish: u64,
    rest: [u64; 3],
    bytes: u64,
}

impl From<Outcome> for Told {
    #[inline(always)]
    fn from(outcome: Outcome) -> Self {
        let told = outcome.completion;
        Self {
            publish: told.publish_word(),
            rest: [told.fault_addr, told.op0, told.op1],
            bytes: outcome.bytes,
        }
    }
}

impl From<Told> for Outcome {
    #[inline(always)]
    fn from(told: Told) -> Self {
        Self {
            completion: Completion::from_words(told.publish, told.rest),
            bytes: told.bytes,
        }
    }
}

/// An inter-domain operation's code is so much above that of which it is an alias.
const ALIAS: u8 = Opcode::InterDomainMemmove as u8 - Opcode::Memmove as u8;

/// The same of a copy of more than a page, and of all else that can be as simple.
///
/// Apart on purpose: what is done for a small message stays in registers.
#[inline(never)]
pub fn try_longer<B: Backend>(d: &Descriptor, chunk: &mut Chunk<'_, B>) -> Option<Told> {
    const MOVES: u8 = Opcode::Memmove as u8;
    const FILLS: u8 = Opcode::Fill as u8;
    const COMPARES: u8 = Opcode::Compare as u8;
    const COMPARES_VALUE: u8 = Opcode::CompareValue as u8;
    const CRC: u8 = Opcode::CrcGen as u8;
    const CRC64: u8 = Opcode::Crc64 as u8;
    const COPY_SG: u8 = Opcode::CopySg as u8;
    // Three codes at a time: of four the compiler makes a table, and behind an operation that fills the first cache its entry
    // comes from the second, as does the one by which a code is found to have an alias. What else there may be in a descriptor
    // is seen to by whoever takes it.
    let code = d.code();
    match code & !ALIAS {
        MOVES if u64::from(d.size) > B::IMMEDIATE || !fits(d.size, chunk) => None,
        MOVES => copy(d, &validate::memmove(d).ok()?, chunk).map(Told::from),
        COMPARES => compare::try_ranges(d, chunk),
        COMPARES_VALUE => compare::try_value(d, chunk),
        _ => match code {
            CRC => sum::try_sum(d, sum::Sum::crc32c(d)?, chunk),
            CRC64 => sum::try_sum(d, sum::Sum::crc64(d)?, chunk),
            COPY_SG if validate::has_rows(d) => rows::try_rows(d, chunk),
            COPY_SG => list::try_list(d, chunk),
            _ if code & !ALIAS == FILLS => fill::try_fill(d, chunk),
            _ => None,
        },
    }
}

/// One or the other: for those who have nothing of their own to do between the two.
#[inline(always)]
pub fn try_either<B: Backend>(d: &Descriptor, chunk: &mut Chunk<'_, B>) -> Option<Outcome> {
    try_short(d, chunk).or_else(|| try_longer(d, chunk).map(Outcome::from))
}

#[inline(always)]
fn copy<B: Backend>(
    d: &Descriptor,
    memmove: &Memmove,
    chunk: &mut Chunk<'_, B>,
) -> Option<Outcome> {
    let short = match Short::of(memmove, chunk.windows.places()) {
        Some(short) => {
            chunk.windows.moved(short.size.into());
            short
        }
        None => look(chunk, memmove)?,
    };
    short.carry_out(chunk);
    if chunk.iotlb.has_writes() {
        chunk.log_writes();
    }
    Some(short.outcome(chunk, d))
}

/// Finds out where the operands are; their bytes are counted, and there are windows for them
/// from now on. `None` when one is not that simple.
#[inline(never)]
fn look<B: Backend>(chunk: &mut Chunk<'_, B>, memmove: &Memmove) -> Option<Short> {
    let size = u64::from(memmove.size);
    let src = chunk.resolve(memmove.src, size, Rights::READ).ok()?;
    let dst = chunk.resolve(memmove.dst, size, Rights::WRITE).ok()?;
    let order = decide(&src, &dst, size, memmove.strict).ok()?;
    // Its end comes first: the beginning's page must not be marked dirty if the end's is missing.
    if order == Order::Descending && dst.addr % PAGE_SIZE + size > PAGE_SIZE {
        return None;
    }
    let from = chunk.page(&src, 0, Access::Read).ok()?;
    if from.len < size {
        return None;
    }
    let to = chunk.page(&dst, 0, Access::Write).ok()?;
    if to.len < size {
        return None;
    }
    (chunk.windows).open(chunk.iotlb, (memmove.src, &src), (memmove.dst, &dst), size);
    Some(Short {
        from: from.host,
        to: to.host,
        order,
        size: memmove.size,
        cached: memmove.cached,
    })
}

/// A window of a chunk's.
pub(super) type Which<'a> = for<'w> fn(&'w mut Windows<'a>) -> &'w mut Lone<'a>;

/// Where an operand is that lies in one page, by the window for it or by a look; its bytes are counted.
#[inline(always)]
fn reach<'a, B: Backend>(
    chunk: &mut Chunk<'a, B>,
    window: Which<'a>,
    operand: Operand,
    size: u64,
    access: Access,
) -> Option<HostAddr> {
    let lone = window(&mut chunk.windows);
    if let Some(host) = lone.find(operand, size) {
        lone.passed(size);
        return Some(host);
    }
    let found = find(chunk, operand, size, access)?;
    window(&mut chunk.windows).open_for(&found, size);
    Some(found.host)
}

/// An operand that lies in one page, which is translated for `access`. Its bytes are to be counted with its window
/// ([`Lone::open`](super::window::Lone::open)).
#[inline(never)]
fn find<'a, B: Backend>(
    chunk: &mut Chunk<'a, B>,
    operand: Operand,
    size: u64,
    access: Access,
) -> Option<Found<'a>> {
    let target = chunk.resolve(operand, size, needed(access)).ok()?;
    let page = chunk.page(&target, 0, access).ok()?;
    if page.len < size {
        return None;
    }
    Some((chunk.windows).found(chunk.iotlb, operand, target, access, page.host))
}

/// The right that it takes.
fn needed(access: Access) -> Rights {
    match access {
        Access::Read => Rights::READ,
        Access::Write => Rights::WRITE,
    }
}

/// What became of what was moved between two operands in windows.
///
/// # Errors
/// As [`Chunk::settle`].
#[inline(always)]
pub(super) fn check_regions<B: Backend>(
    chunk: &Chunk<'_, B>,
    src: Operand,
    dst: Operand,
) -> Result<(), Failure> {
    if !chunk.has_lost_regions() {
        return Ok(());
    }
    lost(chunk, src, Access::Read)?;
    lost(chunk, dst, Access::Write)
}

/// How an operation ended that has `answer` to tell, if some region was lost: that its own are `kept`, or not. Apart, as
/// [`Step::failed`](super::Step::failed).
#[cold]
#[inline(never)]
fn ended(kept: Result<(), Failure>, answer: Told) -> Told {
    let done = Outcome::from(answer);
    match kept {
        Ok(()) => answer,
        Err(failure) => Told::from(Outcome {
            completion: Completion {
                op0: done.completion.op0,
                ..failure.completion(0, done.completion.bytes_completed)
            },
            ..done
        }),
    }
}

/// Whether what was read or written there may be gone.
///
/// # Errors
/// As [`Chunk::settle`].
#[cold]
pub(super) fn lost<B: Backend>(
    chunk: &Chunk<'_, B>,
    operand: Operand,
    access: Access,
) -> Result<(), Failure> {
    // An error: taken back in the same moment.
    let target = chunk.resolve(operand, 0, needed(access))?;
    if target.space.memory().is_dead() {
        let status = seen_as(&target, Status::RegionGone);
        return Err(Failure::at(status, access, operand.addr));
    }
    Ok(())
}
