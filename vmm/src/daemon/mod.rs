//! `byway engine`: an engine for VMs of other processes, until a signal ends it.
//!
//! This module turns a file into actions and signals into an end; what the daemon is, the engine's
//! crate knows ([`byway_engine::daemon`]).

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use byway_engine::daemon::Daemon;
use byway_engine::vhost_user::wait;
use clap::Parser;

use crate::config::DaemonConfig;
use crate::exit_status::Failure;
use crate::run::{act, embedded_engine};
use crate::say::say;
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
}

/// Carries the command out.
///
/// # Errors
/// [`Failure::Usage`] when the file is wrong, [`Failure::Host`] when the backend that it asks for
/// is not there, [`Failure::Failed`] when the sockets cannot be had.
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
    let engine = embedded_engine(&config.engine)?;
    let daemon = Daemon::new(engine, &args.socket).map_err(Failure::failed)?;
    for action in config.actions() {
        act(&daemon, action)?;
    }
    let operator = daemon.serve_operator().map_err(Failure::failed)?;
    say(format_args!("engine ready in {}", args.socket.display()));
    until_told(&signals).map_err(Failure::failed)?;
    say("stopping");
    drop(operator);
    drop(daemon);
    Ok(())
}

fn until_told(signals: &SignalSocket) -> io::Result<()> {
    while !wait(&[signals.as_fd()], None)?.has(0) {}
    Ok(())
}
