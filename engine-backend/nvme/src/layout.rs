//! Where things are: registers, commands, completions, identify data, statuses. Numbers and
//! their packing only; nothing here knows a driver or a controller.

pub mod command;
pub mod identify;
pub mod registers;
pub mod status;

pub use command::{Command, Completion, DataPointer, SglDescriptor, admin, nvm};
pub use status::Status;

/// Bytes of a submission queue's entry.
pub const COMMAND_BYTES: u64 = 64;
/// Bytes of a completion queue's entry.
pub const COMPLETION_BYTES: u64 = 16;
/// Bytes of the page size that this crate's controllers are run with: `CC.MPS` 0.
pub const PAGE_BYTES: u64 = 4096;
