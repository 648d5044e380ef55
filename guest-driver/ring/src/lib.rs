#![doc = include_str!("../README.md")]
//!
//! # Inside
//!
//! [`queue`] holds the ring protocol (SPEC section 2), [`request`] and its neighbours `transform`,
//! `cancel`, `checksum`, `delta`, `gather`, `places`, `protection`, `message` and `batch` build descriptors
//! that an engine accepts (SPEC sections 3 and 4), [`outcome`] reads what completions tell,
//! [`resume()`] makes the rest of a partial transfer (SPEC section 6). Shared memory is touched in the private module `memory` alone.
//!
//! The library never allocates, never enters the kernel, never blocks by itself and never
//! trusts what it reads beyond what it needs: a misbehaving engine can withhold or falsify a
//! completion, but cannot make the library leave its memory or loop without bound.
#![no_std]
#![deny(
    missing_docs,
    unsafe_op_in_unsafe_fn,
    clippy::undocumented_unsafe_blocks
)]

#[cfg(test)]
extern crate std;

#[cfg(feature = "async")]
pub mod asynchronous;
mod batch;
mod bits;
mod cancel;
mod checksum;
pub mod context;
mod delta;
mod device;
pub mod error;
mod gather;
#[cfg(feature = "async")]
mod lock;
#[cfg(all(loom, test))]
mod loom_model;
mod memory;
mod message;
pub mod outcome;
mod places;
mod protection;
pub mod queue;
mod refusal;
pub mod request;
mod resume;
mod transform;

pub use batch::{Batch, BatchError, Statuses};
pub use byway_protocols::codec::Compression;
pub use byway_protocols::operands::Segment;
pub use byway_protocols::{Completion, Descriptor, Flags, Opcode, Rights, Status};
pub use cancel::Cancelled;
pub use checksum::{Crc32c, Crc64};
pub use context::{Capability, Context, Transport, WorkQueue};
pub use delta::{Delta, Difference};
pub use device::{DeviceFailure, Stored};
pub use error::{QueueError, SubmitError, UnknownTicket, WaitError};
pub use gather::{Rows, Side, segment, source};
pub use memory::QueueMemory;
pub use message::Received;
pub use outcome::{BatchEnd, Compared, Done, Failure, Sealed, Transformed};
pub use places::{Atomic, Intent, Previous};
pub use protection::{Block, Checked, Form, INFORMATION_BYTES, Mismatch, Tags};
pub use queue::{Burst, Options, Queue, Submit, Ticket};
pub use request::{Address, Pattern, Request, RequestError, Slot};
pub use resume::{resume, resume_cbc, resume_sg, resume_xor};
pub use transform::Mode;
