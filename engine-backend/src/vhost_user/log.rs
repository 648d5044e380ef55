//! The dirty log of a front end that migrates its VM: what the engine wrote, told in the
//! file that the front end shares.
//!
//! The engine keeps a log of its own ([`Domain::harvest_dirty`]); here it is harvested into the
//! front end's: twenty times a second, whenever the front end changes memory, features or
//! the log itself, and before GET_VRING_BASE is answered. That is enough. A page that the engine
//! writes after the front end has copied it is marked after the bytes, though somewhat later,
//! and is copied again; the front end makes its last pass when the device has stopped, and by
//! then every bit is there, since nothing is written after that reply.

use crate::interface::{Domain, DomainError};
use crate::memory::SharedLog;

/// Why the log cannot be kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    /// It was never shared.
    #[error("VHOST_F_LOG_ALL without a log: SET_LOG_BASE comes first")]
    NotShared,
    /// It ends before guest RAM does.
    #[error("the dirty log has no bits for memory region {0:#x}+{1:#x}")]
    TooShort(u64, u64),
    /// The engine refuses.
    #[error(transparent)]
    Domain(#[from] DomainError),
}

/// One connection's log.
#[derive(Debug, Default)]
pub(super) struct Log {
    shared: Option<SharedLog>,
    is_on: bool,
}

impl Log {
    /// Whether writes are logged.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// From now on this one is told.
    pub(super) fn share(&mut self, log: SharedLog) {
        self.shared = Some(log);
    }

    /// Logs, or no more.
    pub(super) fn turn(&mut self, domain: &mut dyn Domain, on: bool) -> Result<(), LogError> {
        if on == self.is_on {
            return Ok(());
        }
        if on && self.shared.is_none() {
            return Err(LogError::NotShared);
        }
        domain.set_dirty_log(on);
        self.is_on = on;
        Ok(())
    }

    /// Marks what was written in these regions since the last time.
    pub(super) fn sync(
        &self,
        domain: &mut dyn Domain,
        regions: impl Iterator<Item = (u64, u64)>,
    ) -> Result<(), LogError> {
        let Some(shared) = self.shared.as_ref().filter(|_| self.is_on) else {
            return Ok(());
        };
        for (guest_addr, size) in regions {
            if !shared.covers(guest_addr, size) {
                return Err(LogError::TooShort(guest_addr, size));
            }
            let dirty = domain.harvest_dirty(guest_addr, size)?;
            dirty.pages().for_each(|page| shared.mark(page));
        }
        Ok(())
    }
}
