//! Tells which system call ended a confined process.
//!
//! A denied system call raises SIGSYS on its thread. The handler writes a few bytes to the parent's pipe, or a line to standard error, and
//! ends the process, by calls that every filter permits and that may be made in a handler. Nothing gets past it: filters permit no other
//! handler, and a blocked SIGSYS ends the process too.

use std::cell::Cell;
use std::fmt::{self, Write as _};
use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use super::Kind;
use super::names::name_of;

/// Exit code of a process that was ended so: 128 and the number of SIGSYS, as shells have it.
pub const DENIED_CODE: i32 = 128 + libc::SIGSYS;
/// Bytes of a report: the system call's number and the kind of thread, little-endian.
pub const REPORT_BYTES: usize = 8;

/// Who hears of a denied system call.
#[derive(Debug)]
pub enum Told {
    /// The parent, by [`REPORT_BYTES`] on a pipe, which stays open for good.
    Parent(OwnedFd),
    /// Whoever reads standard error, by a line.
    Stderr,
}

/// Where reports go; negative: a line goes to standard error.
static REPORT: AtomicI32 = AtomicI32::new(-1);

thread_local! {
    /// Const initialised and without a destructor, so a signal handler may read it.
    static KIND: Cell<u8> = const { Cell::new(Kind::Base as u8) };
}

/// A denied system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied {
    /// Its number.
    pub call: i32,
    /// Whose it was.
    pub kind: Kind,
}

impl Denied {
    /// What a report says.
    #[must_use]
    pub fn from_bytes(bytes: [u8; REPORT_BYTES]) -> Self {
        let [a, b, c, d, kind, ..] = bytes;
        Self {
            call: i32::from_le_bytes([a, b, c, d]),
            kind: Kind::of(kind),
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, kind } = self;
        let kind = kind.name();
        match name_of(*call) {
            Some(name) => write!(f, "{kind} thread made the system call {name} ({call})"),
            None => write!(f, "{kind} thread made system call {call}"),
        }
    }
}

/// Says which kind the calling thread is.
pub(super) fn set_kind(kind: Kind) {
    KIND.set(kind as u8);
}

/// Has denied system calls reported.
pub(super) fn install(told: Told) -> io::Result<()> {
    if let Told::Parent(pipe) = told {
        REPORT.store(pipe.into_raw_fd(), Ordering::SeqCst);
    }
    // SAFETY: all zeros is a `sigaction` with an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_denied as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler makes only calls that may be made in one, and the action is live for the call.
    if unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

extern "C" fn on_denied(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // `si_syscall` follows three ints, padding and the address of the call (asm-generic/siginfo.h).
    const CALL_AT: usize = 24;
    // SAFETY: the kernel gives the handler a whole `siginfo_t`, which is 128 bytes; that of SIGSYS has the number there.
    let call = unsafe {
        info.cast::<u8>()
            .add(CALL_AT)
            .cast::<i32>()
            .read_unaligned()
    };
    let [a, b, c, d] = call.to_le_bytes();
    let bytes = [a, b, c, d, KIND.get(), 0, 0, 0];
    let pipe = REPORT.load(Ordering::SeqCst);
    let mut line = Line::new();
    let (to, text) = if pipe >= 0 {
        (pipe, &bytes[..])
    } else {
        // Of texts and numbers: neither allocates, and neither fails but for want of room.
        let denied = Denied::from_bytes(bytes);
        let _ = writeln!(
            line,
            "byway: {denied}, which its filter does not permit: the process ends"
        );
        (libc::STDERR_FILENO, line.text())
    };
    // SAFETY: the buffer is live and its length is given; neither call returns to what was denied.
    unsafe {
        libc::write(to, text.as_ptr().cast(), text.len());
        libc::_exit(DENIED_CODE);
    }
}

/// A text without an allocation. What does not fit is left out.
struct Line {
    bytes: [u8; 256],
    length: usize,
}

impl Line {
    fn new() -> Self {
        Self {
            bytes: [0; 256],
            length: 0,
        }
    }

    fn text(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            let place = self.bytes.get_mut(self.length).ok_or(fmt::Error)?;
            *place = byte;
            self.length += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_the_call_and_the_thread() {
        let mut bytes = [0; REPORT_BYTES];
        bytes[0] = libc::SYS_socket as u8;
        bytes[4] = Kind::Vcpu as u8;
        let text = Denied::from_bytes(bytes).to_string();
        assert_eq!(text, "a vCPU's thread made the system call socket (41)");
        bytes[..4].copy_from_slice(&9999i32.to_le_bytes());
        let text = Denied::from_bytes(bytes).to_string();
        assert_eq!(text, "a vCPU's thread made system call 9999");
    }
}
