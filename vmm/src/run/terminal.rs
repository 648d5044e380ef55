//! The host's terminal as a guest's console: every key goes through as it is, and whatever way the process
//! takes out, the terminal is left as it was found.
//!
//! Ways out are: the guard's drop (return, error, panic), the signals that end a process by default, and the
//! second Ctrl-C, which ends it at once. SIGKILL leaves the terminal raw; `reset` puts it right.

use std::cell::UnsafeCell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use signal_hook::SigId;
use signal_hook::consts::{SIGABRT, SIGHUP, SIGQUIT};
use signal_hook::low_level;

/// How a terminal was, for the signal handlers: written before [`RAW`] names it, and then left alone.
struct Found(UnsafeCell<MaybeUninit<libc::termios>>);

// SAFETY: written only by `RawTerminal::new`, which is the one that moves `RAW` from -1, and read only while
// `RAW` is not -1, after an acquiring load.
unsafe impl Sync for Found {}

static FOUND: Found = Found(UnsafeCell::new(MaybeUninit::uninit()));
/// The terminal that is raw; -1: none, -2: one is about to be.
static RAW: AtomicI32 = AtomicI32::new(-1);
const NONE: i32 = -1;
const BUSY: i32 = -2;

/// Signals that end a process by default and that nothing else here handles.
const DEADLY: [i32; 3] = [SIGHUP, SIGQUIT, SIGABRT];

/// A terminal in raw mode, until dropped. Only one at a time.
#[derive(Debug)]
pub struct RawTerminal {
    ids: Vec<SigId>,
}

impl RawTerminal {
    /// Puts a terminal into raw mode; `None` when it is no terminal.
    ///
    /// Output is still processed: what the process itself says, between the guest's lines, begins at the margin.
    ///
    /// # Errors
    /// When the terminal refuses, or another one is raw.
    pub fn new(terminal: &impl AsRawFd) -> io::Result<Option<Self>> {
        let fd = terminal.as_raw_fd();
        // SAFETY: takes a number and touches no memory of ours.
        if unsafe { libc::isatty(fd) } != 1 {
            return Ok(None);
        }
        if RAW
            .compare_exchange(NONE, BUSY, Ordering::SeqCst, Ordering::SeqCst)
            .is_err()
        {
            return Err(io::Error::other("another terminal is raw already"));
        }
        let entered = enter(fd);
        RAW.store(if entered.is_ok() { fd } else { NONE }, Ordering::SeqCst);
        entered?;
        // From here on the drop puts things right.
        let mut raw = Self { ids: Vec::new() };
        for signal in DEADLY {
            let handler = move || {
                restore();
                // By now there is nothing else to do about it.
                let _ = low_level::emulate_default_handler(signal);
            };
            // SAFETY: the handler makes system calls that may be made in one, and loads an atomic.
            raw.ids
                .push(unsafe { low_level::register(signal, handler) }?);
        }
        Ok(Some(raw))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
        RAW.store(NONE, Ordering::SeqCst);
        for id in self.ids.drain(..) {
            low_level::unregister(id);
        }
    }
}

fn enter(fd: RawFd) -> io::Result<()> {
    let mut found = MaybeUninit::<libc::termios>::uninit();
    // SAFETY: a live termios to be filled in.
    if unsafe { libc::tcgetattr(fd, found.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `RAW` is BUSY, set by this thread: nobody else writes, and nobody reads. tcgetattr has filled it in.
    let mut raw = unsafe {
        *FOUND.0.get() = found;
        found.assume_init()
    };
    // SAFETY: changes a live termios.
    unsafe { libc::cfmakeraw(&raw mut raw) };
    raw.c_oflag |= libc::OPOST | libc::ONLCR;
    // SAFETY: a live, complete termios.
    if unsafe { libc::tcsetattr(fd, libc::TCSANOW, &raw const raw) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Leaves the terminal as it was found, if one is raw. May be called in a signal handler, and more than once.
pub fn restore() {
    let fd = RAW.load(Ordering::SeqCst);
    if fd >= 0 {
        // SAFETY: `RAW` names a terminal, so `FOUND` has been written and is not written again before
        // `RAW` is -1; tcsetattr may be called in a signal handler.
        unsafe { libc::tcsetattr(fd, libc::TCSANOW, (*FOUND.0.get()).as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::FromRawFd;

    /// Both ends of a pseudo-terminal.
    fn pseudo_terminal() -> (File, File) {
        let (mut master, mut slave) = (0, 0);
        // SAFETY: two live ints; names, settings and size may be null.
        let opened = unsafe {
            libc::openpty(
                &raw mut master,
                &raw mut slave,
                std::ptr::null_mut(),
                std::ptr::null(),
                std::ptr::null(),
            )
        };
        assert_eq!(opened, 0);
        // SAFETY: two new descriptors that nobody else has.
        unsafe { (File::from_raw_fd(master), File::from_raw_fd(slave)) }
    }

    fn local_flags(terminal: &File) -> libc::tcflag_t {
        let mut now = MaybeUninit::<libc::termios>::uninit();
        // SAFETY: a live termios to be filled in, which is read only if it was.
        unsafe {
            assert_eq!(libc::tcgetattr(terminal.as_raw_fd(), now.as_mut_ptr()), 0);
            now.assume_init().c_lflag
        }
    }

    #[test]
    fn a_terminal_is_raw_until_the_guard_goes_even_by_a_panic() {
        let (_master, slave) = pseudo_terminal();
        let found = local_flags(&slave);
        assert_ne!(found & libc::ICANON, 0);
        let raw = RawTerminal::new(&slave).unwrap().unwrap();
        assert_eq!(
            local_flags(&slave) & (libc::ICANON | libc::ECHO | libc::ISIG),
            0
        );
        assert!(RawTerminal::new(&slave).is_err(), "a second one");
        drop(raw);
        assert_eq!(local_flags(&slave), found);

        let copy = slave.try_clone().unwrap();
        let panicked = std::panic::catch_unwind(move || {
            let _raw = RawTerminal::new(&copy).unwrap().unwrap();
            assert_eq!(local_flags(&copy) & libc::ICANON, 0);
            panic!("on purpose");
        });
        assert!(panicked.is_err());
        assert_eq!(local_flags(&slave), found);
        // Something that is no terminal is left alone.
        let file = tempfile::tempfile().unwrap();
        assert!(RawTerminal::new(&file).unwrap().is_none());
    }
}
