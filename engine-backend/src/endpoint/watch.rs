//! [`Watch`]: a thread that knows when a device's process hangs up or takes too long.
//!
//! Workers must not ask the kernel whether a peer is there: they look at a flag. Talking
//! over a socket may take for ever when the peer likes: past a deadline the socket is shut
//! down, so that whoever waits at it gets an error.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::open_error::OpenError;
use crate::threads::{ThreadKind, begins};
use crate::vhost_user::{connect_within, is_writable};

/// Connects to a device's socket, in no more than `limit`, and watches it.
pub(super) fn connect(path: &Path, limit: Duration) -> Result<(UnixStream, Watch), OpenError> {
    let no_answer = |source: io::Error| OpenError::NoAnswer {
        path: path.display().to_string(),
        what: source.to_string(),
    };
    let socket = connect_within(path, limit).map_err(no_answer)?;
    let host = |source| OpenError::Host {
        what: "cannot watch a device's socket",
        source,
    };
    let watched = socket.try_clone().map_err(host)?;
    Ok((socket, Watch::new(watched).map_err(host)?))
}

/// How often the thread looks whether a kick is stuck.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Looks after which a kick is stuck although there is room for it: its writer has no core, or the device makes room and
/// takes it away again.
const LOOKS_MAX: u32 = 50;

/// What the thread and its owner share.
#[derive(Debug)]
struct Shared {
    socket: UnixStream,
    is_lost: AtomicBool,
    /// Tells the worker that the device is lost. Nobody else has it.
    lost: EventFd,
    /// The device waits for it. The device has it as well: it could make it block.
    kick: EventFd,
    /// Odd while a kick is being written.
    kicks: AtomicU64,
    /// Tells the thread that something below changed.
    nudge: EventFd,
    ends: AtomicBool,
    deadline: Mutex<Option<Instant>>,
}

/// Watches one connection until dropped, which ends it.
pub(super) struct Watch {
    shared: Arc<Shared>,
    /// The device signals it; never read, since the device could make that block.
    call: EventFd,
    /// Readable when `call` was signalled anew, or the device is lost.
    wake: Epoll,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.shared.fmt(f)
    }
}

impl Watch {
    /// Watches a connection on which nothing has been said yet.
    pub(super) fn new(socket: UnixStream) -> io::Result<Self> {
        let event = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        let shared = Arc::new(Shared {
            socket,
            is_lost: AtomicBool::new(false),
            lost: event()?,
            kick: event()?,
            kicks: AtomicU64::new(0),
            nudge: event()?,
            ends: AtomicBool::new(false),
            deadline: Mutex::new(None),
        });
        let call = event()?;
        let wake = Epoll::new()?;
        let edge = EventSet::IN | EventSet::EDGE_TRIGGERED;
        for (fd, events) in [(&call, edge), (&shared.lost, EventSet::IN)] {
            let event = EpollEvent::new(events, 0);
            wake.ctl(ControlOperation::Add, fd.as_raw_fd(), event)?;
        }
        let theirs = Arc::clone(&shared);
        // Nobody waits for its end: it could be held by a device that blocks a kick.
        std::thread::Builder::new()
            .name("byway-blk-watch".to_owned())
            .stack_size(crate::STACK_BYTES)
            .spawn(move || {
                begins(ThreadKind::Watch);
                theirs.run();
            })?;
        Ok(Self { shared, call, wake })
    }

    /// Runs what talks over the connection; it fails when it takes longer than this.
    pub(super) fn within<R>(&self, limit: Duration, talk: impl FnOnce() -> R) -> R {
        self.shared.set_deadline(Instant::now().checked_add(limit));
        let said = talk();
        self.shared.set_deadline(None);
        said
    }

    /// Whether the other side hung up or was cut off.
    #[inline]
    pub(super) fn is_lost(&self) -> bool {
        self.shared.is_lost.load(Ordering::Acquire)
    }

    /// Ends the connection.
    pub(super) fn cut(&self) {
        self.shared.lose();
    }

    /// For the device, to be told by.
    pub(super) fn kick_fd(&self) -> &EventFd {
        &self.shared.kick
    }

    /// For the device, to tell by.
    pub(super) fn call_fd(&self) -> &EventFd {
        &self.call
    }

    /// Tells the device to look: one system call. A device that made it block is cut off
    /// within two of [`LOOK_EVERY`], which ends the wait; one that plays with it, after a few seconds.
    pub(super) fn kick(&self) {
        self.shared.kicks.fetch_add(1, Ordering::Relaxed);
        // An eventfd that is full is readable anyway.
        let _ = self.shared.kick.write(1);
        self.shared.kicks.fetch_add(1, Ordering::Relaxed);
    }

    /// For whoever waits: readable after a signal of the device's, and when it is lost.
    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: it lives as long as `self`, which the result borrows.
        unsafe { BorrowedFd::borrow_raw(self.wake.as_raw_fd()) }
    }

    /// Takes signals away, by one system call. A loss stays readable.
    pub(super) fn hush(&self) {
        // Nothing to be read is no failure; anything else shows as a wait that ends early.
        let _ = self.wake.wait(0, &mut [EpollEvent::default(); 2]);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Release);
        // An eventfd that is full is readable anyway.
        let _ = self.shared.nudge.write(1);
        let _ = self.shared.socket.shutdown(std::net::Shutdown::Both);
    }
}

impl Shared {
    fn set_deadline(&self, at: Option<Instant>) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = at;
        let _ = self.nudge.write(1);
    }

    fn lose(&self) {
        if self.is_lost.swap(true, Ordering::AcqRel) {
            return;
        }
        // Whoever waits for an answer waits no longer.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let _ = self.lost.write(1);
    }

    fn run(&self) {
        let (mut seen, mut looks) = (0, 0);
        while !self.ends.load(Ordering::Acquire) {
            let deadline = *self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                self.lose();
            }
            let wait = if self.is_lost.load(Ordering::Acquire) {
                // Hanging up stays readable; there is nothing more to learn from it.
                LOOK_EVERY
            } else {
                left.unwrap_or(LOOK_EVERY).min(LOOK_EVERY)
            };
            if self.wait(wait) {
                self.lose();
            }
            let kicks = self.kicks.load(Ordering::Relaxed);
            looks = match kicks % 2 == 1 && kicks == seen {
                true => looks + 1,
                false => 0,
            };
            // A worker that has lost its core between a kick's two counts is no device's fault.
            if looks > 0 && !is_writable(&self.kick) {
                self.lose();
                // There is room then, and the writer goes on.
                let _ = self.kick.read();
            } else if looks > LOOKS_MAX {
                self.lose();
            }
            seen = kicks;
        }
    }

    /// Waits for a nudge or this long; tells whether the other side hung up.
    fn wait(&self, time: Duration) -> bool {
        let socket = if self.is_lost.load(Ordering::Acquire) {
            -1
        } else {
            self.socket.as_raw_fd()
        };
        let mut fds = [
            (self.nudge.as_raw_fd(), libc::POLLIN),
            (socket, libc::POLLRDHUP),
        ]
        .map(|(fd, events)| libc::pollfd {
            fd,
            events,
            revents: 0,
        });
        // Rounded up, or the last millisecond would spin.
        let timeout_ms = time.as_millis() as libc::c_int + 1;
        // SAFETY: the array is valid for its length.
        let rc = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout_ms) };
        if rc > 0 && fds[0].revents != 0 {
            let _ = self.nudge.read();
        }
        rc > 0 && fds[1].revents != 0
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn is_readable(fd: BorrowedFd<'_>) -> bool {
        let mut fds = [libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        }];
        // SAFETY: the array is valid for its length.
        unsafe { libc::poll(fds.as_mut_ptr(), 1, 0) == 1 }
    }

    #[test]
    fn a_peer_that_says_nothing_is_cut_off() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let watch = Watch::new(ours.try_clone().unwrap()).unwrap();
        let got = watch.within(Duration::from_millis(20), || (&ours).read(&mut [0]));
        assert_eq!(got.unwrap(), 0);
        assert!(watch.is_lost());
        drop(theirs);
    }

    #[test]
    fn a_deadline_that_was_met_cuts_nobody_off() {
        const LIMIT: Duration = Duration::from_millis(5);
        // Another one, should this thread have been without a core for so long that it was not met.
        let (watch, _theirs) = loop {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let watch = Watch::new(ours).unwrap();
            let began = Instant::now();
            watch.within(LIMIT, || ());
            if began.elapsed() < LIMIT {
                break (watch, theirs);
            }
        };
        std::thread::sleep(4 * LIMIT);
        assert!(!watch.is_lost());
    }

    #[test]
    fn a_peer_that_hangs_up_is_noticed_and_wakes() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let watch = Watch::new(ours).unwrap();
        assert!(!watch.is_lost() && !is_readable(watch.wake_fd()));
        drop(theirs);
        while !is_readable(watch.wake_fd()) {
            std::thread::yield_now();
        }
        assert!(watch.is_lost());
        watch.hush();
        assert!(is_readable(watch.wake_fd()), "a loss stays");
    }

    #[test]
    fn each_signal_wakes_once() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let watch = Watch::new(ours).unwrap();
        for _ in 0..3 {
            watch.call_fd().write(1).unwrap();
            assert!(is_readable(watch.wake_fd()));
            watch.hush();
            assert!(!is_readable(watch.wake_fd()));
        }
    }

    #[test]
    fn a_kick_whose_writer_has_no_core_ends_nothing() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let watch = Watch::new(ours).unwrap();
        // As far as a kick has come then.
        watch.shared.kicks.fetch_add(1, Ordering::Relaxed);
        watch.kick_fd().write(1).unwrap();
        std::thread::sleep(5 * LOOK_EVERY);
        assert!(!watch.is_lost());
    }

    #[test]
    fn a_kick_that_the_device_makes_block_ends_with_the_device() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let watch = Watch::new(ours).unwrap();
        let fd = watch.kick_fd().as_raw_fd();
        // SAFETY: the descriptor is open; flags are an integer.
        unsafe { libc::fcntl(fd, libc::F_SETFL, 0) };
        watch.kick_fd().write(u64::MAX - 1).unwrap();
        watch.kick();
        assert!(watch.is_lost());
    }
}
