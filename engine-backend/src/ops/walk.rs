//! Going through operands piece by piece: the loops that most operations share.

use super::chunk::{Chunk, Failure, Piece};
use super::window::meet;
use crate::backend::{Backend, Hint, Order};
use crate::context::Target;
use crate::memory::HostAddr;
use crate::stage2::Access;

/// Bytes that were gone through, and what kept it from the rest of the chunk's share.
pub(super) type Walked = (u64, Result<(), Failure>);

/// Where an operand lies, followed from piece to piece. What is left of a page that was translated in a chunk stays usable to the
/// chunk's end, so it is looked up once and not for each slice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Track {
    /// What is known to lie behind the last piece.
    rest: Piece,
}

impl Track {
    /// At an operand's first byte.
    pub(super) const NEW: Self = Self { rest: Piece::NONE };

    /// How many bytes lie in a row on the host from `at` on, where the last piece ended: at most `max`, which is not 0.
    ///
    /// # Errors
    /// As [`Chunk::forward`].
    #[inline(always)]
    pub(super) fn reach<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        target: &Target<'_>,
        at: u64,
        max: u64,
        access: Access,
    ) -> Result<u64, Failure> {
        if self.rest.len == 0 {
            self.rest = chunk.around(target, at, max, access)?;
        }
        Ok(self.rest.len.min(max))
    }

    /// Goes on by a piece of `len` bytes, no more than there were found. Where it is.
    #[inline(always)]
    pub(super) fn pass(&mut self, len: u64) -> HostAddr {
        self.rest.take_front(len)
    }
}

/// Hands the first `left` bytes of an operand to `work`, piece by piece, until all are
/// done or the chunk is over.
#[inline]
pub(super) fn along<B: Backend>(
    chunk: &mut Chunk<'_, B>,
    target: &Target<'_>,
    left: u64,
    access: Access,
    mut work: impl FnMut(&mut B, HostAddr, usize),
) -> Walked {
    let mut at = 0;
    let mut track = Track::NEW;
    while at < left && !(at > 0 && chunk.is_over()) {
        let room = chunk.room(left - at);
        let len = match track.reach(chunk, target, at, room, access) {
            Ok(len) => len,
            Err(failure) => return (at, Err(failure)),
        };
        work(chunk.backend, track.pass(len), len as usize);
        at += len;
        chunk.budget.spend(len);
    }
    (at, Ok(()))
}

/// The same with a source, read, and destinations, written, all at the same offset. The
/// source is met first, then the destinations in their order.
#[inline]
pub(super) fn abreast<B: Backend, const N: usize>(
    chunk: &mut Chunk<'_, B>,
    src: &Target<'_>,
    dst: [&Target<'_>; N],
    left: u64,
    mut work: impl FnMut(&mut B, [HostAddr; N], HostAddr, usize),
) -> Walked {
    let mut at = 0;
    let (mut from, mut to) = (Track::NEW, [Track::NEW; N]);
    while at < left && !(at > 0 && chunk.is_over()) {
        let room = chunk.room(left - at);
        let mut found = from.reach(chunk, src, at, room, Access::Read);
        for (track, target) in to.iter_mut().zip(dst) {
            found = found.and_then(|len| track.reach(chunk, target, at, len, Access::Write));
        }
        let len = match found {
            Ok(len) => len,
            Err(failure) => return (at, Err(failure)),
        };
        let hosts = to.each_mut().map(|track| track.pass(len));
        work(chunk.backend, hosts, from.pass(len), len as usize);
        at += len;
        chunk.budget.spend(len * N as u64);
    }
    (at, Ok(()))
}

/// How a piece is to be copied of a copy of `size` bytes that is made of pieces.
#[inline(always)]
pub(super) fn part_of(size: u32, cached: bool, overlaps: bool) -> Hint {
    Hint {
        order: if overlaps {
            Order::Ascending
        } else {
            Order::Disjoint
        },
        total: size.into(),
        cached,
    }
}

/// Whether two ranges share an address of one address space.
#[inline]
pub(super) fn overlap(a: &Target<'_>, a_len: u64, b: &Target<'_>, b_len: u64) -> bool {
    a.space.id() == b.space.id() && meet((a.addr, a_len), (b.addr, b_len))
}
