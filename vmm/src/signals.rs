//! Ctrl-C and SIGTERM for commands that take their time: the first has them stop what they started, the second
//! ends the process. So does the first, in a while, where stopping does not come to its end: who told a process to stop
//! may have no second signal for it.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use signal_hook::consts::{SIGALRM, SIGINT, SIGTERM};
use signal_hook::{SigId, flag, low_level};
use thiserror::Error;

use crate::run::terminal;

/// How long commands that test or measure may take to stop: shorter than supervisors wait before they send SIGKILL.
const TEST_GRACE: Duration = Duration::from_secs(10);

/// How long those may take that serve: longer than the engine of another process is waited for, so that what is
/// behind that, as the flush of disks, is done too.
pub(crate) const SERVICE_GRACE: Duration = Duration::from_secs(30);

/// What a command ends with that was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("interrupted: everything that was started is stopped, and there is no result")]
pub struct Interrupted;

/// A flag that others set to have somebody stop.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Whether to go on.
    ///
    /// # Errors
    /// Once told to stop.
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.is_set() {
            return Err(Interrupted);
        }
        Ok(())
    }

    /// Whether told to stop.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Tells to stop.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Ends the process with code 1 when it has not done what a signal told it to within a while, unless dropped before.
///
/// By the alarm clock of the process, which a handler may set, and not by a thread, which a jail would have to let in.
#[derive(Debug)]
pub(crate) struct LastResort {
    ids: Vec<SigId>,
}

/// Living [`LastResort`]s.
static LIVING: AtomicUsize = AtomicUsize::new(0);

impl LastResort {
    /// From now on Ctrl-C and SIGTERM set the clock to `grace`, in whole seconds.
    ///
    /// # Errors
    /// When the host refuses a handler.
    pub(crate) fn install(grace: Duration) -> std::io::Result<Self> {
        /// The signals have their usual effect while nobody else has taken them over: that a handler was taken away does not
        /// bring it back.
        static USUAL: OnceLock<()> = OnceLock::new();
        let mut this = Self { ids: Vec::new() };
        LIVING.fetch_add(1, Ordering::SeqCst);
        // SAFETY: makes system calls that may be made in a handler; no allocation, no lock.
        let end = || unsafe {
            terminal::restore();
            let text = "byway: it was told to stop, and has not within its time; it ends without having stopped everything\n";
            libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len());
            low_level::exit(1);
        };
        // SAFETY: as above.
        this.ids.push(unsafe { low_level::register(SIGALRM, end) }?);
        let seconds = libc::c_uint::try_from(grace.as_secs().max(1)).unwrap_or(libc::c_uint::MAX);
        for signal in [SIGINT, SIGTERM] {
            let wind = move || {
                wind_alarm(seconds);
            };
            // SAFETY: one system call that may be made in a handler.
            this.ids.push(unsafe { low_level::register(signal, wind) }?);
        }
        if USUAL.set(()).is_ok() {
            for signal in [SIGINT, SIGTERM] {
                let usual = move || {
                    if LIVING.load(Ordering::SeqCst) == 0 {
                        // It does not come back.
                        let _ = low_level::emulate_default_handler(signal);
                    }
                };
                // SAFETY: an atomic load, and a function that is made for handlers. Stays for good.
                unsafe { low_level::register(signal, usual) }?;
            }
        }
        Ok(this)
    }
}

impl Drop for LastResort {
    fn drop(&mut self) {
        // First, so that no signal comes between the two and is lost.
        LIVING.fetch_sub(1, Ordering::SeqCst);
        for id in self.ids.drain(..) {
            low_level::unregister(id);
        }
        wind_alarm(0);
    }
}

/// Sets the alarm clock of the process, which nobody else uses; 0 stops it.
fn wind_alarm(seconds: libc::c_uint) {
    // SAFETY: takes a number. The system call itself, since that is what a jail lets through.
    unsafe { libc::syscall(libc::SYS_alarm, libc::c_ulong::from(seconds)) };
}

/// Ctrl-C and SIGTERM as a [`Stop`], until dropped. A second one ends the process at once with code 1, and the first does
/// if this is still there 10 s later.
#[derive(Debug)]
pub struct StopOnSignal {
    stop: Stop,
    ids: Vec<SigId>,
    _last_resort: LastResort,
}

impl StopOnSignal {
    /// Takes the signals over.
    ///
    /// # Errors
    /// When the host refuses a handler.
    pub fn install() -> std::io::Result<Self> {
        Self::install_with(TEST_GRACE)
    }

    fn install_with(grace: Duration) -> std::io::Result<Self> {
        let last_resort = LastResort::install(grace)?;
        let stop = Stop::default();
        let mut ids = Vec::new();
        for signal in [SIGINT, SIGTERM] {
            // The order matters: the first signal finds the flag clear and sets it.
            ids.push(flag::register_conditional_shutdown(
                signal,
                1,
                Arc::clone(&stop.0),
            )?);
            ids.push(flag::register(signal, Arc::clone(&stop.0))?);
        }
        Ok(Self {
            stop,
            ids,
            _last_resort: last_resort,
        })
    }

    /// Set by the first signal.
    #[must_use]
    pub fn stop(&self) -> &Stop {
        &self.stop
    }
}

impl Drop for StopOnSignal {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            low_level::unregister(id);
        }
    }
}

/// Ctrl-C and SIGTERM as something to wait for, until dropped: readable since the first. A second
/// one ends the process at once with code 1, and the first does if this is still there 30 s later.
#[derive(Debug)]
pub struct SignalSocket {
    receiver: UnixStream,
    _stop: StopOnSignal,
    ids: Vec<SigId>,
}

impl SignalSocket {
    /// Takes the signals over.
    ///
    /// # Errors
    /// When the host refuses a socket pair or a handler.
    pub fn install() -> std::io::Result<Self> {
        let (receiver, sender) = UnixStream::pair()?;
        let stop = StopOnSignal::install_with(SERVICE_GRACE)?;
        let ids = [SIGINT, SIGTERM].map(|signal| {
            let sender = sender.try_clone()?;
            low_level::pipe::register(signal, sender)
        });
        Ok(Self {
            receiver,
            _stop: stop,
            ids: ids.into_iter().collect::<Result<_, _>>()?,
        })
    }
}

impl AsFd for SignalSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}

impl Drop for SignalSocket {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            low_level::unregister(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _};
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Child, Command, ExitStatus, Stdio};
    use std::time::Instant;

    use super::*;

    #[test]
    fn all_copies_of_a_flag_are_one() {
        let stop = Stop::default();
        let copy = stop.clone();
        assert_eq!(copy.check(), Ok(()));
        stop.set();
        assert_eq!(copy.check(), Err(Interrupted));
    }

    /// The role that this program plays when a test has started it again.
    const ROLE: &str = "BYWAY_TEST_ROLE";

    /// This program once more, playing `role` in the test `test`; it has said that it is ready.
    fn again(test: &str, role: &str) -> Child {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([&format!("signals::tests::{test}"), "--exact", "--nocapture"])
            .env(ROLE, role)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("ready") {
            line.clear();
            assert_ne!(said.read_line(&mut line).unwrap(), 0, "it ended early");
        }
        // Whoever says more than that must find a reader.
        child.stdout = Some(said.into_inner());
        child
    }

    fn be_deaf() -> ! {
        println!("ready");
        loop {
            std::thread::sleep(Duration::from_secs(3600));
        }
    }

    fn terminate(child: &Child) {
        // SAFETY: takes two numbers; the child was not waited for, so the first is its own.
        assert_eq!(unsafe { libc::kill(child.id() as i32, SIGTERM) }, 0);
    }

    /// How it ends, if it does.
    fn end_of(mut child: Child) -> (Option<ExitStatus>, String) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut ended = None;
        while ended.is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
            ended = child.try_wait().unwrap();
        }
        if ended.is_none() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let mut said = String::new();
        let mut stderr = child.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        (ended, said)
    }

    #[test]
    fn a_process_that_does_not_stop_when_told_to_ends_in_a_while() {
        if std::env::var_os(ROLE).is_some() {
            let _signals = StopOnSignal::install_with(Duration::from_secs(1)).unwrap();
            be_deaf();
        }
        let test = "a_process_that_does_not_stop_when_told_to_ends_in_a_while";
        let child = again(test, "deaf");
        terminate(&child);
        let (ended, said) = end_of(child);
        assert_eq!(ended.and_then(|status| status.code()), Some(1), "{said}");
        assert!(said.contains("told to stop, and has not"), "{said}");
    }

    #[test]
    fn one_that_stops_in_time_is_left_alone_and_hears_signals_as_before() {
        if std::env::var_os(ROLE).is_some() {
            let signals = StopOnSignal::install_with(Duration::from_secs(1)).unwrap();
            low_level::raise(SIGTERM).unwrap();
            assert!(signals.stop().is_set());
            drop(signals);
            std::thread::sleep(Duration::from_millis(1500));
            be_deaf();
        }
        let test = "one_that_stops_in_time_is_left_alone_and_hears_signals_as_before";
        let child = again(test, "in time");
        terminate(&child);
        let (ended, said) = end_of(child);
        let signal = ended.and_then(|status| status.signal());
        assert_eq!(signal, Some(SIGTERM), "{said}");
    }
}
