//! Stage 2: guest-physical to host, in the x86 EPT format (Intel SDM volume 3,
//! "The Extended Page Table Mechanism"), 4 levels, MAXPHYADDR 52, accessed and dirty
//! bits on.
//!
//! The frame of a leaf is an opaque host address: here an address in the engine's own
//! mapping of the guest's RAM, [`HostAddr`]. This module owns the tables, never the
//! memory that leaves point to, and never touches guest memory. Walks are lock-free and
//! may run on any thread while a control thread changes the tables; what a change takes
//! out of use is handed back as [`RetiredTables`] and freed after a grace period only.

use std::sync::atomic::{AtomicU64, Ordering};

use byway_protocols::Status;

/// A host address that a translation ended at: opaque here, dereferenced only by the
/// memory layer and the copy kernels, inside a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostAddr(pub u64);

/// What is going to be done at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// A data read.
    Read,
    /// A data write.
    Write,
}

/// Why a guest-physical address does not translate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage2Fault {
    /// No entry: nothing is there (status 42).
    NotPresent,
    /// Present, but not for this access (status 59).
    Permission,
    /// An entry that the format forbids (status 58).
    Misconfigured,
}

impl Stage2Fault {
    /// The status with which a descriptor ends.
    #[must_use]
    pub const fn status(self) -> Status {
        match self {
            Self::NotPresent => Status::Stage2Pending,
            Self::Permission => Status::Stage2Permission,
            Self::Misconfigured => Status::Stage2Misconfigured,
        }
    }
}

/// Where a guest-physical address lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage2Hit {
    /// Host address of the very byte.
    pub host: HostAddr,
    /// Size of the leaf that maps it: 4 KiB, 2 MiB or 1 GiB, in bytes.
    pub leaf_bytes: u64,
}

/// One domain's stage-2 table.
#[derive(Debug, Default)]
pub struct Stage2 {
    epoch: AtomicU64,
}

impl Stage2 {
    /// Counts the changes that made a translation stricter or took one away. A cached
    /// translation is good only as long as this has the value read before its walk.
    #[must_use]
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Translates.
    ///
    /// # Errors
    /// See [`Stage2Fault`].
    pub fn walk(&self, _gpa: u64, _access: Access) -> Result<Stage2Hit, Stage2Fault> {
        Err(Stage2Fault::NotPresent)
    }
}
