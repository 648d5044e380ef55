//! Where everything in the mailbox stands, and who may write it.
//!
//! ```text
//! 0x00_0000  Header                 written by the guest kernel; `run` by the host
//! 0x00_1000  ChannelPage of app     command, stop, ping: host; reply, pong: guest
//! 0x00_2000  ChannelPage of peer
//! 0x40_0000  bulk area of app       6 MiB, either side as the command in hand says
//! 0xa0_0000  bulk area of peer      6 MiB
//! ```
//!
//! Each word that is written by one side and polled by the other has a cache line of its
//! own. Numbers are little-endian, as on the only machine that runs this.

use core::mem::{align_of, offset_of, size_of};
use core::sync::atomic::{AtomicU32, AtomicU64};

/// First word of the mailbox, once the guest kernel has set it up: `BYWAGENT`.
pub const MAGIC: u64 = u64::from_le_bytes(*b"BYWAGENT");
/// Version of this layout and of the list of commands. Both sides are built from one tree,
/// so a difference is refused rather than negotiated.
pub const VERSION: u32 = 1;

/// Size of the mailbox in bytes; a larger reservation is left unused.
pub const MAILBOX_BYTES: usize = 0x100_0000;
/// Alignment that the mailbox's guest-physical address must have, in bytes.
pub const MAILBOX_ALIGN: u64 = 0x20_0000;
/// Offset of the first [`ChannelPage`]; each is one page of 4096 bytes.
pub const CHANNELS_OFFSET: usize = 0x1000;
/// Offset of the first bulk area.
pub const BULK_OFFSET: usize = 0x40_0000;
/// Size of a bulk area in bytes.
pub const BULK_BYTES: usize = 0x60_0000;
/// Number of channels, one per unprivileged process.
pub const CHANNELS: usize = 2;

/// An unprivileged guest process, and its channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Process {
    /// The process that submits in most programs; it runs after boot.
    App = 0,
    /// A second one, with address space, context and queues of its own.
    Peer = 1,
}

impl Process {
    /// Both, in the order of their channels.
    pub const ALL: [Self; CHANNELS] = [Self::App, Self::Peer];

    /// The process of channel `index`.
    #[must_use]
    pub const fn from_index(index: u32) -> Option<Self> {
        match index {
            0 => Some(Self::App),
            1 => Some(Self::Peer),
            _ => None,
        }
    }

    /// Offset of its [`ChannelPage`] in the mailbox.
    #[must_use]
    pub const fn channel_offset(self) -> usize {
        CHANNELS_OFFSET + self as usize * size_of::<ChannelPage>()
    }

    /// Offset of its bulk area in the mailbox.
    #[must_use]
    pub const fn bulk_offset(self) -> usize {
        BULK_OFFSET + self as usize * BULK_BYTES
    }
}

/// What the guest as a whole is doing: [`Header::state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum GuestState {
    /// Before the first process runs; also what untouched memory reads as.
    Booting = 0,
    /// A process runs and polls its channel.
    Ready = 1,
    /// The vCPU is in `hlt`, or on its way there; an interrupt wakes it.
    Sleeping = 2,
    /// The guest kernel itself failed; [`Header::crash`] says how. It stays so.
    Crashed = 3,
}

impl GuestState {
    /// The state that `value` stands for.
    #[must_use]
    pub const fn from_raw(value: u32) -> Option<Self> {
        match value {
            0 => Some(Self::Booting),
            1 => Some(Self::Ready),
            2 => Some(Self::Sleeping),
            3 => Some(Self::Crashed),
            _ => None,
        }
    }
}

/// Vector number in [`CrashFrame`] of a Rust panic in the guest kernel.
pub const CRASH_PANIC: u64 = 0x100;

/// Why the guest kernel stopped.
#[derive(Debug)]
#[repr(C)]
pub struct CrashFrame {
    /// Exception vector, or [`CRASH_PANIC`].
    pub vector: AtomicU64,
    /// Error code that the CPU pushed; 0 where it pushes none.
    pub error: AtomicU64,
    /// Instruction pointer; for a panic the line number.
    pub rip: AtomicU64,
    /// Stack pointer.
    pub rsp: AtomicU64,
    /// Faulting address of the latest page fault.
    pub cr2: AtomicU64,
    /// Number of bytes of `message` in use, at most 200.
    pub message_len: AtomicU64,
    /// Panic message, or empty.
    pub message: [AtomicU64; 25],
}

/// First page of the mailbox.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Header {
    /// [`MAGIC`]; stored with release ordering after version and channels, before the guest is
    /// ready: what else the header says is valid from state [`GuestState::Ready`] on.
    pub magic: AtomicU64,
    /// [`VERSION`].
    pub version: AtomicU32,
    /// [`CHANNELS`].
    pub channels: AtomicU32,
    /// A [`GuestState`].
    pub state: AtomicU32,
    /// The [`Process`] that runs now.
    pub running: AtomicU32,
    /// Ticks of the time-stamp counter a second as far as the guest knows; 0 = it does not know.
    pub tsc_hz: AtomicU64,
    /// Interrupts that the guest kernel has taken since boot.
    pub interrupts: AtomicU64,
    /// Guest-physical address of the root of each process's page tables.
    pub roots: [AtomicU64; CHANNELS],
    /// Levels of those page tables: 4 or 5.
    pub levels: AtomicU32,
    /// [`CrashFrame`], valid in state [`GuestState::Crashed`].
    pub crash: CrashFrame,
    /// Line that only the host writes: which [`Process`] should run. The running process notices
    /// between two commands and gives way.
    pub run: RunLine,
}

/// [`RunLine::process`]: each process runs on a CPU of its own, and none gives way.
pub const RUN_ALL: u32 = u32::MAX;

/// The host's line in the header.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct RunLine {
    /// A [`Process`], or [`RUN_ALL`].
    pub process: AtomicU32,
}

/// A command as the host writes it. Arguments and opcode first, then `sequence` with release
/// ordering.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct CommandBlock {
    /// Arguments, in the order of the request's fields.
    pub args: [AtomicU64; 8],
    /// Number of the command: differs from the reply's while it is in hand.
    pub sequence: AtomicU32,
    /// What to do: [`crate::Request::OPCODE`].
    pub opcode: AtomicU32,
}

/// A reply as the guest writes it. Results and status first, then `sequence` with release ordering.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct ReplyBlock {
    /// Results, in the order of the reply's fields; with a failure, its details.
    pub results: [AtomicU64; 8],
    /// Number of the command that this answers.
    pub sequence: AtomicU32,
    /// A [`crate::Status`].
    pub status: AtomicU32,
}

/// One word on a cache line of its own.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Line {
    /// The word.
    pub value: AtomicU32,
}

/// All of a channel but its bulk area.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct ChannelPage {
    /// Host to guest.
    pub command: CommandBlock,
    /// Guest to host.
    pub reply: ReplyBlock,
    /// Not 0: a command that loops should end early. Written by the host.
    pub stop: Line,
    /// Written by the guest in a ping-pong: 1, 2, 3, ...
    pub ping: Line,
    /// Written by the host in a ping-pong: the number it last saw in `ping`.
    pub pong: Line,
}

const _: () = {
    assert!(size_of::<Header>() == 4096 && align_of::<Header>() == 4096);
    assert!(size_of::<ChannelPage>() == 4096 && align_of::<ChannelPage>() == 4096);
    assert!(offset_of!(CommandBlock, sequence) == 64);
    assert!(offset_of!(ReplyBlock, sequence) == 64);
    assert!(offset_of!(ChannelPage, reply) == 128);
    assert!(offset_of!(ChannelPage, stop) == 256);
    assert!(offset_of!(ChannelPage, ping) == 320);
    assert!(offset_of!(ChannelPage, pong) == 384);
    assert!(offset_of!(Header, run).is_multiple_of(64));
    assert!(size_of::<[AtomicU64; 25]>() == 200);
    assert!(CHANNELS_OFFSET >= size_of::<Header>());
    assert!(CHANNELS_OFFSET + CHANNELS * size_of::<ChannelPage>() <= BULK_OFFSET);
    assert!(BULK_OFFSET + CHANNELS * BULK_BYTES <= MAILBOX_BYTES);
    assert!((BULK_OFFSET as u64).is_multiple_of(MAILBOX_ALIGN));
    assert!((BULK_BYTES as u64).is_multiple_of(MAILBOX_ALIGN));
};
