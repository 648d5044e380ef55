//! [`Second`]: the second CPU, where the machine has one. It runs `peer`, and this kernel serves its
//! traps on the first CPU, so that no data of the kernel's is ever touched by two.
//!
//! Owns what is known of it: whether its process waits for an answer.

use crate::ring0::{self, BootFacts, Frame, Trap};

/// APIC id of the second CPU: ids count up from the first CPU's, which is 0.
const APIC_ID: u32 = 1;

/// The second CPU.
#[derive(Debug)]
pub struct Second {
    /// Its process is in a trap that this kernel knows of.
    trapped: bool,
    /// That trap is answered by the next interrupt.
    pub awaits_interrupt: bool,
}

impl Second {
    /// Starts it.
    ///
    /// # Safety
    /// Called once, before the frame allocator has given low memory away.
    pub unsafe fn start(facts: BootFacts) -> Result<Self, &'static str> {
        if facts.x2apic.is_none() {
            return Err("cpus=2 wants x2APIC, which this machine lacks");
        }
        // SAFETY: the caller's promise; there is x2APIC.
        if !unsafe { ring0::second::start(APIC_ID) } {
            return Err("cpus=2, and the second CPU does not start");
        }
        Ok(Self {
            trapped: true,
            awaits_interrupt: false,
        })
    }

    /// The trap in which its process is, once for each.
    pub fn trap(&mut self) -> Option<Trap> {
        if self.trapped {
            return None;
        }
        let trap = ring0::second::trap()?;
        self.trapped = true;
        Some(trap)
    }

    /// Starts its process, or answers the trap.
    pub fn resume(&mut self, frame: &Frame, root: u64) {
        self.trapped = false;
        // SAFETY: its process trapped, or has not begun; `Space::new` maps ring 0's sections in
        // every process.
        unsafe { ring0::second::resume(APIC_ID, frame, root) };
    }

    /// Has it forget what it has cached of page tables, and waits until it did.
    pub fn flush(&self) {
        ring0::second::flush(APIC_ID);
    }
}
