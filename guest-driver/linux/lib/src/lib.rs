#![doc = include_str!("../README.md")]
//!
//! # Inside
//!
//! [`Device`] opens `/dev/byway`; [`Linux`] is the [`byway_ring::Transport`] over it, and everything an
//! application does is [`byway_ring::context`]'s. [`uapi`] mirrors the module's header. System calls are in
//! the private module `sys` and in [`pass`].
#![deny(
    missing_docs,
    unsafe_op_in_unsafe_fn,
    clippy::undocumented_unsafe_blocks
)]

mod buffer;
mod device;
mod error;
pub mod pass;
mod sys;
mod transport;
pub mod uapi;

pub use buffer::Buffer;
pub use byway_ring::context::{
    Accepted, CapabilityInfo, Ended, Info, Key, Name, Pipeline, Port, QueueOptions, Reason, Region,
    Source, State, Terms, TransportError, Wait, Waiting,
};
pub use byway_ring::{Cancelled, Pattern, Request, Rights, Status};
pub use device::{Device, DeviceInfo, PATH, Peer};
pub use error::Error as KernelError;
pub use transport::{CapabilityFile, Linux, ListenerFile, QueueFile};

/// A context of this process.
pub type Context = byway_ring::Context<Linux>;
/// A capability; its handle is a descriptor ([`CapabilityFile`]).
pub type Capability = byway_ring::Capability<Linux>;
/// A work queue; its handle is a descriptor ([`QueueFile`]).
pub type WorkQueue<const WORDS: usize = 16> = byway_ring::WorkQueue<Linux, WORDS>;
/// A capability over memory of this process, with the memory.
pub type Share<M = Buffer> = byway_ring::context::Share<Linux, M>;
/// Where offers come in; its handle is a descriptor ([`ListenerFile`]).
pub type Listener = byway_ring::context::Listener<Linux>;
/// Blocks of an endpoint, with the capability to them.
pub type Blocks = byway_ring::context::Blocks<Linux>;
/// Why an operation failed.
pub type Error = byway_ring::context::Error<KernelError>;
