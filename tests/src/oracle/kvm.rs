//! The guest under Byway's own VMM, on the host's KVM.

use std::path::Path;

use anyhow::{Context as _, Result};
use byway_agent::layout::MAILBOX_BYTES;
use byway_vmm::devices::block::DiskStore;
use byway_vmm::devices::byway::DEFAULT_DEVICE_ID;
use byway_vmm::devices::serial::{Console, SerialSink};
use byway_vmm::devices::settings::DeviceSettings;
use byway_vmm::loader::KernelSource;
use byway_vmm::memory::{HugePages, RamConfig};
use byway_vmm::vm::{Vm, VmConfig};
use byway_vmm::{guest_image, host};
use kvm_bindings::KVM_MAX_CPUID_ENTRIES;

use super::machine::{Cpu, Host, Machine};

/// There where KVM is PVM, which has the guest's ring 3 share the host's address space.
const PVM: &str = "/sys/module/kvm_pvm";
/// First word of the vendors "AuthenticAMD" and "HygonGenuine".
const AMD: [u32; 2] = [u32::from_le_bytes(*b"Auth"), u32::from_le_bytes(*b"Hygo")];
const RAM_BYTES: u64 = 64 << 20;

struct Running {
    vm: Vm,
    console: Console,
}

impl Host for Running {
    fn trouble(&self) -> String {
        format!(
            "VM: {:?}; console:\n{}",
            self.vm.outcome(),
            self.console.text()
        )
    }

    fn has_ended(&mut self) -> bool {
        self.vm.outcome().is_some()
    }
}

/// Boots one; `Err` with the reason where this host has no KVM.
///
/// # Errors
/// When the VM cannot be made or does not come up.
pub fn boot() -> Result<std::result::Result<Machine, String>> {
    let cpu = match host::open_kvm() {
        Ok(kvm) => cpu(&kvm)?,
        Err(lack) => return Ok(Err(lack.to_string())),
    };
    let console = Console::default();
    let config = VmConfig {
        name: "oracle".into(),
        kernel: KernelSource::Image(guest_image()),
        initrd: None,
        cmdline: String::new(),
        ram: RamConfig {
            size: RAM_BYTES,
            huge_pages: HugePages::Auto,
            populate: true,
        },
        cpus: 1,
        cpu: byway_vmm::vcpu::Template::Host,
        pin: Vec::new(),
        serial: SerialSink::Capture(console.clone()),
        device_id: DEFAULT_DEVICE_ID,
        devices: DeviceSettings::default(),
        disks: DiskStore::default(),
        mailbox_bytes: MAILBOX_BYTES as u64,
    };
    let mut vm = Vm::new(config, None)?;
    let (mailbox, _) = vm.mailbox().context("the VM has no mailbox")?;
    let regions = vm.ram().engine_regions();
    vm.start()?;
    Machine::new(Box::new(Running { vm, console }), regions, mailbox, cpu).map(Ok)
}

/// What the guest's CPUID says: the VMM hands KVM's own list on.
fn cpu(kvm: &kvm_ioctls::Kvm) -> Result<Cpu> {
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    let leaf = |function| {
        let found = cpuid
            .as_slice()
            .iter()
            .find(|entry| entry.function == function);
        found.with_context(|| format!("KVM's CPUID has no leaf {function:#x}"))
    };
    let pvm = Path::new(PVM).exists();
    Ok(Cpu {
        maxphyaddr: leaf(0x8000_0008)?.eax as u8,
        pages_1g: leaf(0x8000_0001)?.edx & 1 << 26 != 0,
        reserved_without_present: false,
        large_leaf_accessed_early: false,
        page_fault_beyond_canonical: true,
        torn_stores: pvm,
        bit8_reserved: AMD.contains(&leaf(0)?.ebx),
        upper_half: !pvm,
    })
}
