//! One line of JSON each way: how the operator's programs talk to a daemon.
//!
//! A request is an [`Action`]; the answer is a [`Reply`], or says `error` and `message`. Lines
//! are bounded on both sides.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};

use crate::interface::{Action, AdminError, Reply};

/// Longest request in bytes, its newline included.
pub const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Longest answer in bytes: an audit of 65,536 records each way, and then some.
pub const ANSWER_BYTES_MAX: usize = 256 << 20;

/// What the daemon answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// It was done.
    Reply(Reply),
    /// It was not.
    Error(Refusal),
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Which of the errors, for programs: those of [`AdminError`], `bad-request`, `busy`.
    pub error: String,
    /// The same for people: what was expected, what was found, what to do.
    pub message: String,
}

impl Refusal {
    /// A refusal that is not the engine's.
    #[must_use]
    pub fn new(error: &str, message: impl Into<String>) -> Self {
        Self {
            error: error.to_owned(),
            message: message.into(),
        }
    }
}

impl From<AdminError> for Refusal {
    fn from(error: AdminError) -> Self {
        let kind = match &error {
            AdminError::BadName(_) => "bad-name",
            AdminError::Exists(_) => "exists",
            AdminError::Unknown(_) => "unknown",
            AdminError::Attached(_) => "attached",
            AdminError::BadQuota(_) => "bad-quota",
            AdminError::NoSockets => "no-sockets",
            AdminError::Endpoint(_) => "endpoint",
            AdminError::Host(_) => "host",
        };
        Self::new(kind, error.to_string())
    }
}

/// Reads a line of at most `most` bytes; `None` at the end of the stream. What came after the
/// newline stays in `rest` for the next call.
///
/// # Errors
/// `InvalidData` for a line that is too long or does not end; else as the socket says.
pub fn read_line(
    socket: &mut UnixStream,
    rest: &mut Vec<u8>,
    most: usize,
) -> io::Result<Option<Vec<u8>>> {
    let mut seen = 0;
    loop {
        if let Some(end) = rest[seen..].iter().position(|b| *b == b'\n') {
            let mut line: Vec<u8> = rest.drain(..=seen + end).collect();
            line.pop();
            return Ok(Some(line));
        }
        seen = rest.len();
        let bad = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        if seen >= most {
            return Err(bad(format!("a line of more than {most} bytes")));
        }
        let mut bytes = [0; 4096];
        let room = (most - seen).min(bytes.len());
        match socket.read(&mut bytes[..room]) {
            Ok(0) if rest.is_empty() => return Ok(None),
            Ok(0) => return Err(bad("a line without an end".to_owned())),
            Ok(read) => rest.extend_from_slice(&bytes[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes a value as a line.
///
/// # Errors
/// As the socket says.
pub fn write_line(socket: &mut UnixStream, value: &impl Serialize) -> io::Result<()> {
    write_bytes(socket, serde_json::to_vec(value)?)
}

/// Writes a line.
pub(super) fn write_bytes(socket: &mut UnixStream, mut line: Vec<u8>) -> io::Result<()> {
    line.push(b'\n');
    socket.write_all(&line)
}

/// Asks, and returns the line of at most `most` bytes that is answered.
///
/// # Errors
/// As the socket says; one of those that [`has_ended`] knows when the other side ends before it answers.
pub fn ask_line(
    socket: &mut UnixStream,
    question: &impl Serialize,
    most: usize,
) -> io::Result<Vec<u8>> {
    // One that refuses may have said so and closed already: its answer counts.
    let asked = write_line(socket, question);
    if let Some(line) = read_line(socket, &mut Vec::new(), most)? {
        return Ok(line);
    }
    asked?;
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// Whether that is what [`ask_line`] says when the other side ends before it answers.
#[must_use]
pub fn has_ended(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

/// What is answered, as a line without its end.
pub fn to_line(answer: &impl Serialize) -> Vec<u8> {
    // Answers are plain data with text for keys: nothing that JSON could not say.
    serde_json::to_vec(answer).unwrap_or_else(|error| {
        format!(r#"{{"error":"host","message":"no answer can be written: {error}"}}"#).into_bytes()
    })
}

/// The action of a line, or why it is none.
pub(super) fn action(line: &[u8]) -> Result<Action, Refusal> {
    serde_json::from_slice(line).map_err(|error| {
        Refusal::new(
            "bad-request",
            format!(
                "not an action: {error}; expected a line like {{\"action\":\"list\"}}, see \
                 vmm/README.md"
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::LinkPolicy;

    #[test]
    fn actions_and_answers_are_what_the_documentation_shows() {
        let link = action(br#"{"action":"link","from":"alice","to":"bob","read":true}"#).unwrap();
        let expected = LinkPolicy {
            from: "alice".into(),
            to: "bob".into(),
            read: true,
            write: false,
            grant: false,
            keys: false,
            max_bytes: 0,
        };
        assert_eq!(link, Action::Link(expected));
        for bad in [
            &b""[..],
            b"list",
            b"{}",
            br#"{"action":"lost"}"#,
            br#"{"action":"unlink","from":"a","to":"b","more":1}"#,
            br#"{"action":"unlink","from":"a"}"#,
            b"\xff\xfe",
            &[b'['; 60_000],
        ] {
            let refusal = action(bad).unwrap_err();
            assert_eq!(refusal.error, "bad-request");
        }
        let unknown = Answer::Error(AdminError::Unknown("carol".into()).into());
        let text = serde_json::to_string(&unknown).unwrap();
        assert!(
            text.starts_with(r#"{"error":"unknown","message":"#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Answer>(&text).unwrap(), unknown);
        let done = serde_json::to_string(&Answer::Reply(Reply::Done)).unwrap();
        assert_eq!(done, r#"{"reply":"done"}"#);
    }

    #[test]
    fn lines_are_bounded() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        there.write_all(b"one\ntwo\n12345678").unwrap();
        let mut rest = Vec::new();
        let mut next = || read_line(&mut here, &mut rest, 8);
        assert_eq!(next().unwrap().unwrap(), b"one");
        assert_eq!(next().unwrap().unwrap(), b"two");
        assert_eq!(next().unwrap_err().kind(), io::ErrorKind::InvalidData);
        let (mut here, mut there) = UnixStream::pair().unwrap();
        there.write_all(b"half").unwrap();
        drop(there);
        let half = read_line(&mut here, &mut Vec::new(), 8).unwrap_err();
        assert_eq!(half.kind(), io::ErrorKind::InvalidData);
    }
}
