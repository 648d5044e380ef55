//! COMPARE and COMPARE_VALUE (SPEC sections 4.7 and 4.8).

use byway_protocols::{Completion, Rights, Status};

use super::chunk::{Chunk, Failure, Operand};
use super::walk::Track;
use super::{Outcome, Step, success};
use crate::backend::Backend;
use crate::context::Target;
use crate::stage2::Access;

/// What a range is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Other {
    /// Another range; right READ.
    Range(Operand),
    /// 8 bytes over and over, the least significant first.
    Value(u64),
}

/// The same, looked up for this chunk.
enum With<'g> {
    Range(Target<'g>),
    Value(u64),
}

/// A comparison under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compare {
    /// First range; right READ.
    pub src: Operand,
    /// What it is compared with.
    pub with: Other,
    /// Bytes, 1 to 2^31.
    pub size: u32,
    /// With CHECK_RESULT: whether a difference is expected.
    pub expected: Option<bool>,
    /// Bytes found equal.
    pub done: u32,
}

impl Compare {
    /// Compares until the first difference, the end, or until the chunk is over.
    pub fn step<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Step {
        let completion = match self.run(chunk) {
            Ok(true) => self.answer(true),
            Ok(false) if self.done < self.size => return Step::More,
            Ok(false) => self.answer(false),
            Err(failure) => return Step::failed(failure, 0, self.done),
        };
        Step::Done(Outcome {
            completion,
            bytes: u64::from(self.done),
        })
    }

    /// What is told of it at its end.
    #[inline(always)]
    pub(super) fn answer(&self, differs: bool) -> Completion {
        let status = match self.expected {
            Some(expected) if expected != differs => Status::SuccessPredicate,
            _ => Status::Success,
        };
        Completion {
            status: status as u8,
            result: u8::from(differs),
            ..success(self.done)
        }
    }

    /// Whether a difference was found, at `done`.
    fn run<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Result<bool, Failure> {
        let passed = u64::from(self.done);
        let left = u64::from(self.size) - passed;
        let src = chunk.resolve(self.src.plus(passed), left, Rights::READ)?;
        let with = match self.with {
            Other::Range(operand) => {
                With::Range(chunk.resolve(operand.plus(passed), left, Rights::READ)?)
            }
            Other::Value(value) => With::Value(value),
        };
        let total = u64::from(self.size);
        let mut at = 0;
        let (mut from, mut other) = (Track::NEW, Track::NEW);
        let result = loop {
            if at == left || (at > 0 && chunk.is_over()) {
                break Ok(false);
            }
            let room = chunk.room(left - at);
            let mut found = from.reach(chunk, &src, at, room, Access::Read);
            if let With::Range(with) = &with {
                found = found.and_then(|len| other.reach(chunk, with, at, len, Access::Read));
            }
            let len = match found {
                Ok(len) => len,
                Err(failure) => break Err(failure),
            };
            let host = from.pass(len);
            let difference = match with {
                With::Range(_) => {
                    let other = other.pass(len);
                    // SAFETY: both pieces were translated in this chunk for reading, and
                    // guest memory has no references.
                    unsafe { (chunk.backend).compare(host, other, len as usize, total) }
                }
                With::Value(value) => {
                    let pattern = value.rotate_right(8 * (self.done % 8));
                    let pattern = u128::from(pattern) | u128::from(pattern) << 64;
                    // SAFETY: as above.
                    unsafe { (chunk.backend).compare_value(host, len as usize, pattern, total) }
                }
            };
            let equal = difference.map_or(len, |offset| offset as u64);
            at += equal;
            self.done += equal as u32;
            chunk.budget.spend(equal);
            if difference.is_some() {
                break Ok(true);
            }
        };
        match &with {
            With::Range(with) => {
                chunk.settle(&[(&src, Access::Read, at), (with, Access::Read, at)])?;
            }
            With::Value(_) => chunk.settle(&[(&src, Access::Read, at)])?,
        }
        result
    }
}
