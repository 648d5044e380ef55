//! [`Events`]: what a domain's driver is to be told, on its way to the event virtqueue.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use byway_protocols::event::EventKind;
use byway_protocols::{Event, Status};
use crossbeam_queue::ArrayQueue;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Events that wait at most; more are counted and dropped.
const ROOM: usize = 4096;

/// A bounded queue that anybody may push to without waiting, workers included, and whose
/// other end is the control thread.
#[derive(Debug)]
pub struct Events {
    queue: ArrayQueue<Event>,
    lost: AtomicU64,
    /// A signal is on its way already.
    signalled: AtomicBool,
    signal: EventFd,
}

impl Events {
    /// An empty queue.
    ///
    /// # Errors
    /// When the host gives no eventfd.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            queue: ArrayQueue::new(ROOM),
            lost: AtomicU64::new(0),
            signalled: AtomicBool::new(false),
            signal: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        })
    }
    /// Becomes readable when something was pushed.
    #[must_use]
    pub fn signal(&self) -> &EventFd {
        &self.signal
    }
    /// Adds an event; dropped and counted when there is no room.
    pub fn push(&self, event: Event) {
        if self.queue.push(event).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        self.poke();
    }
    /// Has the control thread look at this domain.
    pub fn poke(&self) {
        if !self.signalled.swap(true, Ordering::AcqRel) {
            // A non-blocking eventfd refuses only when its counter is full, and then it
            // is readable anyway.
            let _ = self.signal.write(1);
        }
    }
    /// The control thread has seen the signal and looks now: later pushes signal again.
    pub fn begin(&self) {
        self.signalled.store(false, Ordering::SeqCst);
    }
    /// The oldest event.
    #[must_use]
    pub fn pop(&self) -> Option<Event> {
        self.queue.pop()
    }
    /// How many were lost since it was last asked.
    #[must_use]
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
    /// Forgets everything.
    pub fn clear(&self) {
        while self.queue.pop().is_some() {}
        self.lost.store(0, Ordering::Relaxed);
    }

    /// A queue's completion interrupt.
    pub fn completion(&self, queue: u32) {
        self.push(Event {
            kind: EventKind::Completion as u16,
            object: queue,
            ..Event::default()
        });
    }
    /// The engine stopped serving a queue.
    pub fn queue_dead(&self, queue: u32, status: Status) {
        self.push(Event {
            kind: EventKind::QueueDead as u16,
            object: queue,
            rights: status as u32,
            ..Event::default()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted() {
        let events = Events::new().unwrap();
        for i in 0..ROOM as u32 + 3 {
            events.completion(i);
        }
        assert_eq!(events.take_lost(), 3);
        assert_eq!(events.take_lost(), 0);
        assert_eq!(events.pop().map(|e| e.object), Some(0));
        events.clear();
        assert_eq!(events.pop(), None);
    }

    #[test]
    fn one_signal_until_the_reader_looks() {
        let events = Events::new().unwrap();
        events.completion(1);
        events.completion(2);
        assert_eq!(events.signal().read().unwrap(), 1);
        events.completion(3);
        assert!(events.signal().read().is_err());
        events.begin();
        events.queue_dead(4, Status::RegionGone);
        assert_eq!(events.signal().read().unwrap(), 1);
    }
}
