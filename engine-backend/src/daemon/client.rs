//! [`RemoteEngine`]: an engine in another process, as [`Admin`] has it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::line::{ANSWER_BYTES_MAX, Answer, Refusal, read_line, write_line};
use crate::interface::{Action, Admin, AdminError, Domain, Reply};
use crate::vhost_user::{RemoteDomain, connect_within};

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
        self.ask_within(action, ANSWER_MAX)
    }

    fn ask_within(&self, action: &Action, limit: Duration) -> Result<Reply, ClientError> {
        let path = self.folder.join("admin.sock");
        let absent = |source| ClientError::Absent {
            path: path.clone(),
            source,
        };
        let wrong = |source: io::Error| ClientError::Answer {
            path: path.clone(),
            source: match source.kind() {
                // All that the kernel says of a time that is over.
                io::ErrorKind::WouldBlock => io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("none has come within {limit:?}: is its process stopped?"),
                ),
                _ => source,
            },
        };
        let mut socket = connect_within(&path, limit).map_err(absent)?;
        socket.set_read_timeout(Some(limit)).map_err(wrong)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vhost_user::listen_at;
    use std::error::Error as _;

    #[test]
    fn a_daemon_that_does_not_answer_is_not_waited_for_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let _listener = listen_at(&folder.path().join("admin.sock"), 0o600).unwrap();
        let engine = RemoteEngine::new(folder.path());
        let limit = Duration::from_millis(30);
        fn why(error: ClientError) -> Option<String> {
            error.source().map(ToString::to_string)
        }
        let late = engine.ask_within(&Action::List, limit).unwrap_err();
        assert!(matches!(&late, ClientError::Answer { .. }), "{late}");
        let late = why(late).unwrap();
        assert!(late.contains("none has come within 30ms"), "{late}");
        // Nor is its admission, once as many wait as its queue holds.
        let absent = std::iter::repeat_with(|| engine.ask_within(&Action::List, limit))
            .take(100)
            .filter_map(Result::err)
            .find(|error| matches!(error, ClientError::Absent { .. }));
        let why = why(absent.expect("a queue without an end")).unwrap();
        assert!(why.contains("nobody has accepted within 30ms"), "{why}");
    }
}
