//! Translation without a cache: the reference that the IOTLB is tested against and that
//! it calls on a miss.

use byway_protocols::Status;

use super::{AddressSpace, Translator};
use crate::stage1;
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
    /// Size of the naturally aligned block around it that both stages map as one: 4 KiB,
    /// 2 MiB or 1 GiB, in bytes.
    pub page_bytes: u64,
    /// Size of the guest's own page, in bytes: at least `page_bytes`, and equal to it in
    /// guest-physical addressing.
    pub guest_page_bytes: u64,
    /// Whether D is set in both stages, so that later writes need no walk.
    pub writable: bool,
}

/// Walks both stages for one address.
///
/// Must run inside a chunk, or on a thread that keeps the grace period from passing: see
/// [`crate::memory::Retired::free`].
///
/// # Errors
/// See [`Fault`]. A space that was killed gives [`Status::Revoked`].
pub fn translate(space: &AddressSpace, addr: u64, access: Access) -> Result<Translation, Fault> {
    let write = access == Access::Write;
    let fault = |status| Fault {
        status,
        write,
        addr,
    };
    if !space.is_alive() {
        return Err(fault(Status::Revoked));
    }
    match &space.translator {
        Translator::Physical => {
            let hit = space
                .memory
                .stage2()
                .walk(addr, access)
                .map_err(|f| fault(f.status()))?;
            Ok(Translation {
                host: hit.host,
                gpa: addr,
                page_bytes: hit.leaf_bytes,
                guest_page_bytes: hit.leaf_bytes,
                writable: write,
            })
        }
        Translator::Tables { format, root } => {
            let hit = stage1::walk(&space.memory, format, *root, addr, access).map_err(fault)?;
            Ok(Translation {
                host: hit.host,
                gpa: hit.gpa,
                page_bytes: hit.page_bytes.min(hit.leaf_bytes),
                guest_page_bytes: hit.page_bytes,
                writable: write,
            })
        }
    }
}
