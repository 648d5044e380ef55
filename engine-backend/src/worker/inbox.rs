//! Commands of control threads to one worker: a bounded lock-free queue behind one flag,
//! which is all that a busy worker looks at.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;

use crossbeam_queue::ArrayQueue;

use super::active::Active;
use crate::ops::Verdict;

/// Commands that may wait. A control thread that finds no room tries again; a doorbell
/// falls back to a flag.
const ROOM: usize = 256;

/// Where a worker hands a queue back to.
pub(super) type Handover = Arc<ArrayQueue<Box<Active>>>;

/// What a worker is told.
#[derive(Debug)]
pub(super) enum Command {
    /// Serve this queue.
    Attach(Box<Active>),
    /// Hand the queue with this number back; an unknown one sets the flag alone.
    Detach {
        queue: u32,
        to: Handover,
        done: Arc<AtomicBool>,
    },
    /// Look at the domain's parked queues.
    Wake(u32),
    /// Give the domain no turn any more.
    Pause { domain: u32, done: Arc<AtomicBool> },
    /// Give it turns again.
    Resume(u32),
    /// The answer to a page request of this queue; one that it does not wait for is ignored.
    Answer {
        queue: u32,
        request: u64,
        verdict: Verdict,
    },
    /// Return.
    Stop,
}

/// Commands for one worker.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Inbox {
    pending: AtomicBool,
    wake_all: AtomicBool,
    commands: ArrayQueue<Command>,
    thread: OnceLock<Thread>,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self {
            pending: AtomicBool::new(false),
            wake_all: AtomicBool::new(false),
            commands: ArrayQueue::new(ROOM),
            thread: OnceLock::new(),
        }
    }

    /// Says whom to wake; before anyone can send.
    pub(super) fn set_thread(&self, thread: Thread) {
        // A second call would name the same thread.
        let _ = self.thread.set(thread);
    }

    /// Sends a command, or gives it back when there is no room.
    pub(super) fn try_send(&self, command: Command) -> Result<(), Command> {
        let sent = self.commands.push(command);
        self.notify();
        sent
    }

    /// The doorbell of a domain. Never waits: without room all domains are looked at.
    pub(super) fn ring(&self, domain: u32) {
        if self.commands.push(Command::Wake(domain)).is_err() {
            self.wake_all.store(true, Ordering::Release);
        }
        self.notify();
    }

    /// The doorbells of all domains.
    pub(super) fn ring_all(&self) {
        self.wake_all.store(true, Ordering::Release);
        self.notify();
    }

    fn notify(&self) {
        self.pending.store(true, Ordering::Release);
        if let Some(thread) = self.thread.get() {
            // Remembered if the worker is about to sleep; no system call if it is awake.
            thread.unpark();
        }
    }

    /// Whether anything was sent since [`Self::acknowledge`]: one load.
    #[inline(always)]
    pub(super) fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Relaxed)
    }

    /// Before the commands are received.
    pub(super) fn acknowledge(&self) {
        self.pending.swap(false, Ordering::AcqRel);
    }

    /// The next command.
    pub(super) fn receive(&self) -> Option<Command> {
        self.commands.pop()
    }

    /// Whether a doorbell found no room since the last call.
    pub(super) fn take_wake_all(&self) -> bool {
        self.wake_all.swap(false, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_inbox_loses_no_doorbell() {
        let inbox = Inbox::new();
        for domain in 0..ROOM as u32 {
            inbox.ring(domain);
        }
        assert!(!inbox.take_wake_all());
        inbox.ring(7);
        assert!(inbox.is_pending());
        assert!(inbox.take_wake_all());
        assert!(!inbox.take_wake_all());
        inbox.acknowledge();
        assert!(!inbox.is_pending());
        assert!(matches!(inbox.receive(), Some(Command::Wake(0))));
    }
}
