//! `byway run vms.toml`: launches every VM of a file with an embedded engine and stays until
//! all have ended or somebody says stop.
//!
//! Everything is built before anything starts, so that a mistake in the last VM leaves no first
//! one running. Afterwards this thread is an event loop for the slow things (console input,
//! ends of VMs, signals); data never passes through it.

mod audit;
mod launch;
mod supervisor;

pub use audit::{AuditError, AuditFile, AuditReport};
pub(crate) use launch::act;
pub use launch::{Fleet, embedded_engine, launch, launch_remote};

use std::io;
use std::path::PathBuf;

use clap::Parser;

use crate::config::RunConfig;
use crate::exit_status::Failure;
use crate::host;

/// Arguments of `byway run`.
#[derive(Debug, Clone, Parser)]
#[command(
    after_help = "Examples:\n  byway run vms.toml          run its VMs until they end or Ctrl-C\n  byway run --check vms.toml  only look for mistakes\n  byway run --audit audit.json vms.toml\n                              who gave what to whom: at the end, and on SIGUSR1\n  byway run --engine /run/byway vms.toml\n                              attach to a daemon (`byway engine`)"
)]
pub struct Args {
    /// The VMs to run, as TOML; see vmm/README.md for its keys
    pub file: PathBuf,
    /// Check the file and do nothing else
    #[arg(long)]
    pub check: bool,
    /// Attach to the engine whose sockets are in this folder, instead of starting one; quotas and
    /// links are that engine's
    #[arg(long, value_name = "DIR")]
    pub engine: Option<PathBuf>,
    /// Write who gave what to whom, what went through it and how it ended, as JSON: at the end, and on SIGUSR1
    #[arg(long, value_name = "FILE")]
    pub audit: Option<PathBuf>,
}

/// Carries the command out.
///
/// # Errors
/// [`Failure::Usage`] when the file is wrong, [`Failure::Host`] without KVM, [`Failure::Failed`] when
/// a VM cannot be built or one crashed.
pub fn run(args: &Args) -> Result<(), Failure> {
    let config = RunConfig::load(&args.file).map_err(Failure::usage)?;
    if args.engine.is_some() {
        config.check_remote(&args.file).map_err(Failure::usage)?;
    }
    if args.check {
        eprintln!(
            "byway: {}: {} VMs and {} links, no mistakes found",
            args.file.display(),
            config.vms.len(),
            config.links.len()
        );
        return Ok(());
    }
    host::open_kvm()?;
    let signals = supervisor::Signals::install().map_err(Failure::failed)?;
    let mut fleet = match &args.engine {
        Some(folder) => launch_remote(config, folder)?,
        None => launch(config)?,
    };
    fleet.start()?;
    let audit = args.audit.clone().map(AuditFile);
    supervisor::supervise(fleet, signals, audit, &io::stdin())
}
