//! Contexts: what one guest process opened, as a worker sees it.
//!
//! A [`Context`] names the address space and the capabilities that the descriptors of
//! its queues may use. [`Context::resolve`] is the one gate between a descriptor's
//! operand and the memory behind it: everything a worker touches came through it,
//! in the same chunk.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use byway_protocols::{Rights, Status};

use crate::address_space::AddressSpace;
use crate::capability::{Capability, Key, Owner, SlotTable};
use crate::endpoint::Endpoint;
use crate::epoch::ChunkGuard;
use crate::port::Port;
use crate::queue::Cancels;

/// A process's address space and capability table. Owned by its domain; queues share it.
#[derive(Debug)]
pub struct Context {
    id: u32,
    domain: u32,
    space: Arc<AddressSpace>,
    slots: SlotTable,
    /// Its queues by the lowest bits of their numbers, each list in ascending order, and replaced when one
    /// comes or goes: short ones, since there may be thousands.
    queues: [ArcSwapOption<Vec<Numbered>>; LISTS],
}

/// Lists of a context's queues, a power of two.
const LISTS: usize = 32;

/// Requests to cancel descriptors of the queue with this number.
type Numbered = (u32, Arc<Cancels>);

/// An operand that may be accessed until the end of the chunk.
#[derive(Debug, Clone, Copy)]
pub struct Target<'g> {
    /// The address space to translate in.
    pub space: &'g AddressSpace,
    /// First byte, an address in that space.
    pub addr: u64,
    /// What slot offset 0 is in that space: `addr - base` is what the submitter wrote.
    pub base: u64,
    /// Whether the memory belongs to the submitter's own domain. Faults in any other
    /// are reported as [`Status::RemoteFault`], without address or cause.
    pub own: bool,
    capability: Option<&'g Capability>,
    /// In a device's staging: see `ops::device`.
    staged: bool,
}

impl<'g> Target<'g> {
    /// Bytes of a device's staging, from this position of the stream on.
    #[must_use]
    pub(crate) fn staged(space: &'g AddressSpace, addr: u64) -> Self {
        Self {
            space,
            addr,
            base: 0,
            own: true,
            capability: None,
            staged: true,
        }
    }
    /// Whether it is in a device's staging.
    #[inline(always)]
    #[must_use]
    pub(crate) fn is_staged(&self) -> bool {
        self.staged
    }
    /// Domain that owns the memory; `None` with slot 0: the context's own.
    #[must_use]
    pub fn owner(&self) -> Option<u32> {
        Some(self.capability?.owner().domain())
    }
    /// The capability that it was reached through; `None` with slot 0.
    #[inline(always)]
    #[must_use]
    pub fn capability(&self) -> Option<&'g Capability> {
        self.capability
    }

    /// Counts bytes moved through the operand's capability, once they were.
    #[inline(always)]
    pub fn account(&self, read: u64, written: u64) {
        if let Some(capability) = self.capability {
            capability.account(read, written);
        }
    }
}

/// A key that may be used until the end of the chunk.
#[derive(Debug)]
pub struct KeyUse<'g> {
    /// The key.
    pub key: Arc<Key>,
    capability: &'g Capability,
}

impl KeyUse<'_> {
    /// Counts bytes that were encrypted or decrypted with it, once they were.
    pub fn account(&self, bytes: u64) {
        self.capability.account(bytes, 0);
    }
}

/// A port that may be used until the end of the chunk.
#[derive(Debug)]
pub struct PortUse<'g> {
    /// The port.
    pub port: Arc<Port>,
    /// Its owner's epoch, of before the right was checked.
    pub epoch: u64,
    capability: &'g Capability,
}

impl PortUse<'_> {
    /// Whose the port is.
    #[must_use]
    pub fn owner(&self) -> &Arc<Owner> {
        self.capability.owner()
    }
    /// What receivers are told of whoever sends by it.
    #[must_use]
    pub fn badge(&self) -> u64 {
        self.capability.badge()
    }
    /// Whether its limits allow so many bytes more.
    #[must_use]
    pub fn within_limits(&self, bytes: u64) -> bool {
        self.capability.within_limits(bytes)
    }
    /// Counts bytes received and sent, once they were.
    pub fn account(&self, received: u64, sent: u64) {
        self.capability.account(received, sent);
    }
}

/// Blocks that may be used until the end of the chunk.
#[derive(Debug)]
pub struct BlockUse<'g> {
    /// Whose blocks they are.
    pub endpoint: Arc<Endpoint>,
    /// First byte on the device.
    pub first: u64,
    capability: &'g Capability,
}

impl BlockUse<'_> {
    /// Counts bytes read and written, once they were.
    pub fn account(&self, read: u64, written: u64) {
        self.capability.account(read, written);
    }
}

impl Context {
    /// A context of domain `domain` with `slots` slots, slot 0 included, all empty.
    #[must_use]
    pub fn new(id: u32, domain: u32, space: Arc<AddressSpace>, slots: u32) -> Self {
        Self {
            id,
            domain,
            space,
            slots: SlotTable::new(slots),
            queues: std::array::from_fn(|_| ArcSwapOption::empty()),
        }
    }
    /// Makes one of its queues known by the number that its process has for it.
    pub fn add_queue(&self, number: u32, cancels: &Arc<Cancels>) {
        self.queues_like(number).rcu(|list| {
            let mut list = list.as_deref().cloned().unwrap_or_default();
            let at = list.partition_point(|(other, _)| *other < number);
            list.insert(at, (number, Arc::clone(cancels)));
            Some(Arc::new(list))
        });
    }
    /// Forgets a queue.
    pub fn remove_queue(&self, number: u32) {
        self.queues_like(number).rcu(|list| {
            let mut list = list.as_deref().cloned().unwrap_or_default();
            list.retain(|(other, _)| *other != number);
            (!list.is_empty()).then(|| Arc::new(list))
        });
    }
    /// Requests to cancel descriptors of the queue with this number, if it is one of these.
    ///
    /// The number is a guest's. What it indexes is masked, and in the list it finds its place by halving that: no
    /// place is beyond the end, whatever the processor guesses.
    #[must_use]
    pub fn cancels(&self, number: u32) -> Option<Arc<Cancels>> {
        let list = self.queues_like(number).load();
        let list = list.as_deref()?;
        let at = list.binary_search_by_key(&number, |(other, _)| *other);
        list.get(at.ok()?).map(|(_, cancels)| Arc::clone(cancels))
    }
    fn queues_like(&self, number: u32) -> &ArcSwapOption<Vec<Numbered>> {
        &self.queues[number as usize % LISTS]
    }
    /// Its number, engine-wide.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }
    /// Its domain's number.
    #[must_use]
    pub fn domain(&self) -> u32 {
        self.domain
    }
    /// What slot 0 means.
    #[must_use]
    #[inline]
    pub fn space(&self) -> &Arc<AddressSpace> {
        &self.space
    }
    /// Its capabilities.
    #[must_use]
    pub fn slots(&self) -> &SlotTable {
        &self.slots
    }

    /// Checks that the context may access `len` bytes from `addr` of slot `slot` with
    /// the rights `need`, at this moment, and says where they are. What it returns
    /// holds for the chunk of `guard`.
    ///
    /// # Errors
    /// [`Status::NoCapability`], [`Status::Revoked`] (or expired, or used up),
    /// [`Status::MissingRight`], [`Status::Bounds`] (a range that wraps included).
    #[inline(always)]
    pub fn resolve<'g>(
        &'g self,
        guard: &'g ChunkGuard<'_>,
        slot: u16,
        addr: u64,
        len: u64,
        need: Rights,
    ) -> Result<Target<'g>, Status> {
        if slot != 0 {
            return self.resolve_capability(guard, slot, addr, len, need);
        }
        if !self.space.is_alive() {
            return Err(Status::Revoked);
        }
        if addr.checked_add(len.saturating_sub(1)).is_none() {
            return Err(Status::Bounds);
        }
        Ok(Target {
            space: &self.space,
            addr,
            base: 0,
            own: true,
            capability: None,
            staged: false,
        })
    }

    /// Checks that the context may use the key in slot `slot` for `bytes` bytes, with the
    /// right `need`, at this moment.
    ///
    /// # Errors
    /// As [`Self::resolve`]; memory is no key: [`Status::MissingRight`].
    pub fn resolve_key<'g>(
        &'g self,
        guard: &'g ChunkGuard<'_>,
        slot: u16,
        bytes: u64,
        need: Rights,
    ) -> Result<KeyUse<'g>, Status> {
        let capability = self.slots.get(guard, slot).ok_or(Status::NoCapability)?;
        // Expiry before rights, as for memory.
        if !capability.is_valid() || !capability.space().is_alive() || capability.has_expired() {
            return Err(Status::Revoked);
        }
        if !capability.rights().contains(need) {
            return Err(Status::MissingRight);
        }
        if !capability.within_limits(bytes) {
            return Err(Status::Revoked);
        }
        // Rights to use a key are never given over memory, so it is one; gone, if so, in
        // this moment.
        let key = capability.key().ok_or(Status::Revoked)?;
        Ok(KeyUse { key, capability })
    }

    /// Checks that the context may use the port in slot `slot` for `bytes` bytes, with the
    /// right `need`, at this moment.
    ///
    /// # Errors
    /// As [`Self::resolve`]; what is no port: [`Status::MissingRight`].
    pub fn resolve_port<'g>(
        &'g self,
        guard: &'g ChunkGuard<'_>,
        slot: u16,
        bytes: u64,
        need: Rights,
    ) -> Result<PortUse<'g>, Status> {
        let capability = self.slots.get(guard, slot).ok_or(Status::NoCapability)?;
        // Before the checks: whoever waits notices every revocation that they do not.
        let epoch = capability.owner().epoch();
        if !capability.is_valid() || !capability.space().is_alive() || capability.has_expired() {
            return Err(Status::Revoked);
        }
        if !capability.rights().contains(need) {
            return Err(Status::MissingRight);
        }
        if !capability.within_limits(bytes) {
            return Err(Status::Revoked);
        }
        // Rights to use a port are never given over anything else; gone, if so, in this
        // moment.
        let port = capability.port().ok_or(Status::Revoked)?;
        Ok(PortUse {
            port,
            epoch,
            capability,
        })
    }

    /// Checks that the context may use `len` bytes of blocks from byte `offset` of slot `slot`,
    /// with the right `need`, at this moment.
    ///
    /// # Errors
    /// As [`Self::resolve`]; what is no blocks: [`Status::MissingRight`].
    pub fn resolve_blocks<'g>(
        &'g self,
        guard: &'g ChunkGuard<'_>,
        slot: u16,
        offset: u64,
        len: u64,
        need: Rights,
    ) -> Result<BlockUse<'g>, Status> {
        if slot == 0 {
            return Err(Status::MissingRight);
        }
        // The same checks in the same order as for memory: a right to blocks is never over
        // that.
        let target = self.resolve_capability(guard, slot, offset, len, need)?;
        let capability = target.capability.ok_or(Status::MissingRight)?;
        // Gone, if so, in this moment.
        let endpoint = capability.endpoint().ok_or(Status::Revoked)?;
        Ok(BlockUse {
            endpoint,
            first: target.addr,
            capability,
        })
    }

    #[inline]
    fn resolve_capability<'g>(
        &'g self,
        guard: &'g ChunkGuard<'_>,
        slot: u16,
        offset: u64,
        len: u64,
        need: Rights,
    ) -> Result<Target<'g>, Status> {
        let capability = self.slots.get(guard, slot).ok_or(Status::NoCapability)?;
        // Expiry before rights, the byte quota last: SPEC section 4.1.
        if !capability.is_valid() || !capability.space().is_alive() || capability.has_expired() {
            return Err(Status::Revoked);
        }
        if !capability.rights().contains(need) {
            return Err(Status::MissingRight);
        }
        if offset
            .checked_add(len)
            .is_none_or(|end| end > capability.length())
        {
            return Err(Status::Bounds);
        }
        if !capability.within_limits(len) {
            return Err(Status::Revoked);
        }
        Ok(Target {
            space: capability.space(),
            // In range: base + length does not wrap and offset is not above length.
            addr: capability.base() + offset,
            base: capability.base(),
            own: capability.owner().domain() == self.domain,
            capability: Some(capability),
            staged: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;
    use crate::capability::{Ending, Held, Holder, Owner, SlotError, State, Terms};
    use crate::epoch::Epochs;
    use crate::memory::GuestMemory;

    const ME: u32 = 1;
    const PEER: u32 = 2;

    struct World {
        epochs: Epochs,
        peer: Arc<Owner>,
        /// Dropped after what was derived from it.
        root: Held,
        context: Context,
    }

    impl World {
        fn new() -> Self {
            let space = || Arc::new(AddressSpace::physical(Arc::new(GuestMemory::new())));
            let peer = Owner::new(PEER);
            Self {
                epochs: Epochs::new(1),
                root: Capability::root(&peer, space()),
                context: Context::new(7, ME, space(), 6),
                peer,
            }
        }
        /// Puts a capability over the peer's bytes 1000-1099 into slot `slot`.
        fn give(&self, slot: u32, rights: Rights) {
            let terms = Terms {
                base: 1000,
                length: 100,
                rights,
                ..Terms::default()
            };
            let held = self.root.capability().derive(terms, Holder::Nobody, None);
            self.context.slots().insert(slot, held.unwrap()).unwrap();
        }
        fn resolve(
            &self,
            slot: u16,
            addr: u64,
            len: u64,
            need: Rights,
        ) -> Result<(u64, bool), Status> {
            let guard = self.epochs.enter(0);
            let target = self.context.resolve(&guard, slot, addr, len, need)?;
            assert_eq!(target.addr - target.base, addr);
            Ok((target.addr, target.own))
        }
    }

    #[test]
    fn queues_are_found_by_their_numbers_alone() {
        let w = World::new();
        let all: Vec<_> = (1..200).map(|_| Arc::new(Cancels::new(ME))).collect();
        let by_number = |number: u32| &all[number as usize - 1];
        for number in (1..200).rev() {
            w.context.add_queue(number, by_number(number));
        }
        let is_there = |number| {
            let found = w.context.cancels(number);
            found.is_some_and(|found| Arc::ptr_eq(&found, by_number(number)))
        };
        assert!((1..200).all(is_there));
        for number in [0, 200, 1 + (1 << 16), u32::MAX] {
            assert!(w.context.cancels(number).is_none(), "{number}");
        }
        for number in (1..200).step_by(3) {
            w.context.remove_queue(number);
            w.context.remove_queue(number);
        }
        for number in 1..200 {
            assert_eq!(w.context.cancels(number).is_some(), number % 3 != 1);
            assert!(number % 3 == 1 || is_there(number));
        }
    }

    #[test]
    fn slot_0_is_ones_own_space() {
        let w = World::new();
        assert_eq!(w.resolve(0, 0x1234, 64, Rights::READ), Ok((0x1234, true)));
        assert_eq!(
            w.resolve(0, u64::MAX, 1, Rights::WRITE),
            Ok((u64::MAX, true))
        );
        assert_eq!(w.resolve(0, u64::MAX, 2, Rights::READ), Err(Status::Bounds));
        assert_eq!(w.resolve(0, 2, u64::MAX, Rights::READ), Err(Status::Bounds));
        w.context.space().kill();
        assert_eq!(w.resolve(0, 0, 1, Rights::READ), Err(Status::Revoked));
    }

    #[test]
    fn a_capability_is_exact_to_the_byte() {
        let w = World::new();
        w.give(3, Rights::READ);
        assert_eq!(w.resolve(3, 0, 100, Rights::READ), Ok((1000, false)));
        assert_eq!(w.resolve(3, 99, 1, Rights::READ), Ok((1099, false)));
        for (offset, len) in [(0, 101), (100, 1), (99, 2), (u64::MAX, 1), (1, u64::MAX)] {
            let refused = w.resolve(3, offset, len, Rights::READ);
            assert_eq!(refused, Err(Status::Bounds), "{offset}+{len}");
        }
    }

    #[test]
    fn each_refusal_has_its_status() {
        let w = World::new();
        w.give(3, Rights::READ);
        w.give(5, Rights::WRITE);
        let read = Rights::READ;
        // Empty, past the table but inside its power of two, far past.
        for slot in [1, 6, 7, 8, 0x7fff] {
            assert_eq!(
                w.resolve(slot, 0, 1, read),
                Err(Status::NoCapability),
                "{slot}"
            );
        }
        assert_eq!(w.resolve(3, 0, 1, Rights::WRITE), Err(Status::MissingRight));
        assert_eq!(w.resolve(5, 0, 1, read), Err(Status::MissingRight));
        let both = read | Rights::WRITE;
        assert_eq!(w.resolve(5, 0, 1, both), Err(Status::MissingRight));

        let held = w.context.slots().peek(3).unwrap();
        let mut grave = w.peer.revoke(&held, Ending::Revoked { by: PEER });
        w.epochs.synchronize();
        assert_eq!(w.resolve(3, 0, 1, read), Err(Status::Revoked));
        assert_eq!(w.resolve(5, 0, 1, Rights::WRITE), Ok((1000, false)));
        assert!(grave.reap(10, |_| ()));
        // The slot stays taken until it is dropped.
        assert_eq!(w.resolve(3, 0, 1, read), Err(Status::Revoked));
        assert_eq!(w.context.slots().vacancy(3), Err(SlotError::InUse));
        drop(w.context.slots().remove(3, &w.epochs));
        assert_eq!(w.resolve(3, 0, 1, read), Err(Status::NoCapability));
    }

    #[test]
    fn a_byte_quota_ends_a_capability_when_it_is_used_up() {
        let w = World::new();
        let terms = Terms {
            length: 100,
            rights: Rights::ALL,
            byte_quota: 150,
            ..Terms::default()
        };
        let held = w.root.capability().derive(terms, Holder::Nobody, None);
        w.context.slots().insert(1, held.unwrap()).unwrap();
        let guard = w.epochs.enter(0);
        let resolve = |len| w.context.resolve(&guard, 1, 0, len, Rights::READ);
        resolve(100).unwrap().account(100, 0);
        assert_eq!(resolve(51).err(), Some(Status::Revoked));
        resolve(50).unwrap().account(0, 50);
        assert_eq!(resolve(1).err(), Some(Status::Revoked));
    }

    #[test]
    fn slots_are_chosen_and_refused() {
        let w = World::new();
        let slots = w.context.slots();
        assert_eq!(slots.vacancy(0), Ok(1));
        w.give(1, Rights::READ);
        w.give(2, Rights::READ);
        assert_eq!(slots.vacancy(0), Ok(3));
        assert_eq!(slots.vacancy(2), Err(SlotError::InUse));
        assert_eq!(slots.vacancy(6), Err(SlotError::OutOfRange));
        for slot in 3..6 {
            w.give(slot, Rights::READ);
        }
        assert_eq!(slots.vacancy(0), Err(SlotError::Full));
        assert!(slots.peek(0).is_none());
        assert!(slots.peek(6).is_none());
        slots.clear(&w.epochs);
        assert_eq!(slots.vacancy(0), Ok(1));
        assert_eq!(w.peer.capabilities(), 0);
    }

    /// A worker that resolves all the time against a control thread that gives, revokes
    /// and drops: after a grace period the worker has stopped using what was revoked.
    #[test]
    fn nothing_is_used_after_the_grace_period_of_its_revocation() {
        let w = World::new();
        let stop = AtomicBool::new(false);
        // Capabilities with a badge up to this one have been revoked and waited for.
        let revoked_to = AtomicU64::new(0);
        let used = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let guard = w.epochs.enter(0);
                    // Only what was waited for before the chunk began is sure to be seen.
                    let floor = revoked_to.load(Ordering::SeqCst);
                    if let Ok(target) = w.context.resolve(&guard, 1, 0, 8, Rights::READ) {
                        let capability = target.capability.unwrap();
                        assert!(capability.badge() > floor);
                        for _ in 0..20 {
                            // While the chunk lasts it must not be freed.
                            assert_eq!(capability.length(), 100);
                            std::hint::spin_loop();
                        }
                        assert!(capability.badge() > revoked_to.load(Ordering::SeqCst));
                        target.account(8, 0);
                        used.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            let mut badge = 1;
            while badge < 100 {
                let terms = Terms {
                    length: 100,
                    rights: Rights::READ,
                    badge,
                    ..Terms::default()
                };
                let held = w.root.capability().derive(terms, Holder::Nobody, None);
                w.context.slots().insert(1, held.unwrap()).unwrap();
                let before = used.load(Ordering::Relaxed);
                while used.load(Ordering::Relaxed) == before && !worker.is_finished() {
                    std::thread::yield_now();
                }
                let capability = w.context.slots().peek(1).unwrap();
                let mut grave = w.peer.revoke(&capability, Ending::Revoked { by: PEER });
                w.epochs.synchronize();
                revoked_to.store(badge, Ordering::SeqCst);
                while !grave.reap(16, |_| ()) {}
                drop(w.context.slots().remove(1, &w.epochs));
                assert_eq!(capability.state(), State::Revoked);
                badge += 1;
            }
            stop.store(true, Ordering::Relaxed);
            worker.join().unwrap();
        });
    }
}
