//! [`Seldom`]: a line a second at most of what guests, front ends or whoever knocks can cause as often as they like.
//!
//! A log that somebody else can fill is lost for whoever needs it, and a reader of it who does not keep up has every thread wait
//! that has something to say.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// From one line to the next, at least.
const EVERY: Duration = Duration::from_secs(1);

/// Who has told something, and may tell it again a second later. Made `static` where it is one for all that causes the line.
#[derive(Debug, Default)]
pub struct Seldom {
    /// Milliseconds since this process first asked, from which on the next line may come.
    next_ms: AtomicU64,
    /// Lines that were left out since the last.
    left_out: AtomicU64,
}

impl Seldom {
    /// Nothing told yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            next_ms: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        }
    }

    /// Writes a line by `write`, behind one that says how many like it were left out, or leaves it out, too.
    pub fn tell(&self, write: impl FnOnce()) {
        static START: OnceLock<Instant> = OnceLock::new();
        let now = START.get_or_init(Instant::now).elapsed();
        if let Some(left_out) = self.turn(now) {
            if left_out != 0 {
                tracing::warn!(left_out, "lines like the next one were left out");
            }
            write();
        }
    }

    /// Whether there is a line `now`, and how many were left out before it.
    fn turn(&self, now: Duration) -> Option<u64> {
        let now_ms = now.as_millis() as u64;
        let next_ms = now_ms + EVERY.as_millis() as u64;
        let taken = self
            .next_ms
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |due| {
                (due <= now_ms).then_some(next_ms)
            });
        match taken {
            Ok(_) => Some(self.left_out.swap(0, Ordering::Relaxed)),
            Err(_) => {
                self.left_out.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_becomes_a_line_a_second_that_says_how_many_there_were() {
        let seldom = Seldom::new();
        let at = |ms| seldom.turn(Duration::from_millis(ms));
        assert_eq!(at(0), Some(0));
        for ms in 0..1000 {
            assert_eq!(at(ms), None);
        }
        assert_eq!(at(1000), Some(1000));
        assert_eq!(at(1999), None);
        assert_eq!(at(5000), Some(1));
        assert_eq!(at(6000), Some(0));
    }

    #[test]
    fn what_is_told_is_written_once() {
        let (seldom, mut lines) = (Seldom::new(), 0);
        (0..5).for_each(|_| seldom.tell(|| lines += 1));
        assert_eq!(lines, 1);
    }
}
