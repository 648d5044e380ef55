//! Control messages: from the bytes of one request to the bytes of its reply
//! (SPEC section 8).
//!
//! Decoding and checking end here: below, in [`crate::domain`], arguments are typed and in
//! range. Checks come in the specified order: kind, length, reserved fields, arguments,
//! then objects, policy and quota. The bytes are a private copy; they are hostile.

mod capabilities;
mod contexts;
mod endpoints;
mod keys;
mod message;
mod pages;
mod ports;
mod query;
mod queues;
mod spaces;

#[cfg(test)]
pub(crate) mod tests;

use std::time::Duration;

use byway_protocols::ControlStatus;
use byway_protocols::control::{
    ContextDestroyRequest, MESSAGE_BYTES_MAX, ReplyHeader, RequestHeader, RequestKind,
};

pub use query::is_domain_name;

use crate::domain::Domain;
use message::{Message, decode};

/// A reply, ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    bytes: [u8; MESSAGE_BYTES_MAX],
    length: usize,
}

impl Reply {
    fn new(tag: u64, outcome: Result<&[u8], ControlStatus>) -> Self {
        let (status, body) = match outcome {
            Ok(body) => (ControlStatus::Ok, body),
            Err(status) => (status, &[][..]),
        };
        let length = ReplyHeader::SIZE + body.len();
        let header = ReplyHeader {
            status: status as u32,
            length: length as u32,
            tag,
        };
        let mut bytes = [0; MESSAGE_BYTES_MAX];
        bytes[..ReplyHeader::SIZE].copy_from_slice(&header.to_bytes());
        bytes[ReplyHeader::SIZE..length].copy_from_slice(body);
        Self { bytes, length }
    }
    /// The same request's, but with this status and without a body.
    #[must_use]
    pub fn with_status(&self, status: ControlStatus) -> Self {
        let tag = self.bytes.first_chunk().map(ReplyHeader::from_bytes);
        Self::new(tag.map_or(0, |header| header.tag), Err(status))
    }
    /// Whether it says that the request was carried out.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        let header = self.bytes.first_chunk().map(ReplyHeader::from_bytes);
        header.is_some_and(|header| header.status == ControlStatus::Ok as u32)
    }
    /// What to write for the driver.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// What a request was, beside its reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handled {
    /// The reply.
    pub reply: Reply,
    /// Something was revoked.
    pub revoked: bool,
}

/// Does a part of a request that may take very long, for about `time`; true when it is to be
/// called again, with the same request, before [`handle`]. So that other domains' requests
/// are carried out in between.
#[must_use]
pub fn begin(domain: &Domain, request: &[u8], room: usize, time: Duration) -> bool {
    let header = (request.len() <= MESSAGE_BYTES_MAX)
        .then(|| request.split_first_chunk())
        .flatten();
    let Some((header, body)) = header else {
        return false;
    };
    let header = RequestHeader::from_bytes(header);
    if header.kind != RequestKind::ContextDestroy as u16 {
        return false;
    }
    let call = Call {
        domain,
        header,
        body,
        room: room.saturating_sub(ReplyHeader::SIZE),
        out: &mut [0; MESSAGE_BYTES_MAX],
    };
    let mut has_more = false;
    // What is wrong with it is found again, and told, when it is handled.
    let begun = call.run(|domain, q: &ContextDestroyRequest| {
        has_more = contexts::begin_destroying(domain, q, time);
        Ok(())
    });
    begun.is_ok() && has_more
}

/// Carries out one request of a domain's driver. `request` is the readable part of the
/// chain, or its beginning when it was longer than [`MESSAGE_BYTES_MAX`]; `room` is how
/// many bytes can be written, at least a [`ReplyHeader`].
#[must_use]
pub fn handle(domain: &Domain, request: &[u8], room: usize) -> Handled {
    let header = (request.len() <= MESSAGE_BYTES_MAX)
        .then(|| request.split_first_chunk())
        .flatten();
    let Some((header, body)) = header else {
        return Handled {
            reply: Reply::new(0, Err(ControlStatus::BadLength)),
            revoked: false,
        };
    };
    let header = RequestHeader::from_bytes(header);
    let mut out = [0; MESSAGE_BYTES_MAX];
    let call = Call {
        domain,
        header,
        body,
        room: room.saturating_sub(ReplyHeader::SIZE),
        out: &mut out,
    };
    let outcome = dispatch(call);
    Handled {
        revoked: outcome.is_ok() && header.kind == RequestKind::CapRevoke as u16,
        reply: Reply::new(header.tag, outcome.map(|length| &out[..length])),
    }
}

/// One request under way.
struct Call<'a> {
    domain: &'a Domain,
    header: RequestHeader,
    body: &'a [u8],
    /// Bytes that a reply's body may have.
    room: usize,
    out: &'a mut [u8; MESSAGE_BYTES_MAX],
}

impl Call<'_> {
    /// Decodes the body, carries the request out, and encodes the reply's body; says
    /// how long that is. Nothing is carried out unless its reply has room.
    fn run<Q: Message, A: Message>(
        self,
        operation: impl FnOnce(&Domain, &Q) -> Result<A, ControlStatus>,
    ) -> Result<usize, ControlStatus> {
        if self.room < A::SIZE || self.header.length as usize != RequestHeader::SIZE + Q::SIZE {
            return Err(ControlStatus::BadLength);
        }
        let mut request = decode::<Q>(self.body)?;
        if self.header.reserved2 != 0 {
            return Err(ControlStatus::ReservedNotZero);
        }
        // Before QUERY nothing is known of what the driver means.
        if self.header.kind != RequestKind::Query as u16 && !self.domain.is_ready() {
            return Err(ControlStatus::Version);
        }
        let outcome = operation(self.domain, &request);
        request.wipe();
        outcome?.encode(&mut self.out[..A::SIZE]);
        Ok(A::SIZE)
    }
}

fn dispatch(call: Call<'_>) -> Result<usize, ControlStatus> {
    let Some(kind) = RequestKind::from_code(call.header.kind) else {
        return Err(ControlStatus::UnknownRequest);
    };
    match kind {
        RequestKind::Query => call.run(query::query),
        RequestKind::Lookup => call.run(query::lookup),
        RequestKind::Bind => call.run(spaces::bind),
        RequestKind::Unbind => call.run(spaces::unbind),
        RequestKind::Invalidate => call.run(spaces::invalidate),
        RequestKind::ContextCreate => call.run(contexts::create),
        RequestKind::ContextDestroy => call.run(contexts::destroy),
        RequestKind::QueueCreate => call.run(queues::create),
        RequestKind::QueueDestroy => call.run(queues::destroy),
        RequestKind::QueueArm => call.run(queues::arm),
        RequestKind::CapDerive => call.run(capabilities::derive),
        RequestKind::CapOffer => call.run(capabilities::offer),
        RequestKind::CapAccept => call.run(capabilities::accept),
        RequestKind::CapRevoke => call.run(capabilities::revoke),
        RequestKind::CapDrop => call.run(capabilities::drop_slot),
        RequestKind::CapQuery => call.run(capabilities::query),
        RequestKind::PageResponse => call.run(pages::respond),
        RequestKind::EndpointOpen => call.run(endpoints::open),
        RequestKind::KeyLoad => call.run(keys::load),
        RequestKind::PortCreate => call.run(ports::create),
    }
}
