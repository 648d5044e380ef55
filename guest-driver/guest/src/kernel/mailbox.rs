//! The kernel process's side of the mailbox: its header, and answers in a process's place.
//!
//! Owns the header's words, but for the host's `run`.

use core::sync::atomic::Ordering::{Relaxed, Release};

use byway_agent::Failure;
use byway_agent::guest::answer;
use byway_agent::layout::{
    BULK_BYTES, CHANNELS, ChannelPage, GuestState, Header, MAGIC, Process, VERSION,
};

use super::frames::direct;

/// The mailbox, if the VM has one.
#[derive(Clone, Copy)]
pub struct Mailbox {
    address: u64,
}

impl Mailbox {
    /// Wraps the mailbox at a guest-physical address.
    ///
    /// # Safety
    /// The range is RAM that is reserved for it, and mapped for as long as the value is used.
    pub const unsafe fn new(address: u64) -> Self {
        Self { address }
    }

    /// Guest-physical address.
    pub const fn address(&self) -> u64 {
        self.address
    }

    /// The header.
    pub fn header(&self) -> &'static Header {
        // SAFETY: promised to `new`; the header consists of atomics.
        unsafe { &*direct::<Header>(self.address) }
    }

    fn page(&self, process: Process) -> &'static ChannelPage {
        // SAFETY: as in `header`; the offset is inside the mailbox.
        unsafe { &*direct::<ChannelPage>(self.address + process.channel_offset() as u64) }
    }

    /// Copies from the beginning of a process's bulk area.
    pub fn read_bulk(&self, process: Process, bytes: &mut [u8]) {
        let len = bytes.len().min(BULK_BYTES);
        let bulk = direct::<u8>(self.address + process.bulk_offset() as u64);
        // SAFETY: inside the mailbox, which is mapped; the target is the caller's. Whoever writes
        // there meanwhile garbles the bytes, no more.
        unsafe { bulk.copy_to(bytes.as_mut_ptr(), len) };
    }

    /// Says that this is a mailbox, of a guest that is still booting.
    pub fn identify(&self) {
        let header = self.header();
        header.version.store(VERSION, Relaxed);
        header.channels.store(CHANNELS as u32, Relaxed);
        self.set_state(GuestState::Booting);
        header.magic.store(MAGIC, Release);
    }

    /// Says that the processes take commands.
    pub fn publish(&self, tsc_hz: u64, roots: [u64; CHANNELS], levels: u32) {
        let header = self.header();
        header.tsc_hz.store(tsc_hz, Relaxed);
        for (slot, root) in header.roots.iter().zip(roots) {
            slot.store(root, Relaxed);
        }
        header.levels.store(levels, Relaxed);
        self.set_state(GuestState::Ready);
    }

    /// Says what the guest is doing.
    pub fn set_state(&self, state: GuestState) {
        self.header().state.store(state as u32, Release);
    }

    /// Says which process runs.
    pub fn set_running(&self, process: Process) {
        self.header().running.store(process as u32, Release);
    }

    /// Says how many interrupts there were.
    pub fn count_interrupts(&self, taken: u64) {
        self.header().interrupts.store(taken, Relaxed);
    }

    /// The process that the host wants to run, if it wants one that there is.
    pub fn wanted(&self) -> Option<Process> {
        Process::from_index(self.header().run.process.load(Relaxed))
    }

    /// Answers the command that `process` has in hand, if there is one, with a failure.
    pub fn fail(&self, process: Process, failure: Failure) {
        let page = self.page(process);
        let sequence = page.command.sequence.load(Relaxed);
        if sequence != page.reply.sequence.load(Relaxed) {
            answer(page, sequence, Err(failure));
        }
    }
}
