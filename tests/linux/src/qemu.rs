//! The command line of QEMU for one guest.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::images::Images;

/// Where the emulator comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emulator {
    /// QEMU 8.1 or newer: the host's, or the one that [`Images::recent_qemu`] gets from Debian's packages.
    ///
    /// Those before translate a page of code while another CPU may write to it, and then keep what they
    /// have translated. A kernel patches its own code all the time that it boots: one with two CPUs
    /// dies of it now and then.
    ///
    /// Its device is there for as long as the engine is: QEMU 10 does not look for another one.
    Recent,
    /// Whatever the host has, as it is found on the path; QEMU 7.2 of Debian 12 looks for the engine again
    /// when that is restarted. Where its emulation ends a boot, the guest is started again: see
    /// [`Guest::up`](crate::guest::Guest::up).
    Host,
}

impl Emulator {
    /// The program.
    ///
    /// # Errors
    /// When there is none that is new enough.
    pub(crate) fn program(self, images: &Images) -> Result<PathBuf> {
        match self {
            Self::Recent => images.recent_qemu(),
            Self::Host => Ok("qemu-system-x86_64".into()),
        }
    }
}

/// Everything that the emulation has, with four levels of page tables.
///
/// CMPXCHG16B is left out: QEMU 7.2 sometimes leaves garbage in EFLAGS after it when several CPUs are
/// emulated by a thread each, and Linux 6.12, whose allocator uses it, dies early in its boot.
pub const FOUR_LEVELS: &str = "max,la57=off,cx16=off";
/// The same with five levels.
pub const FIVE_LEVELS: &str = "max,cx16=off";

/// What kind of machine a guest is.
#[derive(Debug, Clone)]
pub struct Machine {
    /// What emulates it.
    pub emulator: Emulator,
    /// Virtual CPUs. Two unless a test is about one: see the module's documentation of NO_AD.
    pub cpus: u32,
    /// RAM, MiB. Above 2048 it is two regions, below and above 4 GiB.
    pub memory_mib: u32,
    /// RAM that can be plugged in while it runs, MiB.
    pub more_mib: u32,
    /// QEMU's CPU model with its features: see [`FOUR_LEVELS`].
    pub cpu: String,
    /// A reset starts the guest again. Otherwise it ends QEMU, so that a panic is noticed at once.
    pub may_reboot: bool,
    /// Added to the kernel's command line.
    pub cmdline: String,
    /// Device arguments added as they are.
    pub extra: Vec<String>,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            emulator: Emulator::Recent,
            cpus: 2,
            memory_mib: 512,
            more_mib: 0,
            cpu: FOUR_LEVELS.into(),
            may_reboot: false,
            cmdline: String::new(),
            extra: Vec::new(),
        }
    }
}

impl Machine {
    /// Whether its CPUs know no page tables of five levels.
    pub(crate) fn has_four_levels(&self) -> bool {
        self.cpu.split(',').any(|feature| feature == "la57=off")
    }
}

/// The files and sockets of a guest.
#[derive(Debug)]
pub(crate) struct Wiring<'a> {
    pub kernel: &'a Path,
    pub initramfs: &'a Path,
    /// The first serial port is written to this file.
    pub console: &'a Path,
    /// The second one is connected to this socket.
    pub commands: &'a Path,
    /// QEMU's monitor listens here.
    pub monitor: &'a Path,
    /// The engine's socket for this guest; without one it has no Byway device.
    pub device: Option<PathBuf>,
}

/// All arguments.
pub(crate) fn arguments(machine: &Machine, wiring: &Wiring<'_>) -> Vec<String> {
    let memory = machine.memory_mib;
    let console = wiring.console.display();
    let commands = wiring.commands.display();
    let monitor = wiring.monitor.display();
    let mut arguments: Vec<String> = [
        "-no-user-config",
        "-nodefaults",
        "-display",
        "none",
        "-accel",
        "tcg",
        // vhost-user needs memory that another process can map.
        "-M",
        "q35,memory-backend=mem",
    ]
    .map(String::from)
    .to_vec();
    let mut add = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
    add("-cpu", machine.cpu.clone());
    add("-smp", machine.cpus.to_string());
    if machine.more_mib == 0 {
        add("-m", memory.to_string());
    } else {
        let most = memory + machine.more_mib;
        add("-m", format!("{memory}M,slots=1,maxmem={most}M"));
    }
    add(
        "-object",
        format!("memory-backend-memfd,id=mem,size={memory}M,share=on"),
    );
    add("-kernel", wiring.kernel.display().to_string());
    add("-initrd", wiring.initramfs.display().to_string());
    add("-append", command_line(machine));
    add(
        "-chardev",
        format!("file,id=console,path={console},append=on"),
    );
    add("-serial", "chardev:console".into());
    add("-chardev", format!("socket,id=commands,path={commands}"));
    add("-serial", "chardev:commands".into());
    add(
        "-chardev",
        format!("socket,id=monitor,path={monitor},server=on,wait=off"),
    );
    add("-mon", "chardev=monitor,mode=readline".into());
    if let Some(socket) = &wiring.device {
        let reconnect = match machine.emulator {
            Emulator::Recent => "",
            Emulator::Host => ",reconnect=1",
        };
        add(
            "-chardev",
            format!("socket,id=byway,path={}{reconnect}", socket.display()),
        );
        add(
            "-device",
            "vhost-user-gpio-pci,id=byway0,chardev=byway".into(),
        );
    }
    if !machine.may_reboot {
        arguments.push("-no-reboot".into());
    }
    for extra in &machine.extra {
        arguments.extend(["-device".to_owned(), extra.clone()]);
    }
    arguments
}

/// The kernel's command line: everything on the console; a panic is a reset.
fn command_line(machine: &Machine) -> String {
    format!(
        "console=ttyS0 loglevel=7 panic=-1 oops=panic rcupdate.rcu_cpu_stall_timeout=60 {}",
        machine.cmdline
    )
}
