//! [`RemoteEngine`]: an engine in another process, as [`Admin`] has it.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::line::{ANSWER_BYTES_MAX, Answer, Refusal, read_line, write_line};
use crate::interface::{Action, Admin, AdminError, Domain, Reply};
use crate::vhost_user::RemoteDomain;

/// How long the daemon may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Why a daemon did not do something.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers.
    #[error(
        "no engine answers on {} (is `byway engine --socket {}` running, and may this user open \
         its socket?)",
        path.display(),
        path.parent().unwrap_or(Path::new("")).display()
    )]
    Absent {
        /// The socket.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// It does not answer as it should.
    #[error("the engine at {} gives no answer that can be understood", path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It refuses.
    #[error("{}", .0.message)]
    Refused(Refusal),
}

/// The daemon whose sockets are in one folder.
#[derive(Debug, Clone)]
pub struct RemoteEngine {
    folder: PathBuf,
}

impl RemoteEngine {
    /// The daemon of this folder; whether one is there shows when it is asked for something.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// Carries out one action.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn ask(&self, action: &Action) -> Result<Reply, ClientError> {
        let path = self.folder.join("admin.sock");
        let absent = |source| ClientError::Absent {
            path: path.clone(),
            source,
        };
        let wrong = |source| ClientError::Answer {
            path: path.clone(),
            source,
        };
        let mut socket = UnixStream::connect(&path).map_err(absent)?;
        socket.set_read_timeout(Some(ANSWER_MAX)).map_err(wrong)?;
        // One that refuses may have said so and closed already: its answer counts.
        let asked = write_line(&mut socket, action);
        let line = read_line(&mut socket, &mut Vec::new(), ANSWER_BYTES_MAX).map_err(wrong)?;
        let Some(line) = line else {
            asked.map_err(wrong)?;
            return Err(wrong(io::ErrorKind::UnexpectedEof.into()));
        };
        let answer = serde_json::from_slice(&line).map_err(|e| wrong(e.into()))?;
        match answer {
            Answer::Reply(reply) => Ok(reply),
            Answer::Error(refusal) => Err(ClientError::Refused(refusal)),
        }
    }

    /// The socket of a domain.
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.sock"))
    }
}

impl Admin for RemoteEngine {
    fn act(&self, action: Action) -> Result<Reply, AdminError> {
        self.ask(&action)
            .map_err(|error| AdminError::Host(error.to_string()))
    }

    /// Attaches over the domain's socket, which takes no right to operate the engine.
    fn attach(&self, name: &str) -> Result<Box<dyn Domain>, AdminError> {
        let domain = RemoteDomain::connect(&self.socket(name));
        let domain = domain.map_err(|error| AdminError::Host(error.to_string()))?;
        Ok(Box::new(domain))
    }
}
