//! The module's user interface: `byway.h` of the module, in Rust.
//!
//! Owns layouts and numbers only. `tests/header.rs` has a C compiler compare each of them with the header; the
//! assertions below hold the sizes where there is none.

use core::mem::size_of;

/// Version of the interface that this crate speaks.
pub const INTERFACE: u32 = 1;
/// Room for a name, in bytes.
pub const NAME_BYTES: usize = 32;
/// What names the context's own memory in place of a capability's descriptor.
pub const OWN_MEMORY: i32 = -1;
/// [`Info::flags`]: address spaces are bound NO_AD.
pub const INFO_NO_AD: u32 = 1;
/// [`Queue::flags`]: polled for as long as it lives.
pub const QUEUE_NO_PARK: u32 = 1;
/// [`Listen::flags`]: starts with O_NONBLOCK.
pub const LISTEN_NONBLOCK: u32 = 1;
/// [`CapRevoke::flags`]: only what is derived from it.
pub const REVOKE_DESCENDANTS_ONLY: u32 = 1;

/// Type byte of the ioctl numbers.
const MAGIC: u32 = 0xbe;
const NONE: u32 = 0;
const WRITE: u32 = 1;
const READ: u32 = 2;

/// An ioctl number, composed as `<linux/ioctl.h>` does on x86-64.
const fn number(direction: u32, index: u32, bytes: usize) -> u32 {
    assert!(bytes < 1 << 14, "ioctl arguments are below 16 KiB");
    direction << 30 | (bytes as u32) << 16 | MAGIC << 8 | index
}

/// A call, with the structure that it takes.
pub trait Argument: Copy {
    /// Its number.
    const NUMBER: u32;
    /// Its name in the header.
    const NAME: &'static str;
}

macro_rules! arguments {
    ($(
        $(#[$doc:meta])*
        $name:ident: $bytes:literal = $direction:expr, $index:literal, $call:literal {
            $($(#[$field_doc:meta])* $field:ident: $type:ty,)*
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        #[repr(C)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }

        const _: () = assert!(size_of::<$name>() == $bytes);

        impl Argument for $name {
            const NUMBER: u32 = number($direction, $index, size_of::<Self>());
            const NAME: &'static str = $call;
        }

        impl Default for $name {
            /// All zeros.
            fn default() -> Self {
                // SAFETY: integers and arrays of them may be all zeros.
                unsafe { core::mem::zeroed() }
            }
        }
    )*

    /// Name, number, size, and each field's name and offset, of every structure: for the comparison with
    /// the header.
    #[doc(hidden)]
    pub const LAYOUTS: &[Layout] = &[$(Layout {
        call: $call,
        number: $name::NUMBER,
        bytes: $bytes,
        fields: &[$((stringify!($field), core::mem::offset_of!($name, $field))),*],
    }),*];
    };
}

/// What [`LAYOUTS`] tells of a structure.
#[doc(hidden)]
#[derive(Debug)]
pub struct Layout {
    /// Its call.
    pub call: &'static str,
    /// The call's number.
    pub number: u32,
    /// Its size.
    pub bytes: usize,
    /// Names and offsets.
    pub fields: &'static [(&'static str, usize)],
}

arguments! {
    /// `struct byway_ioc_info`.
    Info: 136 = READ, 0x00, "BYWAY_IOC_INFO" {
        /// ABI version in force.
        version: u32,
        /// Instance of the engine.
        instance: u32,
        /// Features in force.
        features: u64,
        /// Number of this domain.
        domain: u32,
        /// Workers that poll.
        workers: u32,
        /// Most entries of a queue.
        queue_entries_max: u32,
        /// Most slots of a context.
        slots_max: u32,
        /// Most bytes of a transfer.
        transfer_bytes_max: u32,
        /// Most descriptors of a batch.
        batch_count_max: u32,
        /// Longest time that an idle queue is polled, in microseconds.
        park_us: u32,
        /// [`INFO_NO_AD`].
        flags: u32,
        /// Bit n of byte n / 8: operation n is supported.
        opcodes: [u8; 32],
        /// This domain's name, padded with zeros.
        name: [u8; NAME_BYTES],
        /// Unit of the offsets in a queue's mapping.
        page_bytes: u32,
        /// [`INTERFACE`] of the module.
        interface: u32,
        /// 0.
        reserved: [u64; 2],
    }
    /// `struct byway_ioc_context`.
    Context: 16 = READ | WRITE, 0x01, "BYWAY_IOC_CONTEXT" {
        /// Slots wanted, slot 0 included.
        slots: u32,
        /// 0.
        flags: u32,
        /// Number of the context.
        context: u32,
        /// 0.
        reserved: u32,
    }
    /// `struct byway_ioc_lookup`.
    Lookup: 48 = READ | WRITE, 0x02, "BYWAY_IOC_LOOKUP" {
        /// The peer's name.
        name: [u8; NAME_BYTES],
        /// Its number.
        domain: u32,
        /// Rights that may be given to it.
        rights_out: u32,
        /// Rights that it may give.
        rights_in: u32,
        /// 0.
        reserved: u32,
    }
    /// `struct byway_ioc_queue`.
    Queue: 56 = READ | WRITE, 0x03, "BYWAY_IOC_QUEUE" {
        /// Entries.
        entries: u32,
        /// [`QUEUE_NO_PARK`].
        flags: u32,
        /// The queue's descriptor.
        fd: i32,
        /// Its number.
        queue: u32,
        /// Length of the mapping.
        mmap_bytes: u64,
        /// Where the ring begins in it.
        ring_offset: u64,
        /// Where the completions begin.
        completions_offset: u64,
        /// Where the header line is.
        header_offset: u64,
        /// Instance of the engine.
        instance: u32,
        /// 0.
        reserved: u32,
    }
    /// `struct byway_ioc_derive`.
    Derive: 64 = READ | WRITE, 0x04, "BYWAY_IOC_DERIVE" {
        /// A capability, or [`OWN_MEMORY`].
        parent_fd: i32,
        /// Rights.
        rights: u32,
        /// First byte.
        base: u64,
        /// Bytes.
        length: u64,
        /// Badge.
        badge: u64,
        /// Lifetime in nanoseconds.
        lifetime_ns: u64,
        /// Bytes that may be moved.
        byte_quota: u64,
        /// The new capability's descriptor.
        fd: i32,
        /// Its slot.
        slot: u32,
        /// 0.
        flags: u32,
        /// 0.
        reserved: u32,
    }
    /// `struct byway_ioc_attach`.
    Attach: 48 = READ | WRITE, 0x05, "BYWAY_IOC_ATTACH" {
        /// Any capability's descriptor.
        cap_fd: i32,
        /// Rights wanted; 0 = all.
        rights: u32,
        /// First byte.
        base: u64,
        /// Bytes; 0 = all from there on.
        length: u64,
        /// The new capability's descriptor.
        fd: i32,
        /// Its slot.
        slot: u32,
        /// Its badge.
        badge: u64,
        /// Its rights.
        rights_out: u32,
        /// 0.
        reserved: u32,
    }
    /// `struct byway_ioc_offer`.
    Offer: 88 = READ | WRITE, 0x06, "BYWAY_IOC_OFFER" {
        /// A capability.
        cap_fd: i32,
        /// Rights to give.
        rights: u32,
        /// The peer's name.
        peer: [u8; NAME_BYTES],
        /// The port's name.
        port: [u8; NAME_BYTES],
        /// Number of the offer.
        offer: u64,
        /// 0.
        flags: u32,
        /// 0.
        reserved: u32,
    }
    /// `struct byway_ioc_listen`.
    Listen: 72 = READ | WRITE, 0x07, "BYWAY_IOC_LISTEN" {
        /// The port's name.
        port: [u8; NAME_BYTES],
        /// The only peer, or zeros.
        peer: [u8; NAME_BYTES],
        /// The listener's descriptor.
        fd: i32,
        /// [`LISTEN_NONBLOCK`].
        flags: u32,
    }
    /// `struct byway_ioc_key_load`.
    KeyLoad: 96 = READ | WRITE, 0x08, "BYWAY_IOC_KEY_LOAD" {
        /// What it is for.
        algorithm: u32,
        /// Bytes of it.
        length: u32,
        /// Rights.
        rights: u32,
        /// 0.
        flags: u32,
        /// Badge.
        badge: u64,
        /// The key.
        key: [u8; 64],
        /// The capability's descriptor.
        fd: i32,
        /// Its slot.
        slot: u32,
    }
    /// `struct byway_ioc_port_create`.
    PortCreate: 32 = READ | WRITE, 0x09, "BYWAY_IOC_PORT_CREATE" {
        /// Messages that may wait.
        depth: u32,
        /// Longest message.
        bytes: u32,
        /// Badge.
        badge: u64,
        /// The capability's descriptor.
        fd: i32,
        /// Its slot.
        slot: u32,
        /// 0.
        flags: u32,
        /// 0.
        reserved: u32,
    }
    /// `struct byway_ioc_endpoint_open`.
    EndpointOpen: 80 = READ | WRITE, 0x0a, "BYWAY_IOC_ENDPOINT_OPEN" {
        /// Name of the endpoint, 0-padded.
        name: [u8; NAME_BYTES],
        /// Badge.
        badge: u64,
        /// 0.
        flags: u32,
        /// 0.
        reserved: u32,
        /// Bytes of all blocks.
        length: u64,
        /// The capability's descriptor.
        fd: i32,
        /// Its slot.
        slot: u32,
        /// Rights.
        rights: u32,
        /// Bytes of a block.
        block_bytes: u32,
        /// What the device does.
        features: u32,
        /// 0.
        reserved76: u32,
    }
    /// `struct byway_ioc_eventfd`.
    Eventfd: 8 = WRITE, 0x22, "BYWAY_IOC_EVENTFD" {
        /// An eventfd, or -1.
        fd: i32,
        /// 0.
        reserved: u32,
    }
    /// `struct byway_ioc_cap_query`.
    CapQuery: 72 = READ, 0x30, "BYWAY_IOC_CAP_QUERY" {
        /// State.
        state: u32,
        /// Rights.
        rights: u32,
        /// Bytes.
        length: u64,
        /// Badge.
        badge: u64,
        /// Depth.
        depth: u32,
        /// Number of the owner's domain.
        domain: u32,
        /// Capabilities alive below it.
        descendants: u64,
        /// Bytes read.
        bytes_read: u64,
        /// Bytes written.
        bytes_written: u64,
        /// Its slot.
        slot: u32,
        /// Its context.
        context: u32,
        /// 0.
        reserved: u64,
    }
    /// `struct byway_ioc_cap_revoke`.
    CapRevoke: 8 = WRITE, 0x31, "BYWAY_IOC_CAP_REVOKE" {
        /// [`REVOKE_DESCENDANTS_ONLY`].
        flags: u32,
        /// 0.
        reserved: u32,
    }
    /// `struct byway_ioc_accept`.
    Accept: 40 = READ | WRITE, 0x40, "BYWAY_IOC_ACCEPT" {
        /// The capability's descriptor.
        fd: i32,
        /// Its slot.
        slot: u32,
        /// Bytes.
        length: u64,
        /// Badge.
        badge: u64,
        /// Rights.
        rights: u32,
        /// Owner's domain.
        domain: u32,
        /// Who offered it.
        peer: u32,
        /// 0.
        flags: u32,
    }
}

/// `BYWAY_IOC_KICK`.
pub const KICK: u32 = number(NONE, 0x20, 0);
/// `BYWAY_IOC_ARM`.
pub const ARM: u32 = number(NONE, 0x21, 0);
