//! Commands by which the guest kernel asks the engine for something.

use super::{Failure, Request, Status, Words, commands, pack};

/// [`OpenContext::pasid`]: the address space of the process that is addressed.
pub const PASID_OWN: u64 = u64::MAX;

/// A capability as the engine commands name it: slot `slot` of context `context`.
#[must_use]
pub const fn capability(context: u64, slot: u64) -> u64 {
    context << 32 | slot & 0xffff_ffff
}

/// Context of a capability that [`capability`] named.
#[must_use]
pub const fn capability_context(capability: u64) -> u64 {
    capability >> 32
}

/// Slot of a capability that [`capability`] named.
#[must_use]
pub const fn capability_slot(capability: u64) -> u64 {
    capability & 0xffff_ffff
}

commands! {
    /// What the guest kernel asks of the engine for a process. Numbers of contexts, slots and
    /// domains go to the engine unchecked, so that its refusals can be provoked.
    EngineCommands, dispatch_engine, ENGINE_COMMAND_LIST;

    /// What the engine said of itself.
    0x200 query_engine: QueryEngine {} => EngineIs {
        /// ABI version in force.
        version,
        /// Instance; changes when the engine restarts or the device is reset.
        instance,
        /// Features in force.
        features,
        /// This VM's domain number.
        domain,
        /// Workers.
        workers,
        /// Most entries of a queue.
        queue_entries_max,
        /// Most slots of a context.
        slots_max,
        /// Idle time after which a queue is parked, in microseconds.
        park_us,
    }

    /// Looks a linked domain up by its name, which stands at the beginning of the bulk area.
    0x201 lookup: Lookup {
        /// Bytes of the name, 1 to 32.
        name_len,
    } => Peer {
        /// Its number.
        domain,
        /// Rights that may be given to it.
        rights_out,
        /// Rights that it may give.
        rights_in,
    }

    /// Binds any page-table root at all.
    0x202 bind_root: BindRoot {
        /// Guest-physical address.
        root,
        /// PASID; 1 and 2 are what [`OpenContext`] uses for app and peer.
        pasid,
        /// 4 or 5, or what the engine should refuse.
        levels,
        /// Physical address bits.
        maxphyaddr,
        /// `bind_flags` of the ABI.
        flags,
        /// Guest-physical address of an invalidation page; 0 = none.
        invalidation_page,
    } => Bound {}

    /// Unbinds a PASID.
    0x203 unbind: Unbind {
        /// The PASID.
        pasid,
    } => Unbound {}

    /// Opens a context. With [`PASID_OWN`] over the process's own page tables, which are bound
    /// first if they are not.
    0x204 open_context: OpenContext {
        /// [`PASID_OWN`] or a bound PASID.
        pasid,
        /// Capability slots, slot 0 included.
        slots,
        /// Physical address bits that the walker should assume for [`PASID_OWN`]; 0 = what CPUID
        /// says.
        maxphyaddr,
        /// `bind_flags` of the ABI beside NXE, for [`PASID_OWN`].
        flags,
    } => ContextOpened {
        /// Its number.
        context,
        /// PASID under which it runs.
        pasid,
    }

    /// Closes a context with its queues; unbinds the process's page tables with the last one.
    0x205 close_context: CloseContext {
        /// The context.
        context,
    } => ContextClosed {}

    /// Creates a work queue and maps it into the process.
    0x206 create_queue: CreateQueue {
        /// Context that owns it.
        context,
        /// Entries, a power of two from 2 to 16384.
        entries,
        /// `queue_flags` of the ABI: 1 = NO_PARK.
        flags,
    } => QueueCreated {
        /// Its number.
        queue,
        /// Virtual address of the descriptors.
        ring,
        /// Virtual address of the completions.
        completions,
        /// Virtual address of the header.
        header,
        /// Guest-physical address of the header, with which the physically contiguous pages begin.
        gpa,
        /// Bytes of those pages.
        bytes,
    }

    /// Creates a work queue over any areas at all. The process cannot use it through the library.
    0x207 create_queue_at: CreateQueueAt {
        /// Context that owns it.
        context,
        /// Entries.
        entries,
        /// Guest-physical address of the descriptors.
        ring,
        /// Guest-physical address of the completions.
        completions,
        /// Guest-physical address of the header.
        header,
        /// 1 = NO_PARK.
        flags,
    } => QueueCreatedAt {
        /// Its number.
        queue,
    }

    /// Destroys a work queue and unmaps it.
    0x208 destroy_queue: DestroyQueue {
        /// Its number.
        queue,
    } => QueueDestroyed {}

    /// Re-arms a queue's completion interrupt.
    0x209 arm_queue: ArmQueue {
        /// Its number.
        queue,
    } => Armed {}

    /// Rings the doorbell of the VM's parked queues.
    0x20a doorbell: Doorbell {} => Rung {}

    /// Derives a capability.
    0x20b derive: Derive {
        /// Parent ([`capability`]); slot 0 = the context's own address space.
        parent,
        /// Where it goes ([`capability`]); slot 0 = the lowest empty one.
        target,
        /// First byte.
        base,
        /// Bytes.
        length,
        /// Rights of the ABI: 1 read, 2 write, 4 grant.
        rights,
        /// Badge.
        badge,
        /// Lifetime in nanoseconds; 0 = none.
        lifetime_ns,
        /// Bytes that may be moved through it; 0 = no limit.
        byte_quota,
    } => Derived {
        /// The new capability.
        capability,
    }

    /// Offers a capability to a linked domain.
    0x20c offer: Offer {
        /// The capability.
        capability,
        /// Number of the domain ([`Lookup`]).
        domain,
        /// Rights to give.
        rights,
        /// Label that the peer sees.
        label,
    } => Offered {
        /// Number of the offer.
        offer,
    }

    /// Waits until an offer with a label has come, or takes one that came before.
    0x20d await_offer: AwaitOffer {
        /// The label.
        label,
        /// Longest wait, in ticks of the time-stamp counter.
        ticks,
    } => OfferCame {
        /// Number of the offer.
        offer,
        /// Domain that offers.
        domain,
        /// Bytes that the capability spans.
        length,
        /// Rights that come with it.
        rights,
    }

    /// Accepts an offer.
    0x20e accept: Accept {
        /// Number of the offer.
        offer,
        /// Where it goes ([`capability`]); slot 0 = the lowest empty one.
        target,
    } => Accepted {
        /// The capability.
        capability,
        /// Rights that came with it.
        rights,
        /// Bytes that it spans.
        length,
        /// Badge.
        badge,
        /// Domain that owns the memory.
        domain,
    }

    /// Revokes a capability.
    0x20f revoke: Revoke {
        /// The capability.
        capability,
        /// 1 = only what is derived from it.
        descendants_only,
    } => Revoked {
        /// How long the guest kernel waited for the acknowledgement, in ticks.
        ticks,
    }

    /// Empties a slot.
    0x210 drop_capability: DropCapability {
        /// The capability.
        capability,
    } => Dropped {}

    /// State and use of a capability.
    0x211 query_capability: QueryCapability {
        /// The capability.
        capability,
    } => CapabilityIs {
        /// 1 live, 2 revoked, 3 expired.
        state,
        /// Its rights.
        rights,
        /// Bytes that it spans.
        length,
        /// Badge.
        badge,
        /// Depth in the derivation tree, from bit 32 on; domain that owns the memory, below.
        depth_and_domain,
        /// Capabilities alive below it.
        descendants,
        /// Bytes read through it and all below.
        bytes_read,
        /// Bytes written through it and all below.
        bytes_written,
    }

    /// Drops cached translations.
    0x212 invalidate: Invalidate {
        /// `invalidate_scope` of the ABI: 0 domain, 1 PASID, 2 range.
        scope,
        /// The PASID, or [`PASID_OWN`].
        pasid,
        /// First address.
        address,
        /// Pages of 4096 bytes.
        pages,
    } => Invalidated {
        /// Chunks in flight that were waited for.
        waited_chunks,
        /// How long the guest kernel waited for the acknowledgement, in ticks.
        ticks,
    }

    /// Resets the device and attaches it anew. Queues stay mapped, dead, until they are destroyed.
    0x213 device_reset: DeviceReset {} => DeviceIsReset {
        /// Instance of the engine now.
        instance,
    }

    /// Takes the oldest event that the guest kernel has kept.
    0x214 next_event: NextEvent {} => EventWas {
        /// `EventKind` of the ABI; 0 = there was none.
        kind,
        /// Domain or queue.
        object,
        /// Offer, or capability revoked ([`capability`]), or status of a dead queue.
        id,
        /// Label of an offer.
        label,
        /// Bytes of an offer, or number of lost events.
        length,
        /// Rights of an offer.
        rights,
    }

    /// Creates a port for messages, with all rights to it.
    0x215 create_port: CreatePort {
        /// Where it goes ([`capability`]); slot 0 = the lowest empty one.
        target,
        /// Messages that may wait in it.
        depth,
        /// Bytes of the longest.
        bytes,
        /// Badge.
        badge,
    } => PortCreated {
        /// The port.
        capability,
    }

    /// Loads a key, whose bytes stand at the beginning of the bulk area.
    0x216 load_key: LoadKey {
        /// Where it goes ([`capability`]); slot 0 = the lowest empty one.
        target,
        /// `KeyAlgorithm` of the ABI.
        algorithm,
        /// Bytes of the key, 1 to 64.
        length,
        /// Rights of the ABI.
        rights,
        /// Badge.
        badge,
    } => KeyLoaded {
        /// The key.
        capability,
    }

    /// Opens the endpoint whose name stands at the beginning of the bulk area.
    0x217 open_endpoint: OpenEndpoint {
        /// Where it goes ([`capability`]); slot 0 = the lowest empty one.
        target,
        /// Bytes of the name, 1 to 32.
        name_len,
        /// Badge.
        badge,
    } => EndpointOpened {
        /// The blocks.
        capability,
        /// Bytes that they have.
        length,
        /// Rights to them.
        rights,
        /// Bytes of a block.
        block_bytes,
        /// What the device does.
        features,
    }

    /// Sends control messages of random bytes, many of them nearly right. What they destroy is the sender's own.
    /// Afterwards [`DeviceReset`] is the way back.
    0x220 noise: Noise {
        /// Messages.
        count,
        /// What they follow from.
        seed,
        /// Guest-physical address of memory that may be named in them; other addresses are outside RAM.
        gpa,
        /// Bytes of it.
        bytes,
    } => NoiseMade {
        /// Messages that were answered.
        answered,
    }
}
