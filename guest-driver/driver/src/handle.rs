//! Numbers of the engine's objects, one type each so that they cannot be mixed up.
//!
//! They are plain copies: the engine owns the objects and refuses a number that names none.

macro_rules! handles {
    ($( $(#[$doc:meta])* $name:ident($raw:ty); )*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $raw);

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    )*};
}

handles! {
    /// A domain: one VM.
    DomainId(u32);
    /// An address space of this domain, 0 to 2^20 - 1.
    Pasid(u32);
    /// A context; never used twice by one instance of the engine.
    ContextId(u32);
    /// A work queue; never used twice by one instance of the engine.
    QueueId(u32);
    /// An offer of a capability.
    OfferId(u64);
}

impl Pasid {
    /// Guest-physical addressing, for contexts that the guest kernel opens for itself.
    pub const PHYSICAL: Self = Self(byway_protocols::control::PASID_PHYSICAL);
}

/// A capability slot of a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CapSlot {
    /// The context.
    pub context: ContextId,
    /// Slot, 0 to 32767; 0 is the context's own address space.
    pub slot: u32,
}

impl CapSlot {
    /// Slot `slot` of `context`.
    #[must_use]
    pub const fn new(context: ContextId, slot: u32) -> Self {
        Self { context, slot }
    }

    /// The context's own address space.
    #[must_use]
    pub const fn own(context: ContextId) -> Self {
        Self { context, slot: 0 }
    }
}
