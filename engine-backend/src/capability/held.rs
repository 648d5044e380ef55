//! [`Held`]: the one place that holds a capability.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::Arc;

use super::{Capability, Holder};

/// A capability in somebody's hands: a slot, an offer or a context. There is one of it
/// for each capability; dropping it is what CAP_DROP means. What was derived from
/// the capability lives on.
#[derive(Debug)]
pub struct Held(Arc<Capability>);

impl Held {
    pub(super) fn new(capability: Arc<Capability>) -> Self {
        Self(capability)
    }
    /// The capability, to derive from or to look at.
    #[must_use]
    pub fn capability(&self) -> &Arc<Capability> {
        &self.0
    }
    /// Notes who holds it from now on. False: it was revoked and buried already, so
    /// nobody will be told of that again.
    pub fn set_holder(&self, holder: Holder) -> bool {
        self.0.owner().tree().set_holder(self.0.entry(), holder)
    }

    pub(super) fn into_raw(self) -> *const Capability {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped, so the reference count that its field stands
        // for is moved out exactly once.
        Arc::into_raw(unsafe { std::ptr::read(&this.0) })
    }
    /// # Safety
    /// `raw` comes from [`Self::into_raw`] and is taken back once.
    pub(super) unsafe fn from_raw(raw: *const Capability) -> Self {
        // SAFETY: by this function's contract.
        Self(unsafe { Arc::from_raw(raw) })
    }
}

impl Deref for Held {
    type Target = Capability;
    fn deref(&self) -> &Capability {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.owner().tree().release(&self.0);
    }
}
