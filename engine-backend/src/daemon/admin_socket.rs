//! [`AdminSocket`]: the operator's way to a daemon, a [`LineServer`] whose lines are actions.

use std::sync::Arc;

use super::line::{Answer, Refusal, action, to_line};
use super::line_server::LineServer;
use crate::interface::Admin;
use crate::vhost_user::{FolderError, SocketFolder};

/// Name of the socket, which no domain of a daemon can have.
pub(super) const NAME: &str = "admin";

/// The running socket. Dropping it removes it and ends what is connected.
#[derive(Debug)]
pub struct AdminSocket {
    _server: LineServer,
}

impl AdminSocket {
    /// Listens in `folder` for those who may tell `admin` what to do.
    ///
    /// # Errors
    /// When the socket cannot be made or the host has no thread left.
    pub(super) fn start(folder: &SocketFolder, admin: Arc<dyn Admin>) -> Result<Self, FolderError> {
        let listener = folder.listen(NAME, 0o600)?;
        let path = folder.socket(NAME);
        let answer = Arc::new(move |peer, line: &[u8]| {
            let answer = action(line).and_then(|action| {
                tracing::info!(%peer, "{action:?}");
                admin.act(action).map_err(Refusal::from)
            });
            to_line(&answer.map_or_else(Answer::Error, Answer::Reply))
        });
        let server = LineServer::start(listener, path, "this engine", answer);
        Ok(Self {
            _server: server.map_err(|source| FolderError::Host {
                what: "serve",
                path: folder.socket(NAME),
                source,
            })?,
        })
    }
}
