//! [`Seat`]: a device's state, and the thread that serves it.
//!
//! The state is behind a lock which the thread holds while it serves, a bounded stretch at a time, and whoever
//! starts or stops queues holds while it does. So when a queue has been taken out of the state nothing of
//! its guest's memory is accessed any more, with no handshake. The thread is there from the start of the VM to its end, so
//! that it can be confined before the guest runs.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use byway_engine::STACK_BYTES;
use byway_engine::vhost_user::wait;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Most descriptors that a device waits for.
const WAITS_MAX: usize = 4;

/// When to serve again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// When one of the descriptors becomes readable.
    WhenReady,
    /// At once: there is more to do.
    Now,
    /// Then, or when a descriptor becomes readable.
    At(Instant),
}

/// A device's state.
pub trait Serve: Send + 'static {
    /// Descriptors that say that there is something to do, at most 4. Asked for after each [`Self::serve`].
    fn waits(&self) -> Vec<RawFd>;
    /// Does what there is to do, for a bounded time.
    fn serve(&mut self) -> Again;
}

/// What a thread does before anything else.
pub type Confine = Box<dyn FnOnce() + Send>;

/// A device that is served by a thread of its own.
pub trait OwnThread {
    /// Starts the thread. See [`Seat::start`].
    ///
    /// # Errors
    /// When the host has no thread left.
    fn start_thread(&mut self, name: String, confine: Confine) -> io::Result<()>;
    /// Lets it rest, or work again. See [`Seat::set_resting`].
    fn set_resting(&self, rests: bool);
    /// Returns when nothing is under way that was before.
    fn settle(&self);
}

#[derive(Debug)]
struct Shared<S> {
    state: Mutex<S>,
    /// Who waits for the lock; the thread lets them pass.
    wanted: AtomicU32,
    /// Whether serving is to rest.
    rests: AtomicBool,
    ends: AtomicBool,
    wake: EventFd,
}

/// A state and its thread. Dropping it ends the thread.
#[derive(Debug)]
pub struct Seat<S> {
    shared: Arc<Shared<S>>,
    thread: Option<JoinHandle<()>>,
}

impl<S: Serve> Seat<S> {
    /// A state that nobody serves yet.
    ///
    /// # Errors
    /// When the host has no eventfd left.
    pub fn new(state: S) -> io::Result<Self> {
        Ok(Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                wanted: AtomicU32::new(0),
                rests: AtomicBool::new(false),
                ends: AtomicBool::new(false),
                wake: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            }),
            thread: None,
        })
    }

    /// Starts the thread, which calls `confine` before anything else. A second start is none.
    ///
    /// # Errors
    /// When the host has no thread left.
    pub fn start(&mut self, name: String, confine: Confine) -> io::Result<()> {
        if self.thread.is_none() {
            let shared = Arc::clone(&self.shared);
            let builder = std::thread::Builder::new().name(name);
            let thread = builder.stack_size(STACK_BYTES).spawn(move || {
                confine();
                shared.run();
            })?;
            self.thread = Some(thread);
        }
        Ok(())
    }

    /// Does something with the state, while the thread does nothing.
    pub fn with<R>(&self, act: impl FnOnce(&mut S) -> R) -> R {
        self.shared.wanted.fetch_add(1, Ordering::SeqCst);
        let mut state = self.shared.lock();
        self.shared.wanted.fetch_sub(1, Ordering::SeqCst);
        let done = act(&mut state);
        drop(state);
        // What to wait for may be something else now.
        self.shared.wake();
        done
    }

    /// Lets the thread rest, or work again. Nothing is under way when this returns.
    pub fn set_resting(&self, rests: bool) {
        self.shared.rests.store(rests, Ordering::SeqCst);
        self.with(|_| ());
    }
}

impl<S> Drop for Seat<S> {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::SeqCst);
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            // What it panicked with it has said itself.
            let _ = thread.join();
        }
    }
}

impl<S> Shared<S> {
    fn wake(&self) {
        // An eventfd that is full is readable anyway.
        let _ = self.wake.write(1);
    }

    fn lock(&self) -> MutexGuard<'_, S> {
        // A device that panicked serves no more; its queues can still be taken out.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Serve> Shared<S> {
    fn run(&self) {
        while !self.ends.load(Ordering::SeqCst) {
            // Those who want the lock come first: a thread that locks again at once would keep it.
            while self.wanted.load(Ordering::SeqCst) > 0 {
                std::thread::yield_now();
            }
            let mut state = self.lock();
            let (again, waits) = if self.rests.load(Ordering::SeqCst) {
                (Again::WhenReady, Vec::new())
            } else {
                (state.serve(), state.waits())
            };
            drop(state);
            let longest = match again {
                Again::Now => continue,
                Again::At(then) => Some(then.saturating_duration_since(Instant::now())),
                Again::WhenReady => None,
            };
            if let Err(error) = self.wait(&waits, longest) {
                tracing::error!("a device cannot wait, and stops: {error}");
                return;
            }
        }
    }

    fn wait(&self, waits: &[RawFd], longest: Option<Duration>) -> io::Result<()> {
        // SAFETY: the eventfd lives as long as `self`. The others are a device's own: one that is closed meanwhile
        // only makes this wait end early, and the eventfd was written after it.
        let borrow = |fd: &RawFd| unsafe { BorrowedFd::borrow_raw(*fd) };
        let own = self.wake.as_raw_fd();
        let mut fds = vec![borrow(&own)];
        fds.extend(waits.iter().take(WAITS_MAX).map(borrow));
        if wait(&fds, longest)?.has(0) {
            let _ = self.wake.read();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counter {
        served: u32,
        busy: bool,
    }

    impl Serve for Counter {
        fn waits(&self) -> Vec<RawFd> {
            Vec::new()
        }
        fn serve(&mut self) -> Again {
            self.served += 1;
            if self.busy {
                Again::Now
            } else {
                Again::WhenReady
            }
        }
    }

    #[test]
    fn a_busy_device_lets_others_at_its_state_and_rests_when_told() {
        let state = Counter {
            served: 0,
            busy: true,
        };
        let mut seat = Seat::new(state).unwrap();
        seat.start("test".to_owned(), Box::new(|| ())).unwrap();
        let mut last = 0;
        for _ in 0..100 {
            last = seat.with(|state| state.served).max(last);
        }
        seat.set_resting(true);
        let rested = seat.with(|state| state.served);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(seat.with(|state| state.served), rested);
        assert!(rested >= last);
        seat.set_resting(false);
        while seat.with(|state| state.served) == rested {
            std::thread::yield_now();
        }
        drop(seat);
    }
}
