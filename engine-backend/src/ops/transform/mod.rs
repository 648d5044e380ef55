//! COMPRESS, DECOMPRESS, ENCRYPT, DECRYPT, SEAL_COPY and OPEN_COPY (SPEC sections 4.24 to
//! 4.28, 4.31 and 4.32).
//!
//! Two ways, chosen in the first chunk, when the key's algorithm is known: `blocks` for
//! modes that need no more from chunk to chunk than an initialisation vector, and
//! `message` for what keeps state in a leased job: compression, GCM, and both at once.

mod blocks;
mod message;

use byway_protocols::codec::{Compression, KeyAlgorithm, LZ4_BLOCK_BYTES_MAX};
use byway_protocols::{Completion, Rights, Status};

use super::chunk::{Chunk, Failure, Operand};
use super::{Outcome, Step, success};
use crate::backend::{Backend, Hint, Order};
use crate::codec::cipher::BLOCK_BYTES;
use crate::codec::lz4::SINGLE_BLOCK_MAX;
use crate::codec::{Direction, StreamKind};
use crate::context::{KeyUse, Target};
use blocks::Blocks;
use message::Message;

/// What is to become of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// COMPRESS or DECOMPRESS.
    Stream(StreamKind),
    /// ENCRYPT, DECRYPT, SEAL_COPY or OPEN_COPY.
    Crypt(Crypt),
}

/// How it is encrypted or decrypted, as far as the descriptor says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crypt {
    /// Which way.
    pub direction: Direction,
    /// The key's slot.
    pub key: u16,
    /// Compressed before, or decompressed after.
    pub fused: Option<Compression>,
    /// Logarithm of XTS's data unit.
    pub unit_log2: u8,
    /// `op1` and `op2`.
    pub iv: [u8; BLOCK_BYTES],
    /// SEAL_COPY or OPEN_COPY: the nonce is the engine's matter. `iv` has the lowest number
    /// that is accepted and a label.
    pub channel: bool,
}

impl Crypt {
    fn right(&self) -> Rights {
        match self.direction {
            Direction::Encrypt => Rights::ENCRYPT,
            Direction::Decrypt => Rights::DECRYPT,
        }
    }
}

/// Operands, checked as far as a descriptor alone can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Source; right READ.
    pub src: Operand,
    /// Destination; right WRITE.
    pub dst: Operand,
    /// Bytes of the source, 1 to 2^31.
    pub size: u32,
    /// Room at the destination, 1 to 2^31.
    pub capacity: u32,
    /// What is to be done.
    pub action: Action,
    /// The submitter wants the destination in the caches.
    pub cached: bool,
}

impl Wanted {
    /// The operands without what was done of them. Inlined: two of them, returned through memory, are taken up in other parts than
    /// they were put down in, and wait for all stores before.
    #[inline(always)]
    fn resolve<'g, B>(
        &self,
        chunk: &Chunk<'g, B>,
        consumed: u32,
        produced: u32,
    ) -> Result<(Target<'g>, Target<'g>), Failure> {
        let [read, written] = [consumed, produced].map(u64::from);
        let (left, room) = (self.size - consumed, self.capacity - produced);
        let src = chunk.resolve(self.src.plus(read), u64::from(left), Rights::READ)?;
        let dst = chunk.resolve(self.dst.plus(written), u64::from(room), Rights::WRITE)?;
        Ok((src, dst))
    }

    /// The key for `left` more bytes; `id` tells which it was before, if there was a before:
    /// a right to another one in the same slot is none to go on.
    fn key<'g, B>(
        &self,
        crypt: &Crypt,
        chunk: &Chunk<'g, B>,
        left: u32,
        id: Option<u64>,
    ) -> Result<KeyUse<'g>, Failure> {
        let context = chunk.context;
        let found = context.resolve_key(chunk.guard, crypt.key, u64::from(left), crypt.right())?;
        if id.is_some_and(|id| id != found.key.id()) {
            return Err(Status::Revoked.into());
        }
        Ok(found)
    }

    fn hint(&self) -> Hint {
        Hint {
            order: Order::Disjoint,
            total: u64::from(self.capacity.min(self.size)),
            cached: self.cached,
        }
    }
}

/// A transformation under way.
#[derive(Debug)]
pub struct Transform {
    wanted: Wanted,
    state: State,
}

#[derive(Debug)]
enum State {
    New,
    Blocks(Blocks),
    Message(Message),
}

impl Transform {
    /// Nothing done yet.
    #[must_use]
    pub fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            state: State::New,
        }
    }

    /// The same with another source.
    #[must_use]
    pub(super) fn of(mut self, src: Operand) -> Self {
        self.wanted.src = src;
        self
    }

    /// The same with another destination.
    #[must_use]
    pub(super) fn into(mut self, dst: Operand) -> Self {
        self.wanted.dst = dst;
        self
    }

    /// Room at its destination.
    pub(super) fn capacity(&self) -> u32 {
        self.wanted.capacity
    }

    /// Bytes at its destination.
    pub(super) fn produced(&self) -> u32 {
        match &self.state {
            State::New => 0,
            State::Blocks(blocks) => blocks.done(),
            State::Message(message) => message.produced(),
        }
    }

    /// Bytes of its source.
    pub(super) fn size(&self) -> u32 {
        self.wanted.size
    }

    /// Bytes of its source that it will not read again.
    pub(super) fn consumed(&self) -> u32 {
        match &self.state {
            State::New => 0,
            State::Blocks(blocks) => blocks.done(),
            State::Message(message) => message.consumed(),
        }
    }

    /// Source bytes done, of those that need not be done again.
    pub(super) fn done(&self) -> u32 {
        match &self.state {
            State::Blocks(blocks) => blocks.done(),
            State::New | State::Message(_) => 0,
        }
    }

    /// Goes on until done or until the chunk is over. After a fault another step goes on
    /// where it stopped.
    pub fn step<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Step {
        let ended = match self.run(chunk) {
            Ok(None) => return Step::More,
            Ok(Some(ended)) => Completion {
                op0: u64::from(ended.produced),
                op1: ended.number.unwrap_or(ended.consumed.into()),
                ..success(ended.consumed)
            },
            Err(failure) => return Step::failed(failure, 0, self.done()),
        };
        Step::Done(Outcome {
            completion: ended,
            bytes: u64::from(ended.bytes_completed),
        })
    }

    fn run<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Result<Option<Ended>, Failure> {
        if let State::New = self.state {
            self.state = begin(&self.wanted, chunk)?;
        }
        match &mut self.state {
            State::New => Ok(None),
            State::Blocks(blocks) => blocks.run(&self.wanted, chunk),
            State::Message(message) => message.run(&self.wanted, chunk),
        }
    }
}

/// How much there was in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ended {
    consumed: u32,
    produced: u32,
    /// A sealed message's.
    number: Option<u64>,
}

/// Checks what depends on operands and key.
fn begin<B>(wanted: &Wanted, chunk: &mut Chunk<'_, B>) -> Result<State, Failure> {
    let (src, dst) = wanted.resolve(chunk, 0, 0)?;
    let (kind, crypt) = match &wanted.action {
        Action::Stream(kind) => (Some(*kind), None),
        Action::Crypt(crypt) => {
            let key = wanted.key(crypt, chunk, wanted.size, None)?;
            let algorithm = key.key.algorithm();
            // Nonces of a channel key are counted, and never a submitter's choice.
            if crypt.channel != (algorithm == KeyAlgorithm::Channel256) {
                return Err(Status::MissingRight.into());
            }
            if !algorithm.is_aead() {
                return Blocks::begin(wanted, crypt, &key.key, &src, &dst).map(State::Blocks);
            }
            if crypt.unit_log2 != 0 {
                return Err(Status::ReservedNotZero.into());
            }
            let kind = crypt.fused.map(|compression| match crypt.direction {
                Direction::Encrypt => StreamKind::Compress(compression),
                Direction::Decrypt => StreamKind::Decompress(compression),
            });
            (kind, Some((crypt, key.key)))
        }
    };
    Message::begin(wanted, kind, crypt, chunk, &src, &dst).map(State::Message)
}

/// Most bytes that a stream of this kind takes; `None` = any number.
fn input_max(kind: StreamKind) -> Option<u32> {
    match kind {
        StreamKind::Compress(Compression::Lz4Block) => Some(LZ4_BLOCK_BYTES_MAX),
        StreamKind::Decompress(Compression::Lz4Block) => Some(SINGLE_BLOCK_MAX as u32),
        _ => None,
    }
}

/// Whether two ranges, in one address space, share a byte.
fn overlap(src: &Target<'_>, src_len: u32, dst: &Target<'_>, dst_len: u32) -> bool {
    src.space.id() == dst.space.id()
        && (dst.addr.wrapping_sub(src.addr) < u64::from(src_len)
            || src.addr.wrapping_sub(dst.addr) < u64::from(dst_len))
}

/// The library refused what was checked before: nothing that a submitter could have done.
fn broken<E>(_: E) -> Failure {
    Status::HardwareError.into()
}

/// Whether an algorithm counts tweaks.
fn is_xts(algorithm: KeyAlgorithm) -> bool {
    algorithm == KeyAlgorithm::AesXts256
}
