//! Bodies of control messages: decoded whole, with every reserved field checked.

use byway_protocols::control::{
    BindRequest, CapAcceptReply, CapAcceptRequest, CapDeriveReply, CapDeriveRequest, CapOfferReply,
    CapOfferRequest, CapQueryReply, CapSlotRequest, ContextCreateReply, ContextCreateRequest,
    ContextDestroyRequest, EndpointOpenReply, EndpointOpenRequest, InvalidateReply,
    InvalidateRequest, KeyLoadReply, KeyLoadRequest, LookupReply, LookupRequest,
    PageResponseRequest, PortCreateReply, PortCreateRequest, QueryReply, QueryRequest,
    QueueCreateReply, QueueCreateRequest, QueueRequest, UnbindRequest,
};
use byway_protocols::{ControlStatus, StructLayout};
use zeroize::Zeroize;

/// A body.
pub(super) trait Message: Sized {
    /// Bytes.
    const SIZE: usize;
    /// Its fields, `None` for no body at all.
    const LAYOUT: Option<StructLayout>;
    /// Decodes exactly [`Self::SIZE`] bytes; `None` for any other length.
    fn from_slice(bytes: &[u8]) -> Option<Self>;
    /// Encodes into exactly [`Self::SIZE`] bytes.
    fn encode(&self, into: &mut [u8]);
    /// Overwrites what is secret in it.
    fn wipe(&mut self) {}
}

macro_rules! messages {
    ($($name:ident),* $(,)?) => {$(
        impl Message for $name {
            const SIZE: usize = $name::SIZE;
            const LAYOUT: Option<StructLayout> = Some($name::LAYOUT);
            fn from_slice(bytes: &[u8]) -> Option<Self> {
                Some($name::from_bytes(bytes.try_into().ok()?))
            }
            fn encode(&self, into: &mut [u8]) {
                into.copy_from_slice(&self.to_bytes());
            }
        }
    )*};
}
messages!(
    QueryRequest,
    QueryReply,
    LookupRequest,
    LookupReply,
    BindRequest,
    UnbindRequest,
    ContextCreateRequest,
    ContextCreateReply,
    ContextDestroyRequest,
    QueueCreateRequest,
    QueueCreateReply,
    QueueRequest,
    CapDeriveRequest,
    CapDeriveReply,
    CapOfferRequest,
    CapOfferReply,
    CapAcceptRequest,
    CapAcceptReply,
    CapSlotRequest,
    CapQueryReply,
    InvalidateRequest,
    InvalidateReply,
    PageResponseRequest,
    KeyLoadReply,
    PortCreateRequest,
    PortCreateReply,
    EndpointOpenRequest,
    EndpointOpenReply,
);

impl Message for KeyLoadRequest {
    const SIZE: usize = Self::SIZE;
    const LAYOUT: Option<StructLayout> = Some(Self::LAYOUT);
    fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self::from_bytes(bytes.try_into().ok()?))
    }
    fn encode(&self, into: &mut [u8]) {
        into.copy_from_slice(&self.to_bytes());
    }
    fn wipe(&mut self) {
        self.key.0.zeroize();
    }
}

impl Message for () {
    const SIZE: usize = 0;
    const LAYOUT: Option<StructLayout> = None;
    fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.is_empty().then_some(())
    }
    fn encode(&self, _into: &mut [u8]) {}
}

/// Decodes a body.
///
/// # Errors
/// [`ControlStatus::BadLength`], then [`ControlStatus::ReservedNotZero`].
pub(super) fn decode<M: Message>(body: &[u8]) -> Result<M, ControlStatus> {
    let message = M::from_slice(body).ok_or(ControlStatus::BadLength)?;
    if let Some(layout) = &M::LAYOUT {
        check_reserved(layout, body)?;
    }
    Ok(message)
}

/// Every byte of a field named `reserved…` is 0. Fields leave no gaps, so each ends
/// where the next begins.
fn check_reserved(layout: &StructLayout, body: &[u8]) -> Result<(), ControlStatus> {
    for (i, field) in layout.fields.iter().enumerate() {
        let end = layout.fields.get(i + 1).map_or(layout.size, |f| f.offset);
        let is_reserved = field.name.starts_with("reserved");
        if is_reserved && body[field.offset..end].iter().any(|&b| b != 0) {
            return Err(ControlStatus::ReservedNotZero);
        }
    }
    Ok(())
}
