//! Submission and completion queues as the controller knows them (section 4.1).

use crate::layout::{COMMAND_BYTES, COMPLETION_BYTES};

/// Where commands come from.
#[derive(Debug)]
pub(super) struct SubmissionQueue {
    base: u64,
    entries: u32,
    head: u32,
    tail: u32,
    event: Option<u32>,
    /// The completion queue that goes with it.
    pub(super) completion: u16,
}

impl SubmissionQueue {
    pub(super) fn new(base: u64, entries: u32, completion: u16) -> Self {
        Self {
            base,
            entries,
            head: 0,
            tail: 0,
            event: None,
            completion,
        }
    }

    pub(super) fn head(&self) -> u32 {
        self.head
    }

    /// False: no such place.
    pub(super) fn set_tail(&mut self, tail: u32) -> bool {
        if tail >= self.entries {
            return false;
        }
        self.tail = tail;
        true
    }

    /// Where the next command is.
    pub(super) fn next(&self) -> Option<u64> {
        (self.head != self.tail).then(|| self.base + u64::from(self.head) * COMMAND_BYTES)
    }

    pub(super) fn advance(&mut self) {
        self.head = (self.head + 1) % self.entries;
    }

    /// An event index that no step of the tail passes, when it has to be told anew.
    pub(super) fn new_event(&mut self) -> Option<u32> {
        let behind = (self.tail + self.entries - 1) % self.entries;
        (self.event.replace(behind) != Some(behind)).then_some(behind)
    }

    /// An event index that the next step passes.
    pub(super) fn armed_event(&mut self) -> u32 {
        self.event = Some(self.tail);
        self.tail
    }
}

/// Where completions go.
#[derive(Debug)]
pub(super) struct CompletionQueue {
    base: u64,
    entries: u32,
    head: u32,
    tail: u32,
    phase: bool,
    event: Option<u32>,
    /// Interrupt vector, if it has one.
    pub(super) vector: Option<u16>,
}

impl CompletionQueue {
    pub(super) fn new(base: u64, entries: u32, vector: Option<u16>) -> Self {
        Self {
            base,
            entries,
            head: 0,
            tail: 0,
            phase: true,
            event: None,
            vector,
        }
    }

    /// False: no such place.
    pub(super) fn set_head(&mut self, head: u32) -> bool {
        if head >= self.entries {
            return false;
        }
        self.head = head;
        true
    }

    pub(super) fn has_room(&self) -> bool {
        (self.tail + 1) % self.entries != self.head
    }

    pub(super) fn phase(&self) -> bool {
        self.phase
    }

    /// Where the next completion goes.
    pub(super) fn place(&self) -> u64 {
        self.base + u64::from(self.tail) * COMPLETION_BYTES
    }

    pub(super) fn advance(&mut self) {
        self.tail += 1;
        if self.tail == self.entries {
            self.tail = 0;
            self.phase = !self.phase;
        }
    }

    /// As for [`SubmissionQueue::new_event`], of the head.
    pub(super) fn new_event(&mut self) -> Option<u32> {
        let behind = (self.head + self.entries - 1) % self.entries;
        (self.event.replace(behind) != Some(behind)).then_some(behind)
    }

    /// As for [`SubmissionQueue::armed_event`], of the head.
    pub(super) fn armed_event(&mut self) -> u32 {
        self.event = Some(self.head);
        self.head
    }
}
