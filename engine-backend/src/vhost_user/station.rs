//! [`Station`]: a domain's socket and the thread that serves it.

use std::fs::{self, Permissions};
use std::io;
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::connection::{Connection, End};
use super::doorway::Doorway;
use super::folder::{FolderError, SocketFolder};
use super::peer::Peer;
use super::session::Session;
use crate::interface::Admin;
use crate::seldom::Seldom;
use crate::threads::{ThreadKind, begins};

/// How long a station may take to end before it is left to itself.
const END_MAX: Duration = Duration::from_secs(2);
/// Modes of a socket: for this process' user, and for those that are asked who they are.
const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o666;
/// How long to wait before looking again, where nothing tells.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// A running station. Dropping it ends its connection, removes its socket and waits until the
/// domain is detached; a front end that holds its thread up by a hostile descriptor is not
/// waited for for ever.
#[derive(Debug)]
pub struct Station {
    shared: Arc<Shared>,
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    /// The only user whose processes may attach, or none but who may open the socket.
    uid: Mutex<Option<u32>>,
    doorway: Doorway,
    /// The front end's socket, to end whatever the thread waits for on it.
    current: Mutex<Option<UnixStream>>,
    /// Anybody may knock, and as often as he likes.
    told: Seldom,
    /// The same of whoever was let in and then asked for what cannot be.
    ended: Seldom,
}

impl Station {
    /// Listens at the domain's socket in `folder`, for processes of this process' user.
    ///
    /// # Errors
    /// When the socket cannot be made or the host has no thread left.
    pub fn start(
        folder: &SocketFolder,
        name: &str,
        admin: Arc<dyn Admin>,
    ) -> Result<Self, FolderError> {
        let listener = folder.listen(name, PRIVATE)?;
        let path = folder.socket(name);
        let host = |source| FolderError::Host {
            what: "serve",
            path: folder.socket(name),
            source,
        };
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            uid: Mutex::default(),
            doorway: Doorway::new(listener).map_err(host)?,
            current: Mutex::default(),
            told: Seldom::new(),
            ended: Seldom::new(),
        });
        let thread = std::thread::Builder::new()
            .name(format!("vu-{name}"))
            .spawn({
                let shared = Arc::clone(&shared);
                move || {
                    begins(ThreadKind::Session);
                    shared.run(admin.as_ref());
                }
            })
            .map_err(host)?;
        Ok(Self {
            shared,
            path,
            thread: Some(thread),
        })
    }

    /// From now on only processes of this user may attach, and the socket is there for everybody to
    /// try; without one, those of this process' user. Whoever is attached stays.
    ///
    /// # Errors
    /// When the socket's mode cannot be changed.
    pub fn admit(&self, uid: Option<u32>) -> io::Result<()> {
        let mode = if uid.is_some() { PUBLIC } else { PRIVATE };
        *self.shared.uid() = uid;
        fs::set_permissions(&self.path, Permissions::from_mode(mode))
    }

    /// Tells it to end, and does not wait.
    pub fn begin_end(&self) {
        self.shared.doorway.close();
        if let Some(socket) = self.shared.current().as_ref() {
            // It may have ended already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        self.begin_end();
        // Nobody can connect any more; whoever has is told by the end of his connection.
        let _ = fs::remove_file(&self.path);
        let Some(thread) = self.thread.take() else {
            return;
        };
        let since = Instant::now();
        while !thread.is_finished() {
            if since.elapsed() > END_MAX {
                tracing::error!(
                    domain = self.shared.name,
                    "a front end holds up the end of its connection, and is left behind"
                );
                return;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        // What it panicked with it has said itself.
        let _ = thread.join();
    }
}

impl Shared {
    fn uid(&self) -> MutexGuard<'_, Option<u32>> {
        self.uid.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn current(&self) -> MutexGuard<'_, Option<UnixStream>> {
        // A socket or none: never half of one.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, admin: &dyn Admin) {
        loop {
            let (socket, peer) = match self.doorway.next() {
                Ok(Some(who)) => who,
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(domain = self.name, "cannot wait for front ends: {error}");
                    return;
                }
            };
            if !self.may_attach(peer) {
                continue;
            }
            match self.attach(socket, peer, admin) {
                Ok(connection) => {
                    tracing::info!(domain = self.name, %peer, "a front end has attached");
                    let (stop, bell) = (self.doorway.stop(), self.doorway.bell());
                    let end = connection.serve(stop, bell, || {
                        if let Some((_, peer)) = self.doorway.accept()
                            && self.may_attach(peer)
                        {
                            self.tell_refusal(peer, "the domain has a front end already");
                        }
                    });
                    match end {
                        End::Closed | End::Stopped => {
                            tracing::info!(domain = self.name, %peer, "detached: {end}");
                        }
                        End::Refused(_) | End::Host(_) => self
                            .ended
                            .tell(|| tracing::warn!(domain = self.name, %peer, "detached: {end}")),
                    }
                }
                Err(why) => self.tell_refusal(peer, &why.to_string()),
            }
            *self.current() = None;
        }
    }

    fn tell_refusal(&self, peer: Peer, why: &str) {
        self.told
            .tell(|| tracing::warn!(domain = self.name, %peer, "refused: {why}"));
    }

    /// Whether processes of this user are let in; a refusal is told.
    fn may_attach(&self, peer: Peer) -> bool {
        match *self.uid() {
            Some(uid) if uid != peer.uid => {
                let why = format!("only processes of user {uid} may attach");
                self.tell_refusal(peer, &why);
                false
            }
            _ => true,
        }
    }

    fn attach(
        &self,
        socket: UnixStream,
        peer: Peer,
        admin: &dyn Admin,
    ) -> Result<Connection, Box<dyn std::error::Error>> {
        tracing::debug!(domain = self.name, %peer, "a front end knocks");
        let domain = admin.attach(&self.name)?;
        let session = Session::new(domain)?;
        *self.current() = Some(socket.try_clone()?);
        if self.doorway.is_closed() {
            return Err("the engine is ending".into());
        }
        Ok(Connection::new(socket, session)?)
    }
}
