//! Guests of Byway's own VMM with an embedded engine, steered by the mailbox.

use std::ptr::NonNull;
use std::time::{Duration, Instant};

use byway_agent::commands::*;
use byway_agent::{CallError, Failure, GuestState, HostMailbox, Process};
use byway_engine::interface::{Action, Admin, LinkPolicy, Quotas};
use byway_engine::{Engine, EngineConfig};
use byway_protocols::{Completion, Descriptor};
use byway_vmm::devices::byway::DEFAULT_DEVICE_ID;
use byway_vmm::devices::serial::{Console, SerialSink};
use byway_vmm::loader::KernelSource;
use byway_vmm::memory::{HugePages, RamConfig};
use byway_vmm::vm::{Vm, VmConfig};
use byway_vmm::{GUEST_MAILBOX_BYTES, guest_image, host};

const PATIENCE: Duration = Duration::from_secs(30);

/// One VM.
pub struct Guest {
    // Declared before the VM, whose RAM it points into.
    pub mailbox: HostMailbox<'static>,
    console: Console,
    pub vm: Vm,
}

/// An engine with the domains `alice` and `bob`, linked both ways with all rights; `None`, with a
/// word why, where there is no KVM.
pub fn engine() -> Option<Engine> {
    if let Err(error) = host::open_kvm() {
        eprintln!("skipped: {error}");
        return None;
    }
    let engine = Engine::new(EngineConfig::default()).unwrap();
    for name in ["alice", "bob"] {
        let quotas = Quotas::default();
        engine
            .act(Action::CreateDomain {
                name: name.to_owned(),
                quotas,
            })
            .unwrap();
    }
    for (from, to) in [("alice", "bob"), ("bob", "alice")] {
        engine
            .act(Action::Link(LinkPolicy {
                from: from.to_owned(),
                to: to.to_owned(),
                read: true,
                write: true,
                grant: true,
                keys: true,
                max_bytes: 0,
            }))
            .unwrap();
    }
    Some(engine)
}

impl Guest {
    /// Boots the image as domain `name`.
    pub fn boot(engine: &Engine, name: &str) -> Self {
        let console = Console::default();
        let config = VmConfig {
            name: name.to_owned(),
            kernel: KernelSource::Image(guest_image()),
            initrd: None,
            cmdline: String::new(),
            ram: RamConfig {
                size: 128 << 20,
                huge_pages: HugePages::Auto,
                populate: false,
            },
            cpus: 1,
            cpu: byway_vmm::vcpu::Template::Host,
            pin: Vec::new(),
            serial: SerialSink::Capture(console.clone()),
            device_id: DEFAULT_DEVICE_ID,
            devices: Default::default(),
            disks: Default::default(),
            mailbox_bytes: GUEST_MAILBOX_BYTES,
        };
        let mut vm = Vm::new(config, Some(engine.attach(name).unwrap())).unwrap();
        let (at, bytes) = vm.mailbox().unwrap();
        let base = vm.ram().host_ptr(at, bytes as usize).unwrap();
        // SAFETY: the mailbox lies in the VM's RAM, which lives as long as `vm`, page-aligned and
        // as large as asked for; nothing else here refers to it.
        let mailbox = unsafe { HostMailbox::new(NonNull::new(base).unwrap()) };
        vm.start().unwrap();
        let guest = Self {
            mailbox,
            console,
            vm,
        };
        guest.wait(|| {
            let ready =
                guest.mailbox.is_set_up() && guest.mailbox.state() == Some(GuestState::Ready);
            ready.then_some(())
        });
        guest
    }

    /// Looks until something is found.
    pub fn wait<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() {
                return found;
            }
            let alive = Instant::now() < deadline && self.vm.outcome().is_none();
            assert!(
                alive,
                "{:?}\n{:?}\n{}",
                self.vm.outcome(),
                self.mailbox.crash(),
                self.console.text()
            );
            std::thread::sleep(Duration::from_micros(20));
        }
    }

    /// Has a process carry out a command.
    pub fn try_call<R: Request>(&self, process: Process, request: R) -> Result<R::Reply, Failure> {
        self.mailbox.run(process);
        let mut channel = self.mailbox.channel(process);
        let ticket = channel.begin(request);
        match self.wait(|| channel.finish(&ticket)) {
            Ok(reply) => Ok(reply),
            Err(CallError::Failed(failure)) => Err(failure),
            Err(other) => panic!("{}: {other}\n{}", R::NAME, self.console.text()),
        }
    }

    /// As [`Self::try_call`], for what must succeed.
    pub fn call<R: Request>(&self, process: Process, request: R) -> R::Reply {
        let outcome = self.try_call(process, request);
        outcome.unwrap_or_else(|why| panic!("{}: {why}\n{}", R::NAME, self.console.text()))
    }

    /// A context of `process` over its own memory, and a queue in it.
    pub fn open(&self, process: Process, flags: u64) -> (u64, QueueCreated) {
        let open = OpenContext {
            pasid: PASID_OWN,
            slots: 64,
            maxphyaddr: 0,
            flags: 0,
        };
        let context = self.call(process, open).context;
        let queue = self.call(
            process,
            CreateQueue {
                context,
                entries: 128,
                flags,
            },
        );
        (context, queue)
    }

    /// Number of a linked domain.
    pub fn lookup(&self, process: Process, name: &str) -> Result<Peer, Failure> {
        self.mailbox.channel(process).bulk_write(0, name.as_bytes());
        self.try_call(
            process,
            Lookup {
                name_len: name.len() as u64,
            },
        )
    }

    /// Submits descriptors and waits for all their completions, in the order of submission.
    pub fn transfer(
        &self,
        process: Process,
        queue: u64,
        descriptors: &[Descriptor],
    ) -> Vec<Completion> {
        let mut channel = self.mailbox.channel(process);
        for (index, descriptor) in descriptors.iter().enumerate() {
            channel.bulk_write(index * DESCRIPTOR_BYTES, &descriptor.to_bytes());
        }
        let count = descriptors.len() as u64;
        let submitted = self.call(process, Submit { queue, count });
        assert_eq!(submitted.count, count);
        let polled = self.call(
            process,
            Poll {
                queue,
                max: count,
                ticks: 20_000_000_000,
            },
        );
        assert_eq!((polled.count, polled.outstanding), (count, 0));
        let mut found = vec![None; descriptors.len()];
        for index in 0..descriptors.len() {
            let mut record = [0; COMPLETION_RECORD_BYTES];
            channel.bulk_read(index * COMPLETION_RECORD_BYTES, &mut record);
            let (number, rest) = record.split_first_chunk::<8>().unwrap();
            let place = u64::from_le_bytes(*number) - submitted.first;
            let completion = Completion::from_bytes(rest.last_chunk::<32>().unwrap());
            assert!(found[place as usize].replace(completion).is_none());
        }
        found.into_iter().map(Option::unwrap).collect()
    }
}
