//! The device as the guest kernel sees it.
//!
//! Owns the transport, the kernel's [`Hal`], both virtqueues and the verdict whether the device
//! can be relied on. One request is in flight at a time; the event queue is always stocked.
//! Every method that talks to the engine returns within the time-out of [`Options`].

mod address_spaces;
mod attach;
mod capabilities;
mod endpoints;
mod events;
mod keys;
mod pages;
mod ports;
mod queues;
#[cfg(feature = "raw-messages")]
mod raw;
mod session;

pub use address_spaces::{Bind, Invalidation};
pub use capabilities::{Accepted, CapabilityInfo, Derive, Peer};
pub use endpoints::Blocks;
pub use events::DriverEvent;
pub use keys::KeyLoad;
pub use pages::{PageOutcome, PageRequest};
pub use ports::PortCreate;
pub use session::{EngineInfo, Name};

use crate::dma::Dma;
use crate::error::{Broken, Error};
use crate::hal::Hal;
use crate::invalidation::Stalled;
use crate::message::{Reply, Request};
use crate::transport::{Transport, status};
use crate::virtqueue::{Buffer, Virtqueue};
use byway_protocols::ControlStatus;
use byway_protocols::config::CONTROL_QUEUE;
use byway_protocols::control::{MESSAGE_BYTES_MAX, ReplyHeader, RequestHeader};

/// Entries of the control virtqueue: one request of two parts at a time, and some air.
const CONTROL_ENTRIES: usize = 16;
/// Entries of the event virtqueue: events that can wait for the kernel.
const EVENT_ENTRIES: usize = 32;
/// Offset of the request in the control queue's page.
pub(crate) const REQUEST: usize = 2048;
/// Offset of the reply.
const REPLY: usize = REQUEST + MESSAGE_BYTES_MAX;
/// Offset of the event buffers in the event queue's page.
const EVENTS: usize = 2048;

const _: () = assert!(Virtqueue::<CONTROL_ENTRIES>::BYTES <= REQUEST);
const _: () = assert!(REPLY + MESSAGE_BYTES_MAX <= crate::hal::PAGE_BYTES);
const _: () = assert!(Virtqueue::<EVENT_ENTRIES>::BYTES <= EVENTS);
const _: () =
    assert!(EVENTS + EVENT_ENTRIES * byway_protocols::Event::SIZE <= crate::hal::PAGE_BYTES);

/// How the driver waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Longest wait for a reply or a reset, in nanoseconds.
    pub timeout_ns: u64,
    /// Ask for an interrupt with each reply: needed when [`Hal::idle`] sleeps until one.
    pub reply_interrupts: bool,
}

impl Default for Options {
    /// Two seconds; no interrupts with replies.
    fn default() -> Self {
        Self {
            timeout_ns: 2_000_000_000,
            reply_interrupts: false,
        }
    }
}

/// An attach or detach that failed, with what it was given.
#[derive(Debug)]
pub struct Failure<T, H> {
    /// Why.
    pub error: Error,
    /// The transport.
    pub transport: T,
    /// The kernel's services.
    pub hal: H,
}

/// An attached device.
#[derive(Debug)]
pub struct Device<T, H> {
    transport: T,
    hal: H,
    options: Options,
    control: Virtqueue<CONTROL_ENTRIES>,
    control_dma: Dma,
    events: Virtqueue<EVENT_ENTRIES>,
    events_dma: Dma,
    /// The engine's count of events.
    sequence: events::Sequence,
    engine: EngineInfo,
    /// Counts attaches, so that what stems from before a reset is recognised.
    generation: u32,
    /// Tag of the next request.
    tag: u64,
    broken: Option<Broken>,
}

impl<T: Transport, H: Hal> Device<T, H> {
    /// What QUERY said at attach.
    #[must_use]
    pub const fn engine(&self) -> &EngineInfo {
        &self.engine
    }

    /// In what way the device is broken, if it is.
    #[must_use]
    pub const fn broken(&self) -> Option<Broken> {
        self.broken
    }

    /// Counts attaches and resets of this value: objects of an earlier count are gone.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// The kernel's services, to reach what else they hold.
    pub const fn hal(&mut self) -> &mut H {
        &mut self.hal
    }

    /// The transport.
    pub const fn transport(&mut self) -> &mut T {
        &mut self.transport
    }

    /// Reads and acknowledges the causes of the device's interrupt (virtio 4.2.3.4). Costs VM
    /// exits; an edge-triggered interrupt does not need it.
    pub fn acknowledge_interrupt(&mut self) -> u32 {
        self.transport.acknowledge_interrupt()
    }

    /// Asks the engine to look at this domain's parked queues (SPEC sections 2.7 and 8.1): the kick
    /// that a process asks for when `need_kick` is set. A bare notification; no request travels.
    pub fn doorbell(&mut self) {
        self.transport.notify(CONTROL_QUEUE);
    }

    /// Marks the device broken, for an engine that stood still under an invalidation from atomic
    /// context (SPEC section 10): every later call fails until [`Device::reset`].
    pub fn give_up(&mut self, _stalled: Stalled) {
        self.broken.get_or_insert(Broken::TimedOut);
    }

    /// One request and its reply (SPEC section 8).
    fn call<Q: Request>(&mut self, request: &Q) -> Result<Q::Reply, Error> {
        if let Some(how) = self.broken {
            return Err(how.into());
        }
        let tag = self.tag;
        self.tag = self.tag.wrapping_add(1);
        match self.exchange(request, tag) {
            Err(Error::Broken(how)) => {
                self.broken = Some(how);
                Err(how.into())
            }
            other => other,
        }
    }

    fn exchange<Q: Request>(&mut self, request: &Q, tag: u64) -> Result<Q::Reply, Error> {
        let mut message = [0; MESSAGE_BYTES_MAX];
        let (header, body) = message.split_at_mut(RequestHeader::SIZE);
        let length = RequestHeader::SIZE + request.encode(body);
        let fields = RequestHeader {
            kind: Q::KIND as u16,
            length: length as u32,
            tag,
            ..RequestHeader::default()
        };
        header.copy_from_slice(&fields.to_bytes());
        self.control_dma.write(REQUEST, &message[..length]);
        // A device that writes nothing must not have an older reply read as its answer.
        self.control_dma.write(REPLY, &[0; ReplyHeader::SIZE]);

        let readable = Buffer {
            gpa: self.control_dma.gpa(REQUEST),
            bytes: length as u32,
        };
        let writable = Buffer {
            gpa: self.control_dma.gpa(REPLY),
            bytes: MESSAGE_BYTES_MAX as u32,
        };
        // One request at a time: entries are always left unless an earlier one never came back,
        // and then the device is broken and this is not reached.
        self.control
            .push(&self.control_dma, &[readable], &[writable])
            .ok_or(Error::Broken(Broken::TimedOut))?;
        if self.control.wants_notify(&self.control_dma) {
            self.transport.notify(CONTROL_QUEUE);
        }
        let written = self.await_reply()?;
        self.decode::<Q::Reply>(tag, written)
    }

    /// Waits until the request in flight comes back and returns the bytes written.
    fn await_reply(&mut self) -> Result<usize, Error> {
        let start = self.hal.now_ns();
        loop {
            // The clock before the look: whoever was kept off the CPU for long looks once more.
            let late = self.hal.now_ns().saturating_sub(start) > self.options.timeout_ns;
            if let Some(used) = self.control.pop(&self.control_dma)? {
                return Ok(used.written as usize);
            }
            if late {
                let asks_for_reset = self.transport.status() & status::NEEDS_RESET != 0;
                let how = if asks_for_reset {
                    Broken::NeedsReset
                } else {
                    Broken::TimedOut
                };
                return Err(how.into());
            }
            self.hal.idle();
        }
    }

    /// Checks a private copy of the reply, then decodes it.
    fn decode<R: Reply>(&self, tag: u64, written: usize) -> Result<R, Error> {
        let mut message = [0; MESSAGE_BYTES_MAX];
        let message = message.get_mut(..written).ok_or(Broken::Reply)?;
        self.control_dma.read(REPLY, message);
        let (header, body) = message
            .split_first_chunk::<{ ReplyHeader::SIZE }>()
            .ok_or(Broken::Reply)?;
        let header = ReplyHeader::from_bytes(header);
        if header.tag != tag {
            return Err(Broken::Reply.into());
        }
        // A status that is not known is a refusal (SPEC section 12).
        let status =
            ControlStatus::from_code(header.status).ok_or(Error::RefusedUnknown(header.status))?;
        if status != ControlStatus::Ok {
            return Err(Error::Refused(status));
        }
        let expected = ReplyHeader::SIZE + R::BYTES;
        if header.length as usize != expected || body.len() < R::BYTES {
            return Err(Broken::Reply.into());
        }
        Ok(R::decode(&body[..R::BYTES]))
    }
}
