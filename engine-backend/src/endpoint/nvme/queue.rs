//! [`QueuePair`]: the driver's side of a submission and a completion queue (section 4.1 of the
//! base specification), in memory that the controller can write at any time.
//!
//! Tells what the controller wrote; whether it makes sense is for the caller to say. Never
//! reads what it has written itself.

use std::sync::atomic::{Ordering, fence};

use byway_nvme::layout::registers::{head_doorbell, passes, tail_doorbell};
use byway_nvme::layout::{COMMAND_BYTES, COMPLETION_BYTES, Command, Completion};

use super::link::Link;
use crate::memory::HostSpan;

/// Where a pair of queues is, in bytes from the start of their memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) id: u16,
    /// Entries of each.
    pub(super) entries: u32,
    pub(super) submission: usize,
    pub(super) completion: usize,
}

/// Shadow doorbells and event indices, in bytes from the start of their memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shadow {
    pub(super) doorbells: usize,
    pub(super) events: usize,
}

/// The pair.
#[derive(Debug)]
pub(super) struct QueuePair {
    span: HostSpan,
    place: Place,
    /// Doorbells are `4 << stride` bytes apart.
    stride: u8,
    shadow: Option<Shadow>,
    tail: u32,
    /// What the controller was last told of.
    shown: u32,
    head: u32,
    phase: bool,
}

impl QueuePair {
    /// An empty pair, in memory that is all zero.
    pub(super) fn new(span: HostSpan, place: Place, stride: u8, shadow: Option<Shadow>) -> Self {
        Self {
            span,
            place,
            stride,
            shadow,
            tail: 0,
            shown: 0,
            head: 0,
            phase: true,
        }
    }

    /// Writes a command, which the controller sees after [`Self::show`]. The caller has fewer
    /// commands out than there are entries.
    pub(super) fn push(&mut self, command: &Command) {
        let at = self.place.submission + self.tail as usize * COMMAND_BYTES as usize;
        self.span.write_bytes(at, &command.pack());
        self.tail = (self.tail + 1) % self.place.entries;
    }

    /// Shows the controller what was pushed. True: by a system call.
    pub(super) fn show(&mut self, link: &Link) -> bool {
        if self.shown == self.tail {
            return false;
        }
        let before = std::mem::replace(&mut self.shown, self.tail);
        let doorbell = tail_doorbell(self.place.id, self.stride);
        self.tell(link, doorbell, self.tail, before)
    }

    fn tell(&self, link: &Link, doorbell: u64, now: u32, before: u32) -> bool {
        if let Some(shadow) = self.shadow {
            fence(Ordering::Release);
            let at = shadow.doorbells + doorbell as usize;
            self.span.store_u32(at, now.to_le());
            // The controller stores an event index and looks at the shadow; here the other
            // way round.
            fence(Ordering::SeqCst);
            let event = self.span.load_u32(shadow.events + doorbell as usize);
            if !passes(u32::from_le(event), now, before) {
                return false;
            }
        }
        link.ring(doorbell, now);
        true
    }

    /// The next completion's words, if it is there.
    fn next(&self) -> Option<[u64; 2]> {
        let at = self.place.completion + self.head as usize * COMPLETION_BYTES as usize;
        // What has the phase is read once: it is what was published.
        let last = u64::from_le(self.span.load_u64_acquire(at + 8));
        let phase = last >> 48 & 1 != 0;
        (phase == self.phase).then(|| [u64::from_le(self.span.load_u64(at)), last])
    }

    /// Whether a completion is there.
    pub(super) fn is_waiting(&self) -> bool {
        self.next().is_some()
    }

    /// Takes the next completion.
    pub(super) fn take(&mut self) -> Option<Completion> {
        let words = self.next()?;
        self.head += 1;
        if self.head == self.place.entries {
            self.head = 0;
            self.phase = !self.phase;
        }
        Some(Completion::unpack(words))
    }

    /// Gives the places of completions back that were taken since `before`. True: by a system
    /// call.
    pub(super) fn give_back(&self, link: &Link, before: u32) -> bool {
        let doorbell = head_doorbell(self.place.id, self.stride);
        self.tell(link, doorbell, self.head, before)
    }

    /// Where the next completion is expected.
    pub(super) fn head(&self) -> u32 {
        self.head
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }
}
