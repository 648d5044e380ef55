//! Operations on one place: TRANSLATION_FETCH, CACHE_FLUSH, ATOMIC64 and SIGNAL (SPEC sections
//! 4.13, 4.18, 4.22 and 4.23).

use byway_protocols::operands::{AtomicFields, atomic_kind, fetch_intent};
use byway_protocols::{Completion, Opcode, Status};

use crate::delta::aligned;
use crate::outcome::Failure;
use crate::request::{Address, Request, RequestError, placed};

/// Bytes of what ATOMIC64 and SIGNAL work on.
const WORD: u64 = 8;

/// What a range is prepared for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// It will be read.
    Read,
    /// It will be written: its pages become dirty, and a capability needs the right to write.
    Write,
}

/// How 8 bytes are changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Atomic {
    /// Adds, modulo 2^64.
    FetchAdd(u64),
    /// Stores.
    Swap(u64),
    /// Stores `new` if `expected` is there.
    CompareSwap {
        /// What has to be there.
        expected: u64,
        /// What is stored then.
        new: u64,
    },
}

impl Request {
    /// TRANSLATION_FETCH: walks the pages of `size` bytes, so that what follows finds them present.
    ///
    /// # Errors
    /// The size is out of range, or the operand wraps.
    pub fn fetch(range: Address, size: u64, intent: Intent) -> Result<Self, RequestError> {
        let mut descriptor = placed(Opcode::TranslationFetch, Some(range), None, size)?;
        descriptor.op0 = u64::from(match intent {
            Intent::Read => fetch_intent::READ,
            Intent::Write => fetch_intent::WRITE,
        });
        Ok(Self(descriptor))
    }

    /// CACHE_FLUSH: writes the cache lines of `size` bytes back to memory; they leave the caches,
    /// unless [`Self::cached`] says that they may stay.
    ///
    /// # Errors
    /// The size is out of range, or the operand wraps.
    pub fn flush(range: Address, size: u64) -> Result<Self, RequestError> {
        placed(Opcode::CacheFlush, None, Some(range), size).map(Self)
    }

    /// ATOMIC64: changes 8 bytes, atomically for every processor and every engine. See
    /// [`Previous::of`].
    ///
    /// # Errors
    /// The operand is not aligned to 8.
    pub fn atomic(dst: Address, change: Atomic) -> Result<Self, RequestError> {
        aligned(dst)?;
        let descriptor = placed(Opcode::Atomic64, None, Some(dst), WORD)?;
        let (kind, operand, compare) = match change {
            Atomic::FetchAdd(operand) => (atomic_kind::FETCH_ADD, operand, 0),
            Atomic::Swap(operand) => (atomic_kind::SWAP, operand, 0),
            Atomic::CompareSwap { expected, new } => (atomic_kind::COMPARE_SWAP, new, expected),
        };
        let fields = AtomicFields {
            operand,
            compare,
            kind,
            ..AtomicFields::default()
        };
        Ok(Self(descriptor.with_operands(fields.to_bytes())))
    }

    /// SIGNAL: stores `value` once every earlier descriptor of the queue, or of the batch, has
    /// completed. Who loads it with acquire semantics sees all that they wrote.
    ///
    /// # Errors
    /// The operand is not aligned to 8.
    pub fn signal(dst: Address, value: u64) -> Result<Self, RequestError> {
        aligned(dst)?;
        let mut descriptor = placed(Opcode::Signal, None, Some(dst), WORD)?;
        descriptor.op0 = value;
        Ok(Self(descriptor))
    }
}

/// What an ATOMIC64's completion tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Previous {
    /// What was there before.
    pub value: u64,
    /// Whether anything was stored: false only of a compare-and-swap that found something else.
    pub stored: bool,
}

impl Previous {
    /// Of an ATOMIC64.
    ///
    /// # Errors
    /// It did not succeed, and was then not carried out.
    pub fn of(completion: &Completion) -> Result<Self, Failure> {
        let completion = Failure::unless(completion, &[Status::Success])?;
        Ok(Self {
            value: completion.op0,
            stored: completion.result == 0,
        })
    }
}
