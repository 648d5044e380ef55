//! Wire formats of Byway's paravirtual data-movement device, ABI version 1.
//!
//! Everything that crosses a trust boundary in memory is laid out here, and
//! nothing else is: no policy, no I/O, no allocation. `SPEC.md` beside this crate
//! is the written specification; section numbers in the documentation refer to
//! it. The C header `include/byway.h` is generated from [`layouts`].
//!
//! All integers are little-endian. Structures have no implicit padding; a field
//! named `reserved…` is written as 0 and checked to be 0.
#![no_std]
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod wire;

pub mod capability;
pub mod codec;
pub mod completion;
pub mod config;
pub mod control;
pub mod descriptor;
pub mod event;
pub mod invalidation;
pub mod layouts;
pub mod opcode;
pub mod operands;
pub mod port;
pub mod ring;
pub mod status;

pub use capability::Rights;
pub use completion::Completion;
pub use config::ConfigSpace;
pub use descriptor::{Descriptor, Flags, Word0};
pub use event::Event;
pub use opcode::Opcode;
pub use ring::{QueueHeader, RingPosition};
pub use status::{ControlStatus, Status};
pub use wire::{FieldLayout, StructLayout, WireField};

/// The ABI version that this crate describes (SPEC section 1).
pub const ABI_VERSION: u32 = 1;

/// Size of a page that addresses in control messages are aligned to, in bytes.
pub const PAGE_SIZE: u64 = 4096;

/// The examples of `README.md`, so that they are compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadMe;
