//! [`Rare`]: the operations that nobody does for a few bytes, kept out of the way of
//! those that are done for a few.

use super::Step;
use super::apply_delta::ApplyDelta;
use super::atomic::Atomic;
use super::chunk::Chunk;
use super::copy_rows::CopyRows;
use super::copy_sg::CopySg;
use super::crc::Crc;
use super::crc64::Crc64;
use super::create_delta::CreateDelta;
use super::dif::Dif;
use super::dualcast::Dualcast;
use super::fetch::Fetch;
use super::flush::CacheFlush;
use super::message::Transit;
use super::signal::Signal;
use super::xor::Xor;
use crate::backend::Backend;

/// One of them under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rare {
    /// CREATE_DELTA.
    CreateDelta(CreateDelta),
    /// APPLY_DELTA.
    ApplyDelta(ApplyDelta),
    /// DUALCAST.
    Dualcast(Dualcast),
    /// TRANSLATION_FETCH.
    Fetch(Fetch),
    /// CRC_GEN and COPY_CRC.
    Crc(Crc),
    /// CRC64.
    Crc64(Crc64),
    /// All on T10 protection information.
    Dif(Dif),
    /// CACHE_FLUSH.
    CacheFlush(CacheFlush),
    /// XOR.
    Xor(Xor),
    /// COPY_SG of lists.
    CopySg(CopySg),
    /// COPY_SG of rows.
    CopyRows(CopyRows),
    /// ATOMIC64.
    Atomic(Atomic),
    /// SIGNAL.
    Signal(Signal),
    /// SEND and RECEIVE.
    Transit(Transit),
}

// Between chunks it lies in the worker's queue, and in a batch: none may grow unnoticed.
const _: () = assert!(size_of::<Rare>() <= 104);

impl Rare {
    /// Goes on inside a chunk.
    #[inline(never)]
    pub fn step<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Step {
        match self {
            Self::CreateDelta(delta) => delta.step(chunk),
            Self::ApplyDelta(delta) => delta.step(chunk),
            Self::Dualcast(dualcast) => dualcast.step(chunk),
            Self::Fetch(fetch) => fetch.step(chunk),
            Self::Crc(crc) => crc.step(chunk),
            Self::Crc64(crc) => crc.step(chunk),
            Self::Dif(dif) => dif.step(chunk),
            Self::CacheFlush(flush) => flush.step(chunk),
            Self::Xor(xor) => xor.step(chunk),
            Self::CopySg(copy) => copy.step(chunk),
            Self::CopyRows(copy) => copy.step(chunk),
            Self::Atomic(atomic) => atomic.step(chunk),
            Self::Signal(signal) => signal.step(chunk),
            Self::Transit(transit) => transit.step(chunk),
        }
    }

    /// Bytes done so far, as the completion counts them.
    pub fn done(&self) -> u32 {
        match self {
            Self::CreateDelta(delta) => delta.done,
            Self::ApplyDelta(delta) => delta.done,
            Self::Dualcast(dualcast) => dualcast.done,
            Self::Fetch(fetch) => fetch.done,
            Self::Crc(crc) => crc.done,
            Self::Crc64(crc) => crc.done,
            Self::Dif(dif) => dif.done,
            Self::CacheFlush(flush) => flush.done,
            Self::Xor(xor) => xor.done,
            Self::CopySg(copy) => copy.done,
            Self::CopyRows(copy) => copy.done,
            // Done in one go, or not at all.
            Self::Atomic(_) | Self::Signal(_) | Self::Transit(_) => 0,
        }
    }
}
