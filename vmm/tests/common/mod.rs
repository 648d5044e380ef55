//! Tiny guests for tests of the VMM itself: a few bytes of 32-bit code in a PVH ELF; and [`engine`].

#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod engine;

use byway_vmm::devices::block::DiskStore;
use byway_vmm::devices::byway::DEFAULT_DEVICE_ID;
use byway_vmm::devices::serial::{Console, SerialSink};
use byway_vmm::devices::settings::DeviceSettings;
use byway_vmm::host;
use byway_vmm::loader::KernelSource;
use byway_vmm::memory::{HugePages, RamConfig};
use byway_vmm::vm::VmConfig;

/// Where the code is loaded and entered.
pub const CODE: u64 = 0x20_0000;

/// Says on standard error why a test does nothing, where KVM is missing.
pub fn kvm_is_here() -> bool {
    match host::open_kvm() {
        Ok(_) => true,
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            false
        }
    }
}

/// A PVH image that enters `code` in 32-bit protected mode.
pub fn image(code: &[u8]) -> KernelSource {
    let mut note = Vec::new();
    for word in [4u32, 4, 18] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend((CODE as u32).to_le_bytes());

    let mut elf = vec![0; 64];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    elf[16..18].copy_from_slice(&2u16.to_le_bytes());
    elf[18..20].copy_from_slice(&62u16.to_le_bytes());
    elf[24..32].copy_from_slice(&CODE.to_le_bytes());
    elf[32..40].copy_from_slice(&64u64.to_le_bytes());
    elf[54..56].copy_from_slice(&56u16.to_le_bytes());
    elf[56..58].copy_from_slice(&2u16.to_le_bytes());
    let note_at = 64 + 2 * 56;
    for (kind, at, address, size) in [
        (1u32, note_at + note.len(), CODE, code.len()),
        (4, note_at, 0, note.len()),
    ] {
        elf.extend(kind.to_le_bytes());
        elf.extend(7u32.to_le_bytes());
        for field in [at as u64, address, address, size as u64, size as u64, 4] {
            elf.extend(field.to_le_bytes());
        }
    }
    elf.extend(note);
    elf.extend(code);
    // Tests leak a few hundred bytes each, so that an image is what a built-in one is.
    KernelSource::Image(elf.leak())
}

/// A small VM and its console.
pub fn config(name: &str, code: &[u8]) -> (VmConfig, Console) {
    let console = Console::default();
    let config = VmConfig {
        name: name.to_owned(),
        kernel: image(code),
        initrd: None,
        cmdline: String::new(),
        ram: RamConfig {
            size: 32 << 20,
            huge_pages: HugePages::Auto,
            populate: false,
        },
        cpus: 1,
        cpu: byway_vmm::vcpu::Template::Host,
        pin: Vec::new(),
        serial: SerialSink::Capture(console.clone()),
        device_id: DEFAULT_DEVICE_ID,
        devices: DeviceSettings::default(),
        disks: DiskStore::default(),
        mailbox_bytes: 0,
    };
    (config, console)
}

/// Code that prints `text` on COM1.
pub fn print(text: &str) -> Vec<u8> {
    let mut code = vec![0x66, 0xba, 0xf8, 0x03]; // mov dx, 0x3f8
    for byte in text.bytes() {
        code.extend([0xb0, byte, 0xee]); // mov al, byte; out dx, al
    }
    code
}

/// `mov al, 0xfe; out 0x64, al`: ends the VM.
pub const RESET: [u8; 4] = [0xb0, 0xfe, 0xe6, 0x64];
/// `jmp $`.
pub const SPIN: [u8; 2] = [0xeb, 0xfe];

/// Puts [`FAULT_RAX`] into RAX and ends in a triple fault: `mov eax; lidt [an empty table]; ud2` has no handler for #UD, none for #GP and
/// none for #DF.
pub fn triple_fault() -> Vec<u8> {
    let mut code = vec![0xb8];
    code.extend(FAULT_RAX.to_le_bytes());
    let table = CODE as u32 + 0x100;
    code.extend([0x0f, 0x01, 0x1d]);
    code.extend(table.to_le_bytes());
    code.extend([0x0f, 0x0b]);
    code.resize(0x110, 0);
    code
}

/// See [`triple_fault`].
pub const FAULT_RAX: u32 = 0x1234_abcd;
