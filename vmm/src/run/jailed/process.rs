//! [`Process`]: one process of a VM, from its start to its end.
//!
//! - The loop's thread starts it ([`Ends::start`]), and no other may: the process ends with the thread that started it.
//! - A thread of its own ("byway-warden") owns the [`Child`], and alone waits for it; it tells how it has ended, and what it said last.
//! - Whoever has the [`Process`] may ask it ([`Process::ask`]) and signal it ([`Process::signal`]), from any thread and at any
//!   time. Signals go to its pidfd, which names no other process once this one has been waited for, as its number may.
//!
//! A process that was started is waited for, whatever fails afterwards.

use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc;
use std::time::Duration;

use byway_engine::daemon::Refusal;

use super::channel::Channel;
use crate::api::{VmAction, VmReply};
use crate::seccomp::{Denied, REPORT_BYTES};

/// A process that was started, and may have ended.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    handle: OwnedFd,
    channel: Channel,
}

/// How a process has ended.
#[derive(Debug)]
pub(super) struct End {
    /// What the host says.
    pub(super) status: io::Result<ExitStatus>,
    /// The system call that was denied, if it told of one.
    pub(super) denied: Option<Denied>,
}

/// What a process and its parent speak by, before the process is there.
#[derive(Debug)]
pub(super) struct Ends {
    control: UnixStream,
    their_control: UnixStream,
    report: PipeReader,
    their_report: PipeWriter,
}

impl Ends {
    pub(super) fn new() -> io::Result<Self> {
        let (control, their_control) = UnixStream::pair()?;
        let (report, their_report) = io::pipe()?;
        Ok(Self {
            control,
            their_control,
            report,
            their_report,
        })
    }

    /// Under which number the process finds the socket of requests.
    pub(super) fn control_fd(&self) -> RawFd {
        self.their_control.as_raw_fd()
    }

    /// Under which number it finds where denied system calls are told.
    pub(super) fn report_fd(&self) -> RawFd {
        self.their_report.as_raw_fd()
    }

    /// Starts `command`, which has these ends and `others` of this process' descriptors, under the same numbers. `ended` is told once
    /// of its end.
    ///
    /// # Errors
    /// As the host says; there is no process then.
    pub(super) fn start(
        self,
        mut command: Command,
        others: impl IntoIterator<Item = RawFd>,
        ended: impl FnOnce(End) + Send + 'static,
    ) -> io::Result<Process> {
        let mut given = vec![self.control_fd(), self.report_fd()];
        given.extend(others);
        // SAFETY: makes only system calls on plain numbers between fork and exec.
        unsafe {
            command.pre_exec(move || {
                for fd in &given {
                    // All of this process' own are closed by an exec. They keep their numbers: others may be taken.
                    if libc::fcntl(*fd, libc::F_SETFD, 0) < 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        // First, so that a process is never without somebody who waits for it.
        let (hand_over, handed_over) = mpsc::sync_channel::<Child>(1);
        let report = self.report;
        std::thread::Builder::new()
            .name("byway-warden".to_owned())
            .spawn(move || {
                if let Ok(child) = handed_over.recv() {
                    ended(attend(child, report));
                }
            })?;
        let mut child = command.spawn()?;
        let handle = match pidfd(&child) {
            Ok(handle) => handle,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        };
        let process = Process {
            pid: child.id(),
            handle,
            channel: Channel::new(self.control),
        };
        // It waits for nothing else.
        let _ = hand_over.send(child);
        Ok(process)
    }
}

impl Process {
    /// Its number, which may be another's once its end was told.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Asks it.
    ///
    /// # Errors
    /// See [`Channel::ask`].
    pub(super) fn ask(
        &self,
        action: &VmAction,
        limit: Duration,
    ) -> io::Result<Result<VmReply, Refusal>> {
        self.channel.ask(action, limit)
    }

    /// Sends a signal; nothing comes of it when the process has ended.
    pub(super) fn signal(&self, signal: libc::c_int) {
        let none: libc::c_long = 0;
        // SAFETY: takes numbers, and no `siginfo_t`. The descriptor is this process' own.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                libc::c_long::from(self.handle.as_raw_fd()),
                libc::c_long::from(signal),
                none,
                none,
            )
        };
        let error = io::Error::last_os_error();
        if sent < 0 && error.raw_os_error() != Some(libc::ESRCH) {
            tracing::warn!(
                "process {} cannot be sent signal {signal}: {error}",
                self.pid
            );
        }
    }
}

/// A descriptor that is this child.
fn pidfd(child: &Child) -> io::Result<OwnedFd> {
    let none: libc::c_long = 0;
    // SAFETY: takes numbers. The child is owned and has not been waited for, so its number is its own.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::c_long::from(child.id()), none) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it, closed by an exec, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Waits for the end of a VM's process, and what it told.
fn attend(mut child: Child, mut report: PipeReader) -> End {
    // It ends when the process does, which alone has the other end.
    let mut bytes = [0; REPORT_BYTES];
    let told = report.read_exact(&mut bytes);
    End {
        denied: told.ok().map(|()| Denied::from_bytes(bytes)),
        status: child.wait(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Stdio;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-c", script]).stdin(Stdio::null());
        command
    }

    #[test]
    fn it_is_asked_signalled_and_waited_for_and_signals_after_that_reach_nobody() {
        let ends = Ends::new().unwrap();
        let (control, report) = (ends.control_fd(), ends.report_fd());
        let script = format!(
            "printf '\\x29\\0\\0\\0\\x02\\0\\0\\0' >&{report}
             read -u {control} line; printf '{{\"reply\":\"done\"}}\\n' >&{control}; exec sleep 600"
        );
        let (sender, ended) = mpsc::channel();
        let told = move |end| sender.send(end).unwrap();
        let process = ends.start(shell(&script), [], told).unwrap();
        let answer = process.ask(&VmAction::List {}, LONG).unwrap();
        assert_eq!(answer, Ok(VmReply::Done));
        process.signal(libc::SIGTERM);
        let end = ended.recv_timeout(LONG).unwrap();
        assert_eq!(end.status.unwrap().signal(), Some(libc::SIGTERM));
        assert_eq!(end.denied.unwrap().call, 41);
        assert!(!fs::exists(format!("/proc/{}", process.pid())).unwrap());
        process.signal(libc::SIGKILL);
        assert!(process.ask(&VmAction::List {}, LONG).is_err());
    }

    /// Whatever else this process has open, under the lowest numbers that are free or high ones.
    #[test]
    fn it_has_what_it_is_given_under_the_same_numbers_and_nothing_else() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open: Vec<File> = (0..=900)
            .map(|_| File::open(file.path()).unwrap())
            .collect();
        let ends = Ends::new().unwrap();
        let more = tempfile::tempfile().unwrap();
        let mut given = vec![ends.control_fd(), ends.report_fd(), more.as_raw_fd()];
        given.sort_unstable();
        assert!(given[0] > 900, "{given:?}");
        let out = tempfile::NamedTempFile::new().unwrap();
        let mut command = shell("for fd in /proc/$$/fd/*; do echo ${fd##*/} $(readlink $fd); done");
        command.stdout(out.reopen().unwrap());
        let (sender, ended) = mpsc::channel();
        let told = move |end| sender.send(end).unwrap();
        let _process = ends.start(command, [more.as_raw_fd()], told).unwrap();
        assert!(ended.recv_timeout(LONG).unwrap().status.unwrap().success());
        drop(open);
        let has = fs::read_to_string(out.path()).unwrap();
        for fd in given {
            let fd = format!("{fd} ");
            assert!(
                has.lines().any(|line| line.starts_with(&fd)),
                "{fd}in {has}"
            );
        }
        assert!(!has.contains(file.path().to_str().unwrap()), "{has}");
    }

    #[test]
    fn one_that_cannot_be_started_is_told_by_nobody() {
        let ends = Ends::new().unwrap();
        let (sender, ended) = mpsc::channel::<End>();
        let told = move |end| sender.send(end).unwrap();
        let nothing = Command::new("/nowhere/at/all");
        assert!(ends.start(nothing, [], told).is_err());
        assert_eq!(
            ended.recv_timeout(LONG).unwrap_err(),
            mpsc::RecvTimeoutError::Disconnected
        );
    }
}
