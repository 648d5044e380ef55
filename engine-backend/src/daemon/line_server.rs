//! [`LineServer`]: a socket for the operator's programs: a request a line, an answer a line.
//!
//! Only processes of this process' own user, and root's, are listened to: the socket's mode says so,
//! and the host's kernel says who connected. Even they are bounded: in number, in the length of
//! a line, in how long they may take to read an answer.

use std::fs;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::line::{REQUEST_BYTES_MAX, Refusal, read_line, write_bytes, write_line};
use crate::threads::{ThreadKind, begins};
use crate::vhost_user::{Doorway, Peer};

/// Programs that may be connected at once.
const CLIENTS_MAX: usize = 16;
/// How long an answer may take to be read.
const WRITE_MAX: Duration = Duration::from_secs(5);

/// Turns a request into its answer, both lines without their ends.
pub type Answerer = dyn Fn(Peer, &[u8]) -> Vec<u8> + Send + Sync;

/// The running socket. Dropping it removes it and ends what is connected.
#[derive(Debug)]
pub struct LineServer {
    shared: Arc<Shared>,
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// What it operates, as refusals name it.
    what: &'static str,
    doorway: Doorway,
    clients: Mutex<Vec<Client>>,
}

#[derive(Debug)]
struct Client {
    socket: UnixStream,
    thread: JoinHandle<()>,
}

impl LineServer {
    /// Serves whoever connects to `listener`, which is at `path`. `what` is what they operate ("this engine").
    ///
    /// # Errors
    /// When the host has no descriptor or thread left.
    pub fn start(
        listener: UnixListener,
        path: PathBuf,
        what: &'static str,
        answer: Arc<Answerer>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            what,
            doorway: Doorway::new(listener)?,
            clients: Mutex::default(),
        });
        let thread = std::thread::Builder::new()
            .name("byway-admin".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || {
                    begins(ThreadKind::Doorkeeper);
                    shared.run(&answer);
                }
            })?;
        Ok(Self {
            shared,
            path,
            thread: Some(thread),
        })
    }
}

impl Drop for LineServer {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        self.shared.doorway.close();
        if let Some(thread) = self.thread.take() {
            // What it panicked with it has said itself.
            let _ = thread.join();
        }
        let clients = std::mem::take(&mut *self.shared.clients());
        for client in &clients {
            // Whoever waits for an answer still gets it. It may have ended already.
            let _ = client.socket.shutdown(Shutdown::Read);
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

    fn run(&self, answer: &Arc<Answerer>) {
        loop {
            match self.doorway.next() {
                Ok(Some((socket, peer))) => {
                    if let Err(error) = self.admit(socket, peer, answer) {
                        tracing::warn!(%peer, "cannot serve an operator: {error}");
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::error!("cannot wait for operators: {error}");
                    return;
                }
            }
        }
    }

    fn admit(&self, mut socket: UnixStream, peer: Peer, answer: &Arc<Answerer>) -> io::Result<()> {
        socket.set_write_timeout(Some(WRITE_MAX))?;
        // SAFETY: no preconditions.
        let own = unsafe { libc::geteuid() };
        let what = self.what;
        if peer.uid != own && peer.uid != 0 {
            tracing::warn!(%peer, "refused: only user {own} may operate {what}");
            let message = format!("only processes of user {own} may operate {what}");
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
        let answer = Arc::clone(answer);
        let thread = std::thread::Builder::new()
            .name("byway-operator".to_owned())
            .spawn(move || {
                begins(ThreadKind::Operator);
                if let Err(error) = serve_lines(&mut socket, |line| answer(peer, line)) {
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

/// Answers the lines of one connection until it ends.
///
/// # Errors
/// As the socket says.
pub fn serve_lines(socket: &mut UnixStream, answer: impl Fn(&[u8]) -> Vec<u8>) -> io::Result<()> {
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
        write_bytes(socket, answer(&line))?;
    }
}
