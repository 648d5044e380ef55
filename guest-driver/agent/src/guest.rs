//! The guest's side of a channel: take a command, answer it.
//!
//! Owns nothing but pointers into the mailbox. It must never trap: polling is what a process does
//! while exits are being counted.

use core::ptr::NonNull;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::commands::{Failure, Status, Words};
use crate::layout::{BULK_BYTES, ChannelPage, Header, Process};

/// A command as it was found.
#[derive(Debug, Clone, Copy)]
pub struct Command {
    /// Its number, to be given back with the answer.
    pub sequence: u32,
    /// What to do.
    pub opcode: u32,
    /// With what.
    pub args: Words,
}

/// One process's view of the mailbox.
#[derive(Debug)]
pub struct GuestChannel {
    header: NonNull<Header>,
    page: NonNull<ChannelPage>,
    bulk: NonNull<u8>,
    process: Process,
}

impl GuestChannel {
    /// Attaches `process` to its channel.
    ///
    /// # Safety
    /// `header` and `page` point at the header and the process's channel page and `bulk` at
    /// [`BULK_BYTES`] bytes, all mapped for as long as the value lives; `bulk` is used through this
    /// value only.
    #[must_use]
    pub const unsafe fn new(
        process: Process,
        header: NonNull<Header>,
        page: NonNull<ChannelPage>,
        bulk: NonNull<u8>,
    ) -> Self {
        Self {
            header,
            page,
            bulk,
            process,
        }
    }

    fn header(&self) -> &Header {
        // SAFETY: promised to `new`; the header consists of atomics.
        unsafe { self.header.as_ref() }
    }

    /// The shared words of the channel.
    #[must_use]
    pub fn page(&self) -> &ChannelPage {
        // SAFETY: promised to `new`; the page consists of atomics.
        unsafe { self.page.as_ref() }
    }

    /// Where the bulk area begins.
    #[must_use]
    pub const fn bulk(&self) -> NonNull<u8> {
        self.bulk
    }

    /// The part of the bulk area from `offset`, `len` bytes long, if it is inside.
    #[must_use]
    pub fn bulk_range(&self, offset: u64, len: u64) -> Option<NonNull<u8>> {
        let end = offset.checked_add(len)?;
        if end > BULK_BYTES as u64 {
            return None;
        }
        // SAFETY: the offset is at most the length of the area.
        Some(unsafe { self.bulk.add(offset as usize) })
    }

    /// Whether the host wants another process to run.
    #[must_use]
    pub fn should_yield(&self) -> bool {
        let wanted = self.header().run.process.load(Relaxed);
        wanted != self.process as u32 && Process::from_index(wanted).is_some()
    }

    /// Whether the host wants a looping command to end early.
    #[must_use]
    pub fn should_stop(&self) -> bool {
        self.page().stop.value.load(Relaxed) != 0
    }

    /// Interrupts that the guest kernel has taken since boot.
    #[must_use]
    pub fn interrupts(&self) -> u64 {
        self.header().interrupts.load(Acquire)
    }

    /// The command in hand, if there is one that has not been answered.
    #[must_use]
    pub fn poll(&self) -> Option<Command> {
        let page = self.page();
        let sequence = page.command.sequence.load(Acquire);
        if sequence == page.reply.sequence.load(Relaxed) {
            return None;
        }
        let mut args = [0; 8];
        for (slot, word) in args.iter_mut().zip(&page.command.args) {
            *slot = word.load(Relaxed);
        }
        Some(Command {
            sequence,
            opcode: page.command.opcode.load(Relaxed),
            args,
        })
    }

    /// Answers the command with number `sequence`.
    pub fn reply(&self, sequence: u32, outcome: Result<Words, Failure>) {
        answer(self.page(), sequence, outcome);
    }
}

/// Writes an answer into a channel; the guest kernel does so for a process that faulted.
pub fn answer(page: &ChannelPage, sequence: u32, outcome: Result<Words, Failure>) {
    let (status, words) = match outcome {
        Ok(words) => (Status::Ok, words),
        Err(failure) => {
            let [a, b, c, d] = failure.details;
            (failure.status, [a, b, c, d, 0, 0, 0, 0])
        }
    };
    for (word, value) in page.reply.results.iter().zip(words) {
        word.store(value, Relaxed);
    }
    page.reply.status.store(status as u32, Relaxed);
    page.reply.sequence.store(sequence, Release);
}
