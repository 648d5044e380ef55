//! `byway run vms.toml`: launches every VM of a file, or one of the command line, with an embedded engine
//! and stays until all have ended or somebody says stop. A VM that asks for a reset is built anew.
//!
//! Everything is built before anything starts, so that a mistake in the last VM leaves no first
//! one running. Afterwards this thread is an event loop for the slow things (console input,
//! ends of VMs, signals); data never passes through it.

mod audit;
mod console;
mod jailed;
mod launch;
mod options;
mod slot;
mod supervisor;
pub(crate) mod terminal;

pub use audit::{AuditError, AuditFile, AuditReport};
pub(crate) use launch::act;
pub use launch::{Fleet, embedded_engine, launch, launch_remote};
pub use options::VmOptions;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser;

use crate::api::{self, LocalVms, Operator};
use crate::config::{COMMAND_LINE_PATH, RunConfig};
use crate::control;
use crate::exit_status::Failure;
use crate::host;
use crate::say::say;
use supervisor::Settings;

/// User of the first VM's process with `--jail`: far above those of people and packages, and of containers as a rule.
const JAIL_UID: u32 = 2_000_000_000;

/// Arguments of `byway run`.
#[derive(Debug, Clone, Parser)]
#[command(
    after_help = "Examples:\n  byway run vms.toml          run its VMs until they end or Ctrl-C\n  byway run --kernel vmlinuz --initrd initrd.img --disk root.img --memory 1G --cpus 2 \\\n            --cmdline 'console=ttyS0 root=/dev/vda'\n                              one VM, with its console here; Ctrl-A ? tells its keys\n  byway run --check vms.toml  only look for mistakes\n  byway run --audit audit.json vms.toml\n                              who gave what to whom: at the end, and on SIGUSR1\n  byway run --engine /run/byway vms.toml\n                              attach to a daemon (`byway engine`)\n  byway run --api /run/byway-vms.sock vms.toml\n                              `byway vm` starts, stops, pauses and lists them\n  byway run --jail vms.toml   each VM in a process of its own, confined"
)]
pub struct Args {
    /// The VMs to run, as TOML; see vmm/README.md for its keys
    #[arg(required_unless_present = "kernel")]
    pub file: Option<PathBuf>,
    /// Only check what is to be run
    #[arg(long)]
    pub check: bool,
    /// End a VM that asks for a reset, instead of starting it anew
    #[arg(long)]
    pub no_reboot: bool,
    /// Attach to the engine whose sockets are in this folder, instead of starting one; quotas and
    /// links are that engine's
    #[arg(long, value_name = "DIR")]
    pub engine: Option<PathBuf>,
    /// Write who gave what to whom, what went through it and how it ended, as JSON: at the end, and on SIGUSR1
    #[arg(long, value_name = "FILE")]
    pub audit: Option<PathBuf>,
    /// Listen here for programs that start, stop, pause and list VMs: `byway vm`
    #[arg(long, value_name = "PATH")]
    pub api: Option<PathBuf>,
    /// Go on when all VMs have ended, so that `byway vm start` can start them again
    #[arg(long, requires = "api")]
    pub stay: bool,
    /// Run each VM in a process of its own that is confined: own user and root folder (as root), no new privileges, and only
    /// the system calls that it needs
    #[arg(long)]
    pub jail: bool,
    /// As root: user and group of the first VM's process; the next VM has the next number
    #[arg(long, value_name = "UID", requires = "jail", default_value_t = JAIL_UID)]
    pub jail_uid: u32,
    /// What such a process is told
    #[arg(long, hide = true, requires = "jail")]
    pub jailed: Option<String>,
    /// A VM of the command line.
    #[command(flatten)]
    pub vm: VmOptions,
}

impl Args {
    /// Where a mistake is said to be.
    fn place(&self) -> &Path {
        self.file.as_deref().unwrap_or(Path::new(COMMAND_LINE_PATH))
    }

    fn config(&self) -> Result<RunConfig, Failure> {
        let config = match &self.file {
            Some(file) => RunConfig::load(file),
            None => RunConfig::from_options(&self.vm),
        };
        let config = config.map_err(Failure::usage)?;
        if self.engine.is_some() {
            config.check_remote(self.place()).map_err(Failure::usage)?;
        }
        Ok(config)
    }
}

/// Carries the command out.
///
/// # Errors
/// [`Failure::Usage`] when the file is wrong, [`Failure::Host`] without KVM, [`Failure::Failed`] when
/// a VM cannot be built or one crashed.
pub fn run(args: &Args) -> Result<(), Failure> {
    if let Some(jailed) = &args.jailed {
        return jailed::run_inside(args, jailed);
    }
    let config = args.config()?;
    if args.check {
        say(format_args!(
            "{}: {} VMs and {} links, no mistakes found",
            args.place().display(),
            config.vms.len(),
            config.links.len()
        ));
        return Ok(());
    }
    if args.jail {
        return jailed::run_outside(args, config);
    }
    host::open_kvm()?;
    let signals = supervisor::Signals::install().map_err(Failure::failed)?;
    let fleet = match &args.engine {
        Some(folder) => launch_remote(config, folder)?,
        None => launch(config)?,
    };
    let names = fleet.vms.iter().map(crate::vm::Vm::name);
    let (handles, requests) = control::channel(names).map_err(Failure::failed)?;
    let api = args.api.as_deref().map(|path| {
        let vms = Arc::new(LocalVms::new(handles));
        api::serve(path, Operator::new(vms, Arc::clone(&fleet.engine)))
    });
    let _api = api.transpose().map_err(Failure::usage)?;
    supervisor::supervise(
        fleet,
        Settings {
            signals,
            requests,
            audit: args.audit.clone().map(AuditFile),
            may_reboot: !args.no_reboot,
            stays: args.stay,
            wants_reset: Arc::default(),
        },
        &io::stdin(),
    )
}
