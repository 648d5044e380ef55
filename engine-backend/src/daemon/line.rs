//! One line of JSON each way: how the operator's programs talk to a daemon.
//!
//! A request is an [`Action`]; the answer is a [`Reply`], or says `error` and `message`. Lines
//! are bounded on both sides.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

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
    socket: &mut impl Read,
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
pub fn write_line(socket: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    write_bytes(socket, serde_json::to_vec(value)?)
}

/// Writes a line.
pub(super) fn write_bytes(socket: &mut impl Write, mut line: Vec<u8>) -> io::Result<()> {
    line.push(b'\n');
    socket.write_all(&line)
}

/// A socket that is read and written for so long and no longer, all calls together: a limit of each call would let the
/// other side take its time for every byte.
#[derive(Debug)]
pub struct Timed<'s> {
    socket: &'s UnixStream,
    limit: Duration,
    deadline: Instant,
}

impl<'s> Timed<'s> {
    /// From now on, for `limit`.
    #[must_use]
    pub fn new(socket: &'s UnixStream, limit: Duration) -> Self {
        Self {
            socket,
            limit,
            deadline: Instant::now() + limit,
        }
    }

    fn late(&self) -> io::Error {
        let limit = self.limit;
        io::Error::new(
            io::ErrorKind::TimedOut,
            format!("none has come within {limit:?}: is its process stopped?"),
        )
    }

    /// How much is left of the time.
    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.checked_duration_since(Instant::now());
        left.filter(|left| !left.is_zero())
            .ok_or_else(|| self.late())
    }

    /// What a call has done, which may have ended because its time was over.
    fn done(&self, done: io::Result<usize>) -> io::Result<usize> {
        done.map_err(|error| match error.kind() {
            // All that the kernel says of it.
            io::ErrorKind::WouldBlock => self.late(),
            _ => error,
        })
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(self.left()?))?;
        self.done((&mut &*self.socket).read(bytes))
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(self.left()?))?;
        self.done((&mut &*self.socket).write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Asks, and returns the line of at most `most` bytes that is answered, all of it within `limit`.
///
/// # Errors
/// As the socket says; `TimedOut` when the time is over; one of those that [`has_ended`] knows when the other side ends
/// before it answers.
pub fn ask_line(
    socket: &UnixStream,
    question: &impl Serialize,
    most: usize,
    limit: Duration,
) -> io::Result<Vec<u8>> {
    let mut socket = Timed::new(socket, limit);
    // One that refuses may have said so and closed already: its answer counts.
    let asked = write_line(&mut socket, question);
    if let Some(line) = read_line(&mut socket, &mut Vec::new(), most)? {
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

    /// Each byte comes well within the limit, and the line does not.
    #[test]
    fn an_answer_is_waited_for_as_a_whole() {
        let (here, mut there) = UnixStream::pair().unwrap();
        let drips = std::thread::spawn(move || {
            let mut bytes = 0;
            while there.write_all(b"x").is_ok() {
                bytes += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            bytes
        });
        let limit = Duration::from_millis(200);
        let since = Instant::now();
        let late = ask_line(&here, &"question", 1000, limit).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut, "{late}");
        assert!(late.to_string().contains("within 200ms"), "{late}");
        // 20 s, were each read given the limit.
        assert!(since.elapsed() < Duration::from_secs(10));
        drop(here);
        assert!(drips.join().unwrap() > 1);
    }

    #[test]
    fn a_question_that_nobody_reads_is_given_up_too() {
        let (here, _there) = UnixStream::pair().unwrap();
        let long = "x".repeat(8 << 20);
        let late = ask_line(&here, &long, 1000, Duration::from_millis(50)).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut, "{late}");
    }
}
