//! [`Channel`]: what a VM's process is asked, one thing at a time, and what it answers.
//!
//! Its other end is a process that a guest may have got hold of. It is given so long for each question, however many bytes it
//! takes and whoever else asks; an answer that comes later is thrown away before the next question, so that being late once is no
//! end; and what it says can be shown on a terminal.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use byway_engine::daemon::{Refusal, Timed, read_line, write_line};
use serde_json::Value;

use crate::api::client::ANSWER_BYTES_MAX;
use crate::api::{VmAction, VmAnswer, VmReply};
use crate::say::printable;

/// The requests of one life of a VM. Any thread asks; one at a time.
#[derive(Debug)]
pub(super) struct Channel {
    /// `None` while a thread asks by it.
    line: Mutex<Option<Line>>,
    free: Condvar,
}

/// The socket, and where in the exchange it is.
#[derive(Debug)]
struct Line {
    socket: UnixStream,
    /// Bytes of an answer that has not ended.
    rest: Vec<u8>,
    /// A question has not been answered in time. There is never more than one, so a question finds room in the socket.
    owes: bool,
    /// Why nothing can be asked any more: it has ended, or nobody knows where its next answer begins.
    broken: Option<io::ErrorKind>,
}

impl Channel {
    pub(super) fn new(socket: UnixStream) -> Self {
        let line = Line {
            socket,
            rest: Vec::new(),
            owes: false,
            broken: None,
        };
        Self {
            line: Mutex::new(Some(line)),
            free: Condvar::new(),
        }
    }

    /// Asks, and waits for at most `limit`.
    ///
    /// # Errors
    /// `TimedOut`, after which it can be asked again; `InvalidData` for what is no answer; as the socket says.
    pub(super) fn ask(
        &self,
        action: &VmAction,
        limit: Duration,
    ) -> io::Result<Result<VmReply, Refusal>> {
        let deadline = Instant::now() + limit;
        let (mut lines, _) = self
            .free
            .wait_timeout_while(self.lines(), limit, |line| line.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        let busy = || io::Error::new(io::ErrorKind::TimedOut, "it is busy with another request");
        let mut line = lines.take().ok_or_else(busy)?;
        drop(lines);
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = line.ask(action, left);
        *self.lines() = Some(line);
        self.free.notify_one();
        let mut answer: Value = serde_json::from_slice(&answer?)?;
        make_printable(&mut answer);
        Ok(match serde_json::from_value(answer)? {
            VmAnswer::Reply(reply) => Ok(reply),
            VmAnswer::Error(refusal) => Err(refusal),
        })
    }

    fn lines(&self) -> MutexGuard<'_, Option<Line>> {
        // Nobody does more under it than take and give back.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn ask(&mut self, action: &VmAction, limit: Duration) -> io::Result<Vec<u8>> {
        if let Some(kind) = self.broken {
            return Err(kind.into());
        }
        let socket = self.socket.try_clone()?;
        let mut socket = Timed::new(&socket, limit);
        if self.owes {
            self.answer(&mut socket)?;
        }
        // How much of a question has gone that could not be sent as a whole nobody knows.
        write_line(&mut socket, action).inspect_err(|error| self.broken = Some(error.kind()))?;
        self.owes = true;
        self.answer(&mut socket)
    }

    fn answer(&mut self, socket: &mut Timed<'_>) -> io::Result<Vec<u8>> {
        let line = read_line(socket, &mut self.rest, ANSWER_BYTES_MAX)
            .and_then(|line| line.ok_or_else(|| io::ErrorKind::UnexpectedEof.into()));
        match &line {
            Ok(_) => self.owes = false,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
            Err(error) => self.broken = Some(error.kind()),
        }
        line
    }
}

/// Every text in an answer, line by line.
fn make_printable(value: &mut Value) {
    match value {
        Value::String(text) => {
            let lines: Vec<String> = text.split('\n').map(printable).collect();
            *text = lines.join("\n");
        }
        Value::Array(values) => values.iter_mut().for_each(make_printable),
        // Their names are known, or nobody looks at them.
        Value::Object(fields) => fields.values_mut().for_each(make_printable),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(100);
    const DONE: &str = "{\"reply\":\"done\"}\n";

    fn list() -> VmAction {
        VmAction::List {}
    }

    #[test]
    fn one_that_was_late_is_asked_again_and_its_late_answer_is_for_nobody() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let channel = Channel::new(ours);
        // Half of it comes in time.
        theirs.write_all(b"{\"reply\":\"vms\",").unwrap();
        let late = channel.ask(&list(), SHORT).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut, "{late}");
        // It still owes the first answer: nothing more is asked of it meanwhile.
        for _ in 0..3 {
            let late = channel.ask(&list(), SHORT).unwrap_err();
            assert_eq!(late.kind(), io::ErrorKind::TimedOut, "{late}");
        }
        theirs.write_all(b"\"vms\":[]}\n").unwrap();
        let asked = thread::spawn(move || {
            let mut lines = BufReader::new(theirs.try_clone().unwrap()).lines();
            let asked = [(); 2].map(|()| lines.next().unwrap().unwrap());
            theirs.write_all(DONE.as_bytes()).unwrap();
            asked
        });
        assert_eq!(channel.ask(&list(), LONG).unwrap(), Ok(VmReply::Done));
        let asked = asked.join().unwrap();
        assert_eq!(asked, [r#"{"action":"vm-list"}"#; 2]);
        let ended = channel.ask(&list(), LONG).unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::BrokenPipe, "{ended}");
    }

    #[test]
    fn one_that_sends_a_byte_now_and_then_is_given_no_longer_however_many_ask() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let channel = Channel::new(ours);
        let drips = thread::spawn(move || {
            while theirs.write_all(b" ").is_ok() {
                thread::sleep(SHORT / 5);
            }
        });
        let since = Instant::now();
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let late = channel.ask(&list(), 5 * SHORT).unwrap_err();
                    assert_eq!(late.kind(), io::ErrorKind::TimedOut, "{late}");
                });
            }
        });
        // 16 times as long, would they wait for each other.
        assert!(since.elapsed() < 40 * SHORT, "{:?}", since.elapsed());
        drop(channel);
        drips.join().unwrap();
    }

    #[test]
    fn what_is_no_answer_is_no_end_and_what_is_no_line_is() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let channel = Channel::new(ours);
        for (line, kind) in [
            ("well\n", io::ErrorKind::InvalidData),
            ("{\"reply\":\"fly\"}\n", io::ErrorKind::InvalidData),
        ] {
            theirs.write_all(line.as_bytes()).unwrap();
            let error = channel.ask(&list(), LONG).unwrap_err();
            assert_eq!(error.kind(), kind, "{line}: {error}");
        }
        theirs.write_all(DONE.as_bytes()).unwrap();
        assert_eq!(channel.ask(&list(), LONG).unwrap(), Ok(VmReply::Done));
        let endless = thread::spawn(move || while theirs.write_all(&[b'x'; 4096]).is_ok() {});
        for _ in 0..2 {
            let error = channel.ask(&list(), LONG).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
        drop(channel);
        endless.join().unwrap();
    }

    #[test]
    fn what_it_says_does_not_drive_a_terminal() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let channel = Channel::new(ours);
        let told = r#"{"error":"\u001b]0;x\u0007","message":"a\u001b[2Jb\tc\r\nd\u009b"}"#;
        writeln!(theirs, "{told}").unwrap();
        let refusal = channel.ask(&list(), LONG).unwrap().unwrap_err();
        assert_eq!(refusal, Refusal::new("]0;x", "a[2Jb\tc\nd"));
    }
}
