//! An NVMe controller, driven by the engine: one queue pair, no system call while the
//! controller is awake.
//!
//! The controller is another process's, attached by the binding of [`byway_nvme::attach`], or
//! the model of [`byway_nvme::controller`] over an image, on a thread of this process. Either way
//! `link` hands over memory - registers, queues and staging, each a sealed memfd - and
//! `start` brings the controller up with its admin queue. [`Disk`] turns requests into commands
//! of one I/O queue (`queue`), with PRP lists or SGLs (`pointers`), and completions into outcomes.
//!
//! Completions, registers and identify data are the controller's to write, whenever it likes:
//! each word is read once and checked against what the engine remembers. Every command has a
//! number that is not used again soon, so that a completion which comes twice, or late, is
//! found out.

mod disk;
mod identify;
mod link;
mod pointers;
mod queue;
mod start;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use disk::Disk;

/// Where the controller sees its staging memory.
pub const STAGING_IOVA: u64 = 1 << 32;
/// Where it sees its queues.
const QUEUE_IOVA: u64 = 2 << 32;
/// Most requests in flight.
pub const DEPTH_MAX: u16 = 128;

/// How a command names its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pointers {
    /// By SGL where the controller takes them: one descriptor, whatever the length.
    Any,
    /// By PRP entries and lists, which every controller takes.
    Prp,
}

/// How a controller is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Requests in flight, 1 to [`DEPTH_MAX`].
    pub depth: u16,
    /// Most bytes of one request, at most 2 MiB.
    pub transfer_bytes_max: u32,
    /// How long it may take to answer, a message or a request, until it counts as gone.
    pub timeout: Duration,
    /// Refuse to write, whatever the controller permits.
    pub read_only: bool,
    /// How data is named.
    pub pointers: Pointers,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            depth: 64,
            transfer_bytes_max: 1 << 20,
            // As long as Linux waits for a command.
            timeout: Duration::from_secs(30),
            read_only: false,
            pointers: Pointers::Any,
        }
    }
}

/// What the built-in model is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model {
    /// Bytes of a block: a power of two, 512 to 4096.
    pub block_bytes: u32,
    /// Whether the image is opened for reading only.
    pub read_only: bool,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            block_bytes: 512,
            read_only: false,
        }
    }
}
