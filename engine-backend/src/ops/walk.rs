//! Going through operands piece by piece: the loops that most operations share.

use super::chunk::{Chunk, Failure, Piece};
use crate::backend::Backend;
use crate::context::Target;
use crate::memory::HostAddr;
use crate::stage2::Access;

/// Bytes that were gone through, and what kept it from the rest of the chunk's share.
pub(super) type Walked = (u64, Result<(), Failure>);

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
    while at < left && !(at > 0 && chunk.is_over()) {
        let piece = match chunk.forward(target, at, chunk.room(left - at), access) {
            Ok(piece) => piece,
            Err(failure) => return (at, Err(failure)),
        };
        work(chunk.backend, piece.host, piece.len as usize);
        at += piece.len;
        chunk.budget.spend(piece.len);
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
    let mut from = Piece::NONE;
    while at < left && !(at > 0 && chunk.is_over()) {
        if from.len == 0 {
            from = match chunk.forward(src, at, chunk.room(left - at), Access::Read) {
                Ok(piece) => piece,
                Err(failure) => return (at, Err(failure)),
            };
        }
        let mut len = from.len;
        let mut to = [HostAddr(0); N];
        for (host, target) in to.iter_mut().zip(dst) {
            match chunk.forward(target, at, len, Access::Write) {
                Ok(piece) => (*host, len) = (piece.host, piece.len),
                Err(failure) => return (at, Err(failure)),
            }
        }
        let from = from.take_front(len);
        work(chunk.backend, to, from, len as usize);
        at += len;
        chunk.budget.spend(len * N as u64);
    }
    (at, Ok(()))
}

/// Whether two ranges share an address of one address space. Neither wraps, so the
/// distance from the start of one to the start of the other tells.
#[inline]
pub(super) fn overlap(a: &Target<'_>, a_len: u64, b: &Target<'_>, b_len: u64) -> bool {
    a.space.id() == b.space.id()
        && (b.addr.wrapping_sub(a.addr) < a_len || a.addr.wrapping_sub(b.addr) < b_len)
}
