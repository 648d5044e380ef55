//! The built-in image on /dev/kvm: it finds its mailbox, answers, sleeps, is woken, and its exits
//! show in the witness.

mod common;

use std::ptr::NonNull;
use std::time::{Duration, Instant};

use byway_agent::commands::{MmioOnPurpose, Ping, Sleep};
use byway_agent::{GuestState, HostMailbox, Process};
use byway_engine::interface::{Action, Admin, Quotas};
use byway_engine::{Engine, EngineConfig};
use byway_vmm::loader::KernelSource;
use byway_vmm::vm::Vm;
use byway_vmm::{GUEST_MAILBOX_BYTES, guest_image};
use common::{config, kvm_is_here};

const PATIENCE: Duration = Duration::from_secs(20);

/// Waits as long as a test may.
fn patient() -> impl FnMut() -> bool {
    let deadline = Instant::now() + PATIENCE;
    move || {
        std::thread::yield_now();
        Instant::now() < deadline
    }
}

struct Guest {
    // Declared before the VM, whose RAM it points into.
    mailbox: HostMailbox<'static>,
    console: byway_vmm::devices::serial::Console,
    vm: Vm,
    _engine: Engine,
}

fn boot() -> Guest {
    let (mut config, console) = config("guest", &[]);
    config.kernel = KernelSource::Image(guest_image());
    config.ram.size = 128 << 20;
    config.mailbox_bytes = GUEST_MAILBOX_BYTES;
    let engine = Engine::new(EngineConfig::default()).unwrap();
    engine
        .act(Action::CreateDomain {
            name: "guest".to_owned(),
            quotas: Quotas::default(),
        })
        .unwrap();
    let domain = engine.attach("guest").unwrap();
    let mut vm = Vm::new(config, Some(domain)).unwrap();
    let (at, bytes) = vm.mailbox().unwrap();
    assert_eq!((at + bytes, at % (2 << 20)), (128 << 20, 0));
    let base = vm.ram().host_ptr(at, bytes as usize).unwrap();
    // SAFETY: the mailbox lies in the VM's RAM, which lives as long as `vm`; it is
    // aligned and as large as the agent asks for, and nothing else here refers to it.
    let mailbox = unsafe { HostMailbox::new(NonNull::new(base).unwrap()) };
    vm.start().unwrap();
    let mut wait = patient();
    while !(mailbox.is_set_up() && mailbox.state() == Some(GuestState::Ready)) {
        assert!(
            wait() && vm.outcome().is_none(),
            "{:?}\n{}",
            vm.outcome(),
            console.text()
        );
    }
    Guest {
        mailbox,
        console,
        vm,
        _engine: engine,
    }
}

#[test]
fn both_processes_answer() {
    if !kvm_is_here() {
        return;
    }
    let guest = boot();
    for process in [Process::App, Process::Peer, Process::App] {
        let pong = guest
            .mailbox
            .call(process, Ping { token: 77 }, patient())
            .unwrap();
        assert_eq!(pong.token, 77);
    }
    assert!(
        guest.console.text().contains("byway guest"),
        "{}",
        guest.console.text()
    );
}

#[test]
fn a_sleeping_guest_is_woken_by_its_interrupt() {
    if !kvm_is_here() {
        return;
    }
    let guest = boot();
    let mut channel = guest.mailbox.channel(Process::App);
    let ticket = channel.begin(Sleep {});
    let mut wait = patient();
    while guest.mailbox.state() != Some(GuestState::Sleeping) {
        assert!(wait(), "the guest does not go to sleep");
    }
    guest.vm.wake().unwrap();
    let slept = loop {
        if let Some(answer) = channel.finish(&ticket) {
            break answer.unwrap();
        }
        assert!(wait(), "the guest does not wake up");
    };
    assert!(slept.interrupts >= 1);
}

#[test]
fn answering_costs_no_exit_and_a_deliberate_one_is_seen() {
    if !kvm_is_here() {
        return;
    }
    let guest = boot();
    let ping = || {
        guest
            .mailbox
            .call(Process::App, Ping { token: 1 }, patient())
            .unwrap()
    };
    ping();
    let before = guest.vm.vcpu_exits(0).unwrap();
    for _ in 0..1000 {
        ping();
    }
    let quiet = guest.vm.vcpu_exits(0).unwrap().delta(&before);
    assert!(quiet.is_quiet(), "{quiet:?}");

    guest
        .mailbox
        .call(Process::App, MmioOnPurpose { count: 3 }, patient())
        .unwrap();
    let seen = guest.vm.vcpu_exits(0).unwrap().delta(&before);
    assert_eq!(seen.kvm_run_returns, 3, "{seen:?}");
    assert!(seen.sees_an_exit() && !seen.is_quiet());
}
