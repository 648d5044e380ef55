//! A measuring loop in the guest: many transfers, timed in ring 3 by the time-stamp counter.

use byway_agent::Process;
use byway_agent::commands::Run;
use byway_agent::host::Ticket;
use byway_protocols::Descriptor;

/// What to run. The loop ends at the first completion that is not a success.
#[derive(Debug, Clone, Copy)]
pub struct RunSpec {
    /// The first descriptor; its phase does not matter.
    pub descriptor: Descriptor,
    /// How many descriptors.
    pub iterations: u64,
    /// How many are in flight at once.
    pub depth: u64,
    /// Added to both addresses from one descriptor to the next.
    pub stride: u64,
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
    /// Those not completed with success.
    pub failed: u64,
    /// Status byte of the first that failed; 0 when none did.
    pub first_bad_status: u8,
    /// Doorbells rung, because the queue had been parked; each is an exit.
    pub kicks: u64,
    /// Latencies in nanoseconds, in the order of submission.
    pub samples_ns: Vec<u64>,
}

/// A run under way.
#[derive(Debug)]
pub struct Running {
    pub(super) process: Process,
    pub(super) ticket: Ticket<Run>,
}
