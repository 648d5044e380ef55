//! Commands that an unprivileged process carries out itself.

use super::{Failure, Request, Status, Words, commands, pack};

/// [`Access::kind`]: load.
pub const ACCESS_READ: u64 = 0;
/// [`Access::kind`]: store of `value`.
pub const ACCESS_WRITE: u64 = 1;
/// [`Access::kind`]: locked exchange with `value`.
pub const ACCESS_EXCHANGE: u64 = 2;

/// [`Compare::mismatch`] when there is none.
pub const NO_MISMATCH: u64 = u64::MAX;

/// Where [`Run`] takes its descriptor from, in the bulk area.
pub const RUN_TEMPLATE: usize = 0;
/// Where [`Run`] puts its samples, in the bulk area: a `u32` each, in ticks.
pub const RUN_SAMPLES: usize = 64;
/// Most samples of one [`Run`].
pub const RUN_SAMPLES_MAX: u64 = (crate::layout::BULK_BYTES - RUN_SAMPLES) as u64 / 4;
/// [`Run::flags`]: end at the first completion that is not a success.
pub const RUN_STOP_ON_FAILURE: u64 = 1;

/// Entries of a queue for [`Hostile`].
pub const HOSTILE_ENTRIES: u64 = 64;
/// Bytes of each of the two areas of [`Hostile`].
pub const HOSTILE_BYTES: u64 = 2 << 20;

/// [`UseLibrary::role`]: all within one process.
pub const LIBRARY_LOCAL: u64 = 0;
/// [`UseLibrary::role`]: give memory to the peer, and take it back when it has answered.
pub const LIBRARY_GIVE: u64 = 1;
/// [`UseLibrary::role`]: take memory from the peer, use it, answer, and see it go.
pub const LIBRARY_TAKE: u64 = 2;

/// Bytes of a descriptor in the bulk area ([`Submit`]).
pub const DESCRIPTOR_BYTES: usize = 64;
/// Bytes of a record that [`Poll`] puts into the bulk area: number of the descriptor (as
/// [`Submitted::first`] counts), ticks when its completion was seen, 8 bytes each, and the 32 bytes
/// of the completion.
pub const COMPLETION_RECORD_BYTES: usize = 48;

commands! {
    /// What an unprivileged process does itself, in ring 3.
    ProcessCommands, dispatch_process, PROCESS_COMMAND_LIST;

    /// Answers at once.
    0x01 ping: Ping {
        /// Any number; comes back.
        token,
    } => Pong {
        /// The number that was sent.
        token,
        /// Time-stamp counter of the guest, in ticks.
        tsc,
    }

    /// Fills memory with the pattern of a seed ([`crate::pattern`]).
    0x02 fill_pattern: FillPattern {
        /// Virtual address.
        va,
        /// Bytes.
        len,
        /// Seed.
        seed,
    } => Filled {}

    /// Computes the checksum ([`crate::checksum`]) of memory.
    0x03 checksum: Checksum {
        /// Virtual address.
        va,
        /// Bytes.
        len,
    } => Summed {
        /// The checksum.
        checksum,
    }

    /// Compares memory with the pattern of a seed.
    0x04 compare_pattern: ComparePattern {
        /// Virtual address.
        va,
        /// Bytes.
        len,
        /// Seed.
        seed,
    } => Compare {
        /// Offset of the first byte that differs, or [`NO_MISMATCH`].
        mismatch,
    }

    /// Copies memory into the bulk area, with plain loads: a missing page is a [`Status::Fault`].
    0x05 read: Read {
        /// Virtual address.
        va,
        /// Bytes.
        len,
        /// Where in the bulk area, in bytes from its beginning.
        bulk,
    } => ReadDone {}

    /// Copies from the bulk area into memory, with plain stores.
    0x06 write: Write {
        /// Virtual address.
        va,
        /// Bytes.
        len,
        /// Where in the bulk area, in bytes from its beginning.
        bulk,
    } => WriteDone {}

    /// Makes one ring-3 access with one instruction and says what the CPU made of it.
    0x07 access: Access {
        /// Virtual address; need not be canonical or aligned.
        va,
        /// [`ACCESS_READ`], [`ACCESS_WRITE`] or [`ACCESS_EXCHANGE`].
        kind,
        /// Bytes: 1, 2, 4 or 8.
        width,
        /// What to write.
        value,
    } => Accessed {
        /// 1 when the instruction took an exception, else 0.
        faulted,
        /// What was read; 0 for a write or a fault.
        value,
        /// Exception vector, when faulted.
        vector,
        /// Error code, when faulted.
        error,
        /// Faulting address (CR2), when the vector is 14.
        cr2,
    }

    /// Bounces a cache line with a thread of the host, which must be answering
    /// ([`crate::host::HostChannel::answer_pings`]).
    0x08 ping_pong: PingPong {
        /// Round trips, at least 1.
        iterations,
    } => PingPongDone {
        /// Time of all of them, in ticks of the time-stamp counter.
        ticks,
        /// Round trips made; fewer when stopped.
        iterations,
    }

    /// Spins without touching memory that anyone else writes: what a measurement's exits are
    /// compared with.
    0x09 spin: Spin {
        /// How long, in ticks of the time-stamp counter.
        ticks,
    } => Spun {
        /// How long it was.
        ticks,
    }

    /// Leaves the VM on purpose, by a write to I/O port 0x80, so that whoever counts exits
    /// can be seen to count.
    0x0a exit_on_purpose: ExitOnPurpose {
        /// How many times.
        count,
    } => Exited {}

    /// Publishes raw descriptors, whatever they say, through the ring-3 library, which sets the
    /// phase bit only. They stand in the bulk area from its beginning. Rings the doorbell, by a
    /// trap, when the queue is parked.
    0x20 submit: Submit {
        /// Number of the queue.
        queue,
        /// Descriptors; as many as fit are taken.
        count,
    } => Submitted {
        /// How many were taken.
        count,
        /// Number of the first: descriptors submitted to the queue before it, modulo 2^32.
        first,
        /// Ticks after the last was published.
        tsc,
        /// Doorbells rung.
        kicks,
    }

    /// Consumes completions and puts a record of each into the bulk area
    /// ([`COMPLETION_RECORD_BYTES`]), in the order in which they were found.
    0x21 poll: Poll {
        /// Number of the queue.
        queue,
        /// Ends when so many were found, or none is outstanding.
        max,
        /// Ends after so many ticks of the time-stamp counter.
        ticks,
    } => Polled {
        /// Records.
        count,
        /// Descriptors that still await their completion.
        outstanding,
    }

    /// The measuring loop: submits the descriptor at [`RUN_TEMPLATE`] again and again and consumes
    /// the completions. Causes no exit unless the queue parks.
    0x22 run: Run {
        /// Number of a queue with nothing outstanding.
        queue,
        /// Descriptors in all.
        iterations,
        /// Most of them outstanding at once, at least 1.
        depth,
        /// Latencies to record from the first on, at most [`RUN_SAMPLES_MAX`]; with depth 1 only.
        samples,
        /// Added to source and destination address after each descriptor, in bytes.
        stride,
        /// Both start over when so many bytes were added; 0 = never.
        window,
        /// [`RUN_STOP_ON_FAILURE`].
        flags,
    } => Ran {
        /// Time from before the first submission to after the last completion.
        ticks,
        /// Descriptors completed.
        completed,
        /// Those with a status other than success (01).
        failures,
        /// Bytes 0-7 of the first completion of those; 0 = none.
        first_failure,
        /// Fault address (bytes 8-15) of it.
        fault_addr,
        /// Latencies recorded.
        samples,
        /// Doorbells rung.
        kicks,
        /// Descriptors that were still outstanding when the command was stopped; else 0.
        abandoned,
    }

    /// Waits for any completion of a queue by interrupt, asleep in `hlt`. The descriptor must have
    /// asked for one (flag REQUEST_INTERRUPT).
    0x23 wait_sleeping: WaitSleeping {
        /// Number of the queue.
        queue,
    } => Woken {
        /// Number of the descriptor.
        number,
        /// Bytes 0-7 of the completion.
        word0,
        /// Bytes 8-15.
        word1,
        /// Bytes 16-23.
        word2,
        /// Bytes 24-31.
        word3,
        /// Times that the vCPU went to sleep.
        sleeps,
    }

    /// Whether a queue is served, by a fresh look at its header.
    0x24 queue_state: QueueState {
        /// Number of the queue.
        queue,
    } => QueueStands {
        /// 1 = alive.
        alive,
        /// Descriptors that await their completion.
        outstanding,
    }

    /// Transfers under a storm of page-table changes: keeps the queue full of copies within the process's own
    /// storm region ([`crate::storm`]) and to and from its peer's, while it has the kernel move, discard, share
    /// and refill the pages of its region ([`super::Churn`]), and checks every byte that is reported as moved.
    /// All pages are there again when it ends.
    0x40 storm: Storm {
        /// Number of a queue of [`crate::storm::DEPTH`] entries with nothing outstanding.
        queue,
        /// Virtual address of the process's storm region, its source filled with the pattern of `own_seed`.
        va,
        /// Slot of a capability over the peer's storm region; 0 = copy within the own one only.
        slot,
        /// How long, in ticks of the time-stamp counter.
        ticks,
        /// What the choices follow from.
        seed,
        /// Seed of the own source.
        own_seed,
        /// Seed of the peer's source.
        peer_seed,
        /// [`super::CHURN_REUSE_TOO_EARLY`].
        flags,
    } => Stormed {
        /// Descriptors completed with success.
        transfers,
        /// Descriptors that ended in a fault, as they may where pages come and go.
        faulted,
        /// What must not happen: damaged frames, wrong bytes, impossible statuses.
        violations,
        /// The first of them, by [`crate::storm::Violation`].
        first,
        /// A number for it: a status, a word, a guest-physical address.
        detail,
        /// Pages changed.
        pages,
        /// Frames that the peer process has, and their address, for [`Tend`].
        given,
        /// Where they are in the peer process.
        given_va,
    }

    /// The new owner of frames looks after them: checks the canary of each, and writes a fresh one.
    0x41 tend: Tend {
        /// Virtual address of the first frame.
        va,
        /// Frames.
        pages,
    } => Tended {
        /// Frames that were not as their owner had left them.
        damaged,
        /// Virtual address of the first wrong word; 0 = none.
        at,
        /// What stood there.
        found,
    }

    /// Does to the engine whatever a hostile process and its kernel can, as fast as they can: random descriptors
    /// published past the ring-3 library, rings, completions and header overwritten at random, page tables of
    /// random entries, control messages of random bytes.
    0x42 hostile: Hostile {
        /// Virtual address of the descriptors of a queue of [`HOSTILE_ENTRIES`] ([`super::QueueCreated`]).
        ring,
        /// Virtual address of all of the queue's pages: its header.
        header,
        /// Bytes of them.
        bytes,
        /// Virtual address of 2 MiB in 4096-byte pages, whose page-table entries may be ruined.
        scratch,
        /// Virtual address of 2 MiB in one page, to which ruined entries may lead; what stands there is lost.
        arena,
        /// Its guest-physical address.
        gpa,
        /// How long, in ticks of the time-stamp counter.
        ticks,
        /// What the choices follow from.
        seed,
    } => HostileDone {
        /// Descriptors published.
        descriptors,
        /// Words of the queue's pages overwritten.
        scribbles,
        /// Page-table entries ruined.
        entries,
        /// Control messages sent.
        messages,
    }

    /// Uses the application library as a program does, without the host program's help: a context, a queue,
    /// memory that is shared and taken back.
    0x43 use_library: UseLibrary {
        /// Virtual address of memory for it, the second half of which is shared.
        va,
        /// Bytes of it, a multiple of 16.
        bytes,
        /// [`LIBRARY_LOCAL`], [`LIBRARY_GIVE`] or [`LIBRARY_TAKE`].
        role,
        /// Bytes 0 to 7 of the name of the peer's domain, little-endian.
        peer0,
        /// Bytes 8 to 15.
        peer1,
        /// Bytes 16 to 23.
        peer2,
        /// Bytes 24 to 31.
        peer3,
    } => LibraryUsed {
        /// The step that went wrong; 0 = none did.
        step,
        /// A status of the engine, or 0x100 and one of the guest.
        detail,
    }

    /// Reads from the guest's disk, as [`super::DiskRead`] does, and sends it on as the stream of [`super::NetSend`], each part when
    /// it is there. When the other end has taken all, a last byte says that this was it.
    0x50 send_disk: SendDisk {
        /// Virtual address of memory for all of it.
        va,
        /// Bytes; a multiple of 512.
        bytes,
        /// First sector of 512 bytes.
        sector,
        /// As in [`super::NetSend`].
        window,
    } => DiskSent {
        /// How long it took until all was taken, in ticks of the time-stamp counter.
        ticks,
        /// Calls of the kernel until then.
        calls,
    }

    /// The other end: takes bytes of the stream, and then the one that says that this was it. Until that is there the vCPU sleeps: one that
    /// waited busily for its next command could keep its core from what tells the sender.
    0x51 take_stream: TakeStream {
        /// Virtual address.
        va,
        /// Bytes.
        bytes,
    } => StreamTaken {
        /// Calls of the kernel.
        calls,
    }
}
