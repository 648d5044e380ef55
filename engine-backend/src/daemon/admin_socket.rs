//! [`AdminSocket`]: the operator's way to a daemon.
//!
//! Only processes of the daemon's own user, and root's, are listened to: the socket's mode says so,
//! and the host's kernel says who connected. Even they are bounded: in number, in the length of
//! a line, in how long they may take to read an answer.

use std::fs;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::line::{Answer, REQUEST_BYTES_MAX, Refusal, action, read_line, write_line};
use crate::interface::Admin;
use crate::vhost_user::{FolderError, Peer, SocketFolder, wait};

/// Name of the socket, which no domain of a daemon can have.
pub(super) const NAME: &str = "admin";
/// Programs that may be connected at once.
const CLIENTS_MAX: usize = 16;
/// How long an answer may take to be read.
const WRITE_MAX: Duration = Duration::from_secs(5);
/// A breath after an accept that failed for want of something.
const BREATH: Duration = Duration::from_millis(10);

/// The running socket. Dropping it removes it and ends what is connected.
#[derive(Debug)]
pub struct AdminSocket {
    shared: Arc<Shared>,
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: EventFd,
    stopping: AtomicBool,
    clients: Mutex<Vec<Client>>,
}

#[derive(Debug)]
struct Client {
    socket: UnixStream,
    thread: JoinHandle<()>,
}

impl AdminSocket {
    /// Listens in `folder` for those who may tell `admin` what to do.
    ///
    /// # Errors
    /// When the socket cannot be made or the host has no thread left.
    pub(super) fn start(folder: &SocketFolder, admin: Arc<dyn Admin>) -> Result<Self, FolderError> {
        let listener = folder.listen(NAME, 0o600)?;
        let path = folder.socket(NAME);
        let host = |source| FolderError::Host {
            what: "serve",
            path: folder.socket(NAME),
            source,
        };
        let shared = Arc::new(Shared {
            stop: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(host)?,
            stopping: AtomicBool::new(false),
            clients: Mutex::default(),
        });
        let thread = std::thread::Builder::new()
            .name("byway-admin".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.run(&listener, &admin)
            })
            .map_err(host)?;
        Ok(Self {
            shared,
            path,
            thread: Some(thread),
        })
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        self.shared.stopping.store(true, Ordering::SeqCst);
        // An eventfd that is full is readable anyway.
        let _ = self.shared.stop.write(1);
        if let Some(thread) = self.thread.take() {
            // What it panicked with it has said itself.
            let _ = thread.join();
        }
        let clients = std::mem::take(&mut *self.shared.clients());
        for client in &clients {
            // It may have ended already.
            let _ = client.socket.shutdown(Shutdown::Both);
        }
        for client in clients {
            let _ = client.thread.join();
        }
    }
}

impl Shared {
    fn clients(&self) -> MutexGuard<'_, Vec<Client>> {
        // Each change is one insertion or removal.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, listener: &UnixListener, admin: &Arc<dyn Admin>) {
        // SAFETY: the eventfd is open as long as `self` is.
        let stop = unsafe { BorrowedFd::borrow_raw(self.stop.as_raw_fd()) };
        while !self.stopping.load(Ordering::SeqCst) {
            match wait(&[stop, listener.as_fd()], None) {
                Ok(ready) if ready.has(1) => {}
                Ok(_) => continue,
                Err(error) => {
                    tracing::error!("cannot wait for operators: {error}");
                    return;
                }
            }
            let accepted = listener
                .accept()
                .and_then(|(socket, _)| self.admit(socket, admin));
            if let Err(error) = accepted
                && error.kind() != io::ErrorKind::WouldBlock
            {
                tracing::warn!("cannot serve an operator: {error}");
                std::thread::sleep(BREATH);
            }
        }
    }

    fn admit(&self, mut socket: UnixStream, admin: &Arc<dyn Admin>) -> io::Result<()> {
        socket.set_write_timeout(Some(WRITE_MAX))?;
        let peer = Peer::of(&socket)?;
        // SAFETY: no preconditions.
        let own = unsafe { libc::geteuid() };
        if peer.uid != own && peer.uid != 0 {
            tracing::warn!(%peer, "refused: only user {own} may operate this engine");
            let message = format!("only processes of user {own} may operate this engine");
            return write_line(&mut socket, &Refusal::new("denied", message));
        }
        let mut clients = self.clients();
        clients.retain(|client| !client.thread.is_finished());
        if clients.len() >= CLIENTS_MAX {
            drop(clients);
            let message = format!("{CLIENTS_MAX} programs are connected already; try again later");
            return write_line(&mut socket, &Refusal::new("busy", message));
        }
        let watched = socket.try_clone()?;
        let admin = Arc::clone(admin);
        let thread = std::thread::Builder::new()
            .name("byway-operator".to_owned())
            .spawn(move || {
                if let Err(error) = serve(&mut socket, peer, admin.as_ref()) {
                    tracing::warn!(%peer, "an operator's connection has ended: {error}");
                }
                // Whoever ends the others has a copy of the socket.
                let _ = socket.shutdown(Shutdown::Both);
            })?;
        clients.push(Client {
            socket: watched,
            thread,
        });
        Ok(())
    }
}

fn serve(socket: &mut UnixStream, peer: Peer, admin: &dyn Admin) -> io::Result<()> {
    let mut rest = Vec::new();
    loop {
        let line = match read_line(socket, &mut rest, REQUEST_BYTES_MAX) {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let refusal = Refusal::new("bad-request", error.to_string());
                // Where the next line begins nobody knows.
                return write_line(socket, &refusal);
            }
            Err(error) => return Err(error),
        };
        let answer = action(&line).and_then(|action| {
            tracing::info!(%peer, "{action:?}");
            admin.act(action).map_err(Refusal::from)
        });
        let answer = answer.map_or_else(Answer::Error, Answer::Reply);
        write_line(socket, &answer)?;
    }
}
