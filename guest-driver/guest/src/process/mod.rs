//! An unprivileged process: polls its channel of the mailbox and carries out what it finds.
//!
//! The same code is `app` and `peer`; each has its own copy of all data. It owns no right but its
//! own memory: what needs more it asks of the kernel process ([`call`]).

pub mod access;
pub mod call;
mod commands;
pub mod dice;
mod gate;
mod hostile;
mod library;
mod measure;
mod queues;
mod storm;
mod stream;
mod transfer;

use core::arch::x86_64::_rdtsc;
use core::ptr::NonNull;

use byway_agent::guest::GuestChannel;
use byway_agent::layout::Process;

use crate::layout::{MAILBOX_BULK, MAILBOX_CHANNEL, MAILBOX_HEADER};

/// First instruction of a process, and where it starts again after a fault.
pub extern "sysv64" fn process_entry(index: u64) -> ! {
    let process = Process::from_index(index as u32).unwrap_or(Process::App);
    // SAFETY: the kernel process maps the three at these addresses before it starts a process;
    // nothing else uses the bulk area.
    let channel = unsafe {
        GuestChannel::new(
            process,
            at(MAILBOX_HEADER),
            at(MAILBOX_CHANNEL),
            at(MAILBOX_BULK),
        )
    };
    // SAFETY: a process has one thread; when it starts again here after a fault, what ran before is
    // gone.
    let queues = unsafe { queues::all() };
    let mut agent = commands::Agent::new(channel, queues);
    loop {
        agent.turn();
    }
}

/// Time-stamp counter, in ticks.
#[inline]
fn now() -> u64 {
    // SAFETY: every CPU in long mode has it, and CR4.TSD is clear.
    unsafe { _rdtsc() }
}

/// What is mapped at `address`, which is not 0.
fn at<T>(address: u64) -> NonNull<T> {
    match NonNull::new(core::ptr::with_exposed_provenance_mut(address as usize)) {
        Some(pointer) => pointer,
        None => panic!("the mailbox is not mapped at address 0"),
    }
}
