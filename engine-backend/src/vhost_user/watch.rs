//! [`Watch`]: looks after a connection to an engine while nobody else does.
//!
//! A thread that sleeps until the connection ends, which it then tells, or until an answer is overdue: an engine
//! that was stopped (SIGSTOP, a debugger, a host that swaps) keeps its socket open and says nothing, and whoever waits for
//! it - a vCPU, often - would wait for ever. The connection is then shut down, which ends that wait.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use vmm_sys_util::timerfd::TimerFd;

/// See the module's description. Ends when dropped.
pub(super) struct Watch {
    thread: Option<JoinHandle<()>>,
    end: EventFd,
    /// Armed while an answer is waited for.
    overdue: TimerFd,
    has_hung_up: Arc<AtomicBool>,
    patience: Duration,
}

impl Watch {
    /// Looks after `socket`; `lost` is written when the connection ends. Answers may take as long as `patience`.
    ///
    /// # Errors
    /// The host has no descriptors or threads left.
    pub(super) fn start(socket: UnixStream, lost: EventFd, patience: Duration) -> io::Result<Self> {
        let end = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let overdue = TimerFd::new().map_err(io::Error::from)?;
        let has_hung_up = Arc::new(AtomicBool::new(false));
        let sleeper = Sleeper {
            end: end.try_clone()?,
            overdue: duplicate(overdue.as_raw_fd())?,
            socket,
            lost,
            has_hung_up: Arc::clone(&has_hung_up),
        };
        let thread = std::thread::Builder::new()
            .name("byway-watch".to_owned())
            .spawn(move || sleeper.run())?;
        Ok(Self {
            thread: Some(thread),
            end,
            overdue,
            has_hung_up,
            patience,
        })
    }

    /// Does something that waits for an answer, at most as long as patience lasts.
    pub(super) fn bounded<R>(&mut self, ask: impl FnOnce() -> R) -> R {
        // It fails for arguments alone that these are not.
        let _ = self.overdue.reset(self.patience, None);
        let answer = ask();
        let _ = self.overdue.clear();
        answer
    }

    /// Says so, if it was this watch that ended the connection.
    pub(super) fn why(&self) -> Option<String> {
        self.has_hung_up.load(Ordering::SeqCst).then(|| {
            format!(
                "the engine has not answered within {:?}: is its process stopped?",
                self.patience
            )
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // An eventfd that is full is readable anyway.
        let _ = self.end.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the thread has.
struct Sleeper {
    end: EventFd,
    overdue: File,
    socket: UnixStream,
    lost: EventFd,
    has_hung_up: Arc<AtomicBool>,
}

impl Sleeper {
    fn run(self) {
        let entry = |fd: RawFd, events| libc::pollfd {
            fd,
            events,
            revents: 0,
        };
        let mut fds = [
            entry(self.end.as_raw_fd(), libc::POLLIN),
            entry(self.overdue.as_raw_fd(), libc::POLLIN),
            entry(self.socket.as_raw_fd(), libc::POLLRDHUP),
        ];
        loop {
            // SAFETY: the array is valid for its length.
            let rc = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, -1) };
            if rc <= 0 {
                continue;
            }
            if fds[0].revents != 0 {
                return;
            }
            if fds[1].revents != 0 {
                self.has_hung_up.store(true, Ordering::SeqCst);
                // It fails only when the other side has done it already.
                let _ = self.socket.shutdown(std::net::Shutdown::Both);
            } else if fds[2].revents == 0 {
                continue;
            }
            // An eventfd that is full is readable anyway.
            let _ = self.lost.write(1);
            return;
        }
    }
}

fn duplicate(fd: RawFd) -> io::Result<File> {
    // SAFETY: takes and makes a number.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { File::from_raw_fd(copy) })
}
