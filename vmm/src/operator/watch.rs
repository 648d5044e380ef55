//! `byway ps --watch`: the same question again and again, until who looks has seen enough or the engine ends.
//!
//! On a terminal each answer takes the place of the one before; anywhere else they follow each other, and as JSON each is
//! one line. Tables tell, beside what was done in all, what was done a second since the last answer.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::{Common, Use, look, tables};
use crate::exit_status::Failure;

/// Before a frame: lines that are too long end at the edge, the cursor goes to its origin.
const FRAME: &str = "\x1b[?7l\x1b[H";
/// After each of its lines: what the last frame had there is erased.
const LINE_END: &str = "\x1b[K\r\n";
/// After it: what the last frame had below is erased, lines are wrapped again.
const FRAME_END: &str = "\x1b[J\x1b[?7h";
/// Lines of a terminal that does not say how many it has.
const ROWS: usize = 24;

/// Seconds of `--watch=SECONDS`.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("expected 0.1 to 3600 seconds, found {text:?}")),
    }
}

/// Shows what is used, and again every so often, for as long as somebody reads it.
///
/// # Errors
/// As [`look`], at any time; and when standard output cannot be written.
pub(super) fn watch(common: &Common, every: Duration) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    let is_terminal = output.is_terminal();
    let mut last: Option<(Instant, Use)> = None;
    let mut next = Instant::now();
    loop {
        let (now, used) = (Instant::now(), look(common)?);
        let since = last.as_ref().map(|(then, used)| (now - *then, used));
        let text = match (common.json, is_terminal) {
            (true, _) => json_line(&used)?,
            (false, true) => frame(&tables::used(&used, since), rows(&output)),
            (false, false) => tables::used(&used, since) + "\n\n",
        };
        let written = output.write_all(text.as_bytes());
        match written.and_then(|()| output.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => other.map_err(Failure::failed)?,
        }
        last = Some((now, used));
        // One that came late is not made up for.
        next = (next + every).max(Instant::now());
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// What `byway ps --json` tells, and when it was so.
#[derive(Serialize)]
struct Line<'u> {
    /// Milliseconds since 1970.
    unix_ms: u64,
    #[serde(flatten)]
    used: &'u Use,
}

fn json_line(used: &Use) -> Result<String, Failure> {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    let unix_ms = since_1970.map_or(0, |time| time.as_millis() as u64);
    let line = serde_json::to_string(&Line { unix_ms, used }).map_err(Failure::failed)?;
    Ok(line + "\n")
}

/// What to send to a terminal of so many rows. It need not have room for all of it.
fn frame(text: &str, rows: usize) -> String {
    let mut frame = FRAME.to_owned();
    // The last row stays free: a line's end in it would move all others up.
    for line in text.lines().take(rows.saturating_sub(1).max(1)) {
        frame += line;
        frame += LINE_END;
    }
    frame + FRAME_END
}

/// Rows that the terminal has now.
fn rows(terminal: &impl AsRawFd) -> usize {
    // SAFETY: plain numbers, for which 0 is a value.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: the call writes a `winsize`, and nothing else.
    let rc = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    match size.ws_row {
        rows if rc == 0 && rows != 0 => rows.into(),
        _ => ROWS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_covers_the_last_one_and_no_more_than_the_terminal() {
        let text = frame("one\ntwo\nthree\n", 3);
        assert_eq!(
            text,
            "\x1b[?7l\x1b[Hone\x1b[K\r\ntwo\x1b[K\r\n\x1b[J\x1b[?7h"
        );
        assert!(frame("one", 0).contains("one"));
    }

    #[test]
    fn intervals_are_bounded() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for text in ["0", "-1", "0.01", "3601", "inf", "NaN", "a second", ""] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
