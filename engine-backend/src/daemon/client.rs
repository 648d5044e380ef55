//! [`RemoteEngine`]: an engine in another process, as [`Admin`] has it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::line::{ANSWER_BYTES_MAX, Answer, Refusal, ask_line, has_ended};
use crate::interface::{Action, Admin, AdminError, Domain, Reply};
use crate::vhost_user::{RemoteDomain, connect_within};

/// How long a daemon may take to answer.
pub const ANSWER_MAX: Duration = Duration::from_secs(30);

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
    /// It has ended, or closed the connection, before it answered: whether it did what it was asked is not known.
    #[error("no engine answers on {} any more: it ended before it did", path.display())]
    Gone {
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

    /// The same, with another limit than [`ANSWER_MAX`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn ask_within(&self, action: &Action, limit: Duration) -> Result<Reply, ClientError> {
        let path = self.folder.join("admin.sock");
        let absent = |source| ClientError::Absent {
            path: path.clone(),
            source,
        };
        let wrong = |source: io::Error| {
            let path = path.clone();
            if has_ended(&source) {
                return ClientError::Gone { path, source };
            }
            ClientError::Answer { path, source }
        };
        let socket = connect_within(&path, limit).map_err(absent)?;
        let line = ask_line(&socket, action, ANSWER_BYTES_MAX, limit).map_err(wrong)?;
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
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

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

    #[test]
    fn a_daemon_that_ends_while_it_is_asked_is_told_from_one_that_answers_wrongly() {
        let folder = tempfile::tempdir().unwrap();
        let listener = listen_at(&folder.path().join("admin.sock"), 0o600).unwrap();
        listener.set_nonblocking(false).unwrap();
        let engine = RemoteEngine::new(folder.path());
        let asked = |ends: &dyn Fn(UnixStream)| {
            std::thread::scope(|scope| {
                let error = scope.spawn(|| engine.ask(&Action::List).unwrap_err());
                ends(listener.accept().unwrap().0);
                error.join().unwrap()
            })
        };
        // With the question unread, and with it read.
        let unread = asked(&drop);
        let read = asked(&|mut socket| {
            assert_ne!(socket.read(&mut [0; 4096]).unwrap(), 0);
        });
        for gone in [unread, read] {
            assert!(matches!(&gone, ClientError::Gone { .. }), "{gone:?}");
            assert!(gone.to_string().starts_with("no engine answers on "));
        }
        let wrong = asked(&|mut socket| socket.write_all(b"well\n").unwrap());
        assert!(matches!(&wrong, ClientError::Answer { .. }), "{wrong:?}");
    }
}
