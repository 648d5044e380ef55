//! Operations: what a descriptor means, carried out chunk by chunk.
//!
//! `validate` turns a private copy of a descriptor into a typed [`Execution`];
//! [`Execution::step`] goes on with it inside one chunk ([`chunk::Chunk`]) until it is
//! done or the chunk's [`budget`] is spent. Between chunks an execution holds numbers
//! only: operands are looked up and translated anew, so that a right that was taken
//! back, a page that was unmapped and a region that went are met at the next chunk.
//!
//! A fault ends an operation with what it has done, and leaves it so that another
//! `step` goes on where it stopped: that is how one waits for a page (`missing`).
//!
//! Must never read a descriptor or a batch's element twice, touch memory that was not
//! resolved and translated in the same chunk, or say more of a peer's memory than that it
//! could not be accessed.

mod aligned;
mod apply_delta;
mod atomic;
mod batch;
pub mod budget;
mod buffer;
mod cancel;
pub mod chunk;
mod compare;
mod copy_rows;
mod copy_sg;
mod crc;
mod crc64;
mod create_delta;
pub mod device;
mod dif;
mod dualcast;
mod fetch;
mod fill;
mod flush;
pub mod lease;
mod memmove;
mod message;
pub mod missing;
mod rare;
mod segment;
mod short;
mod signal;
pub mod staging;
mod transform;
mod validate;
mod walk;
mod window;
mod xor;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use byway_protocols::{Completion, Descriptor, Flags, Opcode, Status};

use crate::backend::Backend;
use crate::port::Await;
use crate::queue::{Cancels, PageNeed};
use cancel::Cancel;
use chunk::{Chunk, Failure};
use compare::Compare;
use device::Device;
use fill::Fill;
use memmove::Memmove;
use missing::Asked;
use rare::Rare;
use transform::Transform;
use validate::Request;

pub use aligned::Aligned;
pub use budget::Budget;
pub use lease::{Codecs, JOBS, Jobs};
pub use missing::Verdict;
pub use short::{Told, try_either, try_longer, try_short};
pub use staging::Staging;
pub use window::Windows;

/// Which operations this engine carries out: bit n of byte n/8 is opcode n.
#[must_use]
pub fn supported_opcodes() -> [u8; 32] {
    let mut bits = [0; 32];
    for &opcode in validate::SUPPORTED {
        bits[opcode as usize / 8] |= 1 << (opcode as usize % 8);
    }
    bits
}

/// Where a descriptor stands, and what it waits for there.
#[derive(Debug, Default)]
pub struct Stand {
    /// What one waits for that said [`Step::Waits`].
    pub awaits: Option<Await>,
    /// Requests to cancel descriptors of its queue; `None` where there is no queue.
    pub cancels: Option<Arc<Cancels>>,
}

/// How a descriptor ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// What its submitter is told; without phase.
    pub completion: Completion,
    /// Bytes that it touched.
    pub bytes: u64,
}

/// What one chunk achieved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The rest needs another chunk.
    More,
    /// The rest needs a page: another step after [`Execution::answer`].
    Blocked(PageNeed),
    /// The rest needs a device's answer: another step after something has changed at some
    /// device ([`News`](crate::endpoint::News)).
    Device,
    /// The rest needs the other side of a port, as [`Stand::awaits`] tells: another step when
    /// that wait is over.
    Waits,
    /// The end.
    Done(Outcome),
}

impl Step {
    /// How it stands with an operation of `size` bytes, of which `done` are done, after a chunk's work.
    #[inline(always)]
    fn after(result: Result<(), Failure>, done: u32, size: u32) -> Self {
        match result {
            Ok(()) if done < size => Self::More,
            Ok(()) => Self::Done(Outcome {
                completion: success(done),
                bytes: done.into(),
            }),
            Err(failure) => Self::failed(failure, 0, done),
        }
    }

    /// The end of an operation that fails with `done` bytes done.
    ///
    /// Apart on purpose: what may be one of two completions is put down in small parts, and who takes such parts up as a larger one
    /// waits for all stores before them, a copy's among them.
    #[cold]
    #[inline(never)]
    fn failed(failure: Failure, result: u8, done: u32) -> Self {
        Self::Done(Outcome {
            completion: failure.completion(result, done),
            bytes: done.into(),
        })
    }

    /// The same, with what the operation tells beside, if it has ended.
    #[inline(always)]
    fn telling(self, op0: u64) -> Self {
        match self {
            Self::Done(outcome) => Self::Done(Outcome {
                completion: Completion {
                    op0,
                    ..outcome.completion
                },
                ..outcome
            }),
            goes_on => goes_on,
        }
    }

    /// The end of a descriptor of which nothing was carried out.
    #[must_use]
    pub fn refused(status: Status) -> Self {
        Self::Done(Outcome {
            completion: Completion {
                status: status as u8,
                ..Completion::default()
            },
            bytes: 0,
        })
    }
}

/// The completion of an operation that did all of its `done` bytes.
#[inline(always)]
fn success(done: u32) -> Completion {
    Completion {
        status: Status::Success as u8,
        bytes_completed: done,
        ..Completion::default()
    }
}

/// One operation under way.
#[derive(Debug)]
pub enum Operation {
    /// NOP; and DRAIN, since what comes before it in its queue or batch is complete
    /// when it starts.
    Nothing,
    /// MEMMOVE.
    Memmove(Memmove),
    /// FILL.
    Fill(Fill),
    /// COMPARE and COMPARE_VALUE.
    Compare(Compare),
    /// Everything else.
    Rare(Rare),
    /// COMPRESS, DECOMPRESS, ENCRYPT and DECRYPT.
    Transform(Transform),
    /// DEVICE_TRANSFER.
    Device(Device),
    /// CANCEL.
    Cancel(Cancel),
}

// Between chunks it lies in the worker's queue, and in a batch; none may grow unnoticed.
const _: () = assert!(size_of::<Operation>() <= 192);

impl Operation {
    #[inline(always)]
    fn step<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Step {
        match self {
            Self::Memmove(memmove) => memmove.step(chunk),
            Self::Nothing => Step::Done(Outcome {
                completion: success(0),
                bytes: 0,
            }),
            Self::Fill(fill) => fill.step(chunk),
            Self::Compare(compare) => compare.step(chunk),
            Self::Rare(rare) => rare.step(chunk),
            Self::Transform(transform) => transform.step(chunk),
            Self::Device(device) => device.step(chunk),
            Self::Cancel(cancel) => cancel.step(chunk),
        }
    }
}

/// One descriptor of a queue under way.
///
/// A queue's descriptors are carried out one after the other, so FENCE needs nothing
/// here: when one starts, all before it are complete.
#[derive(Debug)]
pub struct Execution {
    request: Request,
    interrupt: bool,
    /// Waits for pages of its own domain.
    block: bool,
    asked: Asked,
}

impl Execution {
    /// Checks a private copy of a descriptor.
    ///
    /// # Errors
    /// The status with which it is refused: 10-14, 18, 19, 1C.
    #[cfg(any(test, feature = "testing"))]
    pub fn new(descriptor: &Descriptor) -> Result<Self, Status> {
        let mut execution = Self::idle();
        execution.accept(descriptor)?;
        Ok(execution)
    }

    /// One that does nothing, until it accepts a descriptor.
    #[inline(always)]
    #[must_use]
    pub fn idle() -> Self {
        Self {
            request: Request::Operation(Operation::Nothing),
            interrupt: false,
            block: false,
            asked: Asked::default(),
        }
    }

    /// Has one that does nothing carry a descriptor out from now on, of which this is a private copy, once that is checked. In
    /// place: what is made elsewhere and moved here costs as much as a short copy.
    ///
    /// # Errors
    /// The status with which it is refused: 10-14, 18, 19, 1C. It does nothing then.
    #[inline(always)]
    pub fn accept(&mut self, descriptor: &Descriptor) -> Result<(), Status> {
        validate::request(descriptor, &mut self.request)?;
        self.interrupt = wants_interrupt(descriptor);
        self.block = validate::blocks(descriptor);
        Ok(())
    }

    /// Whether the completion is to raise the queue's interrupt.
    #[inline(always)]
    #[must_use]
    pub fn interrupt(&self) -> bool {
        self.interrupt
    }

    /// Goes on inside a chunk. At least something is done, whatever the budget. When
    /// it ends, [`Backend::finish`] must be called before the completion is published.
    #[inline(always)]
    pub fn step<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Step {
        // One that ended something else.
        chunk.missing = None;
        let mut step = match &mut self.request {
            Request::Operation(operation) => operation.step(chunk),
            Request::Batch(batch) => batch.step(chunk, &mut self.asked),
        };
        if let Step::Done(outcome) = &mut step
            && let Some(need) = chunk.waits(&mut self.asked, self.block, outcome)
        {
            return Step::Blocked(need);
        }
        step
    }

    /// Whether another step would come any further, for one that said [`Step::Device`] and has all
    /// its rights still: a few loads.
    #[must_use]
    pub fn may_go_on(&self) -> bool {
        match &self.request {
            Request::Operation(Operation::Device(device)) => device.may_go_on(),
            _ => true,
        }
    }

    /// Whether it waits for this queue's answer to a CANCEL.
    #[must_use]
    pub(crate) fn asks(&self, cancels: &Arc<Cancels>) -> bool {
        let operation = match &self.request {
            Request::Operation(operation) => Some(operation),
            Request::Batch(batch) => batch.current.as_ref(),
        };
        matches!(operation, Some(Operation::Cancel(cancel)) if cancel.asks(cancels))
    }

    /// Whether a device may reach memory of a guest on behalf of it: nobody is told of its end before that has changed.
    #[must_use]
    pub(crate) fn lends(&self) -> bool {
        let operation = match &self.request {
            Request::Operation(operation) => Some(operation),
            Request::Batch(batch) => batch.current.as_ref(),
        };
        matches!(operation, Some(Operation::Device(device)) if device.lends())
    }

    /// What became of the page that it waits for.
    pub fn answer(&mut self, verdict: Verdict) {
        self.asked.answer(verdict);
    }

    /// The end of a descriptor that is given up between two chunks.
    #[must_use]
    pub fn abort(&self) -> Outcome {
        let (done, result, bytes) = match &self.request {
            Request::Operation(operation) => operation.progress(),
            Request::Batch(batch) => (batch.succeeded, 0, batch.bytes),
        };
        Outcome {
            completion: chunk::Failure::from(Status::Aborted).completion(result, done),
            bytes,
        }
    }
}

/// Whether a descriptor has to wait for all before it in its queue.
#[inline(always)]
#[must_use]
pub fn must_wait(descriptor: &Descriptor) -> bool {
    validate::has_fence(descriptor) || descriptor.code() == Opcode::Drain as u8
}

/// Whether a descriptor with this publishing word is to be taken even where no other is: what stands
/// in its way may be what it cancels.
#[inline]
#[must_use]
pub fn is_urgent(word: u64) -> bool {
    (word >> 56) as u8 == Opcode::Cancel as u8
}

/// Whether a descriptor asks for an interrupt, however it ends.
#[inline(always)]
#[must_use]
pub fn wants_interrupt(descriptor: &Descriptor) -> bool {
    descriptor.flags().contains(Flags::REQUEST_INTERRUPT)
}

impl Operation {
    /// Bytes done so far, the result field that goes with them, and bytes touched.
    fn progress(&self) -> (u32, u8, u64) {
        let (done, result) = match self {
            Self::Nothing | Self::Cancel(_) => (0, 0),
            Self::Memmove(memmove) => (memmove.done, memmove.result()),
            Self::Fill(fill) => (fill.done, 0),
            Self::Compare(compare) => (compare.done, 0),
            Self::Rare(rare) => (rare.done(), 0),
            Self::Transform(transform) => (transform.done(), 0),
            Self::Device(device) => (device.done(), 0),
        };
        (done, result, u64::from(done))
    }
}
