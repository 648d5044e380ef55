//! In-memory guests for tests and benchmarks: RAM in a memfd, page tables built by hand,
//! processes, contexts, work queues and a submitter, with no VM and no control plane.
//!
//! A guest looks at its RAM through a mapping of its own, as a vCPU would, never through
//! the engine's. Everything here panics when it is misused: it is for tests.

mod blk_peer;
mod guest;
mod nvme_peer;
mod process;
mod stepper;
mod submitter;

pub use crate::ops::Aligned;
pub use blk_peer::{BlkPeer, BlkPlan, Mischief};
pub use guest::Guest;
pub use nvme_peer::{NvmeMischief, NvmePeer, NvmePlan};
pub use process::{PageSize, Process, pte};
pub use stepper::Stepper;
pub use submitter::{Recorder, Submitter};
