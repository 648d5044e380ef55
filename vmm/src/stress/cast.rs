//! The VMs of a case, and the engine between them.
//!
//! Like [`crate::steer::Stage`] with any number of VMs and nothing given yet.

use std::time::Duration;

use anyhow::{Context as _, Result};
use byway_agent::Process;
use byway_agent::commands::{ComparePattern, FillPattern, NO_MISMATCH};
use byway_engine::interface::{Action, Admin, LinkPolicy};
use byway_engine::{Engine, EngineConfig};
use byway_protocols::{Completion, Descriptor, Flags, Opcode, Rights, Word0};

use crate::measure::pin::{self, Bound};
use crate::signals::Stop;
use crate::steer::{Guest, GuestSpec};

/// The process that submits.
pub const APP: Process = Process::App;
/// All rights.
pub const ALL: Rights = Rights(Rights::READ.0 | Rights::WRITE.0 | Rights::GRANT.0);
/// Label of every offer: one is open at a time.
const LABEL: u64 = 0x7374_7265_7373;
/// RAM of a VM beside what a case allocates: image, mailbox, page tables, rings.
const OTHER_RAM: u64 = 48 << 20;

/// Engine and cores.
pub struct Cast<E = Engine> {
    /// The engine; each domain is linked with each.
    pub engine: E,
    guest_core: usize,
    /// Ends every wait for a guest.
    stop: Stop,
    /// What starts meanwhile is bound too; the next case finds all cores again.
    _bound: Option<Bound>,
}

/// The core for guests, and the one for the engine's worker: two, if this process may use as many.
#[must_use]
pub fn cores() -> (usize, usize) {
    let cores = pin::allowed_cores();
    let guest_core = cores[0];
    (guest_core, *cores.last().unwrap_or(&guest_core))
}

impl Cast {
    /// An engine with one worker on a core of its own, and a domain for each name. An idle queue is polled for
    /// `polled` before it is parked. Waits for guests end once `stop` is set.
    ///
    /// # Errors
    /// When the host refuses something.
    pub fn new(names: &[&str], polled: Duration, stop: &Stop) -> Result<Self> {
        let (guest_core, engine_core) = cores();
        let engine = Engine::new(EngineConfig {
            workers: 1,
            worker_cpus: vec![engine_core],
            park_us: u32::try_from(polled.as_micros())?,
            ..EngineConfig::default()
        })
        .context("cannot start the engine")?;
        let bind = guest_core != engine_core;
        Self::of(engine, names, guest_core, bind, stop)
    }
}

impl<E: Admin> Cast<E> {
    /// This engine, with a domain for each name, all linked with each other, and its VMs on `guest_core`, to which
    /// the calling thread is bound as well if `bind`. Waits for guests end once `stop` is set.
    ///
    /// # Errors
    /// When the engine or the host refuses something.
    pub fn of(
        engine: E,
        names: &[&str],
        guest_core: usize,
        bind: bool,
        stop: &Stop,
    ) -> Result<Self> {
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
                    keys: false,
                    max_bytes: 0,
                }))?;
            }
        }
        let bound = bind.then(|| Bound::to(guest_core)).transpose();
        Ok(Self {
            engine,
            guest_core,
            stop: stop.clone(),
            _bound: bound.context("cannot bind a thread to a core")?,
        })
    }

    /// Boots a VM with room for `bytes` of buffers, and opens a context and a queue of `entries` in its first
    /// process.
    ///
    /// # Errors
    /// When the VM does not come up or the engine refuses.
    pub fn boot(&self, name: &str, bytes: u64, entries: u64) -> Result<Guest> {
        let spec = GuestSpec {
            name: name.to_owned(),
            memory_bytes: (OTHER_RAM + bytes).next_multiple_of(2 << 20),
            pin: Some(self.guest_core),
            cpus: 1,
        };
        let guest = Guest::boot_until(&spec, &self.engine, &self.stop)?;
        guest.open_context(APP)?;
        guest.create_queue(APP, entries, 0)?;
        Ok(guest)
    }
}

/// `owner` gives `holder` a part of its process's memory: the slots of both.
///
/// # Errors
/// When a guest does not answer or the engine refuses.
pub fn give(
    owner: &Guest,
    holder: &Guest,
    va: u64,
    bytes: u64,
    rights: Rights,
) -> Result<(u16, u16)> {
    let given = offer(owner, holder.name(), va, bytes, rights)?;
    owner.sleep()?;
    Ok((given, accept(holder)?))
}

/// The first half of [`give`]: the owner's slot.
///
/// # Errors
/// When the owner does not answer or the engine refuses.
pub fn offer(owner: &Guest, holder: &str, va: u64, bytes: u64, rights: Rights) -> Result<u16> {
    let given = owner.derive(APP, 0, va, bytes, ALL)?;
    owner.offer(APP, given, holder, rights, LABEL)?;
    Ok(given)
}

/// The second half: the holder's slot.
///
/// # Errors
/// When the holder does not answer, finds no offer, or the engine refuses.
pub fn accept(holder: &Guest) -> Result<u16> {
    Ok(holder.accept(APP, LABEL)?.slot)
}

/// A copy between two places, each a slot and an address in it.
#[must_use]
pub fn memmove(from: (u16, u64), to: (u16, u64), bytes: u64) -> Descriptor {
    Descriptor {
        word0: Word0::new(from.0, to.0, false).0,
        src: from.1,
        dst: to.1,
        size: u32::try_from(bytes).unwrap_or(u32::MAX),
        ..Descriptor::new(Opcode::Memmove, Flags::NONE)
    }
}

/// Has the process fill its memory with a pattern.
///
/// # Errors
/// When it does not answer.
pub fn fill(guest: &Guest, va: u64, len: u64, seed: u64) -> Result<()> {
    guest.call(APP, FillPattern { va, len, seed })?;
    Ok(())
}

/// Whether the process finds a pattern in its memory; else where not.
///
/// # Errors
/// When it does not answer.
pub fn mismatch(guest: &Guest, va: u64, len: u64, seed: u64) -> Result<Option<u64>> {
    let found = guest.call(APP, ComparePattern { va, len, seed })?.mismatch;
    Ok((found != NO_MISMATCH).then_some(found))
}

/// A completion's status for people.
#[must_use]
pub fn status_of(completion: &Completion) -> String {
    crate::demo::report::status_name(completion.status)
}
