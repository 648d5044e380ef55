//! An engine that other processes reach: VMMs by one vhost-user socket per domain, the operator
//! by one admin socket, all in one folder.
//!
//! A [`Daemon`] wraps an [`Admin`] and is one itself: a domain that is created gets a socket, and
//! loses it when it is removed.

mod admin_socket;
mod client;
mod line;
mod line_server;
pub use admin_socket::AdminSocket;
pub use client::{ANSWER_MAX, ClientError, RemoteEngine};
pub use line::{
    ANSWER_BYTES_MAX, Answer, REQUEST_BYTES_MAX, Refusal, Timed, ask_line, has_ended, read_line,
    to_line, write_line,
};
pub use line_server::{Answerer, LineServer, serve_lines};

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::interface::{Action, Admin, AdminError, Domain, Reply};
use crate::vhost_user::{FolderError, SocketFolder, Station};

/// A running daemon. Dropping it ends every connection, detaches every domain and removes the
/// sockets.
#[derive(Clone)]
pub struct Daemon {
    inner: Arc<Inner>,
}

struct Inner {
    /// First, so that domains are detached before the engine goes.
    stations: Mutex<BTreeMap<String, Station>>,
    engine: Arc<dyn Admin>,
    folder: SocketFolder,
}

impl Daemon {
    /// Puts sockets in `folder` in front of an engine that has no domains yet.
    ///
    /// # Errors
    /// When the folder cannot be had, or another daemon has it.
    pub fn new(engine: Arc<dyn Admin>, folder: &Path) -> Result<Self, FolderError> {
        Ok(Self {
            inner: Arc::new(Inner {
                stations: Mutex::default(),
                engine,
                folder: SocketFolder::hold(folder)?,
            }),
        })
    }

    /// Listens to the operator, at admin.sock, for as long as the result is there; to be dropped
    /// before the daemon, which it keeps alive.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn serve_operator(&self) -> Result<AdminSocket, FolderError> {
        AdminSocket::start(&self.inner.folder, Arc::new(self.clone()))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let stations = std::mem::take(&mut *self.stations());
        // All at once, then one after the other.
        stations.values().for_each(Station::begin_end);
    }
}

impl Admin for Daemon {
    fn act(&self, action: Action) -> Result<Reply, AdminError> {
        match action {
            Action::CreateDomain { ref name, .. } => {
                let name = name.clone();
                self.inner.create(&name, action)
            }
            Action::RemoveDomain { ref name } => {
                let name = name.clone();
                self.inner.remove(&name, action)
            }
            Action::Admit { name, uid } => self.inner.admit(&name, uid),
            other => self.inner.engine.act(other),
        }
    }

    fn attach(&self, name: &str) -> Result<Box<dyn Domain>, AdminError> {
        self.inner.engine.attach(name)
    }
}

impl Inner {
    fn stations(&self) -> MutexGuard<'_, BTreeMap<String, Station>> {
        // Each change is one insertion or removal.
        self.stations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn create(&self, name: &str, action: Action) -> Result<Reply, AdminError> {
        if name == admin_socket::NAME {
            return Err(AdminError::Exists(name.to_owned()));
        }
        let mut stations = self.stations();
        let reply = self.engine.act(action)?;
        let engine = Arc::clone(&self.engine);
        match Station::start(&self.folder, name, engine) {
            Ok(station) => {
                stations.insert(name.to_owned(), station);
                Ok(reply)
            }
            Err(error) => {
                // It was not there before, and nobody can have attached.
                let _ = self.engine.act(Action::RemoveDomain {
                    name: name.to_owned(),
                });
                Err(AdminError::Host(error.to_string()))
            }
        }
    }

    fn remove(&self, name: &str, action: Action) -> Result<Reply, AdminError> {
        let mut stations = self.stations();
        let reply = self.engine.act(action)?;
        let station = stations.remove(name);
        // Its end may take a while: not with the lock held.
        drop(stations);
        drop(station);
        Ok(reply)
    }

    fn admit(&self, name: &str, uid: Option<u32>) -> Result<Reply, AdminError> {
        let stations = self.stations();
        let station = stations.get(name);
        let station = station.ok_or_else(|| AdminError::Unknown(name.to_owned()))?;
        station
            .admit(uid)
            .map_err(|error| AdminError::Host(error.to_string()))?;
        Ok(Reply::Done)
    }
}
