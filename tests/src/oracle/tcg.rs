//! The same image under QEMU's emulated CPU, its RAM in a file that the engine maps too.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use byway_agent::layout::MAILBOX_BYTES;
use byway_engine::interface::MemoryRegion;
use byway_vmm::guest_image;

use super::machine::{Cpu, Host, Machine};

const QEMU: &str = "qemu-system-x86_64";
const RAM_BYTES: u64 = 256 << 20;
const MAILBOX: u64 = RAM_BYTES - MAILBOX_BYTES as u64;
/// All that QEMU's emulation has.
const MAXPHYADDR: u8 = 40;

struct Running {
    child: Child,
    directory: tempfile::TempDir,
}

impl Host for Running {
    fn trouble(&self) -> String {
        let read = |name| std::fs::read_to_string(self.directory.path().join(name));
        format!(
            "console:\n{}\nQEMU says:\n{}",
            read("serial").unwrap_or_default(),
            read("messages").unwrap_or_default()
        )
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Boots one with page tables of 4 or, where `la57`, 5 levels; `Err` with the reason where there is no QEMU.
///
/// # Errors
/// When QEMU does not start or the guest does not come up.
pub fn boot(la57: bool) -> Result<std::result::Result<Machine, String>> {
    let version = Command::new(QEMU)
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if !version.is_ok_and(|status| status.success()) {
        return Ok(Err(format!("{QEMU} is not installed")));
    }
    let directory = tempfile::tempdir()?;
    let path = |name| directory.path().join(name);
    let ram = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path("ram"))?;
    ram.set_len(RAM_BYTES)
        .context("no room for the guest's RAM")?;
    std::fs::write(path("image"), guest_image())?;
    // The CPU has it, and the guest turns it on.
    let (la57, word, levels) = if la57 {
        ("on", " la57", 5)
    } else {
        ("off", "", 4)
    };
    let memory = format!(
        "memory-backend-file,id=mem,size={RAM_BYTES},share=on,mem-path={}",
        path("ram").display()
    );
    let child = Command::new(QEMU)
        // With one CPU QEMU makes locked instructions non-atomic.
        .args(["-accel", "tcg,thread=multi", "-smp", "2"])
        .args(["-cpu", &format!("max,la57={la57},phys-bits={MAXPHYADDR}")])
        .args([
            "-M",
            "q35,memory-backend=mem",
            "-m",
            &format!("{RAM_BYTES}B"),
        ])
        .args(["-object", &memory])
        .args([
            "-nodefaults",
            "-no-reboot",
            "-display",
            "none",
            "-monitor",
            "none",
        ])
        .args(["-serial", &format!("file:{}", path("serial").display())])
        .args([
            "-append",
            &format!("mailbox={MAILBOX:#x},{MAILBOX_BYTES}{word}"),
        ])
        .arg("-kernel")
        .arg(path("image"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(path("messages"))?)
        .spawn()
        .context("QEMU does not start")?;
    let region = MemoryRegion {
        guest_addr: 0,
        size: RAM_BYTES,
        file: Arc::new(ram),
        file_offset: 0,
        writable: true,
        populate: false,
    };
    let cpu = Cpu {
        maxphyaddr: MAXPHYADDR,
        pages_1g: true,
        reserved_without_present: true,
        large_leaf_accessed_early: true,
        page_fault_beyond_canonical: false,
        torn_stores: false,
        // Whatever vendor it shows, QEMU has one walker.
        bit8_reserved: false,
        upper_half: true,
    };
    let host = Box::new(Running { child, directory });
    let machine = Machine::new(host, vec![region], MAILBOX, cpu)?;
    let found = machine.paging().levels;
    ensure!(
        found == levels,
        "the guest has {found} levels of page tables, not {levels}"
    );
    Ok(Ok(machine))
}
