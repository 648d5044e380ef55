//! TRANSLATION_FETCH (SPEC section 4.13).

use byway_protocols::Rights;

use super::budget::OPERATION_COST;
use super::chunk::{Chunk, Failure, Operand};
use super::{Outcome, Step, success};
use crate::backend::Backend;
use crate::stage2::Access;

/// A walk of a range's pages under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetch {
    /// The range; right READ, or WRITE when it is fetched for writing.
    pub src: Operand,
    /// Bytes, 1 to 2^31.
    pub size: u32,
    /// Whether writes will follow: pages become dirty.
    pub write: bool,
    /// Bytes whose pages have been walked.
    pub done: u32,
}

impl Fetch {
    /// Walks until done or until the chunk is over.
    pub fn step<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Step {
        let completion = match self.run(chunk) {
            Ok(()) if self.done < self.size => return Step::More,
            Ok(()) => success(self.done),
            Err(failure) => failure.completion(0, self.done),
        };
        // No byte of data was touched.
        Step::Done(Outcome {
            completion,
            bytes: 0,
        })
    }

    fn run<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Result<(), Failure> {
        let passed = u64::from(self.done);
        let left = u64::from(self.size) - passed;
        let (right, access) = if self.write {
            (Rights::WRITE, Access::Write)
        } else {
            (Rights::READ, Access::Read)
        };
        let src = chunk.resolve(self.src.plus(passed), left, right)?;
        let mut at = 0;
        let mut result = Ok(());
        while at < left && !(at > 0 && chunk.is_spent()) {
            let len = match chunk.page(&src, at, access) {
                Ok(piece) => piece.len.min(left - at),
                Err(failure) => {
                    result = Err(failure);
                    break;
                }
            };
            at += len;
            self.done += len as u32;
            chunk.budget.spend(OPERATION_COST);
        }
        // Pages that are walked for writing enter a dirty log, although none was written.
        chunk.settle(&[(&src, access, 0)])?;
        result
    }
}
