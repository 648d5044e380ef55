//! What a process does itself: [`ProcessCommands`], one method each.
//!
//! Owns the process's channel. Nothing here leaves ring 3 unless the command says so.

use core::sync::atomic::Ordering::{Acquire, Release};

use byway_agent::commands::{
    Access, Accessed, Checksum, CloseContext, Compare, ComparePattern, CreateQueue, DestroyQueue,
    DiskSent, ExitOnPurpose, Exited, FillPattern, Filled, Hostile, HostileDone, KERNEL_COMMANDS,
    LibraryUsed, NO_MISMATCH, Ping, PingPong, PingPongDone, Poll, Polled, Pong, ProcessCommands,
    QueueStands, QueueState, Ran, Read, ReadDone, Run, SendDisk, Spin, Spun, Storm, Stormed,
    StreamTaken, Submit, Submitted, Summed, TakeStream, Tend, Tended, UseLibrary, WaitSleeping,
    Woken, Write, WriteDone, dispatch_process,
};
use byway_agent::guest::GuestChannel;
use byway_agent::{Failure, Request, Words, pattern};

use super::access;
use super::call::{YIELD, call};
use super::queues::Queues;
use super::{hostile, library, measure, now, storm, stream, transfer};
use crate::serial;

/// The process's side of steering.
pub struct Agent {
    channel: GuestChannel,
    queues: &'static mut Queues,
}

/// The process's memory at `va`. A fault on the way ends the command, not the process's life.
///
/// # Safety
/// Nothing else in this program refers to that memory meanwhile. That holds for what the host
/// program names: it allocates it, and the agent itself keeps nothing there.
unsafe fn memory<'m>(va: u64, len: u64) -> &'m mut [u8] {
    // SAFETY: the caller's promise. `va` 0 faults like any other address that is not mapped.
    unsafe { core::slice::from_raw_parts_mut(va as *mut u8, len as usize) }
}

impl Agent {
    /// Over a channel and the process's queues.
    pub const fn new(channel: GuestChannel, queues: &'static mut Queues) -> Self {
        Self { channel, queues }
    }

    /// One look at the mailbox.
    pub fn turn(&mut self) {
        if let Some(command) = self.channel.poll() {
            let outcome = self.carry_out(command.opcode, command.args);
            self.channel.reply(command.sequence, outcome);
        } else if self.channel.should_yield() {
            // Cannot fail.
            let _ = call(YIELD, [0; 8]);
        } else {
            core::hint::spin_loop();
        }
    }

    fn carry_out(&mut self, opcode: u32, words: Words) -> Result<Words, Failure> {
        match opcode {
            0..KERNEL_COMMANDS => dispatch_process(self, opcode, words),
            CreateQueue::OPCODE => {
                let request = CreateQueue::decode(words);
                let created = self.queues.create(request)?;
                Ok(CreateQueue::encode_reply(created))
            }
            // The library lets go of the memory before the kernel unmaps it.
            DestroyQueue::OPCODE => {
                self.queues.remove(DestroyQueue::decode(words).queue);
                call(u64::from(opcode), words)
            }
            CloseContext::OPCODE => {
                self.queues.remove_of(CloseContext::decode(words).context);
                call(u64::from(opcode), words)
            }
            _ => call(u64::from(opcode), words),
        }
    }
}

impl ProcessCommands for Agent {
    fn ping(&mut self, request: Ping) -> Result<Pong, Failure> {
        Ok(Pong {
            token: request.token,
            tsc: now(),
        })
    }

    fn fill_pattern(&mut self, request: FillPattern) -> Result<Filled, Failure> {
        // SAFETY: see `memory`.
        pattern::fill(unsafe { memory(request.va, request.len) }, request.seed);
        Ok(Filled {})
    }

    fn checksum(&mut self, request: Checksum) -> Result<Summed, Failure> {
        // SAFETY: see `memory`.
        let checksum = byway_agent::checksum::checksum(unsafe { memory(request.va, request.len) });
        Ok(Summed { checksum })
    }

    fn compare_pattern(&mut self, request: ComparePattern) -> Result<Compare, Failure> {
        // SAFETY: see `memory`.
        let mismatch =
            pattern::first_mismatch(unsafe { memory(request.va, request.len) }, request.seed);
        Ok(Compare {
            mismatch: mismatch.map_or(NO_MISMATCH, |at| at as u64),
        })
    }

    fn read(&mut self, request: Read) -> Result<ReadDone, Failure> {
        let bulk = self.channel.bulk_range(request.bulk, request.len);
        let bulk = bulk.ok_or(Failure::argument(2, request.bulk))?;
        // SAFETY: `bulk_range` checked one side; see `memory` for the other.
        unsafe {
            bulk.as_ptr()
                .copy_from(request.va as *const u8, request.len as usize)
        };
        Ok(ReadDone {})
    }

    fn write(&mut self, request: Write) -> Result<WriteDone, Failure> {
        let bulk = self.channel.bulk_range(request.bulk, request.len);
        let bulk = bulk.ok_or(Failure::argument(2, request.bulk))?;
        // SAFETY: as in `read`.
        unsafe {
            bulk.as_ptr()
                .copy_to(request.va as *mut u8, request.len as usize)
        };
        Ok(WriteDone {})
    }

    fn access(&mut self, request: Access) -> Result<Accessed, Failure> {
        access::access(request)
    }

    fn ping_pong(&mut self, request: PingPong) -> Result<PingPongDone, Failure> {
        let page = self.channel.page();
        let start = now();
        let mut iterations = 0;
        'rounds: while iterations < request.iterations {
            let number = (iterations + 1) as u32;
            page.ping.value.store(number, Release);
            let mut turns = 0u32;
            while page.pong.value.load(Acquire) != number {
                turns = turns.wrapping_add(1);
                if turns.is_multiple_of(0x1_0000) && self.channel.should_stop() {
                    break 'rounds;
                }
            }
            iterations += 1;
        }
        Ok(PingPongDone {
            ticks: now() - start,
            iterations,
        })
    }

    fn spin(&mut self, request: Spin) -> Result<Spun, Failure> {
        let start = now();
        loop {
            let ticks = now() - start;
            if ticks >= request.ticks {
                return Ok(Spun { ticks });
            }
        }
    }

    fn exit_on_purpose(&mut self, request: ExitOnPurpose) -> Result<Exited, Failure> {
        for _ in 0..request.count {
            serial::out(0x80, 0);
        }
        Ok(Exited {})
    }

    fn submit(&mut self, request: Submit) -> Result<Submitted, Failure> {
        transfer::submit(&self.channel, self.queues.get(request.queue)?, &request)
    }

    fn poll(&mut self, request: Poll) -> Result<Polled, Failure> {
        transfer::poll(&self.channel, self.queues.get(request.queue)?, &request)
    }

    fn run(&mut self, request: Run) -> Result<Ran, Failure> {
        measure::run(&self.channel, self.queues.get(request.queue)?, &request)
    }

    fn wait_sleeping(&mut self, request: WaitSleeping) -> Result<Woken, Failure> {
        transfer::wait_sleeping(&self.channel, self.queues.get(request.queue)?, &request)
    }

    fn storm(&mut self, request: Storm) -> Result<Stormed, Failure> {
        storm::run(&self.channel, self.queues.get(request.queue)?, &request)
    }

    fn hostile(&mut self, request: Hostile) -> Result<HostileDone, Failure> {
        hostile::run(&self.channel, &request)
    }

    fn use_library(&mut self, request: UseLibrary) -> Result<LibraryUsed, Failure> {
        library::run(&request)
    }

    fn send_disk(&mut self, request: SendDisk) -> Result<DiskSent, Failure> {
        stream::send_disk(&request)
    }

    fn take_stream(&mut self, request: TakeStream) -> Result<StreamTaken, Failure> {
        stream::take(&request)
    }

    fn tend(&mut self, request: Tend) -> Result<Tended, Failure> {
        storm::tend(request)
    }

    fn queue_state(&mut self, request: QueueState) -> Result<QueueStands, Failure> {
        let queue = self.queues.get(request.queue)?;
        let alive = u64::from(queue.is_alive());
        Ok(QueueStands {
            alive,
            outstanding: u64::from(queue.outstanding()),
        })
    }
}
