//! Control messages as bytes (SPEC section 8).
//!
//! Owns the pairing of a request's body with its kind and its reply's body, so that a call cannot
//! decode the wrong one.

use byway_protocols::control::{self, RequestKind};

/// A request's body.
pub(crate) trait Request {
    const KIND: RequestKind;
    type Reply: Reply;
    /// Writes the body and returns its length in bytes.
    fn encode(&self, into: &mut [u8]) -> usize;
}

/// A reply's body.
pub(crate) trait Reply: Sized {
    const BYTES: usize;
    /// Decodes from exactly [`Self::BYTES`] bytes of a private copy.
    fn decode(bytes: &[u8]) -> Self;
}

impl Reply for () {
    const BYTES: usize = 0;
    fn decode(_: &[u8]) -> Self {}
}

macro_rules! replies {
    ($($body:ident),* $(,)?) => {$(
        impl Reply for control::$body {
            const BYTES: usize = Self::SIZE;
            fn decode(bytes: &[u8]) -> Self {
                let mut copy = [0; Self::SIZE];
                copy.copy_from_slice(bytes);
                Self::from_bytes(&copy)
            }
        }
    )*};
}

replies!(
    QueryReply,
    LookupReply,
    ContextCreateReply,
    QueueCreateReply,
    CapDeriveReply,
    CapOfferReply,
    CapAcceptReply,
    CapQueryReply,
    InvalidateReply,
    KeyLoadReply,
    PortCreateReply,
    EndpointOpenReply,
);

/// Several kinds share a body, so each pairing is a type of its own around it.
macro_rules! requests {
    ($($name:ident($body:ident) -> $reply:ty = $kind:ident;)*) => {$(
        pub(crate) struct $name(pub(crate) control::$body);
        impl Request for $name {
            const KIND: RequestKind = RequestKind::$kind;
            type Reply = $reply;
            fn encode(&self, into: &mut [u8]) -> usize {
                into[..control::$body::SIZE].copy_from_slice(&self.0.to_bytes());
                control::$body::SIZE
            }
        }
    )*};
}

requests! {
    Query(QueryRequest) -> control::QueryReply = Query;
    Lookup(LookupRequest) -> control::LookupReply = Lookup;
    Bind(BindRequest) -> () = Bind;
    Unbind(UnbindRequest) -> () = Unbind;
    ContextCreate(ContextCreateRequest) -> control::ContextCreateReply = ContextCreate;
    ContextDestroy(ContextDestroyRequest) -> () = ContextDestroy;
    QueueCreate(QueueCreateRequest) -> control::QueueCreateReply = QueueCreate;
    QueueDestroy(QueueRequest) -> () = QueueDestroy;
    QueueArm(QueueRequest) -> () = QueueArm;
    CapDerive(CapDeriveRequest) -> control::CapDeriveReply = CapDerive;
    CapOffer(CapOfferRequest) -> control::CapOfferReply = CapOffer;
    CapAccept(CapAcceptRequest) -> control::CapAcceptReply = CapAccept;
    CapRevoke(CapSlotRequest) -> () = CapRevoke;
    CapDrop(CapSlotRequest) -> () = CapDrop;
    CapQuery(CapSlotRequest) -> control::CapQueryReply = CapQuery;
    Invalidate(InvalidateRequest) -> control::InvalidateReply = Invalidate;
    PageResponse(PageResponseRequest) -> () = PageResponse;
    KeyLoad(KeyLoadRequest) -> control::KeyLoadReply = KeyLoad;
    PortCreate(PortCreateRequest) -> control::PortCreateReply = PortCreate;
    EndpointOpen(EndpointOpenRequest) -> control::EndpointOpenReply = EndpointOpen;
}
