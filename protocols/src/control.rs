//! Control messages: guest kernel to engine over virtqueue 0 (SPEC section 8).
//!
//! A request is one descriptor chain: device-readable [`RequestHeader`] and body,
//! then device-writable room for [`ReplyHeader`] and the reply's body. The engine
//! copies the readable part out once and never reads it again. A chain with no
//! readable byte is a bare doorbell: it completes with length 0.

use crate::codec::KeyBytes;
use crate::wire::wire_struct;

/// Longest request and longest reply, header included, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 256;

macro_rules! requests {
    ($( $(#[$doc:meta])* $name:ident = $code:literal, )*) => {
        /// What a request asks for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u16)]
        pub enum RequestKind { $( $(#[$doc])* $name = $code, )* }
        impl RequestKind {
            /// Every kind, ascending.
            pub const ALL: &'static [Self] = &[ $( Self::$name, )* ];
            /// The kind with this code, or `None`.
            #[must_use]
            pub const fn from_code(code: u16) -> Option<Self> {
                match code { $( $code => Some(Self::$name), )* _ => None }
            }
            /// Name as the specification spells it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Self::$name => stringify!($name), )* }
            }
        }
    };
}

requests! {
    /// Version, features and limits: [`QueryRequest`] -> [`QueryReply`]. Comes first.
    Query = 1,
    /// Domain number of a linked peer: [`LookupRequest`] -> [`LookupReply`].
    Lookup = 2,
    /// Page-table root under a PASID: [`BindRequest`].
    Bind = 3,
    /// Takes it back: [`UnbindRequest`]. Acknowledged after the last access.
    Unbind = 4,
    /// Opens a context: [`ContextCreateRequest`] -> [`ContextCreateReply`].
    ContextCreate = 5,
    /// Closes it with its queues and slots: [`ContextDestroyRequest`].
    ContextDestroy = 6,
    /// Creates a work queue: [`QueueCreateRequest`] -> [`QueueCreateReply`].
    QueueCreate = 7,
    /// Destroys it: [`QueueRequest`]. Descriptors not completed end in status 62.
    QueueDestroy = 8,
    /// Re-arms its completion interrupt: [`QueueRequest`].
    QueueArm = 9,
    /// Narrows a capability into another slot: [`CapDeriveRequest`] -> [`CapDeriveReply`].
    CapDerive = 10,
    /// Offers a capability to a linked domain: [`CapOfferRequest`] -> [`CapOfferReply`].
    CapOffer = 11,
    /// Takes an offer into a slot: [`CapAcceptRequest`] -> [`CapAcceptReply`].
    CapAccept = 12,
    /// Ends a capability and all derived from it: [`CapSlotRequest`]. Acknowledged after
    /// the last access.
    CapRevoke = 13,
    /// Empties a slot: [`CapSlotRequest`]. What was derived from it lives on.
    CapDrop = 14,
    /// State and use: [`CapSlotRequest`] -> [`CapQueryReply`].
    CapQuery = 15,
    /// Drops cached translations: [`InvalidateRequest`] -> [`InvalidateReply`]. Acknowledged
    /// after the last access by an old one.
    Invalidate = 16,
    /// Answers a page request: [`PageResponseRequest`].
    PageResponse = 17,
    /// A capability to blocks of an endpoint: [`EndpointOpenRequest`] -> [`EndpointOpenReply`].
    EndpointOpen = 18,
    /// Puts a key into a slot: [`KeyLoadRequest`] -> [`KeyLoadReply`].
    KeyLoad = 24,
    /// Creates a port for messages: [`PortCreateRequest`] -> [`PortCreateReply`].
    PortCreate = 25,
}

/// Feature bits of QUERY.
pub mod features {
    /// BIND takes an invalidation page.
    pub const INVALIDATION_PAGE: u64 = 1 << 0;
    /// BLOCK_ON_FAULT raises page requests.
    pub const PAGE_REQUESTS: u64 = 1 << 1;
    /// Five-level page tables.
    pub const LEVELS_5: u64 = 1 << 2;
    /// Capabilities may carry an expiry.
    pub const EXPIRY: u64 = 1 << 3;
    /// Capabilities may carry a byte quota.
    pub const BYTE_QUOTA: u64 = 1 << 4;
    /// Endpoints can be opened.
    pub const ENDPOINTS: u64 = 1 << 5;
    /// Memory may be said to be pinned.
    pub const PINNED: u64 = 1 << 6;
}

/// Bits of [`BindRequest::flags`].
pub mod bind_flags {
    /// EFER.NXE is set: bit 63 of an entry is NX, else it is reserved.
    pub const NXE: u16 = 1 << 0;
    /// The CPU has 1 GiB pages.
    pub const PAGES_1G: u16 = 1 << 1;
    /// The engine must not write page-table entries: A = 0, or D = 0 on a write, is a fault.
    pub const NO_AD: u16 = 1 << 2;
    /// All defined bits.
    pub const ALL: u16 = NXE | PAGES_1G | NO_AD;
}

/// Bits of [`QueueCreateRequest::flags`].
pub mod queue_flags {
    /// Never park: polled for as long as it lives. Needs an operator's quota.
    pub const NO_PARK: u32 = 1 << 0;
    /// All defined bits.
    pub const ALL: u32 = NO_PARK;
}

/// Values of [`InvalidateRequest::scope`].
pub mod invalidate_scope {
    /// Every address space of the domain.
    pub const DOMAIN: u8 = 0;
    /// One address space.
    pub const PASID: u8 = 1;
    /// A range of one address space.
    pub const RANGE: u8 = 2;
}

/// Values of [`PageResponseRequest::outcome`].
pub mod page_outcome {
    /// The page is there: the access is tried again.
    pub const RESOLVED: u32 = 1;
    /// The address or the access is wrong, and stays so.
    pub const REFUSED: u32 = 2;
    /// Not now: the descriptor ends as if it had not waited.
    pub const RETRY_LATER: u32 = 3;
}

/// Bits of [`CapSlotRequest::flags`] for CAP_REVOKE.
pub mod revoke_flags {
    /// Spare the capability itself, end only what is derived from it.
    pub const DESCENDANTS_ONLY: u32 = 1 << 0;
}

/// PASID of guest-physical addressing, for contexts that the guest kernel opens for itself.
pub const PASID_PHYSICAL: u32 = 0;
/// Largest PASID (20 bits).
pub const PASID_MAX: u32 = 0xf_ffff;
/// A domain name's room in bytes; unused bytes are 0.
pub const NAME_BYTES: usize = 32;

wire_struct! {
    /// First 16 bytes of every request.
    pub struct RequestHeader: 16 align 8 {
        /// See [`RequestKind`].
        kind: u16 = 0,
        /// 0.
        reserved2: u16 = 2,
        /// Bytes of the request, this header included.
        length: u32 = 4,
        /// Chosen by the driver, comes back in the reply.
        tag: u64 = 8,
    }
}
wire_struct! {
    /// First 16 bytes of every reply.
    pub struct ReplyHeader: 16 align 8 {
        /// [`crate::ControlStatus`] code; the body follows only when it is 0.
        status: u32 = 0,
        /// Bytes of the reply, this header included.
        length: u32 = 4,
        /// Tag of the request.
        tag: u64 = 8,
    }
}
wire_struct! {
    /// QUERY.
    pub struct QueryRequest: 16 align 8 {
        /// Newest version that the driver speaks.
        version: u32 = 0,
        /// 0.
        reserved4: u32 = 4,
        /// [`features`] that the driver can use.
        features: u64 = 8,
    }
}
wire_struct! {
    /// Reply to QUERY.
    pub struct QueryReply: 128 align 8 {
        /// Version in force: the smaller of both sides' newest.
        version: u32 = 0,
        /// Instance of the engine; see [`crate::QueueHeader::instance`].
        instance: u32 = 4,
        /// [`features`] in force.
        features: u64 = 8,
        /// The asking domain's own number.
        domain: u32 = 16,
        /// Workers that poll.
        workers: u32 = 20,
        /// Most entries of a queue.
        queue_entries_max: u32 = 24,
        /// Most slots of a context, slot 0 included.
        slots_max: u32 = 28,
        /// Most bytes of a transfer.
        transfer_bytes_max: u32 = 32,
        /// Most descriptors of a batch.
        batch_count_max: u32 = 36,
        /// Longest time that a queue is polled without finding work, in microseconds.
        park_us: u32 = 40,
        /// 0.
        reserved44: u32 = 44,
        /// Bit n of byte n/8: opcode n is supported.
        opcodes: [u8; 32] = 48,
        /// The domain's name, 0-padded.
        name: [u8; 32] = 80,
        /// 0.
        reserved112: [u8; 16] = 112,
    }
}
wire_struct! {
    /// LOOKUP.
    pub struct LookupRequest: 32 align 8 {
        /// The peer's name, 0-padded.
        name: [u8; 32] = 0,
    }
}
wire_struct! {
    /// Reply to LOOKUP.
    pub struct LookupReply: 16 align 8 {
        /// The peer's number.
        domain: u32 = 0,
        /// Rights that may be given to it.
        rights_out: u32 = 4,
        /// Rights that it may give.
        rights_in: u32 = 8,
        /// 0.
        reserved12: u32 = 12,
    }
}
wire_struct! {
    /// BIND.
    pub struct BindRequest: 32 align 8 {
        /// Guest-physical address of the root table; CR3's low 12 bits and LAM bits are ignored.
        root: u64 = 0,
        /// 1 to [`PASID_MAX`], not bound.
        pasid: u32 = 8,
        /// 4 or 5.
        levels: u8 = 12,
        /// MAXPHYADDR of the guest's CPU, 32 to 52.
        maxphyaddr: u8 = 13,
        /// See [`bind_flags`].
        flags: u16 = 14,
        /// Guest-physical address of an invalidation page; 0 = none.
        invalidation_page: u64 = 16,
        /// 0.
        reserved24: u64 = 24,
    }
}
wire_struct! {
    /// UNBIND.
    pub struct UnbindRequest: 8 align 4 {
        /// A bound PASID that no context uses.
        pasid: u32 = 0,
        /// 0.
        reserved4: u32 = 4,
    }
}
wire_struct! {
    /// CONTEXT_CREATE.
    pub struct ContextCreateRequest: 8 align 4 {
        /// A bound PASID, or [`PASID_PHYSICAL`].
        pasid: u32 = 0,
        /// Capability slots wanted, slot 0 included; 1 to the limit of QUERY.
        slots: u32 = 4,
    }
}
wire_struct! {
    /// Reply to CONTEXT_CREATE.
    pub struct ContextCreateReply: 8 align 4 {
        /// Number of the context, never used twice by one instance.
        context: u32 = 0,
        /// 0.
        reserved4: u32 = 4,
    }
}
wire_struct! {
    /// CONTEXT_DESTROY.
    pub struct ContextDestroyRequest: 8 align 4 {
        /// The context.
        context: u32 = 0,
        /// 0.
        reserved4: u32 = 4,
    }
}
wire_struct! {
    /// QUEUE_CREATE. The three areas are guest-physical, 64-byte aligned, zeroed, each
    /// inside one memory region, and do not overlap.
    pub struct QueueCreateRequest: 40 align 8 {
        /// Context that owns the queue.
        context: u32 = 0,
        /// Entries, a power of two.
        entries: u32 = 4,
        /// `entries` descriptors.
        ring: u64 = 8,
        /// `entries` completions.
        completions: u64 = 16,
        /// One [`crate::QueueHeader`].
        header: u64 = 24,
        /// See [`queue_flags`].
        flags: u32 = 32,
        /// 0.
        reserved36: u32 = 36,
    }
}
wire_struct! {
    /// Reply to QUEUE_CREATE.
    pub struct QueueCreateReply: 8 align 4 {
        /// Number of the queue, never used twice by one instance.
        queue: u32 = 0,
        /// 0.
        reserved4: u32 = 4,
    }
}
wire_struct! {
    /// QUEUE_DESTROY, QUEUE_ARM.
    pub struct QueueRequest: 8 align 4 {
        /// The queue.
        queue: u32 = 0,
        /// 0.
        reserved4: u32 = 4,
    }
}
wire_struct! {
    /// CAP_DERIVE: a narrower capability from one that the domain holds.
    pub struct CapDeriveRequest: 64 align 8 {
        /// Context that holds the parent.
        context: u32 = 0,
        /// Parent's slot; 0 = the context's own address space.
        slot: u32 = 4,
        /// First byte: a virtual address for slot 0, else an offset into the parent.
        base: u64 = 8,
        /// Bytes, not 0.
        length: u64 = 16,
        /// [`crate::Rights`], a subset of the parent's.
        rights: u32 = 24,
        /// Context of the same domain that receives it.
        target_context: u32 = 28,
        /// Slot there; 0 = the lowest empty one.
        target_slot: u32 = 32,
        /// 0.
        reserved36: u32 = 36,
        /// Reported to whoever uses it; the holder cannot change it.
        badge: u64 = 40,
        /// Lifetime in nanoseconds from now; 0 = none. Needs feature EXPIRY.
        lifetime_ns: u64 = 48,
        /// Bytes that may be moved through it; 0 = no limit. Needs feature BYTE_QUOTA.
        byte_quota: u64 = 56,
    }
}
wire_struct! {
    /// Reply to CAP_DERIVE.
    pub struct CapDeriveReply: 8 align 4 {
        /// Slot that was filled.
        slot: u32 = 0,
        /// 0.
        reserved4: u32 = 4,
    }
}
wire_struct! {
    /// CAP_OFFER. The capability needs the right GRANT unless it is over the domain's own memory.
    pub struct CapOfferRequest: 40 align 8 {
        /// Context that holds it.
        context: u32 = 0,
        /// Its slot, not 0.
        slot: u32 = 4,
        /// Peer's number.
        domain: u32 = 8,
        /// Rights to give, a subset of the capability's and the link's.
        rights: u32 = 12,
        /// Chosen by the owner, seen by the peer: a port number, a hash of a name.
        label: u64 = 16,
        /// 0.
        reserved24: u64 = 24,
        /// 0.
        reserved32: u64 = 32,
    }
}
wire_struct! {
    /// Reply to CAP_OFFER.
    pub struct CapOfferReply: 8 align 8 {
        /// Number of the offer.
        offer: u64 = 0,
    }
}
wire_struct! {
    /// CAP_ACCEPT.
    pub struct CapAcceptRequest: 24 align 8 {
        /// Offer made to this domain.
        offer: u64 = 0,
        /// Context that receives it.
        context: u32 = 8,
        /// Slot there; 0 = the lowest empty one.
        slot: u32 = 12,
        /// 0.
        reserved16: u64 = 16,
    }
}
wire_struct! {
    /// Reply to CAP_ACCEPT.
    pub struct CapAcceptReply: 32 align 8 {
        /// Slot that was filled.
        slot: u32 = 0,
        /// [`crate::Rights`] that came with it.
        rights: u32 = 4,
        /// Bytes that it spans.
        length: u64 = 8,
        /// Badge.
        badge: u64 = 16,
        /// Domain that owns the memory.
        domain: u32 = 24,
        /// 0.
        reserved28: u32 = 28,
    }
}
wire_struct! {
    /// CAP_REVOKE, CAP_DROP, CAP_QUERY.
    pub struct CapSlotRequest: 16 align 4 {
        /// Context that holds it.
        context: u32 = 0,
        /// Its slot, not 0.
        slot: u32 = 4,
        /// [`revoke_flags`] for CAP_REVOKE, else 0.
        flags: u32 = 8,
        /// 0.
        reserved12: u32 = 12,
    }
}
wire_struct! {
    /// Reply to CAP_QUERY.
    pub struct CapQueryReply: 64 align 8 {
        /// See [`crate::capability::CapabilityState`].
        state: u32 = 0,
        /// [`crate::Rights`].
        rights: u32 = 4,
        /// Bytes that it spans.
        length: u64 = 8,
        /// Badge.
        badge: u64 = 16,
        /// Depth in the derivation tree, 1 for one over one's own memory.
        depth: u32 = 24,
        /// Domain that owns the memory.
        domain: u32 = 28,
        /// Capabilities alive below it.
        descendants: u64 = 32,
        /// Bytes read through it and all below.
        bytes_read: u64 = 40,
        /// Bytes written through it and all below.
        bytes_written: u64 = 48,
        /// 0.
        reserved56: u64 = 56,
    }
}
wire_struct! {
    /// INVALIDATE.
    pub struct InvalidateRequest: 24 align 8 {
        /// See [`invalidate_scope`].
        scope: u8 = 0,
        /// 0.
        reserved1: [u8; 3] = 1,
        /// PASID for the scopes PASID and RANGE, else 0.
        pasid: u32 = 4,
        /// First address for the scope RANGE, a multiple of 4096, else 0.
        address: u64 = 8,
        /// Pages of 4096 bytes for the scope RANGE, not 0, else 0.
        pages: u64 = 16,
    }
}
wire_struct! {
    /// Reply to INVALIDATE.
    pub struct InvalidateReply: 8 align 4 {
        /// Chunks in flight that were waited for.
        waited_chunks: u32 = 0,
        /// 0.
        reserved4: u32 = 4,
    }
}
wire_struct! {
    /// PAGE_RESPONSE.
    pub struct PageResponseRequest: 16 align 8 {
        /// Number of a page request that waits ([`crate::Event::request`]).
        request: u64 = 0,
        /// See [`page_outcome`].
        outcome: u32 = 8,
        /// 0.
        reserved12: u32 = 12,
    }
}

wire_struct! {
    /// KEY_LOAD: a key becomes a capability of the domain's own.
    pub struct KeyLoadRequest: 96 align 8 {
        /// Context that receives it.
        context: u32 = 0,
        /// Slot there; 0 = the lowest empty one.
        slot: u32 = 4,
        /// See [`crate::codec::KeyAlgorithm`].
        algorithm: u32 = 8,
        /// Bytes of the key, just as many as the algorithm's keys have.
        length: u32 = 12,
        /// Of ENCRYPT, DECRYPT and GRANT; one of the first two at least.
        rights: u32 = 16,
        /// 0.
        reserved20: u32 = 20,
        /// Reported to whoever accepts it.
        badge: u64 = 24,
        /// The key; unused bytes are 0.
        key: KeyBytes = 32,
    }
}
wire_struct! {
    /// Reply to KEY_LOAD.
    pub struct KeyLoadReply: 8 align 4 {
        /// Slot that was filled.
        slot: u32 = 0,
        /// 0.
        reserved4: u32 = 4,
    }
}
wire_struct! {
    /// PORT_CREATE: a port becomes a capability of the domain's own, with all rights to it.
    pub struct PortCreateRequest: 24 align 8 {
        /// Context that receives it.
        context: u32 = 0,
        /// Slot there; 0 = the lowest empty one.
        slot: u32 = 4,
        /// Messages that may wait in it, 1 to [`crate::port::PORT_DEPTH_MAX`].
        depth: u32 = 8,
        /// Longest message in bytes, 1 to [`crate::port::PORT_MESSAGE_MAX`].
        bytes: u32 = 12,
        /// Told to whoever receives what is sent by way of it.
        badge: u64 = 16,
    }
}
wire_struct! {
    /// Reply to PORT_CREATE.
    pub struct PortCreateReply: 8 align 4 {
        /// Slot that was filled.
        slot: u32 = 0,
        /// 0.
        reserved4: u32 = 4,
    }
}

wire_struct! {
    /// ENDPOINT_OPEN: what the operator granted of an endpoint becomes a capability of the
    /// domain's own.
    pub struct EndpointOpenRequest: 56 align 8 {
        /// Context that receives it.
        context: u32 = 0,
        /// Slot there; 0 = the lowest empty one.
        slot: u32 = 4,
        /// Told to whoever accepts it.
        badge: u64 = 8,
        /// Name of the endpoint, 0-padded.
        name: [u8; crate::operands::ENDPOINT_NAME_BYTES] = 16,
        /// 0.
        reserved48: u64 = 48,
    }
}
wire_struct! {
    /// Reply to ENDPOINT_OPEN.
    pub struct EndpointOpenReply: 32 align 8 {
        /// Slot that was filled.
        slot: u32 = 0,
        /// Rights that came with it.
        rights: u32 = 4,
        /// Bytes that it spans.
        length: u64 = 8,
        /// Bytes of a block: what offsets and sizes are multiples of.
        block_bytes: u32 = 16,
        /// See [`crate::operands::endpoint_features`].
        features: u32 = 20,
        /// 0.
        reserved24: u64 = 24,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layouts;

    #[test]
    fn every_message_fits() {
        for layout in layouts::ALL {
            assert!(16 + layout.size <= MESSAGE_BYTES_MAX, "{}", layout.name);
        }
    }

    #[test]
    fn layouts_are_gapless_and_named_once() {
        for (i, layout) in layouts::ALL.iter().enumerate() {
            assert!(layouts::ALL[..i].iter().all(|l| l.name != layout.name));
            let mut end = 0;
            for f in layout.fields {
                assert_eq!(f.offset, end, "{}.{}", layout.name, f.name);
                end += f.count
                    * match f.c_type {
                        "__u8" => 1,
                        "__le16" => 2,
                        "__le32" => 4,
                        "__le64" => 8,
                        other => panic!("{other}"),
                    };
            }
            assert_eq!(end, layout.size, "{}", layout.name);
        }
    }
}
