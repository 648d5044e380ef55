//! `byway vm`: one action sent to the socket of a `byway run --api`, and its answer shown.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use byway_engine::daemon::{ask_line, has_ended};
use byway_engine::vhost_user::connect_within;
use clap::{Args, Subcommand};
use comfy_table::Table;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{VmAction, VmAnswer, VmInfo, VmReply};
use crate::config::ByteSize;
use crate::devices::settings::DiskSettings;
use crate::exit_status::Failure;
use crate::operator::{print, table};

/// How long an answer may take.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Longest answer about VMs in bytes.
pub(crate) const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Arguments of `byway vm`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  byway run --api /run/byway-vms.sock vms.toml\n  byway vm list --api /run/byway-vms.sock\n  byway vm pause alice --api /run/byway-vms.sock\n  byway vm add-disk alice data.img,overlay --api /run/byway-vms.sock\n  byway vm list --api /run/byway-vms.sock --json | jq '.vms[] | {name, state}'"
)]
pub struct VmArgs {
    #[command(subcommand)]
    verb: Verb,
    /// The socket, as given to `byway run --api`
    #[arg(
        long,
        value_name = "PATH",
        global = true,
        default_value = "/run/byway-vms.sock"
    )]
    api: PathBuf,
    /// Print JSON, for programs
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Clone, Subcommand)]
enum Verb {
    /// List VMs, what they do, and their disks
    List,
    /// Start a VM that was not started yet, or that has ended
    Start {
        /// The VM
        name: String,
    },
    /// Have it stand still
    Pause {
        /// The VM
        name: String,
    },
    /// Have it go on
    Resume {
        /// The VM
        name: String,
    },
    /// Start it anew at once, without asking the guest
    Reboot {
        /// The VM
        name: String,
    },
    /// Press its power button: the guest decides what that means
    PowerButton {
        /// The VM
        name: String,
    },
    /// End it at once, without asking the guest
    Stop {
        /// The VM
        name: String,
    },
    /// Put a disk into one of its spare disks
    AddDisk {
        /// The VM
        name: String,
        /// PATH[,readonly][,overlay[=FILE]]
        disk: DiskSettings,
    },
}

impl Verb {
    fn action(&self) -> Result<VmAction, Failure> {
        let name = |name: &String| name.clone();
        Ok(match self {
            Self::List => VmAction::List {},
            Self::Start { name: vm } => VmAction::Start { name: name(vm) },
            Self::Pause { name: vm } => VmAction::Pause { name: name(vm) },
            Self::Resume { name: vm } => VmAction::Resume { name: name(vm) },
            Self::Reboot { name: vm } => VmAction::Reboot { name: name(vm) },
            Self::PowerButton { name: vm } => VmAction::PowerButton { name: name(vm) },
            Self::Stop { name: vm } => VmAction::Stop { name: name(vm) },
            Self::AddDisk { name: vm, disk } => VmAction::AddDisk {
                name: name(vm),
                disk: absolute(disk)?,
            },
        })
    }
}

/// What the user sees as a relative path is relative to the user's folder, not to that of `byway run`.
fn absolute(disk: &DiskSettings) -> Result<DiskSettings, Failure> {
    use crate::devices::settings::DiskWrites;
    let whole = |path: &Path| std::path::absolute(path).map_err(Failure::usage);
    Ok(DiskSettings {
        path: whole(&disk.path)?,
        writes: match &disk.writes {
            DiskWrites::KeptOverlay(path) => DiskWrites::KeptOverlay(whole(path)?),
            other => other.clone(),
        },
    })
}

/// Carries the command out.
///
/// # Errors
/// [`Failure::Host`] when nobody answers, or no more, [`Failure::Usage`] when there is no such VM or the disk cannot be, else
/// [`Failure::Failed`].
pub fn run(args: &VmArgs) -> Result<(), Failure> {
    let reply = ask(&args.api, &args.verb.action()?)?;
    if args.json {
        return print(&serde_json::to_string(&reply).map_err(Failure::failed)?);
    }
    match reply {
        VmReply::Done => Ok(()),
        VmReply::Vms { vms } => print(&listing(&vms).to_string()),
        VmReply::Disk(disk) => print(&format!(
            "disk {} has {} bytes now; the guest is told that its size has changed",
            disk.number, disk.bytes
        )),
    }
}

/// Asks the `byway run` whose socket is at `path`.
///
/// # Errors
/// As [`run`].
pub fn ask(path: &Path, action: &VmAction) -> Result<VmReply, Failure> {
    match ask_at(path, action, ANSWER_MAX, ANSWER_BYTES_MAX)? {
        VmAnswer::Reply(reply) => Ok(reply),
        VmAnswer::Error(refusal) => Err(match refusal.error.as_str() {
            "unknown" | "bad-disk" | "bad-request" => Failure::usage(refusal.message),
            _ => Failure::failed(refusal.message),
        }),
    }
}

/// Asks it for anything that it takes, its engine's actions too.
///
/// # Errors
/// [`Failure::Host`] when nobody answers, or no more, [`Failure::Failed`] when the answer is none.
pub(crate) fn ask_at<A: DeserializeOwned>(
    path: &Path,
    action: &impl Serialize,
    limit: Duration,
    bytes_max: usize,
) -> Result<A, Failure> {
    let socket = connect_within(path, limit).map_err(|error| {
        Failure::host(format!(
            "nobody answers on {}: {error} (is `byway run --api {}` running, and may this user open its socket?)",
            path.display(),
            path.display()
        ))
    })?;
    let wrong = |error: io::Error| {
        if has_ended(&error) {
            return Failure::host(format!(
                "the `byway run` on {} has ended before it answered; what was asked for may be done",
                path.display()
            ));
        }
        Failure::failed(format!(
            "no answer on {} that can be understood: {error}",
            path.display()
        ))
    };
    let line = ask_line(&socket, action, bytes_max, limit).map_err(wrong)?;
    serde_json::from_slice(&line).map_err(|error| wrong(error.into()))
}

fn listing(vms: &[VmInfo]) -> Table {
    let mut table = table(["VM", "state", "disks", "vCPUs", "memory", "process"], 3);
    for vm in vms {
        let disks: Vec<_> = vm
            .disks
            .iter()
            .map(|disk| match disk {
                Some(disk) => disk.path.display().to_string(),
                None => "(spare)".to_owned(),
            })
            .chain(
                vm.nvmes
                    .iter()
                    .map(|nvme| format!("{} (NVMe)", nvme.path.display())),
            )
            .collect();
        let state = match &vm.outcome {
            // A crash has a report of many lines.
            Some(outcome) => outcome.lines().next().unwrap_or_default().to_owned(),
            None => vm.state.to_string(),
        };
        table.add_row([
            vm.name.clone(),
            state,
            disks.join("\n"),
            vm.cpus.to_string(),
            ByteSize(vm.memory).to_string(),
            vm.pid.to_string(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_run_that_ends_while_it_is_asked_is_told_from_one_that_answers_wrongly() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api");
        let listener = UnixListener::bind(&path).unwrap();
        let asked = |ends: &dyn Fn(UnixStream)| {
            std::thread::scope(|scope| {
                let failure = scope.spawn(|| ask(&path, &VmAction::List {}).unwrap_err());
                ends(listener.accept().unwrap().0);
                failure.join().unwrap()
            })
        };
        // With the question unread, and with it read.
        let unread = asked(&drop);
        let read = asked(&|mut socket| {
            assert_ne!(socket.read(&mut [0; 4096]).unwrap(), 0);
        });
        for gone in [unread, read] {
            assert_eq!(gone.code(), 3, "{gone:?}");
        }
        let wrong = asked(&|mut socket| socket.write_all(b"well\n").unwrap());
        assert_eq!(wrong.code(), 1, "{wrong:?}");
    }
}
