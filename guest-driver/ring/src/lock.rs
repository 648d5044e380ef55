//! A lock for what is done in a few nanoseconds: spins, needs neither `std` nor an allocator.
//!
//! Nothing that waits, wakes or calls a stranger's code may run while it is held.

use core::sync::atomic::Ordering;

#[cfg(not(all(loom, test)))]
use core::{cell::UnsafeCell, sync::atomic::AtomicBool};
// Loom's cell notices two threads in it at once.
#[cfg(all(loom, test))]
use loom::{cell::UnsafeCell, sync::atomic::AtomicBool};

/// A value that one thread at a time reaches.
#[derive(Debug)]
pub(crate) struct Lock<T> {
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached by one thread at a time, which is what `T: Send` allows.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            held: AtomicBool::new(false),
            value: UnsafeCell::new(value),
        }
    }

    /// Runs `with` with the value to itself. Must not be called from within itself.
    pub(crate) fn with<R>(&self, with: impl FnOnce(&mut T) -> R) -> R {
        while self
            .held
            .compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            pause();
        }
        let guard = Release(&self.held);
        let result = reach(&self.value, |value| {
            // SAFETY: the flag was taken by this call alone, and is given back after `with`, however
            // that ends: no other reference exists meanwhile.
            with(unsafe { &mut *value })
        });
        drop(guard);
        result
    }
}

/// Hands the value's address to `with`.
fn reach<T, R>(value: &UnsafeCell<T>, with: impl FnOnce(*mut T) -> R) -> R {
    #[cfg(not(all(loom, test)))]
    return with(value.get());
    #[cfg(all(loom, test))]
    value.with_mut(with)
}

/// Gives the lock back, after a panic too.
struct Release<'a>(&'a AtomicBool);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

fn pause() {
    #[cfg(all(loom, test))]
    loom::thread::yield_now();
    #[cfg(not(all(loom, test)))]
    core::hint::spin_loop();
}
