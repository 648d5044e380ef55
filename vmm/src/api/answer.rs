//! The socket of `byway run --api`: lines of JSON to actions of VMs or of the engine, and answers back.

use std::path::Path;
use std::sync::Arc;

use byway_engine::daemon::{Answer, LineServer, Refusal, to_line};
use byway_engine::interface::{Action, Admin};
use byway_engine::vhost_user::{FolderError, Peer, listen_at};
use serde::{Deserialize, Serialize};

use super::{VmAction, VmControl, VmReply};

/// Whom lines are for: VMs, and the engine between them.
pub struct Operator {
    vms: Arc<dyn VmControl>,
    engine: Arc<dyn Admin>,
}

/// As much of a request as tells whom it is for.
#[derive(Deserialize)]
struct Kind {
    action: String,
}

/// An answer about VMs.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum VmAnswer {
    /// It was done.
    Reply(VmReply),
    /// It was not.
    Error(Refusal),
}

impl Operator {
    /// Speaks for these.
    #[must_use]
    pub fn new(vms: Arc<dyn VmControl>, engine: Arc<dyn Admin>) -> Self {
        Self { vms, engine }
    }

    /// Does what a line says, and returns the line to answer.
    #[must_use]
    pub fn answer(&self, line: &[u8]) -> Vec<u8> {
        let vm_action = match serde_json::from_slice::<Kind>(line) {
            Ok(kind) => kind.action.starts_with("vm-"),
            Err(error) => return to_line(&bad_request(&error)),
        };
        if vm_action {
            let answer = serde_json::from_slice(line)
                .map_err(|error| bad_request(&error))
                .and_then(|action: VmAction| self.vms.act(action));
            return to_line(&answer.map_or_else(VmAnswer::Error, VmAnswer::Reply));
        }
        let answer = serde_json::from_slice(line)
            .map_err(|error| bad_request(&error))
            .and_then(|action: Action| self.engine.act(action).map_err(Refusal::from));
        to_line(&answer.map_or_else(Answer::Error, Answer::Reply))
    }
}

fn bad_request(error: &serde_json::Error) -> Refusal {
    Refusal::new(
        "bad-request",
        format!(
            "not an action: {error}; expected a line like {{\"action\":\"vm-list\"}}, see vmm/README.md"
        ),
    )
}

/// Listens at `path`, for this process' user alone, until the result is dropped.
///
/// # Errors
/// When the socket cannot be made: another program has it, or something else is there.
pub fn serve(path: &Path, operator: Operator) -> Result<LineServer, FolderError> {
    let listener = listen_at(path, 0o600)?;
    let answer = Arc::new(move |peer: Peer, line: &[u8]| {
        tracing::info!(%peer, "{}", String::from_utf8_lossy(line));
        operator.answer(line)
    });
    let server = LineServer::start(listener, path.to_owned(), "these VMs", answer);
    server.map_err(|source| FolderError::Host {
        what: "serve",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use byway_engine::interface::{AdminError, Domain, Reply};

    struct Fake;

    impl VmControl for Fake {
        fn act(&self, action: VmAction) -> Result<VmReply, Refusal> {
            match action.vm() {
                Some("nobody") => Err(super::super::fleet::unknown("nobody")),
                _ => Ok(VmReply::Done),
            }
        }
    }

    impl Admin for Fake {
        fn act(&self, _: Action) -> Result<Reply, AdminError> {
            Ok(Reply::Domains {
                domains: Vec::new(),
            })
        }
        fn attach(&self, name: &str) -> Result<Box<dyn Domain>, AdminError> {
            Err(AdminError::Unknown(name.to_owned()))
        }
    }

    #[test]
    fn lines_reach_vms_or_the_engine_or_are_refused() {
        let operator = Operator::new(Arc::new(Fake), Arc::new(Fake));
        for (line, answer) in [
            (r#"{"action":"vm-stop","name":"a"}"#, r#"{"reply":"done"}"#),
            (
                r#"{"action":"list"}"#,
                r#"{"reply":"domains","domains":[]}"#,
            ),
            (
                r#"{"action":"vm-stop","name":"nobody"}"#,
                r#"{"error":"unknown","message":"no VM named"#,
            ),
            (r#"{"action":"vm-fly"}"#, r#"{"error":"bad-request""#),
            (r#"{"action":"fly"}"#, r#"{"error":"bad-request""#),
            (r#"{"action":7}"#, r#"{"error":"bad-request""#),
            ("stop", r#"{"error":"bad-request""#),
            ("", r#"{"error":"bad-request""#),
        ] {
            let text = String::from_utf8(operator.answer(line.as_bytes())).unwrap();
            assert!(text.starts_with(answer), "{line}: {text}");
        }
        for bytes in [&b"\xff\xfe"[..], &[b'['; 60_000]] {
            let text = String::from_utf8(operator.answer(bytes)).unwrap();
            assert!(text.contains("bad-request"), "{text}");
        }
    }
}
