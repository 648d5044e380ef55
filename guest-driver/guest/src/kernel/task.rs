//! One unprivileged process as the kernel process sees it.
//!
//! Owns its registers and its address space. It knows neither the other process nor any device.

use byway_agent::layout::Process;

use super::frames::Frames;
use super::space::{Space, stack_top};
use super::tables::OutOfFrames;
use crate::process::access;
use crate::ring0::{self, FpState, Frame, Trap, USER_CODE, USER_DATA, USER_FLAGS};

/// A process.
pub struct Task {
    /// Which one.
    pub process: Process,
    /// Its memory.
    pub space: Space,
    frame: Frame,
    fp: FpState,
}

impl Task {
    /// Makes the process, ready to run from its entry.
    pub fn new(
        frames: &mut Frames,
        process: Process,
        mailbox: Option<u64>,
        levels: u32,
    ) -> Result<Self, OutOfFrames> {
        let space = Space::new(frames, process, mailbox, levels)?;
        let mut task = Self {
            process,
            space,
            frame: Frame::default(),
            fp: FpState::new(),
        };
        task.restart();
        Ok(task)
    }

    /// Sends it back to its entry, memory kept.
    pub fn restart(&mut self) {
        self.fp = FpState::new();
        self.frame = Frame {
            rip: crate::process::process_entry as *const () as u64,
            cs: USER_CODE,
            rflags: USER_FLAGS,
            rsp: stack_top() - 8,
            ss: USER_DATA,
            rdi: self.process as u64,
            ..Frame::default()
        };
    }

    /// Runs it until it traps or is interrupted.
    pub fn run(&mut self) -> Trap {
        // SAFETY: `Space::new` maps ring 0's sections in every process.
        let trap = unsafe { ring0::resume(&self.frame, self.space.tables.root, &mut self.fp) };
        self.trapped(&trap);
        trap
    }

    /// Registers with which it goes on.
    pub const fn frame(&self) -> &Frame {
        &self.frame
    }

    /// Takes the registers over with which it trapped.
    pub fn trapped(&mut self, trap: &Trap) {
        self.frame = trap.frame;
        // What the hypervisor says about selectors and flags is not taken back into the process.
        self.frame.cs = USER_CODE;
        self.frame.ss = USER_DATA;
        self.frame.rflags = (trap.frame.rflags & 0xcd5) | USER_FLAGS;
    }

    /// Number and arguments of the call that it trapped with.
    pub fn call(&self) -> (u64, [u64; 8]) {
        let f = &self.frame;
        (
            f.rax,
            [f.rdi, f.rsi, f.rdx, f.rcx, f.r8, f.r9, f.r10, f.r11],
        )
    }

    /// Answers that call.
    pub fn answer(&mut self, status: u64, results: [u64; 8]) {
        let f = &mut self.frame;
        f.rax = status;
        [f.rdi, f.rsi, f.rdx, f.rcx, f.r8, f.r9, f.r10, f.r11] = results;
    }

    /// If it faulted in the one instruction that may, lets it go on with the cause in hand.
    pub fn divert_expected_fault(&mut self, trap: &Trap) -> bool {
        if !access::is_probe(trap.frame.rip) {
            return false;
        }
        self.frame.rip = access::probe_fault as *const () as u64;
        self.frame.r8 = trap.frame.vector;
        self.frame.r9 = trap.frame.error;
        self.frame.r10 = if trap.frame.vector == 14 { trap.cr2 } else { 0 };
        true
    }
}
