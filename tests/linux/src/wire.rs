//! The second serial port: how a command goes to a guest's `/init`, and how its answer comes back.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How a command ended in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit status as the shell has it; 128 + N after signal N.
    pub status: i32,
    /// Standard output and standard error, as they came.
    pub text: String,
}

/// What a guest says when it is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ready {
    /// Changes with every boot.
    pub boot_id: String,
    /// As `uname -r` says it.
    pub release: String,
    /// Files of the modules that could not be loaded.
    pub failed_modules: Vec<String>,
}

/// One end of the port.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: UnixStream,
    received: Vec<u8>,
    commands: u64,
    /// The line sent last, and how often it may still be sent again.
    sent: (String, u32),
}

/// How often a command is sent again that has lost a part on the way.
const RESENDS: u32 = 5;

/// No answer is longer; a guest that sends more is not to be believed.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// How long one read may block, so that the time limit is looked at.
const READ_SLICE: Duration = Duration::from_millis(100);

impl Wire {
    pub(crate) fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(READ_SLICE))?;
        Ok(Self {
            stream,
            received: Vec::new(),
            commands: 0,
            sent: Default::default(),
        })
    }

    /// Waits until the guest says that it is up. The deadline is asked for again and again: it may move
    /// while the guest gets on.
    pub(crate) fn ready(&mut self, deadline: &mut dyn FnMut() -> Instant) -> Result<Ready> {
        loop {
            let line = self.line(deadline)?;
            // The firmware or a boot loader may have said something before.
            if let Some(ready) = parse_ready(&line) {
                return Ok(ready);
            }
        }
    }

    /// Sends a command without waiting for its answer.
    pub(crate) fn send(&mut self, command: &str, limit: Duration) -> Result<u64> {
        self.commands += 1;
        let seconds = limit.as_secs().max(1);
        let command = base64(command.as_bytes());
        let line = format!("{} {seconds} {} {command}\n", self.commands, command.len());
        self.sent = (line, RESENDS);
        self.write_line()?;
        Ok(self.commands)
    }

    fn write_line(&mut self) -> Result<()> {
        self.stream
            .write_all(self.sent.0.as_bytes())
            .context("the guest's command channel is closed")
    }

    /// The first line of an answer, once the guest has got the command whole.
    fn answered(&mut self, deadline: &mut dyn FnMut() -> Instant) -> Result<String> {
        loop {
            let line = self.line(deadline)?;
            if line != "LOST" {
                return Ok(line);
            }
            ensure!(
                self.sent.1 > 0,
                "the guest never gets {:?} whole",
                self.sent.0
            );
            self.sent.1 -= 1;
            self.write_line()?;
        }
    }

    /// Waits for the answer to a command.
    pub(crate) fn answer(&mut self, command: u64, deadline: Instant) -> Result<Output> {
        let deadline = &mut || deadline;
        let line = self.answered(deadline)?;
        ensure!(
            parse_ready(&line).is_none(),
            "the guest has restarted by itself: its kernel panicked; see its console"
        );
        let mut words = line.split(' ');
        let (Some(nonce), Some(status), Some(bytes)) = (words.next(), words.next(), words.next())
        else {
            bail!("expected an answer to command {command}, found {line:?}");
        };
        ensure!(
            nonce == command.to_string(),
            "expected an answer to command {command}, found {line:?}"
        );
        let status = status.parse().with_context(|| format!("in {line:?}"))?;
        let bytes: usize = bytes
            .trim()
            .parse()
            .with_context(|| format!("in {line:?}"))?;
        ensure!(
            bytes <= ANSWER_BYTES_MAX,
            "an answer of {bytes} bytes is too long"
        );
        while self.received.len() < bytes {
            self.receive(deadline)?;
        }
        let text: Vec<u8> = self.received.drain(..bytes).collect();
        Ok(Output {
            status,
            text: String::from_utf8_lossy(&text).into_owned(),
        })
    }

    fn line(&mut self, deadline: &mut dyn FnMut() -> Instant) -> Result<String> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            self.receive(deadline)?;
        }
    }

    fn receive(&mut self, deadline: &mut dyn FnMut() -> Instant) -> Result<()> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => bail!("QEMU has ended"),
            Ok(bytes) => self.received.extend_from_slice(&buffer[..bytes]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                ensure!(
                    Instant::now() < deadline(),
                    "the guest did not answer in time"
                );
            }
            Err(error) => return Err(error).context("the guest's command channel broke"),
        }
        Ok(())
    }
}

fn parse_ready(line: &str) -> Option<Ready> {
    let mut words = line[line.find("READY ")?..].split_whitespace().skip(1);
    Some(Ready {
        boot_id: words.next()?.to_owned(),
        release: words.next()?.to_owned(),
        failed_modules: words.map(str::to_owned).collect(),
    })
}

/// Standard base64, with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut word = 0_u32;
        for index in 0..3 {
            word = word << 8 | u32::from(chunk.get(index).copied().unwrap_or(0));
        }
        for index in 0..4 {
            if index <= chunk.len() {
                let letter = word >> (18 - 6 * index) & 63;
                text.push(char::from(LETTERS[letter as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Wire, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Wire::new(ours).unwrap(), theirs)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[test]
    fn base64_is_the_standard_one() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn an_answer_comes_back_byte_for_byte() {
        let (mut wire, mut guest) = pair();
        let command = wire.send("true", Duration::from_secs(7)).unwrap();
        let mut line = [0; 15];
        guest.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"1 7 8 dHJ1ZQ==\n");
        // It came without its beginning, and is sent again.
        guest.write_all(b"LOST\n1 3 12\nline\n\n 2 0 1").unwrap();
        let output = wire.answer(command, soon()).unwrap();
        assert_eq!((output.status, output.text.as_str()), (3, "line\n\n 2 0 1"));
        guest.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"1 7 8 dHJ1ZQ==\n");
    }

    #[test]
    fn an_answer_to_another_command_is_an_error() {
        let (mut wire, mut guest) = pair();
        guest.write_all(b"8 0 0\n").unwrap();
        let error = wire.answer(9, soon()).unwrap_err();
        assert!(error.to_string().contains("command 9"), "{error}");
    }

    #[test]
    fn a_guest_that_restarts_by_itself_is_told() {
        let (mut wire, mut guest) = pair();
        guest.write_all(b"READY 12-34 6.1.0\n").unwrap();
        let error = wire.answer(9, soon()).unwrap_err();
        assert!(error.to_string().contains("restarted"), "{error}");
    }

    #[test]
    fn silence_and_a_closed_channel_are_told_apart() {
        let (mut wire, guest) = pair();
        let error = wire.answer(1, Instant::now()).unwrap_err();
        assert!(error.to_string().contains("in time"), "{error}");
        drop(guest);
        let error = wire.answer(1, soon()).unwrap_err();
        assert!(error.to_string().contains("has ended"), "{error}");
    }

    #[test]
    fn ready_names_modules_that_failed() {
        let ready = parse_ready("\u{1b}cREADY 12-34 6.1.0 90-byway.ko").unwrap();
        assert_eq!(ready.release, "6.1.0");
        assert_eq!(ready.failed_modules, ["90-byway.ko"]);
        assert_eq!(parse_ready("SeaBIOS"), None);
    }
}
