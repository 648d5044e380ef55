//! What [`super::Action::Audit`] tells: who gave what to whom, how much went through it,
//! when it ended and by whose doing.

use serde::{Deserialize, Serialize};

/// The books over one domain's memory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AuditBooks {
    /// Capabilities that live, in no particular order; as many as were asked for.
    pub live: Vec<AuditRecord>,
    /// How many live in all.
    pub live_total: u64,
    /// Capabilities that have ended and were cleared away, the latest last; as many as
    /// were asked for.
    pub past: Vec<AuditRecord>,
    /// How many past records are not kept any more.
    pub forgotten: u64,
}

/// One capability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Its number among all over this memory, never used twice.
    pub id: u64,
    /// Number of what it was derived from; `None` for a context's own address space.
    pub parent: Option<u64>,
    /// Who gave it: whoever held the parent then.
    pub giver: AuditParty,
    /// Who holds it, or did last.
    pub holder: AuditParty,
    /// When it was given, in milliseconds since 1970 on the host's clock.
    pub given_ms: u64,
    /// First byte, an address in the owner's address space.
    pub base: u64,
    /// Bytes that it spans.
    pub length: u64,
    /// Whether it allows to read.
    pub read: bool,
    /// Whether it allows to write.
    pub write: bool,
    /// Whether it allows to derive and pass on.
    pub grant: bool,
    /// Badge.
    pub badge: u64,
    /// Depth in the derivation tree, 1 for one over one's own memory.
    pub depth: u32,
    /// Bytes read through it itself.
    pub bytes_read: u64,
    /// Bytes written through it itself.
    pub bytes_written: u64,
    /// How it ended; `None` while it lives.
    pub end: Option<AuditEnd>,
}

/// One side of a gift.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "party", rename_all = "kebab-case")]
pub enum AuditParty {
    /// The owner itself, from or with a context's own address space.
    Owner,
    /// A slot of a context.
    Slot {
        /// Its domain's number, as [`super::DomainInfo::id`].
        domain: u32,
        /// That one's name, while it is there.
        name: Option<String>,
        /// The context's number.
        context: u32,
        /// The slot.
        slot: u16,
    },
    /// An offer that waits to be accepted, or waited when it ended.
    Offer {
        /// Its number.
        offer: u64,
    },
    /// Nobody any more.
    Nobody,
}

/// The end of a capability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEnd {
    /// When, in milliseconds since 1970 on the host's clock.
    pub at_ms: u64,
    /// How.
    #[serde(flatten)]
    pub how: AuditEnding,
}

/// How a capability ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "kebab-case")]
pub enum AuditEnding {
    /// Its holder let go of it.
    Dropped,
    /// It, or one that it was derived from, was revoked.
    Revoked {
        /// Number of the domain that did.
        by: u32,
        /// That one's name, while it is there.
        name: Option<String>,
    },
    /// The operator took the link away, or narrowed it.
    LinkEnded,
    /// The context was destroyed whose address space it was over.
    ContextDestroyed,
    /// The owner was reset, or went.
    OwnerReset,
}
