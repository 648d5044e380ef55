//! Events: engine to guest kernel, one per buffer of the event virtqueue (SPEC section 8.3).

use crate::wire::wire_struct;

wire_struct! {
    /// One event. Fields not used by the kind are 0.
    pub struct Event: 64 align 8 {
        /// See [`EventKind`].
        kind: u16 = 0,
        /// 0.
        reserved2: u16 = 2,
        /// Counts events of the domain, so that a gap shows.
        sequence: u32 = 4,
        /// Peer domain (offered, gone) or queue (completion, dead).
        object: u32 = 8,
        /// Context (revoked).
        context: u32 = 12,
        /// Offer (offered), slot (revoked) or PASID (page request).
        id: u64 = 16,
        /// Label that the owner chose (offered).
        label: u64 = 24,
        /// Bytes (offered) or number of lost events.
        length: u64 = 32,
        /// Rights (offered, page request) or status (dead).
        rights: u32 = 40,
        /// 0.
        reserved44: u32 = 44,
        /// First byte of the page, 4096-aligned (page request).
        address: u64 = 48,
        /// Page request number.
        request: u64 = 56,
    }
}

/// Kinds of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum EventKind {
    /// A peer offers a capability: `object` domain, `id` offer, `label`, `length`, `rights`.
    CapabilityOffered = 1,
    /// A capability held here was revoked: `context`, `id` slot.
    CapabilityRevoked = 2,
    /// A transfer waits for a page: `id` PASID, `address`, `rights` the access, `request`.
    PageRequest = 3,
    /// The queue `object` completed a descriptor that asked for an interrupt.
    Completion = 4,
    /// Domain `object` is gone; what it gave is revoked.
    DomainGone = 5,
    /// The engine stopped serving queue `object`; `rights` holds the status.
    QueueDead = 6,
    /// `length` events were dropped because the driver gave no buffers.
    Lost = 7,
}

impl EventKind {
    /// The kind with this code, or `None`.
    #[must_use]
    pub const fn from_code(code: u16) -> Option<Self> {
        Some(match code {
            1 => Self::CapabilityOffered,
            2 => Self::CapabilityRevoked,
            3 => Self::PageRequest,
            4 => Self::Completion,
            5 => Self::DomainGone,
            6 => Self::QueueDead,
            7 => Self::Lost,
            _ => return None,
        })
    }
}
