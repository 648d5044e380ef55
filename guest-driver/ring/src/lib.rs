#![doc = include_str!("../README.md")]
//!
//! # Inside
//!
//! [`queue`] holds the ring protocol (SPEC section 2), [`request`] builds descriptors that an
//! engine accepts (SPEC sections 3 and 4), [`resume()`] makes the rest of a partial transfer
//! (SPEC section 6). Shared memory is touched in the private module `memory` alone.
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

mod bits;
pub mod context;
pub mod error;
#[cfg(all(loom, test))]
mod loom_model;
mod memory;
mod message;
pub mod queue;
pub mod request;
mod resume;
mod transform;

pub use byway_protocols::{Completion, Descriptor, Flags, Opcode, Rights, Status};
pub use context::{Capability, Context, Transport, WorkQueue};
pub use error::{QueueError, SubmitError, UnknownTicket, WaitError};
pub use memory::QueueMemory;
pub use message::Received;
pub use queue::{Burst, Options, Queue, Submit, Ticket};
pub use request::{Address, Pattern, Request, RequestError, Slot};
pub use resume::resume;
pub use transform::Mode;
