//! A line that shows how far a transfer is, on a terminal and nowhere else.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

/// Time between two changes of the line.
const EVERY: Duration = Duration::from_millis(100);
/// Marks in the bar.
const WIDTH: u64 = 40;

/// The line. Dropped, it is wiped.
#[derive(Debug)]
pub struct Progress {
    total: u64,
    start: Instant,
    shown: Option<Instant>,
    terminal: bool,
}

impl Progress {
    /// For `total` bytes.
    #[must_use]
    pub fn new(total: u64) -> Self {
        Self {
            total,
            start: Instant::now(),
            shown: None,
            terminal: stderr().is_terminal(),
        }
    }

    /// So many bytes are done.
    pub fn at(&mut self, done: u64) {
        if !self.terminal || self.shown.is_some_and(|shown| shown.elapsed() < EVERY) {
            return;
        }
        self.shown = Some(Instant::now());
        let marks = (u128::from(done) * u128::from(WIDTH) / u128::from(self.total.max(1))) as usize;
        let rate = done as f64 / self.start.elapsed().as_secs_f64().max(1e-9) / 1e6;
        // A terminal that went away is no reason to fail.
        let _ = write!(
            stderr(),
            "\r[{:<width$}] {done} of {} bytes, {rate:.0} MB/s ",
            "#".repeat(marks),
            self.total,
            width = WIDTH as usize
        );
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}
