//! Both sides of a channel over plain memory, each in a thread of its own.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use byway_agent::commands::{
    Access, Accessed, Checksum, Compare, ComparePattern, DiskSent, ExitOnPurpose, Exited,
    FillPattern, Filled, Hostile, HostileDone, LibraryUsed, NO_MISMATCH, Ping, PingPong,
    PingPongDone, Poll, Polled, Pong, ProcessCommands, QueueStands, QueueState, Ran, Read,
    ReadDone, Run, SendDisk, Spin, Spun, Storm, Stormed, StreamTaken, Submit, Submitted, Summed,
    TakeStream, Tend, Tended, UseLibrary, WaitSleeping, Woken, Write, WriteDone, dispatch_process,
};
use byway_agent::guest::GuestChannel;
use byway_agent::layout::{BULK_BYTES, MAGIC, MAILBOX_BYTES, VERSION};
use byway_agent::{CallError, Failure, GuestState, HostMailbox, Process, Status};

/// A mailbox outside of any VM.
struct Memory(NonNull<u8>);

// SAFETY: both sides use it by atomics, or under the protocol that is tested here.
unsafe impl Sync for Memory {}

impl Memory {
    fn layout() -> Layout {
        Layout::from_size_align(MAILBOX_BYTES, 4096).unwrap()
    }

    fn new() -> Self {
        // SAFETY: the size is not 0.
        Self(NonNull::new(unsafe { alloc_zeroed(Self::layout()) }).unwrap())
    }

    fn host(&self) -> HostMailbox<'_> {
        // SAFETY: as large and aligned as asked for, for as long as `self` lives.
        unsafe { HostMailbox::new(self.0) }
    }

    fn guest(&self, process: Process) -> GuestChannel {
        // SAFETY: inside the allocation, by the layout; the tests join the guest's thread before
        // they drop it.
        unsafe {
            GuestChannel::new(
                process,
                self.0.cast(),
                self.0.add(process.channel_offset()).cast(),
                self.0.add(process.bulk_offset()),
            )
        }
    }

    fn publish(&self) {
        let header = self.host().header();
        header.version.store(VERSION, Ordering::Relaxed);
        header.channels.store(2, Ordering::Relaxed);
        header
            .state
            .store(GuestState::Ready as u32, Ordering::Relaxed);
        header.magic.store(MAGIC, Ordering::Release);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout.
        unsafe { dealloc(self.0.as_ptr(), Self::layout()) };
    }
}

/// A guest that knows three commands.
struct Few(GuestChannel);

macro_rules! not_here {
    ($($method:ident: $request:ty => $reply:ty;)*) => {$(
        fn $method(&mut self, _request: $request) -> Result<$reply, Failure> {
            Err(Failure::new(Status::Unknown, 0))
        }
    )*};
}

impl ProcessCommands for Few {
    fn ping(&mut self, request: Ping) -> Result<Pong, Failure> {
        Ok(Pong {
            token: request.token,
            tsc: !request.token,
        })
    }

    fn compare_pattern(&mut self, request: ComparePattern) -> Result<Compare, Failure> {
        let bulk = self.0.bulk_range(request.va, request.len);
        let bulk = bulk.ok_or(Failure::argument(0, request.va))?;
        let mut bytes = vec![0; request.len as usize];
        // SAFETY: `bulk_range` checked the source.
        unsafe { bulk.as_ptr().copy_to(bytes.as_mut_ptr(), bytes.len()) };
        let mismatch = byway_agent::pattern::first_mismatch(&bytes, request.seed);
        Ok(Compare {
            mismatch: mismatch.map_or(NO_MISMATCH, |at| at as u64),
        })
    }

    fn ping_pong(&mut self, request: PingPong) -> Result<PingPongDone, Failure> {
        let page = self.0.page();
        for number in 1..=request.iterations {
            page.ping.value.store(number as u32, Ordering::Release);
            while page.pong.value.load(Ordering::Acquire) != number as u32 {
                std::thread::yield_now();
            }
        }
        Ok(PingPongDone {
            ticks: 1,
            iterations: request.iterations,
        })
    }

    not_here! {
        fill_pattern: FillPattern => Filled;
        checksum: Checksum => Summed;
        read: Read => ReadDone;
        write: Write => WriteDone;
        access: Access => Accessed;
        spin: Spin => Spun;
        exit_on_purpose: ExitOnPurpose => Exited;
        submit: Submit => Submitted;
        poll: Poll => Polled;
        run: Run => Ran;
        wait_sleeping: WaitSleeping => Woken;
        queue_state: QueueState => QueueStands;
        storm: Storm => Stormed;
        tend: Tend => Tended;
        use_library: UseLibrary => LibraryUsed;
        send_disk: SendDisk => DiskSent;
        take_stream: TakeStream => StreamTaken;
        hostile: Hostile => HostileDone;
    }
}

/// Serves a channel until told to stop.
fn serve(channel: GuestChannel) {
    let mut few = Few(channel);
    while !few.0.should_stop() {
        match few.0.poll() {
            Some(command) => {
                let outcome = dispatch_process(&mut few, command.opcode, command.args);
                few.0.reply(command.sequence, outcome);
            }
            None => std::thread::yield_now(),
        }
    }
}

fn patience() -> impl FnMut() -> bool {
    let deadline = Instant::now() + Duration::from_secs(20);
    move || {
        std::thread::yield_now();
        Instant::now() < deadline
    }
}

#[test]
fn every_command_gets_its_own_answer() {
    let memory = Memory::new();
    assert!(!memory.host().is_set_up());
    memory.publish();
    assert!(memory.host().is_set_up());
    std::thread::scope(|scope| {
        for process in Process::ALL {
            let memory = &memory;
            scope.spawn(move || serve(memory.guest(process)));
        }
        let host = memory.host();
        for token in 0..2000 {
            for process in Process::ALL {
                let token = token << 1 | process as u64;
                let pong = host.call(process, Ping { token }, patience()).unwrap();
                assert_eq!((pong.token, pong.tsc), (token, !token));
            }
        }
        // The bulk area is written before the command is seen, each time with other bytes.
        for seed in 0..200 {
            let mut bytes = vec![0; 5000];
            byway_agent::pattern::fill(&mut bytes, seed);
            host.channel(Process::Peer)
                .bulk_write(BULK_BYTES - bytes.len(), &bytes);
            let va = (BULK_BYTES - bytes.len()) as u64;
            let request = ComparePattern {
                va,
                len: 5000,
                seed,
            };
            assert_eq!(
                host.call(Process::Peer, request, patience())
                    .unwrap()
                    .mismatch,
                NO_MISMATCH
            );
            let outside = ComparePattern {
                va: va + 1,
                ..request
            };
            let refused = host.call(Process::Peer, outside, patience());
            assert_eq!(
                refused,
                Err(CallError::Failed(Failure::argument(0, va + 1)))
            );
        }
        let mut channel = host.channel(Process::App);
        channel.reset_pings();
        let ticket = channel.begin(PingPong { iterations: 500 });
        assert!(channel.answer_pings(500, patience()));
        let mut wait = patience();
        let done = loop {
            if let Some(done) = channel.finish(&ticket) {
                break done.unwrap();
            }
            assert!(wait());
        };
        assert_eq!(done.iterations, 500);
        for process in Process::ALL {
            host.channel(process).stop(true);
        }
    });
}

#[test]
fn what_the_guest_writes_is_not_believed() {
    let memory = Memory::new();
    memory.publish();
    let host = memory.host();
    let header = host.header();
    header.state.store(17, Ordering::Relaxed);
    assert_eq!(host.state(), None);
    header.running.store(9, Ordering::Relaxed);
    assert_eq!(host.running(), None);
    header.crash.message_len.store(u64::MAX, Ordering::Relaxed);
    header.crash.message[3].store(0xff << 8 | 0x61, Ordering::Relaxed);
    assert_eq!(host.crash().message(), "\0".repeat(24) + "a");

    let ticket = host.channel(Process::App).begin(Ping { token: 1 });
    assert_eq!(host.channel(Process::App).finish(&ticket), None);
    let silent = host.call(Process::App, Ping { token: 2 }, || false);
    let state = host.state();
    assert_eq!(
        silent,
        Err(CallError::NoAnswer {
            command: "Ping",
            state
        })
    );
    let guest = memory.guest(Process::App);
    let command = guest.poll().unwrap();
    guest.page().reply.status.store(99, Ordering::Relaxed);
    guest
        .page()
        .reply
        .sequence
        .store(command.sequence, Ordering::Release);
    let ticket = host.channel(Process::App).begin(Ping { token: 3 });
    assert_eq!(
        host.channel(Process::App).finish(&ticket),
        None,
        "an old answer is no answer"
    );
    guest
        .page()
        .reply
        .sequence
        .store(guest.poll().unwrap().sequence, Ordering::Release);
    let garbled = host.channel(Process::App).finish(&ticket);
    assert_eq!(garbled, Some(Err(CallError::Garbled(99))));

    host.run(Process::Peer);
    assert!(guest.should_yield());
    assert!(!memory.guest(Process::Peer).should_yield());
    header.run.process.store(7, Ordering::Relaxed);
    assert!(!guest.should_yield(), "no such process");
}
