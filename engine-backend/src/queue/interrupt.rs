//! The completion interrupt of a queue: at most one until it is re-armed, and none
//! lost in between.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, Ordering};

/// The next interrupt is raised at once.
const ARMED: u32 = 0;
/// One was raised; the next waits.
const RAISED: u32 = 1;
/// One was raised and another waits.
const WAITING: u32 = 2;

/// State of one queue's interrupt; a new one is armed.
#[derive(Debug)]
pub(crate) struct Interrupt(AtomicU32);

impl Default for Interrupt {
    fn default() -> Self {
        Self(AtomicU32::new(ARMED))
    }
}

impl Interrupt {
    /// The worker has an interrupt to raise, its completion published before. True:
    /// raise it now.
    pub(crate) fn raise(&self) -> bool {
        // Always a read-modify-write, so that `arm` orders against it: either this
        // sees the armed state, or `arm` sees that one waits.
        let before = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
                Some(if state == ARMED { RAISED } else { WAITING })
            });
        before == Ok(ARMED)
    }

    /// The guest is ready for the next. True: one waits, raise it now.
    pub(crate) fn arm(&self) -> bool {
        let before = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
                Some(if state == WAITING { RAISED } else { ARMED })
            });
        before == Ok(WAITING)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_until_armed_and_none_lost() {
        let i = Interrupt::default();
        assert!(i.raise());
        assert!(!i.raise());
        assert!(!i.raise());
        // Two came while it was not armed: one interrupt tells of both.
        assert!(i.arm());
        assert!(!i.raise());
        assert!(i.arm());
        assert!(!i.arm());
        assert!(i.raise());
    }

    #[test]
    fn arming_twice_raises_nothing() {
        let i = Interrupt::default();
        assert!(!i.arm());
        assert!(!i.arm());
        assert!(i.raise());
    }
}
