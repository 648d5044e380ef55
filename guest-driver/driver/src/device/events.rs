//! The event queue: what the engine tells the guest kernel (SPEC section 8.3).
//!
//! Owns the buffers that the engine fills and the count by which a gap is noticed. A buffer
//! goes back to the engine as soon as its event has been copied out.

use super::{Device, EVENT_ENTRIES, EVENTS, PageRequest};
use crate::error::{Broken, Error};
use crate::hal::Hal;
use crate::handle::{CapSlot, ContextId, DomainId, OfferId, Pasid, QueueId};
use crate::transport::Transport;
use crate::virtqueue::Buffer;
use byway_protocols::config::EVENT_QUEUE;
use byway_protocols::event::EventKind;
use byway_protocols::{Event, Rights, Status};

/// Something that the engine told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DriverEvent {
    /// A peer offers a capability; see [`Device::accept`].
    CapabilityOffered {
        /// The peer.
        domain: DomainId,
        /// Number to accept it by.
        offer: OfferId,
        /// Chosen by the peer.
        label: u64,
        /// Bytes that it spans.
        length: u64,
        /// Rights that come with it.
        rights: Rights,
    },
    /// A capability held here was revoked; drop its slot when it suits.
    CapabilityRevoked(CapSlot),
    /// A transfer waits for a page; see [`Device::answer_page`].
    PageRequest(PageRequest),
    /// A queue completed a descriptor that asked for an interrupt; see [`Device::arm`].
    Completion(QueueId),
    /// A domain is gone; what it gave is revoked.
    DomainGone(DomainId),
    /// The engine stopped serving a queue.
    QueueDead {
        /// The queue.
        queue: QueueId,
        /// Why, if the ABI has such a status.
        status: Option<Status>,
    },
    /// Events were lost: look at the state of everything that they might have told about.
    Lost {
        /// How many, as far as is known.
        count: u64,
    },
    /// An event of a kind that this driver does not know.
    Unknown {
        /// Its kind.
        kind: u16,
    },
}

/// The engine's count of events, and an event held back because others before it were lost.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    next: Option<u32>,
    held: Option<Event>,
}

impl Sequence {
    /// Notes an event's number and returns how many are missing before it.
    fn gap_before(&mut self, number: u32) -> u32 {
        let missing = self.next.map_or(0, |next| number.wrapping_sub(next));
        self.next = Some(number.wrapping_add(1));
        missing
    }
}

const EVENT_BYTES: usize = Event::SIZE;

impl<T: Transport, H: Hal> Device<T, H> {
    /// The next event (SPEC section 8.3), or `None` when there is none now. Never waits.
    ///
    /// # Errors
    /// The device broke: it returned a buffer that it was not given, or a truncated event.
    pub fn next_event(&mut self) -> Result<Option<DriverEvent>, Error> {
        if let Some(event) = self.sequence.held.take() {
            return Ok(Some(typed(&event)));
        }
        if let Some(how) = self.broken {
            return Err(how.into());
        }
        let Some(event) = self.take_event()? else {
            return Ok(None);
        };
        let missing = u64::from(self.sequence.gap_before(event.sequence));
        if event.kind == EventKind::Lost as u16 {
            return Ok(Some(DriverEvent::Lost {
                count: missing.max(event.length),
            }));
        }
        if missing != 0 {
            self.sequence.held = Some(event);
            return Ok(Some(DriverEvent::Lost { count: missing }));
        }
        Ok(Some(typed(&event)))
    }

    /// Copies the next event out and gives its buffer back.
    fn take_event(&mut self) -> Result<Option<Event>, Error> {
        let used = match self.events.pop(&self.events_dma) {
            Ok(None) => return Ok(None),
            Ok(Some(used)) => used,
            Err(how) => return Err(self.break_off(how)),
        };
        if used.written as usize != EVENT_BYTES {
            return Err(self.break_off(Broken::EventLength(used.written)));
        }
        let mut bytes = [0; EVENT_BYTES];
        // A chain of one part has its head's number, and so has its buffer.
        self.events_dma
            .read(EVENTS + usize::from(used.head) * EVENT_BYTES, &mut bytes);
        self.stock_events();
        if self.events.wants_notify(&self.events_dma) {
            self.transport.notify(EVENT_QUEUE);
        }
        Ok(Some(Event::from_bytes(&bytes)))
    }

    /// Gives the engine every buffer that it does not have. The queue hands out the lowest
    /// free entry, so the buffer of a chain is that of its head.
    pub(super) fn stock_events(&mut self) {
        for _ in 0..EVENT_ENTRIES {
            let Some(entry) = self.events.next_entry() else {
                return;
            };
            let offset = EVENTS + usize::from(entry) * EVENT_BYTES;
            let buffer = Buffer {
                gpa: self.events_dma.gpa(offset),
                bytes: EVENT_BYTES as u32,
            };
            let pushed = self.events.push(&self.events_dma, &[], &[buffer]);
            if pushed.is_none() {
                return;
            }
        }
    }
}

fn typed(event: &Event) -> DriverEvent {
    match EventKind::from_code(event.kind) {
        Some(EventKind::CapabilityOffered) => DriverEvent::CapabilityOffered {
            domain: DomainId(event.object),
            offer: OfferId(event.id),
            label: event.label,
            length: event.length,
            rights: Rights(event.rights).intersection(Rights::KNOWN),
        },
        Some(EventKind::CapabilityRevoked) => DriverEvent::CapabilityRevoked(CapSlot {
            context: ContextId(event.context),
            slot: event.id as u32,
        }),
        Some(EventKind::PageRequest) => DriverEvent::PageRequest(PageRequest {
            request: event.request,
            pasid: Pasid(event.id as u32),
            address: event.address,
            access: Rights(event.rights).intersection(Rights::ALL),
        }),
        Some(EventKind::Completion) => DriverEvent::Completion(QueueId(event.object)),
        Some(EventKind::DomainGone) => DriverEvent::DomainGone(DomainId(event.object)),
        Some(EventKind::QueueDead) => DriverEvent::QueueDead {
            queue: QueueId(event.object),
            status: u8::try_from(event.rights).ok().and_then(Status::from_code),
        },
        Some(EventKind::Lost) => DriverEvent::Lost {
            count: event.length,
        },
        None => DriverEvent::Unknown { kind: event.kind },
    }
}
