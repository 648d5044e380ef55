//! [`Poller`]: which eventfds the control thread waits for.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

/// What an eventfd means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The control thread itself is wanted.
    Wake,
    /// Domain's control virtqueue was kicked: also its doorbell.
    ControlKick(u32),
    /// Domain's event virtqueue was kicked: it has buffers again.
    EventKick(u32),
    /// Domain has something to tell its driver.
    Events(u32),
}

impl Source {
    fn token(self) -> u64 {
        match self {
            Self::Wake => 0,
            Self::ControlKick(domain) => u64::from(domain) << 2 | 1,
            Self::EventKick(domain) => u64::from(domain) << 2 | 2,
            Self::Events(domain) => u64::from(domain) << 2 | 3,
        }
    }
    fn from_token(token: u64) -> Self {
        let domain = (token >> 2) as u32;
        match token & 3 {
            1 => Self::ControlKick(domain),
            2 => Self::EventKick(domain),
            3 => Self::Events(domain),
            _ => Self::Wake,
        }
    }
}

/// Most that one wait reports; the rest comes with the next.
const BATCH: usize = 64;

/// An epoll instance, edge-triggered: each signal is reported once, and nobody needs to
/// read the eventfd, whose count nothing depends on.
#[derive(Debug)]
pub struct Poller {
    epoll: Epoll,
}

impl Poller {
    /// Waits for nothing yet.
    ///
    /// # Errors
    /// When the host gives no epoll instance.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new()?,
        })
    }
    /// Waits for this eventfd too. One that is signalled already is reported.
    ///
    /// # Errors
    /// As epoll_ctl says.
    pub fn add(&self, fd: &EventFd, source: Source) -> io::Result<()> {
        let event = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, source.token());
        self.epoll.ctl(ControlOperation::Add, fd.as_raw_fd(), event)
    }
    /// Waits for it no more.
    pub fn remove(&self, fd: &EventFd) {
        // It fails only when it was not there.
        let _ = self.epoll.ctl(
            ControlOperation::Delete,
            fd.as_raw_fd(),
            EpollEvent::default(),
        );
    }
    /// Waits until something is signalled, for `longest` at most (`None`: for ever; zero:
    /// just looks), and reports it.
    ///
    /// # Errors
    /// As epoll_wait says; an interrupted wait reports nothing.
    pub fn wait(
        &self,
        longest: Option<Duration>,
        mut report: impl FnMut(Source),
    ) -> io::Result<()> {
        let mut events = [EpollEvent::default(); BATCH];
        // Rounded up, so that whoever waits for a moment does not come too early for it.
        let timeout_ms = longest.map_or(-1, |longest| {
            let ms = longest.as_nanos().div_ceil(1_000_000);
            i32::try_from(ms).unwrap_or(i32::MAX)
        });
        match self.epoll.wait(timeout_ms, &mut events) {
            Ok(count) => {
                for event in &events[..count] {
                    report(Source::from_token(event.data()));
                }
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_signal_is_reported_once() {
        let poller = Poller::new().unwrap();
        let (a, b) = (EventFd::new(0).unwrap(), EventFd::new(0).unwrap());
        a.write(1).unwrap();
        poller.add(&a, Source::ControlKick(u32::MAX)).unwrap();
        poller.add(&b, Source::Events(7)).unwrap();
        let look = || {
            let mut seen = Vec::new();
            poller.wait(Some(Duration::ZERO), |s| seen.push(s)).unwrap();
            seen
        };
        assert_eq!(look(), [Source::ControlKick(u32::MAX)]);
        assert_eq!(look(), []);
        // Not read in between, and reported all the same.
        a.write(1).unwrap();
        b.write(1).unwrap();
        assert_eq!(look().len(), 2);
        poller.remove(&a);
        a.write(1).unwrap();
        assert_eq!(look(), []);
    }

    #[test]
    fn tokens_come_back() {
        for s in [
            Source::Wake,
            Source::ControlKick(1),
            Source::EventKick(u32::MAX),
            Source::Events(0),
        ] {
            assert_eq!(Source::from_token(s.token()), s);
        }
    }
}
