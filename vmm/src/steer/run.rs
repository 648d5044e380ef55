//! A measuring loop in the guest: many transfers, timed in ring 3 by the time-stamp counter.

use byway_agent::Process;
use byway_protocols::Descriptor;

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct RunSpec {
    /// The first descriptor; its phase does not matter.
    pub descriptor: Descriptor,
    /// How many descriptors.
    pub iterations: u64,
    /// How many are in flight at once.
    pub depth: u64,
    /// Added to the source address from one descriptor to the next.
    pub src_stride: u64,
    /// Added to the destination address from one descriptor to the next.
    pub dst_stride: u64,
    /// How many latencies to keep, from the first on; with a depth of 1 only.
    pub samples: u64,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct RunDone {
    /// Time from the first submission to the last completion, in nanoseconds.
    pub ns: u64,
    /// Descriptors completed, with success or not.
    pub completed: u64,
    /// Those not completed with success. The run stops at the first.
    pub failed: u64,
    /// Status byte of the first that failed; 0 when none did.
    pub first_bad_status: u8,
    /// Latencies in nanoseconds, in the order of submission.
    pub samples_ns: Vec<u64>,
}

/// A run under way.
#[derive(Debug)]
pub struct Running {
    pub(super) process: Process,
    pub(super) ticket: byway_agent::host::Ticket<byway_agent::commands::Run>,
    pub(super) samples: u64,
}
