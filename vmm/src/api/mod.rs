//! What running VMs can be told from outside: one [`VmAction`], which `byway vm` and any other program send as a line of
//! JSON to the socket of `byway run --api`, and [`VmReply`], what comes back.
//!
//! The same socket takes the engine's own actions, so that one place operates both; see `vmm/README.md`.

mod answer;
pub mod client;
mod fleet;

pub(crate) use answer::VmAnswer;
pub use answer::{Operator, serve};
pub(crate) use fleet::unknown;
pub use fleet::{LocalVms, VmControl};

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::control::VmState;
use crate::devices::settings::{DiskSettings, DiskWrites};

/// Something to do with VMs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", deny_unknown_fields)]
pub enum VmAction {
    /// Tells of all VMs.
    #[serde(rename = "vm-list")]
    List {},
    /// Starts one that was not started yet, or that has ended.
    #[serde(rename = "vm-start")]
    Start {
        /// Its name.
        name: String,
    },
    /// Stops its vCPUs, and what is done for it.
    #[serde(rename = "vm-pause")]
    Pause {
        /// Its name.
        name: String,
    },
    /// Has it go on.
    #[serde(rename = "vm-resume")]
    Resume {
        /// Its name.
        name: String,
    },
    /// Starts it anew at once, without asking the guest.
    #[serde(rename = "vm-reboot")]
    Reboot {
        /// Its name.
        name: String,
    },
    /// Presses its power button.
    #[serde(rename = "vm-power-button")]
    PowerButton {
        /// Its name.
        name: String,
    },
    /// Ends it at once, without asking the guest.
    #[serde(rename = "vm-stop")]
    Stop {
        /// Its name.
        name: String,
    },
    /// Puts a disk into a spare one.
    #[serde(rename = "vm-add-disk")]
    AddDisk {
        /// The VM's name.
        name: String,
        /// The disk; a relative path is relative to the folder of `byway run`.
        disk: DiskSettings,
    },
    /// Has the process of a VM make a system call that no jail permits. For tests of debug builds alone.
    #[cfg(debug_assertions)]
    #[serde(rename = "vm-test-denied-call")]
    TestDeniedCall {
        /// The VM's name.
        name: String,
    },
}

impl VmAction {
    /// The VM that it is about, if it is about one.
    #[must_use]
    pub fn vm(&self) -> Option<&str> {
        match self {
            Self::List {} => None,
            Self::Start { name }
            | Self::Pause { name }
            | Self::Resume { name }
            | Self::Reboot { name }
            | Self::PowerButton { name }
            | Self::Stop { name }
            | Self::AddDisk { name, .. } => Some(name),
            #[cfg(debug_assertions)]
            Self::TestDeniedCall { name } => Some(name),
        }
    }
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum VmReply {
    /// It was done.
    Done,
    /// All VMs, in the order of the file.
    Vms {
        /// The VMs.
        vms: Vec<VmInfo>,
    },
    /// A disk was added.
    Disk(DiskAdded),
}

/// A disk that was added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskAdded {
    /// Its number among the VM's disks, from 0, which is `vda` for most guests.
    pub number: usize,
    /// Its size.
    pub bytes: u64,
}

/// A VM as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmInfo {
    /// Its name.
    pub name: String,
    /// Where it is in its life.
    pub state: VmState,
    /// How it ended, if it did.
    pub outcome: Option<String>,
    /// Number of vCPUs.
    pub cpus: usize,
    /// Bytes of RAM that it was built with.
    pub memory: u64,
    /// Its disks, in order; `null` for a spare one that is empty.
    pub disks: Vec<Option<VmDisk>>,
    /// What its NVMe controllers are over, in order.
    #[serde(default)]
    pub nvmes: Vec<VmDisk>,
    /// The process that runs it.
    pub pid: u32,
}

/// A disk of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmDisk {
    /// The file or device.
    pub path: PathBuf,
    /// What becomes of writes.
    pub writes: DiskWrites,
    /// Its size.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_what_the_documentation_shows() {
        for (action, line) in [
            (VmAction::List {}, r#"{"action":"vm-list"}"#),
            (
                VmAction::Pause { name: "a".into() },
                r#"{"action":"vm-pause","name":"a"}"#,
            ),
            (
                VmAction::AddDisk {
                    name: "a".into(),
                    disk: "d.img,overlay".parse().unwrap(),
                },
                r#"{"action":"vm-add-disk","name":"a","disk":{"path":"d.img","writes":"overlay"}}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&action).unwrap(), line);
            assert_eq!(serde_json::from_str::<VmAction>(line).unwrap(), action);
        }
        let short = r#"{"action":"vm-add-disk","name":"a","disk":{"path":"d.img"}}"#;
        assert!(serde_json::from_str::<VmAction>(short).is_ok());
        for bad in [
            r#"{"action":"vm-list","name":"a"}"#,
            r#"{"action":"vm-pause"}"#,
            r#"{"action":"vm-pause","name":"a","more":1}"#,
            r#"{"action":"vm-add-disk","name":"a","disk":{"path":"d","ro":true}}"#,
        ] {
            assert!(serde_json::from_str::<VmAction>(bad).is_err(), "{bad}");
        }
        assert_eq!(
            serde_json::to_string(&VmReply::Disk(DiskAdded {
                number: 1,
                bytes: 512
            }))
            .unwrap(),
            r#"{"reply":"disk","number":1,"bytes":512}"#
        );
    }
}
