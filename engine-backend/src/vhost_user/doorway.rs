//! [`Doorway`]: what every socket of this process that others connect to has: a listener, who knocks, and an end.
//!
//! It belongs to the thread that stands at it; whoever else holds it can close it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::peer::Peer;
use super::wait::wait;

/// How long to wait when descriptors are short.
const BREATH: Duration = Duration::from_millis(50);

/// A listening socket and the event that ends it.
#[derive(Debug)]
pub struct Doorway {
    listener: UnixListener,
    stop: EventFd,
    closed: AtomicBool,
}

impl Doorway {
    /// Stands at `listener`, which does not block.
    ///
    /// # Errors
    /// When the host has no eventfd left.
    pub fn new(listener: UnixListener) -> io::Result<Self> {
        Ok(Self {
            listener,
            stop: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            closed: AtomicBool::new(false),
        })
    }

    /// Ends [`Self::next`] for good.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        // An eventfd that is full is readable anyway.
        let _ = self.stop.write(1);
    }

    /// Whether it has been closed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Readable when it has been closed.
    pub fn stop(&self) -> BorrowedFd<'_> {
        // SAFETY: the eventfd is open as long as `self` is.
        unsafe { BorrowedFd::borrow_raw(self.stop.as_raw_fd()) }
    }

    /// Readable when somebody knocks.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Waits for the next who knocks; `None` when the doorway was closed.
    ///
    /// # Errors
    /// When there can be no more waiting.
    pub fn next(&self) -> io::Result<Option<(UnixStream, Peer)>> {
        while !self.is_closed() {
            if wait(&[self.stop(), self.bell()], None)?.has(1)
                && let Some(who) = self.accept()
            {
                return Ok(Some(who));
            }
        }
        Ok(None)
    }

    /// Who knocks, if somebody still does.
    pub fn accept(&self) -> Option<(UnixStream, Peer)> {
        let accepted = self.listener.accept().and_then(|(socket, _)| {
            let peer = Peer::of(&socket)?;
            Ok((socket, peer))
        });
        match accepted {
            Ok(who) => Some(who),
            Err(error) => {
                // He has gone again, or descriptors are short, which passes or does not.
                if error.kind() != io::ErrorKind::WouldBlock {
                    tracing::warn!("cannot accept a connection: {error}");
                    std::thread::sleep(BREATH);
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vhost_user::folder::listen_at;
    use std::sync::Arc;

    #[test]
    fn who_knocks_comes_in_until_it_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("door");
        let doorway = Arc::new(Doorway::new(listen_at(&path, 0o600).unwrap()).unwrap());
        let _guest = UnixStream::connect(&path).unwrap();
        let (_, peer) = doorway.next().unwrap().unwrap();
        assert_eq!(peer.pid, std::process::id() as i32);
        assert!(doorway.accept().is_none());
        let waiting = std::thread::spawn({
            let doorway = Arc::clone(&doorway);
            move || doorway.next().unwrap().is_none()
        });
        std::thread::sleep(Duration::from_millis(10));
        doorway.close();
        assert!(waiting.join().unwrap());
    }
}
