//! [`VmControl`]: VMs that do what a [`VmAction`] says, here those of this process.

use byway_engine::daemon::Refusal;

use super::{DiskAdded, VmAction, VmDisk, VmInfo, VmReply};
use crate::control::{ControlError, VmHandle};
use crate::exit_status::Failure;
use crate::jail;
use crate::vm::{DiskInfo, Vm};

/// VMs, of this process or of others.
pub trait VmControl: Send + Sync {
    /// Does it.
    ///
    /// # Errors
    /// What kept it from being done: `unknown`, `state`, `bad-disk`, `host`.
    fn act(&self, action: VmAction) -> Result<VmReply, Refusal>;
}

/// The VMs of this process.
pub struct LocalVms {
    handles: Vec<VmHandle>,
}

impl LocalVms {
    /// Those that `handles` speak for.
    #[must_use]
    pub fn new(handles: Vec<VmHandle>) -> Self {
        Self { handles }
    }

    fn named(&self, name: &str) -> Result<&VmHandle, Refusal> {
        let mut handles = self.handles.iter();
        handles
            .find(|handle| handle.name() == name)
            .ok_or_else(|| unknown(name))
    }
}

/// The refusal for a name that no VM has.
pub(crate) fn unknown(name: &str) -> Refusal {
    Refusal::new(
        "unknown",
        format!("no VM named {name:?}; `byway vm list` lists them"),
    )
}

impl VmControl for LocalVms {
    fn act(&self, action: VmAction) -> Result<VmReply, Refusal> {
        let done = |result: Result<(), ControlError>| match result {
            Ok(()) => Ok(VmReply::Done),
            Err(error) => Err(refusal(error)),
        };
        match action {
            VmAction::List {} => {
                let vms = self.handles.iter().map(|handle| handle.with_vm(info));
                let vms = vms.collect::<Result<_, _>>().map_err(refusal)?;
                Ok(VmReply::Vms { vms })
            }
            VmAction::Start { name } => done(self.named(&name)?.start()),
            VmAction::Pause { name } => done(self.named(&name)?.pause()),
            VmAction::Resume { name } => done(self.named(&name)?.resume()),
            VmAction::Reboot { name } => done(self.named(&name)?.reboot()),
            VmAction::PowerButton { name } => done(self.named(&name)?.power_button()),
            VmAction::Stop { name } => done(self.named(&name)?.stop()),
            #[cfg(debug_assertions)]
            VmAction::TestDeniedCall { name } => {
                let made = self.named(&name)?.with_vm(|_| {
                    // SAFETY: makes a socket, if it may, and closes it.
                    unsafe { libc::close(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0)) };
                });
                made.map(|()| VmReply::Done).map_err(refusal)
            }
            VmAction::AddDisk { .. } if jail::is_entered() => Err(Refusal::new(
                "jailed",
                "a VM in a jail opens no files: add its disks to its configuration, or run it without --jail",
            )),
            VmAction::AddDisk { name, disk } => {
                let added = self.named(&name)?.with_vm(move |vm| vm.add_disk(&disk));
                let added = added.map_err(refusal)?;
                let added = added.map_err(|error| {
                    Refusal::new("bad-disk", Failure::failed(error).to_string())
                })?;
                Ok(VmReply::Disk(DiskAdded {
                    number: added.number,
                    bytes: added.bytes,
                }))
            }
        }
    }
}

fn info(vm: &mut Vm) -> VmInfo {
    let disks = vm.disks().into_iter();
    VmInfo {
        name: vm.name().to_owned(),
        state: vm.state(),
        outcome: vm.outcome().map(|outcome| outcome.to_string()),
        cpus: vm.vcpu_count(),
        memory: vm.ram().size(),
        disks: disks.map(|disk| disk.map(vm_disk)).collect(),
        nvmes: vm.nvmes().into_iter().map(vm_disk).collect(),
        pid: std::process::id(),
    }
}

fn vm_disk(disk: DiskInfo) -> VmDisk {
    VmDisk {
        path: disk.settings.path,
        writes: disk.settings.writes,
        bytes: disk.bytes,
    }
}

fn refusal(error: ControlError) -> Refusal {
    let kind = match &error {
        ControlError::Gone(_) => "gone",
        ControlError::State { .. } => "state",
        ControlError::Vm(_) | ControlError::Start(_) => "host",
    };
    Refusal::new(kind, Failure::failed(error).to_string())
}
