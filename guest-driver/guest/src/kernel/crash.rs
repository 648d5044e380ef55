//! The end of the kernel process: says why, then stops for good.
//!
//! Uses nothing that may be broken: no allocation, no lock, only the address of the mailbox.

use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU64, Ordering};

use byway_agent::layout::{CRASH_PANIC, CrashFrame, GuestState};

use super::mailbox::Mailbox;
use crate::ring0;
use crate::serial::log;

/// Guest-physical address of the mailbox; 0 = none.
static MAILBOX: AtomicU64 = AtomicU64::new(0);

/// Where a crash will be reported.
pub fn report_to(mailbox: Mailbox) {
    MAILBOX.store(mailbox.address(), Ordering::Relaxed);
}

fn mailbox() -> Option<Mailbox> {
    match MAILBOX.load(Ordering::Relaxed) {
        0 => None,
        // SAFETY: set by `report_to` only, from a mailbox that exists for ever.
        address => Some(unsafe { Mailbox::new(address) }),
    }
}

/// Sleeps for ever.
pub fn stop() -> ! {
    loop {
        ring0::halt();
    }
}

/// Text into the 25 words of a crash frame.
struct Message<'f> {
    frame: &'f CrashFrame,
    bytes: [u8; 200],
    len: usize,
}

impl Write for Message<'_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes().take(self.bytes.len() - self.len) {
            self.bytes[self.len] = byte;
            self.len += 1;
        }
        Ok(())
    }
}

impl Message<'_> {
    fn store(&self) {
        for (word, bytes) in self.frame.message.iter().zip(self.bytes.as_chunks::<8>().0) {
            word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
        }
        self.frame
            .message_len
            .store(self.len as u64, Ordering::Relaxed);
    }
}

/// A panic in the kernel process.
pub fn panicked(info: &PanicInfo<'_>) -> ! {
    if let Some(mailbox) = mailbox() {
        let frame = &mailbox.header().crash;
        let mut message = Message {
            frame,
            bytes: [0; 200],
            len: 0,
        };
        // The writer cannot fail; a long message is cut.
        let _ = write!(message, "{info}");
        message.store();
        frame.vector.store(CRASH_PANIC, Ordering::Relaxed);
        frame.rip.store(
            info.location().map_or(0, |at| u64::from(at.line())),
            Ordering::Relaxed,
        );
        mailbox.set_state(GuestState::Crashed);
    }
    log!("byway guest: {}", info);
    stop()
}

/// Entered by ring 0 when the kernel process took an exception.
#[unsafe(no_mangle)]
extern "sysv64" fn kernel_crashed() -> ! {
    let trap = ring0::last_trap();
    let registers = &trap.frame;
    if let Some(mailbox) = mailbox() {
        let frame = &mailbox.header().crash;
        frame.vector.store(registers.vector, Ordering::Relaxed);
        frame.error.store(registers.error, Ordering::Relaxed);
        frame.rip.store(registers.rip, Ordering::Relaxed);
        frame.rsp.store(registers.rsp, Ordering::Relaxed);
        frame.cr2.store(trap.cr2, Ordering::Relaxed);
        mailbox.set_state(GuestState::Crashed);
    }
    log!(
        "byway guest: kernel process crashed, cr2 {:#x}, {:#x?}",
        trap.cr2,
        registers
    );
    stop()
}
