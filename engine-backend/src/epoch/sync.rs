//! The atomics of the lock-free modules: the machine's own, or loom's where a model
//! runs. The only place that looks at `cfg(loom)` beside the models themselves.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Orders everything before an atomic read-modify-write against everything after it.
///
/// On x86 the locked instruction is a full fence by itself, so only the compiler must
/// be held back (Linux calls this `smp_mb__after_atomic`); it saves a second fence of
/// some ten nanoseconds in each chunk.
#[inline(always)]
pub(crate) fn fence_after_rmw() {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(not(all(target_arch = "x86_64", not(loom))))]
    fence(Ordering::SeqCst);
}

/// Turns of a wait in which the processor is kept: with pauses of 40 to 140 cycles some 30 to 100 us, longer than
/// a chunk. A yield in the midst of that gives the core to whoever spins on it, a vCPU that waits for the
/// answer for instance, and gets it back a scheduler's slice later.
#[cfg(not(loom))]
const SPINS: u32 = 2048;

/// Turns between two looks at the clock of somebody who waits.
#[cfg(not(loom))]
const LOOK_EVERY: u32 = 4 * SPINS;

/// Tells when a wait is longer than it should be: once, for people.
pub(crate) struct Late {
    #[cfg(not(loom))]
    after: std::time::Duration,
    /// The first look at the clock.
    #[cfg(not(loom))]
    since: Option<std::time::Instant>,
    #[cfg(not(loom))]
    is_told: bool,
}

impl Late {
    /// A wait that should be over `after` a moment.
    #[cfg_attr(loom, expect(unused_variables, reason = "models have no clock"))]
    pub(crate) fn new(after: std::time::Duration) -> Self {
        Self {
            #[cfg(not(loom))]
            after,
            #[cfg(not(loom))]
            since: None,
            #[cfg(not(loom))]
            is_told: false,
        }
    }

    /// Whether it is late now and was not at turns before.
    #[cfg(loom)]
    pub(crate) fn becomes_so(&mut self, _: u32) -> bool {
        false
    }

    /// Whether it is late now and was not at turns before.
    #[cfg(not(loom))]
    pub(crate) fn becomes_so(&mut self, turn: u32) -> bool {
        if self.is_told || turn % LOOK_EVERY != LOOK_EVERY - 1 {
            return false;
        }
        let since = *self.since.get_or_insert_with(std::time::Instant::now);
        self.is_told = since.elapsed() > self.after;
        self.is_told
    }
}

/// Gives way while waiting for another thread: a pause at first, then the processor.
pub(crate) fn relax(turn: u32) {
    #[cfg(loom)]
    {
        let _ = turn;
        loom::thread::yield_now();
    }
    #[cfg(not(loom))]
    if turn < SPINS {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}
