//! VMs on /dev/kvm with guests of a few instructions: boot, end, crash, stop, count.
//! Without KVM these tests print why and do nothing.

mod common;

use std::time::{Duration, Instant};

use byway_vmm::control::VmState;
use byway_vmm::exits::RunExit;
use byway_vmm::host::KvmKind;
use byway_vmm::vcpu::{Cause, Crash, Outcome};
use byway_vmm::vm::{PLUG_UNIT, Vm, VmConfig, VmError};
use common::{CODE, RESET, SPIN, config, kvm_is_here, print, triple_fault};
use vm_memory::{Bytes, GuestAddress};

const LONG: Option<Duration> = Some(Duration::from_secs(20));

fn code(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn a_guest_prints_and_powers_off() {
    if !kvm_is_here() {
        return;
    }
    let (config, console) = config("hello", &code(&[&print("hello\n"), &RESET, &SPIN]));
    let mut vm = Vm::new(config, None).unwrap();
    vm.start().unwrap();
    assert!(matches!(vm.wait(LONG), Some(Outcome::PoweredOff)));
    assert!(vm.stop().is_clean());
    assert_eq!(console.text(), "hello\n");
    assert_eq!(vm.vcpu_counts(0).unwrap().get(RunExit::Io), 7);
    assert!(matches!(vm.start(), Err(VmError::Config(_))));
}

#[test]
fn string_output_is_bytes_and_a_wide_access_is_not() {
    if !kvm_is_here() {
        return;
    }
    let text = b"string";
    let mut guest = vec![0x66, 0xba, 0xf8, 0x03]; // mov dx, 0x3f8
    guest.extend([0x66, 0xb8, b'n', b'o', 0x66, 0xef]); // mov ax, "no"; out dx, ax
    guest.push(0xbe); // mov esi, text
    guest.extend((CODE as u32 + 0x100).to_le_bytes());
    guest.extend([0xb9, text.len() as u8, 0, 0, 0]); // mov ecx, length
    guest.extend([0xfc, 0xf3, 0x6e]); // cld; rep outsb
    guest.extend(RESET);
    guest.resize(0x100, 0x90);
    guest.extend(text);
    let (config, console) = config("string", &guest);
    let mut vm = Vm::new(config, None).unwrap();
    vm.start().unwrap();
    assert!(
        matches!(vm.wait(LONG), Some(Outcome::PoweredOff)),
        "{:?}",
        vm.outcome()
    );
    assert_eq!(console.text(), "string");
}

#[test]
fn acpi_power_off_ends_the_vm() {
    if !kvm_is_here() {
        return;
    }
    // mov dx, 0x600; mov al, 0x34; out dx, al: SLP_EN and the sleep type of S5.
    let off = [0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee];
    let (config, _console) = config("acpi", &code(&[&off, &SPIN]));
    let mut vm = Vm::new(config, None).unwrap();
    vm.start().unwrap();
    assert!(matches!(vm.wait(LONG), Some(Outcome::PoweredOff)));
}

/// Runs `guest`, which ends in a crash, beside a VM that must not notice, and says what the crash was.
fn crash_beside_another(name: &str, guest: &[u8]) -> Box<Crash> {
    let (other, _) = config("other", &SPIN);
    let mut other = Vm::new(other, None).unwrap();
    other.start().unwrap();

    let (config, _console) = config(name, guest);
    let mut vm = Vm::new(config, None).unwrap();
    vm.start().unwrap();
    let Some(Outcome::Crashed(crash)) = vm.wait(LONG) else {
        panic!("no crash: {:?}", vm.outcome());
    };
    assert!(!vm.stop().is_clean());

    assert!(other.outcome().is_none());
    assert!(matches!(other.stop(), Outcome::Stopped));
    crash
}

#[test]
fn a_triple_fault_is_reported_with_registers_and_harms_no_other() {
    if !kvm_is_here() {
        return;
    }
    let crash = crash_beside_another("fault", &triple_fault());
    assert_eq!(crash.cause, Cause::TripleFault, "{crash}");
    let text = crash.to_string();
    assert!(text.contains("triple fault"), "{text}");
    assert!(text.contains("rax 000000001234abcd"), "{text}");
    assert!(text.contains("code 0f 0b"), "{text}");
    assert!(text.contains("\n  events "), "{text}");
    assert!(text.contains("\n   state runnable"), "{text}");
}

#[test]
fn an_instruction_that_kvm_cannot_emulate_is_reported_with_registers_and_harms_no_other() {
    if !kvm_is_here() {
        return;
    }
    // Ring 0 is emulated in software alone; hardware runs the instruction itself.
    if KvmKind::of_host() != Some(KvmKind::Pvm) {
        return println!("SKIPPED: this KVM does not emulate ring 0");
    }
    // mov eax, 0x1234abcd; xorps xmm0, xmm0
    let mut guest = vec![0xb8, 0xcd, 0xab, 0x34, 0x12, 0x0f, 0x57, 0xc0];
    guest.extend(SPIN);
    let crash = crash_beside_another("emulation", &guest);
    assert!(
        matches!(crash.cause, Cause::Emulation { suberror: 1, .. }),
        "{crash}"
    );
    let text = crash.to_string();
    assert!(text.contains("could not emulate"), "{text}");
    assert!(text.contains("rax 000000001234abcd"), "{text}");
    assert!(text.contains("code 0f 57 c0"), "{text}");
}

#[test]
fn acpi_reset_is_an_end_of_its_own() {
    if !kvm_is_here() {
        return;
    }
    // mov dx, 0x602; mov al, 1; out dx, al
    let reset = [0x66, 0xba, 0x02, 0x06, 0xb0, 0x01, 0xee];
    let (config, _console) = config("reset", &code(&[&reset, &SPIN]));
    let mut vm = Vm::new(config, None).unwrap();
    vm.start().unwrap();
    assert!(matches!(vm.wait(LONG), Some(Outcome::Reset)));
    assert!(vm.stop().is_clean());
}

/// A guest that counts at 3 MiB as fast as it can.
fn counting() -> Vm {
    let mut guest = vec![0xbb, 0x00, 0x00, 0x30, 0x00]; // mov ebx, 0x300000
    guest.extend([0xff, 0x03, 0xeb, 0xfc]); // again: inc dword [ebx]; jmp again
    let (mut config, _console) = config("count", &guest);
    // The second one waits for its start, which a pause has to interrupt as well.
    config.cpus = 2;
    Vm::new(config, None).unwrap()
}

fn count(vm: &Vm) -> u32 {
    vm.ram().memory().read_obj(GuestAddress(0x30_0000)).unwrap()
}

fn counts_on(vm: &Vm) -> bool {
    let before = count(vm);
    let deadline = Instant::now() + Duration::from_secs(20);
    while count(vm) == before {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

#[test]
fn a_paused_vm_stands_still_until_it_is_resumed() {
    if !kvm_is_here() {
        return;
    }
    let mut vm = counting();
    assert_eq!(vm.state(), VmState::Built);
    assert!(
        vm.pause()
            .unwrap_err()
            .to_string()
            .contains("while it is built")
    );
    vm.start().unwrap();
    for _ in 0..10 {
        assert!(counts_on(&vm));
        vm.pause().unwrap();
        vm.pause().unwrap();
        assert_eq!(vm.state(), VmState::Paused);
        let before = count(&vm);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(count(&vm), before, "it runs while it is paused");
        assert!(vm.power_button().is_err());
        vm.resume().unwrap();
        vm.resume().unwrap();
        assert_eq!(vm.state(), VmState::Running);
    }
    // It can be ended while it stands still.
    vm.pause().unwrap();
    vm.pull_plug().unwrap();
    assert!(matches!(vm.stop(), Outcome::Stopped));
    assert_eq!(vm.state(), VmState::Ended);
    assert!(vm.resume().is_err() && vm.pull_plug().is_err() && vm.reboot().is_err());
}

#[test]
fn memory_is_added_above_all_that_there_is() {
    if !kvm_is_here() {
        return;
    }
    let mut vm = counting();
    for size in [0, 4096, 64 << 20] {
        let error = vm.plug_memory(size).unwrap_err();
        assert!(error.to_string().contains("multiple of 128M"), "{error}");
    }
    let places: Vec<_> = (0..8).map(|_| vm.plug_memory(PLUG_UNIT).unwrap()).collect();
    let expected: Vec<_> = (0..8).map(|n| (4 << 30) + n * PLUG_UNIT).collect();
    assert_eq!(places, expected);
    let error = vm.plug_memory(PLUG_UNIT).unwrap_err();
    assert!(error.to_string().contains("8 times"), "{error}");
    // A place is free again once its memory is gone.
    vm.remove_memory(places[7], PLUG_UNIT).unwrap();
    assert_eq!(vm.plug_memory(PLUG_UNIT).unwrap(), places[7]);
}

#[test]
fn stopping_takes_a_running_and_a_sleeping_guest() {
    if !kvm_is_here() {
        return;
    }
    for body in [&SPIN[..], &[0xf4, 0xeb, 0xfd]] {
        for _ in 0..20 {
            let (config, _console) = config("stop", body);
            let mut vm = Vm::new(config, None).unwrap();
            vm.start().unwrap();
            let began = Instant::now();
            assert!(matches!(vm.stop(), Outcome::Stopped));
            assert!(began.elapsed() < Duration::from_secs(5));
        }
    }
}

#[test]
fn several_vcpus_start_and_stop() {
    if !kvm_is_here() {
        return;
    }
    let (mut config, console) = config("smp", &code(&[&print("up"), &RESET, &SPIN]));
    config.cpus = 4;
    let mut vm = Vm::new(config, None).unwrap();
    vm.start().unwrap();
    assert!(matches!(vm.wait(LONG), Some(Outcome::PoweredOff)));
    vm.stop();
    assert_eq!(console.text(), "up");
    assert_eq!(vm.vcpu_count(), 4);
}

#[test]
fn the_witness_sees_deliberate_exits_and_their_absence() {
    if !kvm_is_here() {
        return;
    }
    // Waits for a word at 3 MiB, then makes four port exits, sets the word to 2, spins.
    let mut guest = vec![0xbb, 0x00, 0x00, 0x30, 0x00]; // mov ebx, 0x300000
    guest.extend([0x83, 0x3b, 0x01]); // cmp dword [ebx], 1
    guest.extend([0x75, 0xfb]); // jne back
    guest.extend(print("four"));
    guest.extend([0xc7, 0x03, 0x02, 0, 0, 0]); // mov dword [ebx], 2
    guest.extend(SPIN);
    let (config, console) = config("witness", &guest);
    let mut vm = Vm::new(config, None).unwrap();
    vm.start().unwrap();
    std::thread::sleep(Duration::from_millis(50));

    let before = vm.vcpu_exits(0).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    let idle = vm.vcpu_exits(0).unwrap().delta(&before);
    assert_eq!(
        idle.kvm_run_returns, 0,
        "a spinning guest came out: {idle:?}"
    );

    let word = GuestAddress(0x30_0000);
    vm.ram().memory().write_obj(1u32, word).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while vm.ram().memory().read_obj::<u32>(word).unwrap() != 2 {
        assert!(Instant::now() < deadline, "guest does not go on");
        std::thread::yield_now();
    }
    let seen = vm.vcpu_exits(0).unwrap().delta(&before);
    assert!(seen.sees_an_exit());
    assert_eq!(seen.kvm_run_returns, 4);
    assert_eq!(console.text(), "four");
    if !seen.missing.contains(&"exits") {
        assert!(seen.exits >= 4, "{seen:?}");
    }
    assert_eq!(
        vm.vcpu_exits(9).unwrap_err().to_string(),
        "there is no vCPU 9"
    );
}

#[test]
fn the_wake_interrupt_reaches_the_interrupt_controller() {
    if !kvm_is_here() {
        return;
    }
    let (config, _console) = config("wake", &SPIN);
    let mut vm = Vm::new(config, None).unwrap();
    vm.start().unwrap();
    // IRQ 6 is masked by default, so the edge shows in the 8259's request register.
    vm.wake().unwrap();
    let requested = |vm: &Vm| {
        let mut chip = kvm_bindings::kvm_irqchip::default();
        vm.kvm().get_irqchip(&mut chip).unwrap();
        // SAFETY: chip 0 is the master PIC, so `pic` is the union's live member.
        unsafe { chip.chip.pic.irr }
    };
    let deadline = Instant::now() + Duration::from_secs(5);
    while requested(&vm) & 1 << 6 == 0 {
        assert!(Instant::now() < deadline, "no interrupt request");
        std::thread::yield_now();
    }
}

#[test]
fn pinning_to_a_cpu_that_is_not_there_is_an_error() {
    if !kvm_is_here() {
        return;
    }
    for cpu in [1023, usize::MAX] {
        let (mut config, _console) = config("pin", &SPIN);
        config.pin = vec![cpu];
        let mut vm = Vm::new(config, None).unwrap();
        let error = vm.start().unwrap_err().to_string();
        assert!(error.contains(&format!("host CPU {cpu}")), "{error}");
    }
}

#[test]
fn impossible_configurations_are_refused() {
    if !kvm_is_here() {
        return;
    }
    let changes: [fn(&mut VmConfig); 5] = [
        |config| config.cpus = 0,
        |config| config.cpus = 200,
        |config| config.mailbox_bytes = 4097,
        |config| config.mailbox_bytes = 32 << 20,
        |config| config.ram.size = 0,
    ];
    for change in changes {
        let (mut config, _console) = config("bad", &SPIN);
        change(&mut config);
        assert!(Vm::new(config, None).is_err());
    }
}
