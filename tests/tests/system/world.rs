//! What all tests stand on: an engine with named domains, VMs with a buffer each, descriptors, and guest RAM as
//! the host sees it.
//!
//! Owns no expectation of any test.

use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use byway_agent::Process;
use byway_agent::commands::{
    self, COMPLETION_RECORD_BYTES, ComparePattern, FillPattern, NO_MISMATCH, NextEvent, Poll,
    PteGet, QueryCapability, capability,
};
use byway_engine::interface::{Action, Admin, DomainInfo, LinkPolicy, Reply};
use byway_engine::{Engine, EngineConfig};
use byway_protocols::event::EventKind;
use byway_protocols::{Completion, Descriptor, Flags, Opcode, Rights, Status, Word0};
use byway_vmm::daemon::{ConfineError, confine_threads};
use byway_vmm::demo::report::status_name;
use byway_vmm::host;
use byway_vmm::steer::{Guest, GuestSpec, PAGE_2M};
use byway_vmm::vm::Vm;
use vm_memory::{Bytes, GuestAddress};

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const PAGE: u64 = 4096;
/// The process that most tests steer.
pub const APP: Process = Process::App;
/// Read and write.
pub const RW: Rights = Rights(3);
/// Read, write, and pass on.
pub const RWG: Rights = Rights(7);

/// Longest wait for anything; a host under load may need a good part of it.
const PATIENCE: Duration = Duration::from_secs(20);
/// RAM of a VM beside its buffer: image, mailbox, page tables, rings, and what a test allocates.
const OTHER_RAM: u64 = 48 * MIB;
/// Entries of every work queue.
pub const ENTRIES: u64 = 128;

/// The right to use both cores; held for a whole test.
pub type Turn = MutexGuard<'static, ()>;

/// This test's turn, or `None`, with the word that the runner counts, on a host without KVM.
pub fn turn() -> Option<Turn> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed while it had the turn has left nothing behind that matters.
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    match host::open_kvm() {
        Ok(_) => Some(turn),
        Err(error) => {
            println!("SKIPPED: {error}");
            None
        }
    }
}

/// Confines this process, once.
pub fn confined(how: fn() -> Result<(), ConfineError>) -> Result<()> {
    static DONE: Mutex<bool> = Mutex::new(false);
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    if !*done {
        how()?;
        *done = true;
    }
    Ok(())
}

/// An engine with these domains, each linked to each with all rights.
pub fn engine(config: EngineConfig, names: &[&str]) -> Result<Engine> {
    // Whatever is asked of its threads in any test, they do it behind the filters that they have in `byway engine`.
    confined(confine_threads)?;
    let engine = Engine::new(config)?;
    for name in names {
        engine.act(Action::CreateDomain {
            name: (*name).to_owned(),
            quotas: Default::default(),
        })?;
    }
    for from in names {
        for to in names.iter().filter(|to| *to != from) {
            engine.act(Action::Link(LinkPolicy {
                from: (*from).to_owned(),
                to: (*to).to_owned(),
                read: true,
                write: true,
                grant: true,
                keys: true,
                max_bytes: 0,
            }))?;
        }
    }
    Ok(engine)
}

/// What the engine says of one domain.
pub fn domain_info(engine: &Engine, name: &str) -> Result<DomainInfo> {
    let Reply::Domains { domains } = engine.act(Action::List)? else {
        bail!("the engine does not list its domains");
    };
    domains
        .into_iter()
        .find(|domain| domain.name == name)
        .with_context(|| format!("the engine does not list {name}"))
}

/// Naps until `look` finds something.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// A running VM whose first process has a context, a work queue and a buffer of 2 MiB pages.
pub struct Party {
    guest: Guest,
    /// Virtual address of the buffer.
    pub buffer: u64,
    /// Bytes of the buffer.
    pub bytes: u64,
    frames: Frames,
}

impl Deref for Party {
    type Target = Guest;
    fn deref(&self) -> &Guest {
        &self.guest
    }
}

impl Party {
    /// Boots the VM of domain `name`.
    pub fn boot(engine: &dyn Admin, name: &str, bytes: u64) -> Result<Self> {
        let spec = GuestSpec {
            name: name.to_owned(),
            memory_bytes: (OTHER_RAM + bytes).next_multiple_of(PAGE_2M),
            pin: None,
            cpus: 1,
        };
        let guest = Guest::boot(&spec, engine)?;
        guest.open_context(APP)?;
        guest.create_queue(APP, ENTRIES, 0)?;
        let buffer = guest.alloc(APP, bytes, PAGE_2M)?;
        let frames = Frames::of(&guest, APP, buffer, bytes)?;
        Ok(Self {
            guest,
            buffer,
            bytes,
            frames,
        })
    }

    /// Guest-physical address of the page of 2 MiB at `offset` of the buffer.
    pub fn frame(&self, offset: u64) -> u64 {
        self.frames.page((offset / PAGE_2M) as usize)
    }

    /// For changes of the VM while it runs.
    pub fn vm_mut(&mut self) -> &mut Vm {
        self.guest.vm_mut()
    }

    /// Bytes of the buffer, read by the host in guest RAM.
    pub fn see(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        self.frames.read(&self.guest, offset, len)
    }

    /// Writes into the buffer, by the host in guest RAM.
    pub fn put_by_host(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.frames.write(&self.guest, offset, bytes)
    }

    /// Puts one byte everywhere into the buffer, by the host in guest RAM.
    pub fn mark(&self, byte: u8) -> Result<()> {
        let marks = vec![byte; self.bytes as usize];
        self.put_by_host(0, &marks)
    }

    /// Offset of the first byte of the buffer that is not `byte`, seen by the host.
    pub fn first_not(&self, byte: u8) -> Result<Option<usize>> {
        let seen = self.see(0, self.bytes)?;
        Ok(seen.iter().position(|found| *found != byte))
    }

    /// The process fills a part of its buffer with a pattern.
    pub fn fill(&self, offset: u64, len: u64, seed: u64) -> Result<()> {
        let va = self.buffer + offset;
        self.call(APP, FillPattern { va, len, seed })?;
        Ok(())
    }

    /// The process checks every byte of a part of its buffer.
    pub fn expect(&self, offset: u64, len: u64, seed: u64) -> Result<()> {
        let va = self.buffer + offset;
        let found = self.call(APP, ComparePattern { va, len, seed })?.mismatch;
        ensure!(
            found == NO_MISMATCH,
            "{} has a wrong byte at {:#x} of its buffer",
            self.name(),
            offset + found
        );
        Ok(())
    }

    /// Gives `peer` a capability over a part of the buffer: the slot here, the slot there.
    pub fn give(&self, peer: &Self, offset: u64, len: u64, rights: Rights) -> Result<(u16, u16)> {
        let own = self.derive(APP, 0, self.buffer + offset, len, rights)?;
        Ok((own, self.pass_on(peer, own, rights)?))
    }

    /// Offers what is in `slot` to `peer`, who accepts: the slot there.
    pub fn pass_on(&self, peer: &Self, slot: u16, rights: Rights) -> Result<u16> {
        let label = u64::from(slot);
        self.offer(APP, slot, peer.name(), rights, label)?;
        let accepted = peer.accept(APP, label)?;
        ensure!(accepted.rights == rights, "rights changed on the way");
        Ok(accepted.slot)
    }
}

/// State of a capability of a process, as CAP_QUERY tells it.
pub fn capability_is(guest: &Guest, slot: u16) -> Result<commands::CapabilityIs> {
    let capability = capability(guest.context(APP)?, u64::from(slot));
    guest.call(APP, QueryCapability { capability })
}

/// Waits for an event of one kind; earlier ones of other kinds are dropped.
pub fn await_event(guest: &Guest, kind: EventKind) -> Result<commands::EventWas> {
    until(&format!("{kind:?} at {}", guest.name()), || {
        let event = guest.call(APP, NextEvent {})?;
        Ok((event.kind == kind as u64).then_some(event))
    })
}

/// Where the pages of a virtual range are in guest RAM.
pub struct Frames {
    pages: Vec<u64>,
    page_bytes: u64,
}

impl Frames {
    /// Looks them up in the process's page tables. `va` begins a page.
    pub fn of(guest: &Guest, process: Process, va: u64, bytes: u64) -> Result<Self> {
        const FRAME: u64 = 0x000f_ffff_ffff_f000;
        let first = guest.call(process, PteGet { va })?;
        let page_bytes = if first.lowest == 2 { PAGE_2M } else { PAGE };
        let mut pages = Vec::new();
        for page in 0..bytes.div_ceil(page_bytes) {
            let entries = guest.call(
                process,
                PteGet {
                    va: va + page * page_bytes,
                },
            )?;
            let leaf = if page_bytes == PAGE_2M {
                entries.level2 & !(PAGE_2M - 1)
            } else {
                entries.level1
            };
            pages.push(leaf & FRAME);
        }
        Ok(Self { pages, page_bytes })
    }

    /// Guest-physical address of page `index`.
    pub fn page(&self, index: usize) -> u64 {
        self.pages[index]
    }

    /// Cuts a range at page boundaries: guest-physical address and the part of the range.
    fn pieces(&self, offset: u64, len: u64) -> Vec<(u64, std::ops::Range<usize>)> {
        let mut pieces = Vec::new();
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let within = at % self.page_bytes;
            let step = (self.page_bytes - within).min(len - done);
            let gpa = self.pages[(at / self.page_bytes) as usize] + within;
            pieces.push((gpa, done as usize..(done + step) as usize));
            done += step;
        }
        pieces
    }

    /// Reads guest RAM.
    pub fn read(&self, guest: &Guest, offset: u64, len: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len as usize];
        for (gpa, part) in self.pieces(offset, len) {
            let memory = guest.vm().ram().memory();
            memory.read_slice(&mut bytes[part], GuestAddress(gpa))?;
        }
        Ok(bytes)
    }

    /// Writes guest RAM.
    pub fn write(&self, guest: &Guest, offset: u64, bytes: &[u8]) -> Result<()> {
        for (gpa, part) in self.pieces(offset, bytes.len() as u64) {
            let memory = guest.vm().ram().memory();
            memory.write_slice(&bytes[part], GuestAddress(gpa))?;
        }
        Ok(())
    }
}

/// An operand: slot, and address or offset.
pub type Operand = (u16, u64);

fn two(opcode: Opcode, src: Operand, dst: Operand, size: u64) -> Descriptor {
    Descriptor {
        word0: Word0::new(src.0, dst.0, false).0,
        src: src.1,
        dst: dst.1,
        size: size as u32,
        ..Descriptor::new(opcode, Flags::NONE)
    }
}

/// MEMMOVE.
pub fn memmove(src: Operand, dst: Operand, size: u64) -> Descriptor {
    two(Opcode::Memmove, src, dst, size)
}

/// FILL with a pattern of 8 bytes.
pub fn fill(pattern: u64, dst: Operand, size: u64) -> Descriptor {
    two(Opcode::Fill, (0, pattern), dst, size)
}

/// COMPARE.
pub fn compare(first: Operand, second: Operand, size: u64) -> Descriptor {
    two(Opcode::Compare, first, second, size)
}

/// COMPARE_VALUE.
pub fn compare_value(src: Operand, pattern: u64, size: u64) -> Descriptor {
    two(Opcode::CompareValue, src, (0, pattern), size)
}

/// BATCH.
pub fn batch(list: Operand, statuses: Operand, count: u64) -> Descriptor {
    Descriptor {
        word0: Word0::new(list.0, statuses.0, false).0,
        status_array: statuses.1,
        src: list.1,
        size: count as u32,
        ..Descriptor::new(Opcode::Batch, Flags::NONE)
    }
}

/// Insists on a status, whatever the fault's direction.
#[track_caller]
pub fn assert_ended(completion: &Completion, status: Status, what: &str) {
    assert_eq!(
        status_name(completion.status & !Status::WRITE_FAULT),
        status_name(status as u8),
        "{what}"
    );
}

/// Publishes descriptors and does not wait. They must fit into the queue.
pub fn submit(guest: &Guest, process: Process, descriptors: &[Descriptor]) -> Result<()> {
    guest.submit(process, descriptors).map(drop)
}

/// Waits for the completions of everything that is outstanding; it must be `count`.
pub fn collect(guest: &Guest, process: Process, count: usize) -> Result<Vec<Completion>> {
    let queue = guest.queue(process)?.queue;
    let poll = Poll {
        queue,
        max: count as u64,
        ticks: guest.ns_to_ticks(10_000_000_000),
    };
    let polled = guest.call(process, poll)?;
    ensure!(
        (polled.count, polled.outstanding) == (count as u64, 0),
        "{} of {count} completions came, {} are outstanding",
        polled.count,
        polled.outstanding
    );
    let mut completions = Vec::new();
    for index in 0..count {
        let mut record = [0; COMPLETION_RECORD_BYTES];
        let channel = guest.mailbox().channel(process);
        channel.bulk_read(index * COMPLETION_RECORD_BYTES, &mut record);
        let last = record.last_chunk::<32>().context("record")?;
        completions.push(Completion::from_bytes(last));
    }
    Ok(completions)
}
