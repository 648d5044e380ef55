//! [`Share`]: memory that is given to others, and given back by them for certain.

use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::Deref;

use super::capability::Capability;
use super::error::Error;
use super::region::Region;
use super::transport::Transport;

/// Owned memory that can be shared.
///
/// # Safety
/// [`Self::region`] is the same range at every call, wherever the value is moved, mapped for as long
/// as the value exists, and reached through regions alone. A value that is forgotten leaves it mapped.
pub unsafe trait Memory {
    /// The memory.
    fn region(&self) -> Region<'_>;
}

// SAFETY: the range of a `'static` region stays for ever, as its maker promised.
unsafe impl Memory for Region<'static> {
    fn region(&self) -> Region<'_> {
        *self
    }
}

/// A capability over memory of one's own, together with the memory.
///
/// Dropped, it revokes the capability and with it all that peers have derived, and lets go of the memory
/// only after the engine has acknowledged that; where it does not, the memory is never used for
/// anything else.
pub struct Share<T: Transport, M: Memory> {
    capability: ManuallyDrop<Capability<T>>,
    memory: ManuallyDrop<M>,
}

/// A revocation failed: the memory stays shared, as far as anybody knows.
pub struct StillShared<T: Transport, M: Memory> {
    /// What still shares it.
    pub share: Share<T, M>,
    /// Why.
    pub error: Error<T::Error>,
}

impl<T: Transport, M: Memory> Share<T, M> {
    pub(super) const fn new(capability: Capability<T>, memory: M) -> Self {
        Self {
            capability: ManuallyDrop::new(capability),
            memory: ManuallyDrop::new(memory),
        }
    }

    /// The memory, while it is shared.
    pub fn region(&self) -> Region<'_> {
        self.memory.region()
    }

    /// What owns the memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Revokes, and gives the memory back.
    ///
    /// # Errors
    /// The kernel could not revoke; the share comes back.
    pub fn take_back(self) -> Result<M, StillShared<T, M>> {
        if let Err(error) = self.capability.revoke() {
            return Err(StillShared { share: self, error });
        }
        let mut this = ManuallyDrop::new(self);
        // SAFETY: each is taken out once, and `this` is not dropped.
        unsafe {
            ManuallyDrop::drop(&mut this.capability);
            Ok(ManuallyDrop::take(&mut this.memory))
        }
    }
}

impl<T: Transport, M: Memory> Deref for Share<T, M> {
    type Target = Capability<T>;
    fn deref(&self) -> &Capability<T> {
        &self.capability
    }
}

impl<T: Transport, M: Memory> fmt::Debug for Share<T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.capability.fmt(f)
    }
}

impl<T: Transport, M: Memory> fmt::Debug for StillShared<T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StillShared")
            .field("share", &self.share)
            .field("error", &self.error)
            .finish()
    }
}

impl<T: Transport, M: Memory> Drop for Share<T, M> {
    fn drop(&mut self) {
        let revoked = self.capability.revoke().is_ok();
        // SAFETY: dropped here and nowhere else; the memory only if nobody has a right to it any more.
        unsafe {
            ManuallyDrop::drop(&mut self.capability);
            if revoked {
                ManuallyDrop::drop(&mut self.memory);
            }
        }
    }
}
