//! The call gate: how an unprivileged process asks the kernel process for something.
//!
//! `int3` with the number in rax and eight words in rdi, rsi, rdx, rcx, r8, r9, r10, r11; it comes
//! back with a status in rax and eight words in the same registers. Numbers from
//! [`byway_agent::commands::KERNEL_COMMANDS`] on are commands; the ones below are here.

use core::arch::asm;

use byway_agent::{Failure, Request, Status, Words};

/// Gives way to the process that the host wants.
pub const YIELD: u64 = 1;
/// Sleeps until the next interrupt. First word: interrupts that the process has seen counted in the
/// mailbox's header; if there were more, it comes back at once.
pub const AWAIT_INTERRUPT: u64 = 2;

/// Makes call `number`.
pub fn call(number: u64, mut words: Words) -> Result<Words, Failure> {
    let mut status = number;
    let [a, b, c, d, e, f, g, h] = &mut words;
    // SAFETY: the kernel process changes these registers and memory that it was asked to change;
    // breakpoints run on a stack of their own.
    unsafe {
        asm!("int3", inout("rax") status, inout("rdi") *a, inout("rsi") *b, inout("rdx") *c, inout("rcx") *d,
             inout("r8") *e, inout("r9") *f, inout("r10") *g, inout("r11") *h, options(nostack));
    }
    match Status::from_raw(status as u32) {
        Some(Status::Ok) => Ok(words),
        Some(status) => {
            let [a, b, c, d, ..] = words;
            Err(Failure {
                status,
                details: [a, b, c, d],
            })
        }
        // The kernel process answers with nothing else.
        None => Err(Failure::new(Status::Unknown, status)),
    }
}

/// Has the kernel process carry out a command.
pub fn kernel<R: Request>(request: R) -> Result<R::Reply, Failure> {
    call(u64::from(R::OPCODE), request.encode()).map(R::decode_reply)
}
