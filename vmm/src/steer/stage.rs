//! Two VMs wired up: alice holds a capability over a buffer of bob's process. What the demo, the benchmark and
//! the whole-system tests play on.

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use byway_agent::Process;
use byway_agent::commands::{ComparePattern, FillPattern, NO_MISMATCH, PingPong};
use byway_engine::interface::{
    Action, Admin, EndpointConfig, EndpointGrant, EndpointKind, LinkPolicy, Reply,
};
use byway_engine::{Engine, EngineConfig};
use byway_protocols::{Descriptor, Flags, Opcode, Rights, Status};

use super::{Direction, Guest, GuestSpec, PAGE_2M};
use crate::measure::{ThreadLoad, pin};
use crate::signals::Stop;

/// How large the stage is.
#[derive(Debug, Clone, Copy)]
pub struct StageSpec {
    /// RAM of each VM in bytes.
    pub memory_bytes: u64,
    /// Bytes of each side's buffer.
    pub buffer_bytes: u64,
}

impl Default for StageSpec {
    /// 256 MiB of RAM, buffers of 16 MiB.
    fn default() -> Self {
        Self {
            memory_bytes: 256 << 20,
            buffer_bytes: 16 << 20,
        }
    }
}

/// Entries of alice's work queue.
const QUEUE_ENTRIES: u64 = 128;
/// How long an idle queue is polled before it parks. Long enough that a measurement's gap between two commands
/// of the host does not park it, since a kick would be an exit.
pub const POLLED: Duration = Duration::from_millis(100);
/// Label under which bob offers his buffer.
const LABEL: u64 = 0x627_566;

/// One window of a ping-pong.
#[derive(Debug, Clone, Copy)]
pub struct PingWindow {
    /// Mean round trip in nanoseconds.
    pub ns: f64,
    /// Load on the answering thread before the window.
    pub before: ThreadLoad,
    /// And after it.
    pub after: ThreadLoad,
}

/// System calls that were made for devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceCalls {
    /// By their drivers, to start operations.
    pub drivers: u64,
    /// By workers, to sleep while only devices have something to do.
    pub naps: u64,
}

impl DeviceCalls {
    /// Both together.
    #[must_use]
    pub fn all(self) -> u64 {
        self.drivers + self.naps
    }
    /// Those that came after `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            drivers: self.drivers - earlier.drivers,
            naps: self.naps - earlier.naps,
        }
    }
}

impl std::ops::AddAssign for DeviceCalls {
    fn add_assign(&mut self, more: Self) {
        self.drivers += more.drivers;
        self.naps += more.naps;
    }
}

/// Two running VMs and the engine between them.
pub struct Stage {
    /// The VM that submits.
    pub alice: Guest,
    /// The VM whose memory it reaches.
    pub bob: Guest,
    /// Bytes of each side's buffer.
    pub buffer_bytes: u64,
    /// Alice's buffer, a virtual address of her process.
    pub alice_buffer: u64,
    /// Bob's buffer, a virtual address of his process.
    pub bob_buffer: u64,
    /// Slot in which alice holds the capability over bob's buffer.
    pub slot: u16,
    /// Slot in which bob holds what he offered.
    pub bob_slot: u16,
    /// Time from the start of the first VMM to the completion of the first transfer.
    pub boot_to_first_transfer: Duration,
    /// The core that the engine's worker polls on.
    pub engine_core: usize,
    /// The engine. After the VMs, which end before it.
    pub engine: Engine,
    bound: pin::Bound,
}

impl Stage {
    /// Boots both VMs and hands alice the capability.
    ///
    /// # Errors
    /// When the host lacks something or a guest does not do as told.
    pub fn set(spec: StageSpec, say: &mut dyn FnMut(&str)) -> Result<Self> {
        let cores = pin::allowed_cores();
        let guest_core = cores[0];
        let engine_core = *cores.last().unwrap_or(&guest_core);
        // Everything that is not the worker stays off its core: this thread, which waits for guests by short naps, and
        // the threads that it starts.
        let bound = pin::Bound::to(guest_core).context("cannot bind a thread to a core")?;
        let engine = Engine::new(EngineConfig {
            workers: 1,
            worker_cpus: vec![engine_core],
            park_us: u32::try_from(POLLED.as_micros())?,
            ..EngineConfig::default()
        })
        .context("cannot start the engine")?;
        for name in ["alice", "bob", "carol"] {
            engine.act(Action::CreateDomain {
                name: name.to_owned(),
                quotas: Default::default(),
            })?;
        }
        for (from, to) in [("bob", "alice"), ("alice", "bob")] {
            engine.act(Action::Link(LinkPolicy {
                from: from.to_owned(),
                to: to.to_owned(),
                read: true,
                write: true,
                grant: true,
                keys: true,
                max_bytes: 0,
            }))?;
        }
        say("booting alice and bob");
        let started = Instant::now();
        let guest = |name: &str| GuestSpec {
            name: name.to_owned(),
            memory_bytes: spec.memory_bytes,
            pin: Some(guest_core),
            cpus: 1,
        };
        let alice = Guest::boot(&guest("alice"), &engine)?;
        let bob = Guest::boot(&guest("bob"), &engine)?;

        say("opening contexts, offering the capability");
        let alice_buffer = open(&alice, spec.buffer_bytes)?;
        let bob_buffer = open(&bob, spec.buffer_bytes)?;
        let rights = Rights::READ | Rights::WRITE | Rights::GRANT;
        let (bob_slot, slot) = give(&alice, &bob, bob_buffer, spec.buffer_bytes, rights)?;
        let mut stage = Self {
            alice,
            bob,
            buffer_bytes: spec.buffer_bytes,
            alice_buffer,
            bob_buffer,
            slot,
            bob_slot,
            boot_to_first_transfer: Duration::ZERO,
            engine_core,
            engine,
            bound,
        };
        stage.expect_success(&Direction::Put.descriptor(&stage, 64))?;
        stage.boot_to_first_transfer = started.elapsed();
        Ok(stage)
    }

    /// Has every wait for a guest end once `stop` is set, and with it what the stage is used for.
    pub fn stop_on(&mut self, stop: &Stop) {
        self.alice.stop_on(stop);
        self.bob.stop_on(stop);
    }

    /// Every core that this process may use.
    #[must_use]
    pub fn cores(&self) -> &[usize] {
        self.bound.before()
    }

    /// Has the engine attach what is at `path` as endpoint `name`, and grants alice all of it: what an operator says with
    /// `[[endpoint]]` in a TOML file.
    ///
    /// # Errors
    /// When the engine refuses it.
    pub fn attach_disk(&self, name: &str, kind: EndpointKind, path: &Path) -> Result<()> {
        self.engine.act(Action::AttachEndpoint(EndpointConfig {
            name: name.to_owned(),
            kind,
            path: path.to_owned(),
            read_only: false,
            // The most for one that is to be trusted.
            timeout_ms: 10_000,
        }))?;
        self.engine.act(Action::GrantEndpoint(EndpointGrant {
            endpoint: name.to_owned(),
            domain: "alice".to_owned(),
            first: 0,
            bytes: 0,
            read: true,
            write: true,
            trusted: false,
        }))?;
        Ok(())
    }

    /// Trusts endpoint `name` with bob's memory, and has him give alice a capability to his buffer as pinned: her slot.
    ///
    /// # Errors
    /// When the engine refuses it or a guest does not do as told.
    pub fn trust_disk(&self, name: &str) -> Result<u16> {
        self.engine.act(Action::GrantEndpoint(EndpointGrant {
            endpoint: name.to_owned(),
            domain: "bob".to_owned(),
            first: 0,
            bytes: 0,
            read: false,
            write: false,
            trusted: true,
        }))?;
        let rights = Rights::READ | Rights::WRITE | Rights::PINNED;
        let (_, slot) = give(
            &self.alice,
            &self.bob,
            self.bob_buffer,
            self.buffer_bytes,
            rights,
        )?;
        Ok(slot)
    }

    /// Requests so far by which devices reached memory of guests.
    ///
    /// # Errors
    /// When the engine does not list its endpoints.
    pub fn direct_requests(&self) -> Result<u64> {
        let Reply::Endpoints { endpoints } = self.engine.act(Action::Endpoints)? else {
            bail!("the engine does not list its endpoints");
        };
        Ok(endpoints.iter().map(|endpoint| endpoint.direct).sum())
    }

    /// System calls so far for the engine's devices.
    ///
    /// # Errors
    /// When the engine does not list its endpoints.
    pub fn device_calls(&self) -> Result<DeviceCalls> {
        let Reply::Endpoints { endpoints } = self.engine.act(Action::Endpoints)? else {
            bail!("the engine does not list its endpoints");
        };
        Ok(DeviceCalls {
            drivers: endpoints.iter().map(|endpoint| endpoint.system_calls).sum(),
            naps: self.engine.stats().workers.iter().map(|w| w.naps).sum(),
        })
    }

    /// A descriptor that moves nothing, so that alice's queue is polled for the next [`POLLED`].
    ///
    /// # Errors
    /// When it does not end in success.
    pub fn wake_queue(&self) -> Result<()> {
        self.expect_success(&Descriptor::new(Opcode::Nop, Flags::NONE))
    }

    fn expect_success(&self, descriptor: &Descriptor) -> Result<()> {
        let completion = self.alice.execute_one(Process::App, descriptor)?;
        ensure!(
            completion.status() == Some(Status::Success),
            "a descriptor with opcode {:#04x} ended with status {:#04x}",
            descriptor.code(),
            completion.status
        );
        Ok(())
    }

    /// Waits until the worker has parked alice's queue and sleeps, so that its core is free.
    pub fn quiesce(&self) {
        std::thread::sleep(POLLED + POLLED / 4);
    }

    /// What the host has done to the worker's thread so far.
    ///
    /// # Errors
    /// When the thread cannot be observed.
    pub fn worker_load(&self) -> Result<ThreadLoad> {
        let tid = self
            .engine
            .worker_tids()
            .first()
            .copied()
            .context("the engine has no worker")?;
        Ok(ThreadLoad::of(tid)?)
    }

    /// Round trips of a cache line between alice's process and a thread on the engine's core, while the worker sleeps: `windows`
    /// windows of `iterations` each.
    ///
    /// # Errors
    /// When alice does not answer, or the thread cannot be bound or observed.
    pub fn ping_pong(&self, windows: u32, iterations: u64) -> Result<Vec<PingWindow>> {
        self.quiesce();
        self.alice.settle()?;
        let mailbox = self.alice.mailbox();
        let engine_core = self.engine_core;
        let (start, starts) = mpsc::channel::<()>();
        let (load, loads) = mpsc::channel();
        std::thread::scope(|scope| {
            let answering = scope.spawn(move || -> Result<()> {
                pin::pin_current_thread(engine_core)?;
                // SAFETY: takes no argument and cannot fail.
                let tid = unsafe { libc::gettid() };
                let channel = mailbox.channel(Process::App);
                while starts.recv().is_ok() {
                    let deadline = Instant::now() + Duration::from_secs(10);
                    let before = ThreadLoad::of(tid)?;
                    ensure!(
                        channel.answer_pings(iterations, || Instant::now() < deadline),
                        "the guest stopped in the middle of a ping-pong"
                    );
                    load.send((before, ThreadLoad::of(tid)?))?;
                }
                Ok(())
            });
            let mut found = Vec::new();
            let mut expected = Duration::ZERO;
            for _ in 0..windows {
                mailbox.channel(Process::App).reset_pings();
                start.send(()).context("the answering thread ended")?;
                let pings = PingPong { iterations };
                let done = self.alice.call_undisturbed(Process::App, pings, expected)?;
                let (before, after) = loads.recv().context("the answering thread ended")?;
                let took = self.alice.ticks_to_ns(done.ticks);
                expected = Duration::from_nanos(took);
                let ns = took as f64 / done.iterations.max(1) as f64;
                found.push(PingWindow { ns, before, after });
            }
            drop(start);
            match answering.join() {
                Ok(answered) => answered.map(|()| found),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Bob drops what he revoked and offers his buffer anew; alice accepts.
    ///
    /// # Errors
    /// When a guest does not answer or the engine refuses.
    pub fn give_again(&mut self) -> Result<()> {
        self.bob.drop_capability(Process::App, self.bob_slot)?;
        (self.bob_slot, self.slot) = give(
            &self.alice,
            &self.bob,
            self.bob_buffer,
            self.buffer_bytes,
            Rights::READ | Rights::WRITE | Rights::GRANT,
        )?;
        Ok(())
    }

    /// The guest that a direction's bytes come from, with its buffer.
    fn source(&self, direction: Direction) -> (&Guest, u64) {
        match direction {
            Direction::Put => (&self.alice, self.alice_buffer),
            Direction::Get => (&self.bob, self.bob_buffer),
        }
    }

    /// The guest that they go to, with its buffer.
    fn destination(&self, direction: Direction) -> (&Guest, u64) {
        match direction {
            Direction::Put => (&self.bob, self.bob_buffer),
            Direction::Get => (&self.alice, self.alice_buffer),
        }
    }

    /// Has the source's process fill its buffer with the pattern of `seed`.
    ///
    /// # Errors
    /// When a guest does not answer.
    pub fn fill_source(&self, direction: Direction, seed: u64) -> Result<()> {
        let (guest, va) = self.source(direction);
        guest.call(
            Process::App,
            FillPattern {
                va,
                len: self.buffer_bytes,
                seed,
            },
        )?;
        self.bob.sleep()
    }

    /// Has the destination's process check every byte against the pattern of `seed`, and its checksum against
    /// the source's.
    ///
    /// # Errors
    /// When a byte differs.
    pub fn verify_destination(&self, direction: Direction, seed: u64) -> Result<()> {
        let (guest, va) = self.destination(direction);
        let found = guest.call(
            Process::App,
            ComparePattern {
                va,
                len: self.buffer_bytes,
                seed,
            },
        )?;
        let received = guest.checksum(Process::App, va, self.buffer_bytes)?;
        let (source, source_va) = self.source(direction);
        let sent = source.checksum(Process::App, source_va, self.buffer_bytes)?;
        self.bob.sleep()?;
        ensure!(
            found.mismatch == NO_MISMATCH,
            "{} received a wrong byte at offset {:#x}",
            guest.name(),
            found.mismatch
        );
        ensure!(
            received == sent,
            "checksums differ: sent {sent:#018x}, received {received:#018x}"
        );
        Ok(())
    }
}

/// Opens a context and a queue in the guest's first process, and allocates its buffer.
fn open(guest: &Guest, buffer_bytes: u64) -> Result<u64> {
    guest.open_context(Process::App)?;
    guest.create_queue(Process::App, QUEUE_ENTRIES, 0)?;
    guest.alloc(Process::App, buffer_bytes, PAGE_2M)
}

/// Bob offers his buffer, alice accepts: his slot and hers.
fn give(alice: &Guest, bob: &Guest, buffer: u64, bytes: u64, rights: Rights) -> Result<(u16, u16)> {
    let bob_slot = bob.derive(Process::App, 0, buffer, bytes, rights)?;
    bob.offer(Process::App, bob_slot, "alice", rights, LABEL)?;
    bob.sleep()?;
    let accepted = alice.accept(Process::App, LABEL)?;
    ensure!(
        accepted.length == bytes,
        "alice was given {} bytes instead of {bytes}",
        accepted.length
    );
    Ok((bob_slot, accepted.slot))
}
