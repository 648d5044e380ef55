//! The one way into the engine: [`Domain`] for what a VMM does with its own VM,
//! [`Admin`] for what the host's operator decides.
//!
//! `Domain` is vhost-user's verbs and nothing else, so that the embedded engine,
//! the daemon and other VMMs share it. `Admin` takes one [`Action`] enum, which
//! the TOML file, the admin socket and an embedding program all produce.
//!
//! Neither is on the data path: nothing here is called per transfer.

mod audit;
mod endpoints;

pub use audit::{AuditBooks, AuditEnd, AuditEnding, AuditParty, AuditRecord};

pub use crate::endpoint::{EndpointConfig, EndpointKind};
pub use endpoints::{EndpointGrant, EndpointInfo, EndpointUser};

use std::fs::File;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

/// One piece of guest RAM, backed by a file that the engine maps itself
/// (`VHOST_USER_ADD_MEM_REG`).
#[derive(Debug, Clone)]
pub struct MemoryRegion {
    /// Guest-physical address of the first byte; a multiple of 4096.
    pub guest_addr: u64,
    /// Length in bytes; a multiple of 4096, not 0.
    pub size: u64,
    /// The file that holds the RAM. Should carry `F_SEAL_SHRINK`.
    pub file: Arc<File>,
    /// Where the region starts in `file`, in bytes.
    pub file_offset: u64,
    /// Whether the engine may write to it.
    pub writable: bool,
    /// Whether to fault in every page at attach, so that no worker ever waits in
    /// a host page fault.
    pub populate: bool,
}

/// Which pages of a range were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirtyBitmap {
    /// Guest-physical address of the first page.
    pub guest_addr: u64,
    /// Bit n of word n/64: the page of 4096 bytes at `guest_addr + 4096 * n`.
    pub words: Vec<u64>,
}

impl DirtyBitmap {
    /// Guest-physical addresses of the pages that are marked, ascending.
    pub fn pages(&self) -> impl Iterator<Item = u64> {
        let words = self.words.iter().enumerate();
        words
            .filter(|(_, word)| **word != 0)
            .flat_map(move |(at, word)| {
                (0..64)
                    .filter(move |n| word >> n & 1 == 1)
                    .map(move |n| self.guest_addr + 4096 * (64 * at as u64 + n))
            })
    }

    /// Adds what another log says of the same range.
    ///
    /// # Errors
    /// [`DomainError::BadArgument`] when it has another length; nothing has changed then.
    pub fn merge(&mut self, other: &[u64]) -> Result<(), DomainError> {
        if other.len() != self.words.len() {
            return Err(DomainError::BadArgument(format!(
                "dirty logs of {} and {} words: expected the same range",
                self.words.len(),
                other.len()
            )));
        }
        for (word, more) in self.words.iter_mut().zip(other) {
            *word |= more;
        }
        Ok(())
    }
}

/// A virtqueue as the transport hands it over (`SET_VRING_*`). Addresses are
/// guest-physical.
#[derive(Debug)]
pub struct Vring {
    /// Number of descriptors, a power of two.
    pub size: u16,
    /// Descriptor table.
    pub desc_table: u64,
    /// Driver area (available ring).
    pub avail_ring: u64,
    /// Device area (used ring).
    pub used_ring: u64,
    /// Index of the next available entry; 0 for a fresh queue.
    pub base: u16,
    /// The guest's notification: an ioeventfd.
    pub kick: EventFd,
    /// The device's interrupt: an irqfd.
    pub call: EventFd,
}

/// What can go wrong in [`Domain`].
#[derive(Debug, thiserror::Error)]
pub enum DomainError {
    /// An address or size is not what the interface asks for.
    #[error("bad argument: {0}")]
    BadArgument(String),
    /// The region overlaps one that is there already, or none such is there.
    #[error("memory region {guest_addr:#x}+{size:#x}: {what}")]
    Region {
        /// Guest-physical start.
        guest_addr: u64,
        /// Length in bytes.
        size: u64,
        /// What is wrong with it.
        what: String,
    },
    /// The domain's engine is behind a transport that has no such verb.
    #[error("{0} cannot be asked of an engine over vhost-user")]
    Unsupported(&'static str),
    /// The connection to the engine's process has ended.
    #[error("the engine is gone: {0}")]
    Gone(String),
    /// A virtqueue index that the device has not.
    #[error("virtqueue {0} does not exist: the device has {1}")]
    NoSuchQueue(usize, usize),
    /// The host refused an operation.
    #[error("{what}")]
    Host {
        /// What was tried.
        what: String,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

/// One VM, as its VMM drives it. Dropping the handle detaches the domain: every
/// transfer in flight ends in a status and no byte is touched afterwards.
///
/// All verbs are synchronous: when one returns, what it took away is no longer
/// accessed. They may be called at any time, in mid-transfer too.
pub trait Domain: Send {
    /// Virtio feature bits offered beside the transport's own
    /// (`VIRTIO_F_VERSION_1` included).
    fn features(&self) -> u64;
    /// Feature bits that the driver took; a subset of [`Self::features`].
    ///
    /// # Errors
    /// [`DomainError::BadArgument`] when a bit was not offered.
    fn set_features(&mut self, features: u64) -> Result<(), DomainError>;
    /// Number of virtqueues: 2, control and events.
    fn queue_count(&self) -> usize;
    /// Largest size of each virtqueue.
    fn queue_max_size(&self) -> u16;
    /// Reads the device's configuration space; bytes beyond its end read as 0.
    fn read_config(&self, offset: u32, data: &mut [u8]);
    /// Adds guest RAM.
    ///
    /// # Errors
    /// When the region overlaps another, is misaligned, or cannot be mapped.
    fn add_region(&mut self, region: MemoryRegion) -> Result<(), DomainError>;
    /// Takes guest RAM away; returns after the last access to it.
    ///
    /// # Errors
    /// When no such region is there.
    fn remove_region(&mut self, guest_addr: u64, size: u64) -> Result<(), DomainError>;
    /// Makes a part of a region read-only for the engine, or writable again, in pages of
    /// 4 KiB; returns after the last write that is forbidden. Transfers that meet it end in
    /// status 59 with what they have done before. Work queues with a byte in what becomes
    /// read-only end, a virtqueue there waits for a reset.
    ///
    /// # Errors
    /// When the range is misaligned or not inside one region, or is to be writable where the
    /// region was added read-only.
    fn protect_region(
        &mut self,
        guest_addr: u64,
        size: u64,
        writable: bool,
    ) -> Result<(), DomainError>;
    /// Takes a part of a region away (a balloon), in pages of 4 KiB; returns after the last
    /// access. Transfers that meet it end in status 42, which is resumable. Queues there end
    /// as with [`Self::protect_region`]. The file may be punched afterwards.
    ///
    /// # Errors
    /// When the range is misaligned or not inside one region.
    fn discard(&mut self, guest_addr: u64, size: u64) -> Result<(), DomainError>;
    /// Gives back what [`Self::discard`] took away of a range, as writable as its region was
    /// added; what is there stays as it is.
    ///
    /// # Errors
    /// As [`Self::discard`].
    fn restore(&mut self, guest_addr: u64, size: u64) -> Result<(), DomainError>;
    /// Turns the log of the engine's writes on, with no page marked, or off
    /// (VHOST_F_LOG_ALL). When it returns every later write will be marked. The log is the
    /// VMM's: a reset of the device leaves it alone.
    fn set_dirty_log(&mut self, on: bool);
    /// Reads and clears the log for a range inside one region; returns when every chunk in
    /// flight is over, so that each marked page can be copied and no byte of before is
    /// missed. Data, page-table bits, rings and virtqueues are all in it.
    ///
    /// # Errors
    /// When the range is misaligned or not inside one region, or the log is off.
    fn harvest_dirty(&mut self, guest_addr: u64, size: u64) -> Result<DirtyBitmap, DomainError>;
    /// Starts a virtqueue.
    ///
    /// # Errors
    /// When the index, the size or an address is wrong.
    fn start_vring(&mut self, index: usize, vring: Vring) -> Result<(), DomainError>;
    /// Stops a virtqueue and returns its base (`GET_VRING_BASE`).
    ///
    /// # Errors
    /// When the index is wrong.
    fn stop_vring(&mut self, index: usize) -> Result<u16, DomainError>;
    /// Back to the state after creation, RAM kept: contexts, capabilities and
    /// queues are gone, peers see theirs revoked.
    fn reset(&mut self);
    /// Stops serving the domain's queues between two chunks, and peers' access to its memory,
    /// which they see as a fault there; returns when all is quiet and no byte of the memory is
    /// touched any more.
    fn pause(&mut self);
    /// Serves them again.
    fn resume(&mut self);
    /// Becomes readable when the engine is gone, which one of the VMM's own process never is:
    /// no verb does anything from then on, until [`Self::reattach`].
    fn lost(&self) -> Option<&EventFd> {
        None
    }
    /// Attaches to the engine again, or another in its place, after [`Self::lost`]: guest RAM is
    /// there as it was, and the device as after a reset.
    ///
    /// # Errors
    /// [`DomainError::Gone`] when no engine is there, or it refuses; it may be tried again.
    fn reattach(&mut self) -> Result<(), DomainError> {
        Ok(())
    }
}

/// Limits of one domain. Every table of the engine is per domain and bounded by these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quotas {
    /// Address spaces bound at once.
    pub address_spaces: u32,
    /// Contexts open at once.
    pub contexts: u32,
    /// Work queues at once.
    pub queues: u32,
    /// Entries of one work queue's ring at most; a power of two.
    pub queue_entries: u32,
    /// Capabilities that the domain may have derived at once, given-away ones included.
    pub capabilities: u32,
    /// Offers waiting to be accepted at once.
    pub offers: u32,
    /// Queues that may be created so that they never park.
    pub no_park_queues: u32,
    /// Descriptors that may wait for a page at once, its own pages and others'; further
    /// faults end theirs. Each holds up one queue.
    pub parked: u32,
    /// What it gets of the workers; changed at run time by [`Action::Quota`].
    pub share: Share,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            address_spaces: 1024,
            contexts: 1024,
            queues: 32768,
            queue_entries: 4096,
            capabilities: 131_072,
            offers: 1024,
            no_park_queues: 16,
            parked: 256,
            share: Share::default(),
        }
    }
}

/// What one domain gets of the engine's workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Share {
    /// Weight beside the other domains that have work, on each worker; 1 to
    /// [`Share::WEIGHT_MAX`].
    pub weight: u32,
    /// Bytes a second, over all workers; 0 = as many as there are.
    pub bytes_per_s: u64,
    /// Operations a second, over all workers, a batch's elements counted each; 0 = as
    /// many as there are.
    pub operations_per_s: u64,
    /// How much of a rate may be used at once, as the time in microseconds in which it
    /// is granted; up to 1 second.
    pub burst_us: u32,
}

impl Share {
    /// Largest weight.
    pub const WEIGHT_MAX: u32 = 256;
}

impl Default for Share {
    fn default() -> Self {
        Self {
            weight: 16,
            bytes_per_s: 0,
            operations_per_s: 0,
            burst_us: 10_000,
        }
    }
}

/// The operator's permission for one domain to be given access to another's memory.
///
/// A link has a direction: `from` may offer capabilities over its memory to `to`.
/// For both directions there are two links.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkPolicy {
    /// Name of the domain that owns the memory.
    pub from: String,
    /// Name of the domain that may accept capabilities over it.
    pub to: String,
    /// Whether such capabilities may carry the right to read.
    #[serde(default)]
    pub read: bool,
    /// Whether such capabilities may carry the right to write.
    #[serde(default)]
    pub write: bool,
    /// Whether such capabilities may carry the right to derive and pass on.
    #[serde(default)]
    pub grant: bool,
    /// Whether keys may be given along it, to encrypt and to decrypt with.
    #[serde(default)]
    pub keys: bool,
    /// Most bytes that one capability may span; 0 means no limit.
    #[serde(default)]
    pub max_bytes: u64,
}

/// Everything that the operator can ask of an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// Announces a domain; its VMM attaches by name.
    CreateDomain {
        /// Unique name, 1 to 32 bytes of `[a-z0-9-]`.
        name: String,
        /// Its limits.
        #[serde(default)]
        quotas: Quotas,
    },
    /// Forgets a domain; an attached one is detached first.
    RemoveDomain {
        /// Its name.
        name: String,
    },
    /// Permits capabilities to be given along the link, replacing an earlier policy.
    Link(LinkPolicy),
    /// Forbids it again and revokes what was given along the link.
    Unlink {
        /// Owner side.
        from: String,
        /// Accepting side.
        to: String,
    },
    /// Gives a domain another share of the workers, at once.
    Quota {
        /// Its name.
        name: String,
        /// Its share from now on.
        share: Share,
    },
    /// Tells who was given what over a domain's memory, and what came of it.
    Audit {
        /// Name of the domain that owns the memory.
        name: String,
        /// Most records of each kind to tell.
        #[serde(default = "audit_limit")]
        limit: u32,
    },
    /// Opens a block device under a name, or one that is gone again.
    AttachEndpoint(EndpointConfig),
    /// Takes a device away; what guests were given of it waits for it to come back.
    DetachEndpoint {
        /// Its name.
        name: String,
    },
    /// Lets a domain use blocks of an endpoint, replacing what it was let use before.
    GrantEndpoint(EndpointGrant),
    /// Takes that back, and all that came of it.
    UngrantEndpoint {
        /// Name of the endpoint.
        endpoint: String,
        /// Name of the domain.
        domain: String,
    },
    /// Lists endpoints and their use.
    Endpoints,
    /// Lists domains and their use.
    List,
    /// Says whose processes may attach to a domain over its socket, from the next one on: an
    /// engine of the VMM's own process has no sockets and refuses.
    Admit {
        /// Name of the domain.
        name: String,
        /// The user; absent or null: the engine's own user only.
        #[serde(default)]
        uid: Option<u32>,
    },
}

/// Records that an audit tells unless it is asked for another number.
fn audit_limit() -> u32 {
    1000
}

/// What an [`Action`] answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// Done, nothing to say.
    Done,
    /// The domains.
    Domains {
        /// One row each.
        domains: Vec<DomainInfo>,
    },
    /// The books.
    Audit(AuditBooks),
    /// The endpoints.
    Endpoints {
        /// One row each.
        endpoints: Vec<EndpointInfo>,
    },
}

/// One row of [`Reply::Domains`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainInfo {
    /// Its name.
    pub name: String,
    /// Engine-wide number, never used twice.
    pub id: u32,
    /// Whether a VMM is attached.
    pub attached: bool,
    /// Open contexts.
    pub contexts: u32,
    /// Work queues.
    pub queues: u32,
    /// Capabilities alive over its memory.
    pub capabilities: u32,
    /// Bytes moved by its descriptors.
    pub bytes: u64,
    /// Descriptors completed.
    pub descriptors: u64,
    /// Descriptors that ended in a status other than success.
    pub failures: u64,
    /// Worker time that its descriptors took, in nanoseconds; told with some delay.
    pub busy_ns: u64,
    /// Descriptors that wait for a page now.
    pub parked: u32,
    /// The most that ever waited at once.
    pub parked_max: u32,
    /// Translations of its addresses that no worker's IOTLB had.
    pub iotlb_misses: u64,
    /// Walks of its guest's page tables that ended in a page of 4 KiB.
    pub walks_4k: u64,
    /// The same of 2 MiB.
    pub walks_2m: u64,
    /// The same of 1 GiB.
    pub walks_1g: u64,
    /// What it gets of the workers.
    pub share: Share,
}

/// What can go wrong in [`Admin`]. As JSON: `{"error": "unknown", "subject": "bob"}`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "error", content = "subject", rename_all = "kebab-case")]
pub enum AdminError {
    /// A name is not usable.
    #[error("domain name {0:?}: use 1 to 32 characters of a-z, 0-9 and '-'")]
    BadName(String),
    /// A name is taken.
    #[error("a domain named {0:?} exists already; choose another name")]
    Exists(String),
    /// A name is unknown.
    #[error("no domain named {0:?}; `byway ps` lists them")]
    Unknown(String),
    /// The domain has a VMM already.
    #[error("domain {0:?} is attached already")]
    Attached(String),
    /// A limit is out of range.
    #[error("quota {0}")]
    BadQuota(String),
    /// The engine is part of its VMM's process.
    #[error("this engine has no sockets: it is part of the process that runs its VMs")]
    NoSockets,
    /// Something is wrong with an endpoint.
    #[error("{0}")]
    Endpoint(String),
    /// The host refused something.
    #[error("the host refused: {0}")]
    Host(String),
}

/// The operator's side of an engine.
pub trait Admin: Send + Sync {
    /// Carries out one action.
    ///
    /// # Errors
    /// See [`AdminError`].
    fn act(&self, action: Action) -> Result<Reply, AdminError>;
    /// Hands out the domain's device side, once at a time.
    ///
    /// # Errors
    /// [`AdminError::Unknown`], [`AdminError::Attached`].
    fn attach(&self, name: &str) -> Result<Box<dyn Domain>, AdminError>;
}
