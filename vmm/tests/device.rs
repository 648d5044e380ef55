//! The Byway device as a guest sees it on /dev/kvm: found, set up, notified through an
//! ioeventfd, heard through an irqfd, reset and gone, in front of a domain that takes notes.

mod common;

use std::os::fd::AsRawFd;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use byway_engine::interface::{DirtyBitmap, Domain, DomainError, MemoryRegion, Vring};
use byway_vmm::exits::RunExit;
use byway_vmm::layout::{VIRTIO_MMIO, VIRTIO_MMIO_GSIS};
use byway_vmm::vcpu::Outcome;
use byway_vmm::vm::Vm;
use common::{RESET, SPIN, config, kvm_is_here};

const LONG: Duration = Duration::from_secs(20);

/// What the domain was asked.
#[derive(Debug)]
enum Call {
    Region(MemoryRegion),
    Start(usize, Vring),
    Stop(usize),
    Reset,
    Dropped,
}

struct Notes(Sender<Call>);

impl Notes {
    fn tell(&self, call: Call) {
        // A test that has seen enough hangs up.
        let _ = self.0.send(call);
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        self.tell(Call::Dropped);
    }
}

impl Domain for Notes {
    fn features(&self) -> u64 {
        0
    }
    fn set_features(&mut self, _features: u64) -> Result<(), DomainError> {
        Ok(())
    }
    fn queue_count(&self) -> usize {
        2
    }
    fn queue_max_size(&self) -> u16 {
        256
    }
    fn read_config(&self, _offset: u32, data: &mut [u8]) {
        data.fill(b'!');
    }
    fn add_region(&mut self, region: MemoryRegion) -> Result<(), DomainError> {
        self.tell(Call::Region(region));
        Ok(())
    }
    fn remove_region(&mut self, _guest_addr: u64, _size: u64) -> Result<(), DomainError> {
        Ok(())
    }
    fn protect_region(
        &mut self,
        _guest_addr: u64,
        _size: u64,
        _writable: bool,
    ) -> Result<(), DomainError> {
        Ok(())
    }
    fn discard(&mut self, _guest_addr: u64, _size: u64) -> Result<(), DomainError> {
        Ok(())
    }
    fn restore(&mut self, _guest_addr: u64, _size: u64) -> Result<(), DomainError> {
        Ok(())
    }
    fn set_dirty_log(&mut self, _on: bool) {}
    fn harvest_dirty(&mut self, guest_addr: u64, _size: u64) -> Result<DirtyBitmap, DomainError> {
        let words = Vec::new();
        Ok(DirtyBitmap { guest_addr, words })
    }
    fn start_vring(&mut self, index: usize, vring: Vring) -> Result<(), DomainError> {
        self.tell(Call::Start(index, vring));
        Ok(())
    }
    fn stop_vring(&mut self, index: usize) -> Result<u16, DomainError> {
        self.tell(Call::Stop(index));
        Ok(0)
    }
    fn reset(&mut self) {
        self.tell(Call::Reset);
    }
    fn pause(&mut self) {}
    fn resume(&mut self) {}
}

/// `mov dword [VIRTIO_MMIO + register], value`
fn store(code: &mut Vec<u8>, register: u32, value: u32) {
    code.extend([0xc7, 0x05]);
    code.extend((VIRTIO_MMIO as u32 + register).to_le_bytes());
    code.extend(value.to_le_bytes());
}

/// A guest that brings the device up with one queue and notifies both.
fn driver() -> Vec<u8> {
    let mut code = Vec::new();
    for (register, value) in [
        (0x70, 1), // ACKNOWLEDGE
        (0x70, 3), // DRIVER
        (0x24, 1), // feature word 1: VERSION_1
        (0x20, 1),
        (0x70, 11),        // FEATURES_OK
        (0x30, 0),         // queue 0
        (0x38, 64),        // 64 entries
        (0x80, 0x30_0000), // descriptor table
        (0x90, 0x30_1000), // available ring
        (0xa0, 0x30_2000), // used ring
        (0x44, 1),         // ready
        (0x70, 15),        // DRIVER_OK
        (0x50, 0),         // notify queue 0
        (0x50, 1),         // and one that was not set up
    ] {
        store(&mut code, register, value);
    }
    code
}

fn next(calls: &Receiver<Call>) -> Call {
    calls.recv_timeout(LONG).unwrap()
}

fn boot(code: &[u8]) -> (Vm, Receiver<Call>) {
    let (sender, calls) = mpsc::channel();
    let (config, _console) = config("device", code);
    let mut vm = Vm::new(config, Some(Box::new(Notes(sender)))).unwrap();
    vm.start().unwrap();
    (vm, calls)
}

#[test]
fn a_guest_sets_the_device_up_and_is_heard_and_reached() {
    if !kvm_is_here() {
        return;
    }
    let mut code = driver();
    code.extend(SPIN);
    let (mut vm, calls) = boot(&code);

    let Call::Region(region) = next(&calls) else {
        panic!("RAM comes first");
    };
    assert_eq!((region.guest_addr, region.size), (0, 32 << 20));
    let Call::Start(0, vring) = next(&calls) else {
        panic!("then queue 0");
    };
    assert_eq!(vring.size, 64);
    assert_eq!(
        (vring.desc_table, vring.avail_ring, vring.used_ring),
        (0x30_0000, 0x30_1000, 0x30_2000)
    );

    // The notification is an ioeventfd: it arrives without an exit to this VMM.
    let mut poll = libc::pollfd {
        fd: vring.kick.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one live pollfd, and its number is given.
    assert_eq!(unsafe { libc::poll(&mut poll, 1, 20_000) }, 1);
    assert_eq!(vring.kick.read().unwrap(), 1);
    let writes_before_notify = 12;
    assert_eq!(
        vm.vcpu_counts(0).unwrap().get(RunExit::Mmio),
        writes_before_notify
    );

    // The interrupt is an irqfd: the edge shows in the 8259's request register.
    vring.call.write(1).unwrap();
    let mut chip = kvm_bindings::kvm_irqchip::default();
    let mut requested = false;
    for _ in 0..1000 {
        vm.kvm().get_irqchip(&mut chip).unwrap();
        // SAFETY: chip 0 is the master PIC, so `pic` is the union's live member.
        requested = unsafe { chip.chip.pic.irr } & 1 << VIRTIO_MMIO_GSIS[0] != 0;
        if requested {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(requested, "no interrupt");

    // Stopping takes the queue away and resets the domain; dropping detaches it.
    vm.stop();
    assert!(matches!(next(&calls), Call::Stop(0)));
    assert!(matches!(next(&calls), Call::Reset));
    drop(vm);
    let last: Vec<_> = calls.iter().collect();
    assert!(
        matches!(last.last(), Some(Call::Dropped)),
        "not detached: {last:?}"
    );
}

#[test]
fn a_guest_can_reset_the_device_and_start_over() {
    if !kvm_is_here() {
        return;
    }
    let mut code = driver();
    store(&mut code, 0x70, 0);
    code.extend(driver());
    code.extend(RESET);
    code.extend(SPIN);
    let (mut vm, calls) = boot(&code);
    assert!(matches!(vm.wait(Some(LONG)), Some(Outcome::PoweredOff)));
    vm.stop();
    drop(vm);
    let kinds: Vec<_> = calls
        .iter()
        .map(|call| match call {
            Call::Region(_) => 'm',
            Call::Start(..) => 's',
            Call::Stop(_) => 't',
            Call::Reset => 'r',
            Call::Dropped => 'd',
        })
        .collect();
    // Memory, start, then the guest's reset, start again, then the end.
    assert_eq!(kinds.iter().collect::<String>(), "mstrstrrd");
}
