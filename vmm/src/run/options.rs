//! One VM described on the command line, beside a file with several.

use clap::Args;

use crate::config::ByteSize;
use crate::devices::settings::{DiskSettings, NetSettings, NvmeSettings};
use crate::vcpu::Template;

/// Kernel command line where none is given: the console is COM1.
pub const CMDLINE: &str = "console=ttyS0";

/// The options that describe a VM; those of a file are its keys.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "One VM without a file")]
pub struct VmOptions {
    /// Boot this kernel: vmlinuz (bzImage), vmlinux or another PVH image
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub kernel: Option<String>,
    /// Its initramfs
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub initrd: Option<String>,
    /// Its command line
    #[arg(long, value_name = "TEXT", conflicts_with = "file", default_value = CMDLINE)]
    pub cmdline: String,
    /// RAM, such as 512M or 1G
    #[arg(
        long,
        value_name = "SIZE",
        conflicts_with = "file",
        default_value = "512M"
    )]
    pub memory: ByteSize,
    /// vCPUs
    #[arg(long, value_name = "N", conflicts_with = "file", default_value_t = 1)]
    pub cpus: u8,
    /// What the guest's CPU is like; `byway doctor` recommends one
    #[arg(
        long,
        value_name = "TEMPLATE",
        conflicts_with = "file",
        default_value_t
    )]
    pub cpu_template: Template,
    /// A disk, in the order in which the guest finds them: PATH of a raw file or block device, behind it
    /// ",readonly", ",overlay" or ",overlay=FILE" where wanted
    #[arg(long = "disk", value_name = "PATH[,..]", conflicts_with = "file")]
    pub disks: Vec<DiskSettings>,
    /// An NVMe controller on a PCI bus, over PATH of a raw file or block device, behind it ",readonly" where wanted
    #[arg(long = "nvme", value_name = "PATH[,..]", conflicts_with = "file")]
    pub nvmes: Vec<NvmeSettings>,
    /// A network interface: tap=NAME[,mac=ADDRESS] or fd=N[,mac=ADDRESS]
    #[arg(long = "net", value_name = "tap=..", conflicts_with = "file")]
    pub nets: Vec<NetSettings>,
    /// A source of random numbers
    #[arg(long, conflicts_with = "file")]
    pub rng: bool,
    /// Where the console goes: terminal, stdout (with the VM's name before each line), off, file:PATH
    #[arg(
        long,
        value_name = "PLACE",
        conflicts_with = "file",
        default_value = "terminal"
    )]
    pub serial: String,
    /// Its name, and its domain's at the engine
    #[arg(
        long,
        value_name = "NAME",
        conflicts_with = "file",
        default_value = "vm"
    )]
    pub name: String,
}
