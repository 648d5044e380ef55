//! `byway engine`: an engine for VMs of other processes, until a signal ends it.
//!
//! This module turns a file into actions and signals into an end; what the daemon is, the engine's
//! crate knows ([`byway_engine::daemon`]). And it confines the process: what its threads may ask the host for, `filters` says.

mod filters;

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use byway_engine::daemon::Daemon;
use byway_engine::threads::{self, HookError, ThreadKind};
use byway_engine::vhost_user::wait;
use clap::Parser;

use crate::config::DaemonConfig;
use crate::exit_status::Failure;
use crate::run::{act, embedded_engine};
use crate::say::say;
use crate::seccomp::{self, Kind, SeccompError, Told};
use crate::signals::SignalSocket;

/// Arguments of `byway engine`.
#[derive(Debug, Clone, Parser)]
#[command(
    after_help = "Examples:\n  byway engine --socket /run/byway --config engine.toml\n                              VMs attach at /run/byway/NAME.sock, one for each [[domain]]\n  byway engine --socket /run/byway --config engine.toml --check\n                              only look for mistakes\n\nSIGTERM and Ctrl-C end it: VMs see their device go, and may attach again to the next one."
)]
pub struct Args {
    /// Folder for the sockets: NAME.sock for each domain
    #[arg(long, value_name = "DIR")]
    pub socket: PathBuf,
    /// Engine, domains and links, as TOML; see vmm/README.md for its keys
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check the file and do nothing else
    #[arg(long)]
    pub check: bool,
    /// Put no filters of system calls on its threads: for a host whose kernel or C library needs one that they do not
    /// know. A denied one ends the process with code 159 and a line that names it
    #[arg(long)]
    pub no_seccomp: bool,
    /// Has a thread that is confined as a worker make a denied system call. For tests of debug builds alone
    #[cfg(debug_assertions)]
    #[arg(long, hide = true)]
    pub test_denied_call: bool,
}

/// Why an engine could not be confined.
#[derive(Debug, thiserror::Error)]
#[error("this engine has no filters of system calls (--no-seccomp does without)")]
pub enum ConfineError {
    /// It cannot have them.
    Seccomp(#[from] SeccompError),
    /// Its threads would not put them on.
    Threads(#[from] HookError),
}

/// Gives this process no new privileges, and each thread of its engines a filter of system calls of its kind. To be called before the
/// first of them starts.
///
/// # Errors
/// When a step fails; no engine must be started then.
pub fn confine() -> Result<(), ConfineError> {
    let filters = filters::filters().map_err(SeccompError::from)?;
    threads::on_start(begins)?;
    Ok(seccomp::enter(filters, Told::Stderr)?)
}

/// Confines the threads of this process' engines as [`confine`] does, and nothing else: for tests whose VMs are in the same process.
///
/// # Errors
/// As [`confine`].
pub fn confine_threads() -> Result<(), ConfineError> {
    let filters = filters::filters().map_err(SeccompError::from)?;
    threads::on_start(begins)?;
    Ok(seccomp::prepare(filters, Told::Stderr)?)
}

/// What a thread of the engine does first.
fn begins(thread: ThreadKind) {
    seccomp::narrow(filters::kind_of(thread));
}

/// Carries the command out.
///
/// # Errors
/// [`Failure::Usage`] when the file is wrong, [`Failure::Host`] when the backend that it asks for
/// is not there or the host has no filters of system calls, [`Failure::Failed`] when the sockets cannot be had.
pub fn run(args: &Args) -> Result<(), Failure> {
    let config = match &args.config {
        Some(path) => DaemonConfig::load(path).map_err(Failure::usage)?,
        None => DaemonConfig::default(),
    };
    if args.check {
        say(format_args!(
            "{} domains and {} links, no mistakes found",
            config.domains.len(),
            config.links.len()
        ));
        return Ok(());
    }
    let signals = SignalSocket::install().map_err(Failure::failed)?;
    if !args.no_seccomp {
        confine().map_err(Failure::host)?;
    }
    let engine = embedded_engine(&config.engine)?;
    let daemon = Daemon::new(engine, &args.socket).map_err(Failure::failed)?;
    for action in config.actions() {
        act(&daemon, action)?;
    }
    let operator = daemon.serve_operator().map_err(Failure::failed)?;
    #[cfg(debug_assertions)]
    if args.test_denied_call {
        make_denied_call();
    }
    // Everything is open that it needs itself.
    seccomp::narrow(Kind::Main);
    say(format_args!("engine ready in {}", args.socket.display()));
    until_told(&signals).map_err(Failure::failed)?;
    say("stopping");
    drop(operator);
    drop(daemon);
    Ok(())
}

#[cfg(debug_assertions)]
fn make_denied_call() {
    let _ = std::thread::spawn(|| {
        begins(ThreadKind::Worker);
        // SAFETY: makes a socket, if it may, and closes it.
        unsafe { libc::close(libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)) };
    })
    .join();
}

fn until_told(signals: &SignalSocket) -> io::Result<()> {
    while !wait(&[signals.as_fd()], None)?.has(0) {}
    Ok(())
}
