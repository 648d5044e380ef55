//! [`Gate`]: the call gate as the transport of the application library.
//!
//! Owns nothing but handles: a queue or a capability whose handle is dropped is given back to the kernel
//! process. Names of domains and key bytes go through the beginning of the bulk area, which is left as
//! it was.

use core::fmt;
use core::ptr::NonNull;

use byway_agent::commands::{
    Accept, ArmQueue, AwaitOffer, CreatePort, CreateQueue, Derive, DestroyQueue, Doorbell,
    DropCapability, LoadKey, Lookup, Offer, OpenEndpoint, QueryCapability, QueryEngine,
    QueueCreated, Revoke, capability, capability_slot,
};
use byway_agent::layout::Header;
use byway_agent::{Failure, Status};
use byway_protocols::ControlStatus;
use byway_protocols::codec::KEY_BYTES_MAX;
use byway_protocols::control::queue_flags;
use byway_ring::context::{
    Accepted, CapabilityInfo, Info, Key, Name, NewBlocks, NewCapability, NewQueue, Port,
    QueueOptions, Reason, State, Terms, Transport, TransportError, Wait, Wake,
};
use byway_ring::{QueueMemory, Rights, Slot};

use super::call::{AWAIT_INTERRUPT, call, kernel};
use super::{at, now};
use crate::layout::{MAILBOX_BULK, MAILBOX_HEADER};

/// Ticks of the time-stamp counter in a nanosecond; higher than on any CPU, so that waits are too
/// long rather than too short.
const TICKS_PER_NS: u64 = 5;

/// What the kernel process answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateError(pub Failure);

impl fmt::Display for GateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl core::error::Error for GateError {}

impl From<Failure> for GateError {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl TransportError for GateError {
    fn reason(&self) -> Reason {
        let [detail, ..] = self.0.details;
        match self.0.status {
            Status::Refused => u32::try_from(detail)
                .ok()
                .and_then(ControlStatus::from_code)
                .map_or(Reason::Other, Reason::of_control),
            Status::BadArgument => Reason::BadArgument,
            Status::NoMemory => Reason::Quota,
            Status::TimedOut => Reason::TimedOut,
            Status::NoDevice => Reason::NoDevice,
            Status::QueueDead => Reason::NoSuchObject,
            Status::Ok | Status::Fault | Status::Unknown | Status::DeviceFailed => Reason::Other,
        }
    }
}

/// One context of this process, by its number.
#[derive(Debug, Clone, Copy)]
pub struct Gate {
    context: u64,
}

impl Gate {
    /// The context with this number.
    ///
    /// # Safety
    /// It is closed only after every queue that was created by way of this has been let go of: the
    /// kernel process unmaps its queues with it.
    pub const unsafe fn adopt(context: u64) -> Self {
        Self { context }
    }

    /// The lowest empty slot.
    const fn target(self) -> u64 {
        capability(self.context, 0)
    }
}

/// A queue: dropped, it is destroyed.
#[derive(Debug)]
pub struct QueueHandle(QueueCreated);

impl QueueHandle {
    /// Its number and places.
    pub const fn created(&self) -> &QueueCreated {
        &self.0
    }

    /// Leaves the queue to its context.
    pub const fn disown(self) {
        core::mem::forget(self);
    }

    fn destroy(self) -> Result<(), GateError> {
        let queue = self.0.queue;
        self.disown();
        kernel(DestroyQueue { queue })?;
        Ok(())
    }
}

impl Drop for QueueHandle {
    fn drop(&mut self) {
        // It may have ended with its context or the device: then there is nothing to destroy.
        let _ = kernel(DestroyQueue {
            queue: self.0.queue,
        });
    }
}

/// A capability: dropped, its slot is emptied.
#[derive(Debug)]
pub struct CapabilityHandle(u64);

impl CapabilityHandle {
    /// Context and slot, as commands name them.
    pub const fn name(&self) -> u64 {
        self.0
    }
}

impl Drop for CapabilityHandle {
    fn drop(&mut self) {
        // The context may have been closed: then the slot is gone.
        let _ = kernel(DropCapability { capability: self.0 });
    }
}

/// What to listen for.
#[derive(Debug)]
pub struct ListenerHandle {
    label: u64,
    domain: Option<u64>,
}

/// Makes `call` while `bytes` stand at the beginning of the bulk area.
fn with_bulk<R>(bytes: &[u8], call: impl FnOnce() -> R) -> R {
    const ROOM: usize = KEY_BYTES_MAX;
    let bulk: NonNull<[u8; ROOM]> = at(MAILBOX_BULK);
    let mut new = [0; ROOM];
    for (to, from) in new.iter_mut().zip(bytes) {
        *to = *from;
    }
    // SAFETY: the bulk area is mapped for this process alone, and nothing refers to it meanwhile;
    // the kernel process reads it during the call.
    unsafe {
        let old = bulk.read_volatile();
        bulk.write_volatile(new);
        let outcome = call();
        bulk.write_volatile(old);
        outcome
    }
}

fn domain_of(peer: &Name) -> Result<u64, GateError> {
    let name_len = peer.as_str().len() as u64;
    let found = with_bulk(peer.as_str().as_bytes(), || kernel(Lookup { name_len }))?;
    Ok(found.domain)
}

fn mapped<T>(address: u64) -> Result<NonNull<T>, GateError> {
    NonNull::new(core::ptr::with_exposed_provenance_mut(address as usize))
        .ok_or(GateError(Failure::argument(0, address)))
}

fn ticks_of(wait: Wait) -> u64 {
    match wait {
        Wait::No => 0,
        Wait::For(time) => u64::try_from(time.as_nanos())
            .unwrap_or(u64::MAX)
            .saturating_mul(TICKS_PER_NS),
        Wait::Forever => u64::MAX,
    }
}

/// What was made in slot `name`.
fn made(
    name: u64,
    length: u64,
    rights: Rights,
    badge: u64,
) -> Result<NewCapability<CapabilityHandle>, GateError> {
    let handle = CapabilityHandle(name);
    let slot = u16::try_from(capability_slot(name))
        .ok()
        .and_then(Slot::new);
    Ok(NewCapability {
        handle,
        slot: slot.ok_or(GateError(Failure::argument(0, name)))?,
        length,
        rights,
        badge,
    })
}

// SAFETY: the kernel process maps each queue, zeroed, at a place of its own and leaves it there until
// `DestroyQueue`, or until the context is closed, which `adopt` rules out. It answers `Revoke` and
// `DestroyQueue` when the engine has acknowledged them.
unsafe impl Transport for Gate {
    type Error = GateError;
    type Queue = QueueHandle;
    type Capability = CapabilityHandle;
    type Listener = ListenerHandle;
    /// Context and slot ([`capability`]).
    type Foreign = u64;
    /// Interrupts that this process had seen counted.
    type Armed = u64;

    fn info(&self) -> Result<Info, GateError> {
        let engine = kernel(QueryEngine {})?;
        Ok(Info {
            version: engine.version as u32,
            instance: engine.instance as u32,
            features: engine.features,
            domain: engine.domain as u32,
            queue_entries_max: engine.queue_entries_max as u32,
            slots_max: engine.slots_max as u32,
        })
    }

    fn create_queue(&self, options: &QueueOptions) -> Result<NewQueue<QueueHandle>, GateError> {
        let flags = if options.no_park {
            queue_flags::NO_PARK
        } else {
            0
        };
        let created = kernel(CreateQueue {
            context: self.context,
            entries: u64::from(options.entries),
            flags: u64::from(flags),
        })?;
        let handle = QueueHandle(created);
        let memory = QueueMemory {
            ring: mapped(created.ring)?,
            completions: mapped(created.completions)?,
            header: mapped(created.header)?,
            entries: options.entries,
        };
        Ok(NewQueue {
            number: created.queue as u32,
            handle,
            memory,
        })
    }

    fn destroy_queue(&self, queue: QueueHandle) -> Result<(), GateError> {
        queue.destroy()
    }

    fn kick(&self, _queue: &QueueHandle) -> Result<(), GateError> {
        kernel(Doorbell {})?;
        Ok(())
    }

    fn arm(&self, queue: &QueueHandle) -> Result<u64, GateError> {
        let header: NonNull<Header> = at(MAILBOX_HEADER);
        // SAFETY: mapped for this process, for good, and consists of atomics.
        let seen = unsafe { header.as_ref() }
            .interrupts
            .load(core::sync::atomic::Ordering::Acquire);
        kernel(ArmQueue {
            queue: queue.0.queue,
        })?;
        Ok(seen)
    }

    /// There is no timer: any other interrupt ends the sleep, and nothing else does.
    fn sleep(&self, _queue: &QueueHandle, seen: u64, wait: Wait) -> Result<Wake, GateError> {
        if wait == Wait::No {
            return Ok(Wake::TimedOut);
        }
        call(AWAIT_INTERRUPT, [seen, 0, 0, 0, 0, 0, 0, 0])?;
        Ok(Wake::Look)
    }

    fn derive(
        &self,
        parent: Option<&CapabilityHandle>,
        terms: &Terms,
    ) -> Result<NewCapability<CapabilityHandle>, GateError> {
        let own = capability(self.context, 0);
        self.attach(&parent.map_or(own, |parent| parent.0), terms)
    }

    fn attach(
        &self,
        foreign: &u64,
        terms: &Terms,
    ) -> Result<NewCapability<CapabilityHandle>, GateError> {
        let (mut length, mut rights) = (terms.length, terms.rights);
        if length == 0 || rights == Rights::NONE {
            let whole = kernel(QueryCapability {
                capability: *foreign,
            })?;
            if length == 0 {
                length = whole.length.saturating_sub(terms.base);
            }
            if rights == Rights::NONE {
                rights = Rights(whole.rights as u32);
            }
        }
        let derived = kernel(Derive {
            parent: *foreign,
            target: self.target(),
            base: terms.base,
            length,
            rights: u64::from(rights.0),
            badge: terms.badge,
            lifetime_ns: terms.lifetime_ns,
            byte_quota: terms.byte_quota,
        })?;
        made(derived.capability, length, rights, terms.badge)
    }

    fn create_port(&self, port: &Port) -> Result<NewCapability<CapabilityHandle>, GateError> {
        let created = kernel(CreatePort {
            target: self.target(),
            depth: u64::from(port.depth),
            bytes: u64::from(port.bytes),
            badge: port.badge,
        })?;
        made(created.capability, 0, Rights::PORT, port.badge)
    }

    fn load_key(&self, key: &Key<'_>) -> Result<NewCapability<CapabilityHandle>, GateError> {
        let loaded = with_bulk(key.bytes, || {
            kernel(LoadKey {
                target: self.target(),
                algorithm: key.algorithm as u64,
                length: key.bytes.len() as u64,
                rights: u64::from(key.rights.0),
                badge: key.badge,
            })
        })?;
        made(loaded.capability, 0, key.rights, key.badge)
    }

    fn open_endpoint(
        &self,
        endpoint: &Name,
        badge: u64,
    ) -> Result<NewBlocks<CapabilityHandle>, GateError> {
        let name = endpoint.as_str();
        let opened = with_bulk(name.as_bytes(), || {
            kernel(OpenEndpoint {
                target: self.target(),
                name_len: name.len() as u64,
                badge,
            })
        })?;
        let rights = Rights(opened.rights as u32);
        Ok(NewBlocks {
            capability: made(opened.capability, opened.length, rights, badge)?,
            block_bytes: opened.block_bytes as u32,
            features: opened.features as u32,
        })
    }

    fn query(&self, capability: &CapabilityHandle) -> Result<CapabilityInfo, GateError> {
        let is = kernel(QueryCapability {
            capability: capability.0,
        })?;
        let state = match is.state {
            1 => State::Live,
            2 => State::Revoked,
            3 => State::Expired,
            other => return Err(GateError(Failure::argument(0, other))),
        };
        Ok(CapabilityInfo {
            state,
            rights: Rights(is.rights as u32),
            length: is.length,
            badge: is.badge,
            depth: (is.depth_and_domain >> 32) as u32,
            domain: is.depth_and_domain as u32,
            descendants: is.descendants,
            bytes_read: is.bytes_read,
            bytes_written: is.bytes_written,
        })
    }

    fn revoke(
        &self,
        capability: &CapabilityHandle,
        descendants_only: bool,
    ) -> Result<(), GateError> {
        kernel(Revoke {
            capability: capability.0,
            descendants_only: u64::from(descendants_only),
        })?;
        Ok(())
    }

    fn drop_capability(&self, capability: CapabilityHandle) -> Result<(), GateError> {
        let name = capability.0;
        core::mem::forget(capability);
        kernel(DropCapability { capability: name })?;
        Ok(())
    }

    fn offer(
        &self,
        capability: &CapabilityHandle,
        peer: &Name,
        port: &Name,
        rights: Rights,
    ) -> Result<(), GateError> {
        kernel(Offer {
            capability: capability.0,
            domain: domain_of(peer)?,
            rights: u64::from(rights.0),
            label: port.label(),
        })?;
        Ok(())
    }

    fn listen(&self, port: &Name, peer: Option<&Name>) -> Result<ListenerHandle, GateError> {
        Ok(ListenerHandle {
            label: port.label(),
            domain: peer.map(domain_of).transpose()?,
        })
    }

    /// Offers under the port's name by others than the peer are passed over.
    fn accept(
        &self,
        listener: &ListenerHandle,
        wait: Wait,
    ) -> Result<Option<Accepted<NewCapability<CapabilityHandle>>>, GateError> {
        let (start, limit) = (now(), ticks_of(wait));
        loop {
            let awaited = kernel(AwaitOffer {
                label: listener.label,
                ticks: limit.saturating_sub(now() - start),
            });
            let offer = match awaited {
                Ok(offer) => offer,
                Err(failure) if failure.status == Status::TimedOut => return Ok(None),
                Err(failure) => return Err(failure.into()),
            };
            if listener.domain.is_some_and(|domain| domain != offer.domain) {
                continue;
            }
            let accepted = kernel(Accept {
                offer: offer.offer,
                target: self.target(),
            })?;
            let rights = Rights(accepted.rights as u32);
            return Ok(Some(Accepted {
                capability: made(accepted.capability, accepted.length, rights, accepted.badge)?,
                domain: accepted.domain as u32,
            }));
        }
    }
}
