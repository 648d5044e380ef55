//! Fields of requests that have to name something: brought into the range of what there
//! is, so that an input gets past the first check.

use byway_protocols::StructLayout;
use byway_protocols::control::{
    BindRequest, CapAcceptRequest, CapDeriveRequest, CapOfferRequest, CapSlotRequest,
    ContextCreateRequest, ContextDestroyRequest, InvalidateRequest, LookupRequest, QueryRequest,
    QueueCreateRequest, QueueRequest, RequestKind, UnbindRequest,
};

use super::world::SIDES;

/// Where RAM begins, and pages of it that are used.
const RAM: u64 = 1 << 30;
const PAGES: u64 = 512;

/// A request's body; `None` for what this engine does not carry out.
pub(crate) fn body_layout(kind: RequestKind) -> Option<StructLayout> {
    Some(match kind {
        RequestKind::Query => QueryRequest::LAYOUT,
        RequestKind::Lookup => LookupRequest::LAYOUT,
        RequestKind::Bind => BindRequest::LAYOUT,
        RequestKind::Unbind => UnbindRequest::LAYOUT,
        RequestKind::ContextCreate => ContextCreateRequest::LAYOUT,
        RequestKind::ContextDestroy => ContextDestroyRequest::LAYOUT,
        RequestKind::QueueCreate => QueueCreateRequest::LAYOUT,
        RequestKind::QueueDestroy | RequestKind::QueueArm => QueueRequest::LAYOUT,
        RequestKind::CapDerive => CapDeriveRequest::LAYOUT,
        RequestKind::CapOffer => CapOfferRequest::LAYOUT,
        RequestKind::CapAccept => CapAcceptRequest::LAYOUT,
        RequestKind::CapRevoke | RequestKind::CapDrop | RequestKind::CapQuery => {
            CapSlotRequest::LAYOUT
        }
        RequestKind::Invalidate => InvalidateRequest::LAYOUT,
        _ => return None,
    })
}

/// What the replies have named so far, of each domain.
#[derive(Debug, Default)]
pub(super) struct Known {
    contexts: [Vec<u64>; SIDES],
    queues: [Vec<u64>; SIDES],
    offers: Vec<u64>,
}

/// One of `known`, or the number itself when there is none.
fn one_of(known: &[u64], number: u64) -> u64 {
    match known.len() as u64 {
        0 => number,
        count => known[(number % count) as usize],
    }
}

impl Known {
    /// Takes numbers that a reply has given.
    pub(super) fn learn(&mut self, kind: RequestKind, side: usize, reply: &[u8]) {
        let number = |bytes: usize| {
            let mut value = [0; 8];
            value[..bytes].copy_from_slice(&reply[..bytes]);
            u64::from_le_bytes(value)
        };
        match kind {
            RequestKind::ContextCreate => self.contexts[side].push(number(4)),
            RequestKind::QueueCreate => self.queues[side].push(number(4)),
            RequestKind::CapOffer => self.offers.push(number(8)),
            _ => {}
        }
    }

    /// Changes fields by their names; all others stay as they are.
    pub(super) fn bring_into_range(
        &self,
        kind: RequestKind,
        layout: StructLayout,
        side: usize,
        body: &mut [u8],
    ) {
        for (i, field) in layout.fields.iter().enumerate() {
            let end = layout.fields.get(i + 1).map_or(layout.size, |f| f.offset);
            let place = &mut body[field.offset..end];
            if place.len() > 8 {
                continue;
            }
            let mut raw = [0; 8];
            raw[..place.len()].copy_from_slice(place);
            let raw = u64::from_le_bytes(raw);
            let value = match field.name {
                "context" | "target_context" => one_of(&self.contexts[side], raw),
                "queue" => one_of(&self.queues[side], raw),
                "offer" => one_of(&self.offers, raw),
                // Domains are numbered from 1 on in the order in which they were made.
                "domain" => raw % (SIDES as u64 + 2),
                "slot" | "target_slot" | "slots" => raw % 18,
                "pasid" => raw % 6,
                "version" => raw % 3,
                "rights" => raw % 16,
                "flags" => raw & 0x1f,
                "entries" => 1 << (raw % 8),
                "levels" => 3 + raw % 4,
                "maxphyaddr" => 30 + raw % 24,
                "root" | "ring" | "completions" | "header" => RAM + raw % PAGES * 4096,
                "base" | "length" if kind == RequestKind::CapDerive => raw & 0xffff,
                name if name.starts_with("reserved") => 0,
                _ => raw,
            };
            place.copy_from_slice(&value.to_le_bytes()[..place.len()]);
        }
    }
}
