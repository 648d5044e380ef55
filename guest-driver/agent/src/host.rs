//! The host's side: give commands, wait for answers, read what the guest says about itself.
//!
//! Owns nothing but a pointer to the mailbox in the VM's RAM. Waiting is left to the caller, by a
//! closure: this crate has no clock.

use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::commands::{Failure, Request, Status, Words};
use crate::layout::{
    BULK_BYTES, CHANNELS, ChannelPage, GuestState, Header, MAGIC, MAILBOX_BYTES, Process, RUN_ALL,
    VERSION,
};

/// Why a call has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallError {
    /// The guest carried the command out and says that it failed.
    Failed(Failure),
    /// The guest had not answered when the caller lost patience.
    NoAnswer {
        /// The command.
        command: &'static str,
        /// What the guest was doing.
        state: Option<GuestState>,
    },
    /// The guest answered with a status that does not exist.
    Garbled(u32),
}

impl core::fmt::Display for CallError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Failed(failure) => failure.fmt(f),
            Self::NoAnswer { command, state } => {
                write!(f, "no answer to {command}; the guest's state is {state:?}")
            }
            Self::Garbled(status) => {
                write!(f, "the guest answered with the unknown status {status}")
            }
        }
    }
}

impl core::error::Error for CallError {}

/// What the guest kernel wrote before it gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash {
    /// Exception vector, or [`crate::layout::CRASH_PANIC`].
    pub vector: u64,
    /// Error code.
    pub error: u64,
    /// Instruction pointer, or line number of a panic.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Latest faulting address.
    pub cr2: u64,
    /// Number of bytes of `message` in use.
    pub message_len: usize,
    /// Panic message.
    pub message: [u8; 200],
}

impl Crash {
    /// The panic message, as far as it is text.
    #[must_use]
    pub fn message(&self) -> &str {
        let bytes = &self.message[..self.message_len.min(self.message.len())];
        match core::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
        }
    }
}

/// The mailbox of one VM, as the host sees it.
///
/// The commands of one channel must come from one thread at a time; the two channels are
/// independent of each other.
#[derive(Debug)]
pub struct HostMailbox<'m> {
    base: NonNull<u8>,
    memory: PhantomData<&'m ()>,
}

// SAFETY: all access is by atomics, or volatile to the bulk areas, which `HostChannel` hands out by
// `&mut` only or as raw bytes that the guest may change at any time anyway.
unsafe impl Send for HostMailbox<'_> {}
// SAFETY: as above.
unsafe impl Sync for HostMailbox<'_> {}

impl<'m> HostMailbox<'m> {
    /// Wraps the mailbox at `base`.
    ///
    /// # Safety
    /// `base` is aligned to 4096 and points at [`MAILBOX_BYTES`] bytes of the VM's RAM that stay
    /// mapped, readable and writable, for `'m`. No Rust reference to them exists elsewhere.
    #[must_use]
    pub const unsafe fn new(base: NonNull<u8>) -> Self {
        Self {
            base,
            memory: PhantomData,
        }
    }

    fn at<T>(&self, offset: usize) -> &'m T {
        debug_assert!(offset + size_of::<T>() <= MAILBOX_BYTES);
        // SAFETY: inside the mailbox by the assertions in `layout`, aligned to a page; `T` is one
        // of the layout's structures, which are made of atomics, so that any content is valid and
        // may change.
        unsafe { self.base.add(offset).cast().as_ref() }
    }

    /// The header, for what has no accessor.
    #[must_use]
    pub fn header(&self) -> &'m Header {
        self.at(0)
    }

    /// Whether the guest kernel has found the mailbox, and it is of this version. It takes commands
    /// from state [`GuestState::Ready`] on.
    #[must_use]
    pub fn is_set_up(&self) -> bool {
        let header = self.header();
        header.magic.load(Acquire) == MAGIC
            && header.version.load(Relaxed) == VERSION
            && header.channels.load(Relaxed) == CHANNELS as u32
    }

    /// What the guest is doing; `None` for a number that means nothing.
    #[must_use]
    pub fn state(&self) -> Option<GuestState> {
        GuestState::from_raw(self.header().state.load(Acquire))
    }

    /// The process that runs now.
    #[must_use]
    pub fn running(&self) -> Option<Process> {
        Process::from_index(self.header().running.load(Acquire))
    }

    /// Lets every process run at any time: on a machine with a CPU for each.
    pub fn run_all(&self) {
        self.header().run.process.store(RUN_ALL, Release);
    }

    /// Asks for `process` to run. Takes effect between two commands of the one that runs now; does
    /// nothing where all run ([`Self::run_all`]).
    pub fn run(&self, process: Process) {
        let run = &self.header().run.process;
        if run.load(Relaxed) != RUN_ALL {
            run.store(process as u32, Release);
        }
    }

    /// Why the guest kernel gave up; meaningful in [`GuestState::Crashed`].
    #[must_use]
    pub fn crash(&self) -> Crash {
        let frame = &self.header().crash;
        let mut message = [0; 200];
        for (bytes, word) in message
            .as_chunks_mut::<8>()
            .0
            .iter_mut()
            .zip(&frame.message)
        {
            *bytes = word.load(Relaxed).to_le_bytes();
        }
        Crash {
            vector: frame.vector.load(Relaxed),
            error: frame.error.load(Relaxed),
            rip: frame.rip.load(Relaxed),
            rsp: frame.rsp.load(Relaxed),
            cr2: frame.cr2.load(Relaxed),
            message_len: (frame.message_len.load(Relaxed) as usize).min(200),
            message,
        }
    }

    /// The channel of `process`.
    #[must_use]
    pub fn channel(&self, process: Process) -> HostChannel<'m> {
        HostChannel {
            header: self.header(),
            page: self.at(process.channel_offset()),
            // SAFETY: inside the mailbox, see `layout`.
            bulk: unsafe { self.base.add(process.bulk_offset()) },
        }
    }

    /// Has `process` carry out `request`, switching to it first if need be, and waits for the
    /// answer as long as `patience` returns true (it is asked again and again, and may spin, yield
    /// or sleep).
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn call<R: Request>(
        &self,
        process: Process,
        request: R,
        mut patience: impl FnMut() -> bool,
    ) -> Result<R::Reply, CallError> {
        self.run(process);
        let mut channel = self.channel(process);
        let ticket = channel.begin(request);
        loop {
            if let Some(outcome) = channel.finish(&ticket) {
                return outcome;
            }
            if !patience() {
                return Err(CallError::NoAnswer {
                    command: R::NAME,
                    state: self.state(),
                });
            }
        }
    }
}

/// A command that has been given and not yet been answered.
#[derive(Debug, Clone, Copy)]
#[must_use = "an answer that nobody waits for is overwritten by the next"]
pub struct Ticket<R> {
    sequence: u32,
    request: PhantomData<R>,
}

/// A command given as bare words.
#[derive(Debug, Clone, Copy)]
pub struct RawTicket(u32);

/// One channel, as the host sees it.
#[derive(Debug)]
pub struct HostChannel<'m> {
    header: &'m Header,
    page: &'m ChannelPage,
    bulk: NonNull<u8>,
}

// SAFETY: as for `HostMailbox`.
unsafe impl Send for HostChannel<'_> {}

impl HostChannel<'_> {
    /// Gives a command. One at a time: a second one before the answer to the first replaces it if
    /// the guest has not begun, and is carried out after it otherwise.
    pub fn begin<R: Request>(&mut self, request: R) -> Ticket<R> {
        let RawTicket(sequence) = self.begin_raw(R::OPCODE, request.encode());
        Ticket {
            sequence,
            request: PhantomData,
        }
    }

    /// Gives a command that need not exist.
    pub fn begin_raw(&mut self, opcode: u32, args: Words) -> RawTicket {
        let block = &self.page.command;
        for (word, value) in block.args.iter().zip(args) {
            word.store(value, Relaxed);
        }
        block.opcode.store(opcode, Relaxed);
        let sequence = block.sequence.load(Relaxed).wrapping_add(1);
        block.sequence.store(sequence, Release);
        RawTicket(sequence)
    }

    /// The answer, once it is there.
    pub fn finish<R: Request>(&self, ticket: &Ticket<R>) -> Option<Result<R::Reply, CallError>> {
        Some(
            self.finish_raw(RawTicket(ticket.sequence))?
                .map(R::decode_reply),
        )
    }

    /// The answer to a raw command, once it is there.
    #[must_use]
    pub fn finish_raw(&self, ticket: RawTicket) -> Option<Result<Words, CallError>> {
        let block = &self.page.reply;
        if block.sequence.load(Acquire) != ticket.0 {
            return None;
        }
        let mut words = [0; 8];
        for (slot, word) in words.iter_mut().zip(&block.results) {
            *slot = word.load(Relaxed);
        }
        let raw = block.status.load(Relaxed);
        Some(match Status::from_raw(raw) {
            Some(Status::Ok) => Ok(words),
            Some(status) => {
                let [a, b, c, d, ..] = words;
                Err(CallError::Failed(Failure {
                    status,
                    details: [a, b, c, d],
                }))
            }
            None => Err(CallError::Garbled(raw)),
        })
    }

    /// Asks a looping command to end early, or, with `false`, lets the next one run its course.
    pub fn stop(&self, stop: bool) {
        self.page.stop.value.store(u32::from(stop), Release);
    }

    /// Answers a [`crate::commands::PingPong`] of `iterations` round trips; returns whether all
    /// came. Between two looks at the line `patience` is asked, once in 65536 turns, whether to go
    /// on.
    pub fn answer_pings(&self, iterations: u64, mut patience: impl FnMut() -> bool) -> bool {
        let last = iterations as u32;
        let mut seen = 0u32;
        let mut turns = 0u32;
        while seen != last {
            let ping = self.page.ping.value.load(Acquire);
            if ping != seen {
                seen = ping;
                self.page.pong.value.store(ping, Release);
                continue;
            }
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(0x1_0000) && !patience() {
                return false;
            }
            core::hint::spin_loop();
        }
        true
    }

    /// Readies the two lines for a ping-pong; before the command is given.
    pub fn reset_pings(&self) {
        self.page.ping.value.store(0, Relaxed);
        self.page.pong.value.store(0, Release);
    }

    /// What the guest is doing.
    #[must_use]
    pub fn state(&self) -> Option<GuestState> {
        GuestState::from_raw(self.header.state.load(Acquire))
    }

    /// Copies `bytes` into the bulk area at `offset`.
    ///
    /// # Panics
    /// When they do not fit: the caller's mistake, not the guest's.
    pub fn bulk_write(&mut self, offset: usize, bytes: &[u8]) {
        assert!(
            offset
                .checked_add(bytes.len())
                .is_some_and(|end| end <= BULK_BYTES)
        );
        // SAFETY: inside the bulk area; the source is the caller's, so the two do not overlap. The
        // guest may write there meanwhile: that garbles the bytes, no more.
        unsafe {
            core::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                self.bulk.as_ptr().add(offset),
                bytes.len(),
            );
        }
    }

    /// Copies from the bulk area at `offset` into `bytes`.
    ///
    /// # Panics
    /// When the range is not inside: the caller's mistake, not the guest's.
    pub fn bulk_read(&self, offset: usize, bytes: &mut [u8]) {
        assert!(
            offset
                .checked_add(bytes.len())
                .is_some_and(|end| end <= BULK_BYTES)
        );
        // SAFETY: as in `bulk_write`.
        unsafe {
            core::ptr::copy_nonoverlapping(
                self.bulk.as_ptr().add(offset),
                bytes.as_mut_ptr(),
                bytes.len(),
            );
        }
    }
}
