//! Ports of a domain: create (SPEC section 7.8). All else is as for any capability.

use std::sync::Arc;

use byway_protocols::{ControlStatus, Rights};

use super::Domain;
use super::capabilities::{derive_status, slot_status};
use crate::capability::Holder;
use crate::port::Port;

/// Most ports of one domain: 16 MiB of buffers at most.
pub(super) const PORTS_MAX: u32 = 64;

/// The rights that a link must permit for these to be given: to send to somebody is to write
/// to him, to receive from him is to read, and so it is with blocks.
pub(super) fn over_link(rights: Rights) -> Rights {
    let others = Rights::SEND | Rights::RECEIVE | Rights::BLOCK_READ | Rights::BLOCK_WRITE;
    // What its owner's kernel says of its memory permits nothing by itself.
    let others = others | Rights::PINNED;
    let mut needed = rights.0 & !others.0;
    if rights.contains(Rights::SEND) || rights.contains(Rights::BLOCK_WRITE) {
        needed |= Rights::WRITE.0;
    }
    if rights.contains(Rights::RECEIVE) || rights.contains(Rights::BLOCK_READ) {
        needed |= Rights::READ.0;
    }
    Rights(needed)
}

impl Domain {
    /// PORT_CREATE of a port for `depth` messages of up to `bytes` bytes, both in range, into
    /// a slot, 0 meaning the lowest empty one; returns the slot that was filled.
    ///
    /// # Errors
    /// As SPEC section 8.2 lists them.
    pub fn create_port(
        &self,
        context: u32,
        slot: u32,
        depth: u32,
        bytes: u32,
        badge: u64,
    ) -> Result<u16, ControlStatus> {
        let root = self.capability(context, 0)?;
        let target = self.context(context)?;
        let slot = target.slots().vacancy(slot).map_err(slot_status)?;
        let charge = self.charge()?;
        let room = self.ports.charge().ok_or(ControlStatus::Quota)?;
        let doorbell = self.core.workers().doorbell();
        let port = Port::new(depth as usize, bytes as usize, doorbell, Some(room));
        let port = Arc::new(port);
        let holder = Holder::Slot {
            domain: self.id,
            context,
            slot,
        };
        self.tables().contexts.add_port(context, &port);
        let held = root
            .derive_port(port, badge, holder, Some(charge))
            .map_err(derive_status)?;
        // The slot is still empty: requests of a domain are carried out one at a time.
        let filled = target.slots().insert(u32::from(slot), held);
        filled.map_err(|(e, _)| slot_status(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_permits_to_send_what_it_permits_to_write() {
        let given = Rights::SEND | Rights::GRANT;
        assert_eq!(over_link(given), Rights::WRITE | Rights::GRANT);
        assert_eq!(over_link(Rights::RECEIVE), Rights::READ);
        assert_eq!(over_link(Rights::BLOCK_READ), Rights::READ);
        assert_eq!(over_link(Rights::BLOCK), Rights::ALL);
        assert_eq!(over_link(Rights::ALL), Rights::ALL);
        assert_eq!(over_link(Rights::PINNED | Rights::READ), Rights::READ);
    }
}
