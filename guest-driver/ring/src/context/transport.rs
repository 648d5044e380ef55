//! [`Transport`]: what a guest kernel does for a process.
//!
//! Owns the questions and the shape of the answers, nothing else. Everything here is the slow path: no
//! transfer passes through it but a kick that is due and a sleep that was asked for.

use byway_protocols::Rights;
use byway_protocols::codec::KeyAlgorithm;
use core::time::Duration;

use super::error::TransportError;
use super::name::Name;
use crate::memory::QueueMemory;
use crate::request::Slot;

/// What kernel and engine say of themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// ABI version in force.
    pub version: u32,
    /// Instance of the engine; changes when it restarts or the device is reset.
    pub instance: u32,
    /// `features` of the ABI in force.
    pub features: u64,
    /// Number of this VM's domain.
    pub domain: u32,
    /// Most entries of a queue.
    pub queue_entries_max: u32,
    /// Most slots of a context, slot 0 included.
    pub slots_max: u32,
}

/// How a queue is to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueOptions {
    /// Entries, a power of two from 2 to 32768.
    pub entries: u32,
    /// The engine never stops polling it. Takes an operator's quota.
    pub no_park: bool,
}

impl Default for QueueOptions {
    /// 64 entries that may be parked.
    fn default() -> Self {
        Self {
            entries: 64,
            no_park: false,
        }
    }
}

/// A queue that the kernel made and mapped.
#[derive(Debug)]
pub struct NewQueue<Q> {
    /// What keeps it: dropped, the queue is destroyed and unmapped.
    pub handle: Q,
    /// Where it is mapped.
    pub memory: QueueMemory,
    /// The number by which descriptors of other queues name it.
    pub number: u32,
}

/// What a narrower capability is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// First byte: a virtual address of one's own memory, else an offset into the parent.
    pub base: u64,
    /// Bytes, not 0.
    pub length: u64,
    /// A subset of the parent's rights.
    pub rights: Rights,
    /// Told to whoever accepts it.
    pub badge: u64,
    /// Ends by itself after this many nanoseconds; 0 = never.
    pub lifetime_ns: u64,
    /// Ends after this many bytes have moved through it; 0 = no limit.
    pub byte_quota: u64,
}

impl Terms {
    /// All of a capability that is attached, with all its rights.
    pub const WHOLE: Self = Self::new(0, 0, Rights::NONE);

    /// No badge and no limit.
    #[must_use]
    pub const fn new(base: u64, length: u64, rights: Rights) -> Self {
        Self {
            base,
            length,
            rights,
            badge: 0,
            lifetime_ns: 0,
            byte_quota: 0,
        }
    }
}

/// A port to be created (SPEC section 7.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// Messages that may wait in it, 1 to 64.
    pub depth: u32,
    /// Longest message in bytes, 1 to 4096.
    pub bytes: u32,
    /// Told to whoever receives what is sent by way of it.
    pub badge: u64,
}

/// A key to be loaded (SPEC section 7.7).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key<'k> {
    /// What it is for.
    pub algorithm: KeyAlgorithm,
    /// As many bytes as the algorithm's keys have. The caller's to wipe.
    pub bytes: &'k [u8],
    /// Of [`Rights::KEY`].
    pub rights: Rights,
    /// Told to whoever accepts it.
    pub badge: u64,
}

impl core::fmt::Debug for Key<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Key")
            .field("algorithm", &self.algorithm)
            .field("rights", &self.rights)
            .field("badge", &self.badge)
            .finish_non_exhaustive()
    }
}

/// A capability that the kernel put into a slot.
#[derive(Debug)]
pub struct NewCapability<C> {
    /// What keeps it: dropped, the slot is emptied.
    pub handle: C,
    /// The slot by which descriptors name it.
    pub slot: Slot,
    /// Bytes that it spans.
    pub length: u64,
    /// Its rights.
    pub rights: Rights,
    /// Its badge.
    pub badge: u64,
}

/// Blocks of an endpoint that the kernel opened (SPEC section 7.9).
#[derive(Debug)]
pub struct NewBlocks<C> {
    /// The right to them.
    pub capability: NewCapability<C>,
    /// Bytes of a block: what offsets and sizes are multiples of.
    pub block_bytes: u32,
    /// What the device does: bits of [`byway_protocols::operands::endpoint_features`].
    pub features: u32,
}

/// An offer of a peer that was accepted.
#[derive(Debug)]
pub struct Accepted<C> {
    /// The capability.
    pub capability: C,
    /// Number of the domain that owns what it is over.
    pub domain: u32,
}

/// Whether a capability can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Usable.
    Live,
    /// Revoked, or its owner is gone.
    Revoked,
    /// Past its lifetime or its quota of bytes.
    Expired,
}

/// State and use of a capability (SPEC section 8.2, CAP_QUERY).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapabilityInfo {
    /// Usable or not.
    pub state: State,
    /// Its rights.
    pub rights: Rights,
    /// Bytes that it spans.
    pub length: u64,
    /// Its badge.
    pub badge: u64,
    /// Depth in the tree of derivations; 1 over one's own memory.
    pub depth: u32,
    /// Number of the domain that owns what it is over.
    pub domain: u32,
    /// Capabilities alive below it.
    pub descendants: u64,
    /// Bytes read through it and all below.
    pub bytes_read: u64,
    /// Bytes written through it and all below.
    pub bytes_written: u64,
}

/// How long a call may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// At most so long.
    For(Duration),
    /// Until it comes, or a signal.
    Forever,
}

/// Why a sleep ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// The queue's interrupt, or anything else: look at the completions.
    Look,
    /// Time is over.
    TimedOut,
    /// The engine serves the queue no more, and will complete nothing of it.
    Dead,
}

/// What a guest kernel does for one context of one process. Clones mean the same context, and the
/// context lives for as long as any of them, or anything that was made by them, does.
///
/// # Safety
/// - The areas of [`Self::create_queue`] fulfil what [`crate::Queue::new`] asks for, until the handle is
///   dropped or given to [`Self::destroy_queue`]; moving the handle does not move them.
/// - When [`Self::revoke`] has returned `Ok`, no access under the capability or anything derived
///   from it is in flight or can start.
/// - When a queue's handle has been dropped or destroyed, no access of its descriptors is in flight or can
///   start.
pub unsafe trait Transport: Clone {
    /// Why a call failed.
    type Error: TransportError;
    /// Keeps a queue: dropped, the queue is destroyed.
    type Queue;
    /// Keeps a capability: dropped, its slot is emptied, and what was derived from it lives on.
    type Capability;
    /// Waits for offers under a port name; dropped, it stops.
    type Listener;
    /// A capability of another context of this guest, as it came from there.
    type Foreign;
    /// What was seen before a queue was armed.
    type Armed;

    /// What kernel and engine say of themselves.
    ///
    /// # Errors
    /// The device is gone.
    fn info(&self) -> Result<Info, Self::Error>;

    /// Creates a work queue and maps it (QUEUE_CREATE).
    ///
    /// # Errors
    /// A bad number of entries, a quota, no memory, no device.
    fn create_queue(&self, options: &QueueOptions) -> Result<NewQueue<Self::Queue>, Self::Error>;

    /// Destroys a queue and says whether that worked. Its memory is unmapped in either case.
    ///
    /// # Errors
    /// The queue had ended before, or the device is gone.
    fn destroy_queue(&self, queue: Self::Queue) -> Result<(), Self::Error>;

    /// Has the engine look at this queue, which it had parked (SPEC section 2.7).
    ///
    /// # Errors
    /// The device is gone.
    fn kick(&self, queue: &Self::Queue) -> Result<(), Self::Error>;

    /// Lets the queue raise one more interrupt (QUEUE_ARM). Look at the completions after this and
    /// before [`Self::sleep`].
    ///
    /// # Errors
    /// The queue is no more, or the device is gone.
    fn arm(&self, queue: &Self::Queue) -> Result<Self::Armed, Self::Error>;

    /// Sleeps until the interrupt that [`Self::arm`] allowed has come, or time is over. May wake for
    /// no reason.
    ///
    /// # Errors
    /// The device is gone.
    fn sleep(
        &self,
        queue: &Self::Queue,
        armed: Self::Armed,
        wait: Wait,
    ) -> Result<Wake, Self::Error>;

    /// A narrower capability (CAP_DERIVE), from the process's own memory when there is no parent.
    ///
    /// # Errors
    /// What would widen it, a derivation too deep, a quota.
    fn derive(
        &self,
        parent: Option<&Self::Capability>,
        terms: &Terms,
    ) -> Result<NewCapability<Self::Capability>, Self::Error>;

    /// Brings a capability of another context into this one (CAP_DERIVE with a target context). A
    /// length of 0 means all from `terms.base` on, no rights mean all that it has.
    ///
    /// # Errors
    /// As [`Self::derive`]; or it is none.
    fn attach(
        &self,
        foreign: &Self::Foreign,
        terms: &Terms,
    ) -> Result<NewCapability<Self::Capability>, Self::Error>;

    /// A new port (PORT_CREATE), with all rights to it.
    ///
    /// # Errors
    /// A depth or a length out of range, a quota.
    fn create_port(&self, port: &Port) -> Result<NewCapability<Self::Capability>, Self::Error>;

    /// Puts a key into a slot (KEY_LOAD).
    ///
    /// # Errors
    /// A key of another length than the algorithm's, rights that a key does not have, a quota.
    fn load_key(&self, key: &Key<'_>) -> Result<NewCapability<Self::Capability>, Self::Error>;

    /// What the operator granted of an endpoint (ENDPOINT_OPEN). `badge` is told to whoever accepts it.
    ///
    /// # Errors
    /// No endpoint of that name, nothing of it granted to this VM, a quota, a kernel that has no such call.
    fn open_endpoint(
        &self,
        endpoint: &Name,
        badge: u64,
    ) -> Result<NewBlocks<Self::Capability>, Self::Error>;

    /// State and use (CAP_QUERY).
    ///
    /// # Errors
    /// The device is gone.
    fn query(&self, capability: &Self::Capability) -> Result<CapabilityInfo, Self::Error>;

    /// Ends a capability and all that was derived from it, in every domain (CAP_REVOKE); with
    /// `descendants_only` it spares itself.
    ///
    /// # Errors
    /// Another process made it, or the device is gone.
    fn revoke(
        &self,
        capability: &Self::Capability,
        descendants_only: bool,
    ) -> Result<(), Self::Error>;

    /// Empties a slot and says whether that worked (CAP_DROP).
    ///
    /// # Errors
    /// The device is gone.
    fn drop_capability(&self, capability: Self::Capability) -> Result<(), Self::Error>;

    /// Offers a capability to a linked domain under a port name (CAP_OFFER).
    ///
    /// # Errors
    /// No link to a domain of that name, or rights that link or capability do not carry.
    fn offer(
        &self,
        capability: &Self::Capability,
        peer: &Name,
        port: &Name,
        rights: Rights,
    ) -> Result<(), Self::Error>;

    /// Waits for offers under a port name from now on, of one peer or of any.
    ///
    /// # Errors
    /// No link to a domain of that name, or a table of the kernel is full.
    fn listen(&self, port: &Name, peer: Option<&Name>) -> Result<Self::Listener, Self::Error>;

    /// Takes the oldest offer into a slot (CAP_ACCEPT); `None` when none came in time.
    ///
    /// # Errors
    /// A signal ended the wait, no slot is empty, the device is gone.
    #[expect(clippy::type_complexity, reason = "named once, here")]
    fn accept(
        &self,
        listener: &Self::Listener,
        wait: Wait,
    ) -> Result<Option<Accepted<NewCapability<Self::Capability>>>, Self::Error>;
}
