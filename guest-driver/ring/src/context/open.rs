//! [`Context`]: the way from a transport to queues and capabilities.

use byway_protocols::Rights;
use core::ops::Range;

use super::capability::{Capability, Listener};
use super::error::Error;
use super::name::Name;
use super::share::{Memory, Share};
use super::transport::{Info, Key, Port, QueueOptions, Terms, Transport};
use super::work_queue::WorkQueue;

/// Blocks of an endpoint (SPEC section 7.9): what [`Request::read_blocks`](crate::Request::read_blocks) and its like name by
/// an address of the capability. Derived, offered, revoked like memory.
#[derive(Debug)]
pub struct Blocks<T: Transport> {
    /// The right to them; its length is theirs.
    pub capability: Capability<T>,
    /// Bytes of a block: what offsets and sizes are multiples of.
    pub block_bytes: u32,
    /// What the device does: bits of [`byway_protocols::operands::endpoint_features`].
    pub features: u32,
}

/// A context: an address space, a table of capabilities, work queues (SPEC section 1).
///
/// How it is opened is the transport's matter. Clones are cheap and mean the same context.
#[derive(Debug, Clone)]
pub struct Context<T> {
    transport: T,
}

impl<T: Transport> Context<T> {
    /// The context that `transport` stands for.
    pub const fn new(transport: T) -> Self {
        Self { transport }
    }

    /// The transport, for what it alone can do.
    pub const fn transport(&self) -> &T {
        &self.transport
    }

    /// What kernel and engine say of themselves.
    ///
    /// # Errors
    /// The device is gone.
    pub fn info(&self) -> Result<Info, Error<T::Error>> {
        self.transport.info().map_err(Error::Kernel)
    }

    /// A new work queue.
    ///
    /// # Errors
    /// The kernel refuses; or `WORDS * 64` is less than the number of entries.
    pub fn queue<const WORDS: usize>(
        &self,
        options: &QueueOptions,
    ) -> Result<WorkQueue<T, WORDS>, Error<T::Error>> {
        WorkQueue::create(self.transport.clone(), options)
    }

    /// A capability over `range` of `memory`, together with the memory.
    ///
    /// # Errors
    /// The range is empty or outside the memory, or the kernel refuses. The memory is dropped then.
    pub fn share<M: Memory>(
        &self,
        memory: M,
        range: Range<usize>,
        rights: Rights,
    ) -> Result<Share<T, M>, Error<T::Error>> {
        let region = memory.region().slice(range)?;
        let terms = Terms::new(region.address(), region.len() as u64, rights);
        self.share_on(memory, &terms)
    }

    /// The same with badge, lifetime and quota; `terms.base` is an address within `memory`.
    ///
    /// # Errors
    /// As [`Self::share`].
    pub fn share_on<M: Memory>(
        &self,
        memory: M,
        terms: &Terms,
    ) -> Result<Share<T, M>, Error<T::Error>> {
        let region = memory.region();
        region.contains(terms.base, terms.length)?;
        // SAFETY: all of the range is the memory's, which `Share` gives back after a revocation
        // only, and keeps for ever where that fails.
        let capability = unsafe { self.derive(terms) }?;
        Ok(Share::new(capability, memory))
    }

    /// A capability over any range of the process's address space.
    ///
    /// # Safety
    /// Until it has been revoked, with success, everybody who holds it or what is derived from it may
    /// read and write that range at any moment, as its rights say: no reference into it may exist
    /// that this contradicts, and nothing else may come to lie there.
    ///
    /// # Errors
    /// The kernel refuses.
    pub unsafe fn derive(&self, terms: &Terms) -> Result<Capability<T>, Error<T::Error>> {
        let new = self.transport.derive(None, terms);
        Ok(Capability::new(
            self.transport.clone(),
            new.map_err(Error::Kernel)?,
        ))
    }

    /// Brings a capability of another context into this one, all of it ([`Terms::WHOLE`]) or a part:
    /// `terms.base` is an offset into it.
    ///
    /// # Errors
    /// The kernel refuses what would widen it, and what is no capability.
    pub fn attach(
        &self,
        foreign: &T::Foreign,
        terms: &Terms,
    ) -> Result<Capability<T>, Error<T::Error>> {
        let new = self.transport.attach(foreign, terms);
        Ok(Capability::new(
            self.transport.clone(),
            new.map_err(Error::Kernel)?,
        ))
    }

    /// A new port for messages, with all rights to it.
    ///
    /// # Errors
    /// A depth or a length out of range, a quota.
    pub fn port(&self, port: &Port) -> Result<Capability<T>, Error<T::Error>> {
        let new = self.transport.create_port(port);
        Ok(Capability::new(
            self.transport.clone(),
            new.map_err(Error::Kernel)?,
        ))
    }

    /// Puts a key into a slot.
    ///
    /// # Errors
    /// A key of another length than the algorithm's, rights that a key does not have, a quota.
    pub fn key(&self, key: &Key<'_>) -> Result<Capability<T>, Error<T::Error>> {
        let new = self.transport.load_key(key);
        Ok(Capability::new(
            self.transport.clone(),
            new.map_err(Error::Kernel)?,
        ))
    }

    /// Opens what the operator granted of a block device; see [`Blocks`].
    ///
    /// # Errors
    /// No endpoint of that name, nothing of it granted to this VM, a quota, a kernel that has no such call.
    pub fn endpoint(&self, endpoint: &Name) -> Result<Blocks<T>, Error<T::Error>> {
        let opened = self.transport.open_endpoint(endpoint, 0);
        let opened = opened.map_err(Error::Kernel)?;
        Ok(Blocks {
            capability: Capability::new(self.transport.clone(), opened.capability),
            block_bytes: opened.block_bytes,
            features: opened.features,
        })
    }

    /// Waits for offers under a port name from now on, of one peer or of any.
    ///
    /// # Errors
    /// No link to a domain of that name, or a table of the kernel is full.
    pub fn listen(&self, port: &Name, peer: Option<&Name>) -> Result<Listener<T>, Error<T::Error>> {
        let handle = self.transport.listen(port, peer).map_err(Error::Kernel)?;
        Ok(Listener::new(self.transport.clone(), handle))
    }
}
