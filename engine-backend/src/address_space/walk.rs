//! Translation without a cache: the reference that the IOTLB is tested against and that
//! it calls on a miss.

use byway_protocols::Status;

use super::AddressSpace;
use crate::stage2::{Access, HostAddr};

/// Why an access did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The status with which a descriptor in its own memory ends.
    pub status: Status,
    /// Whether the access was a write.
    pub write: bool,
    /// The address, in the address space.
    pub addr: u64,
}

/// Where an address lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    /// Host address of the very byte.
    pub host: HostAddr,
    /// Guest-physical address of the very byte.
    pub gpa: u64,
    /// Size of the naturally aligned block around it that both stages map as one, in bytes.
    pub page_bytes: u64,
    /// Size of the guest's own page, in bytes; 4096 for guest-physical addressing.
    pub guest_page_bytes: u64,
    /// Whether D was set, so that later writes need no walk.
    pub writable: bool,
}

/// Walks both stages for one address.
///
/// Must run inside a chunk, or on a thread that does not let a grace period pass: see
/// [`crate::memory::Retired::free`].
///
/// # Errors
/// See [`Fault`].
pub fn translate(_space: &AddressSpace, addr: u64, access: Access) -> Result<Translation, Fault> {
    Err(Fault {
        status: Status::Stage2Pending,
        write: access == Access::Write,
        addr,
    })
}
