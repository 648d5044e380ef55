//! [`Link`]: the host operator's permission behind a capability that was given away.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use byway_protocols::Rights;

/// What a link permits at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkTerms {
    /// Rights that may be given along it.
    pub rights: Rights,
    /// Most bytes that one capability may span; `u64::MAX` = no limit.
    pub max_bytes: u64,
}

impl LinkTerms {
    /// Whether everything that `other` permits is permitted here too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.rights.contains(other.rights) && self.max_bytes >= other.max_bytes
    }
}

/// One link. Capabilities given along it hold on to it, so that ending the link ends
/// them all at once.
#[derive(Debug)]
pub struct Link {
    from: u32,
    to: u32,
    terms: Mutex<LinkTerms>,
    ended: AtomicBool,
}

impl Link {
    /// A link from domain `from` to domain `to`.
    #[must_use]
    pub fn new(from: u32, to: u32, terms: LinkTerms) -> Self {
        Self {
            from,
            to,
            terms: Mutex::new(terms),
            ended: AtomicBool::new(false),
        }
    }
    /// The giving domain.
    #[must_use]
    pub fn from(&self) -> u32 {
        self.from
    }
    /// The receiving domain.
    #[must_use]
    pub fn to(&self) -> u32 {
        self.to
    }
    /// What it permits now.
    #[must_use]
    pub fn terms(&self) -> LinkTerms {
        *self.lock()
    }
    /// Permits more from now on. What was given before stays as it was.
    pub fn widen(&self, terms: LinkTerms) {
        *self.lock() = terms;
    }
    /// Ends it. The owners' epochs must be bumped afterwards
    /// ([`super::Owner::bury_ended`]) and a grace period waited for.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }
    /// Whether it was ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LinkTerms> {
        // The guarded value is plain data: a panic elsewhere cannot leave it torn.
        self.terms.lock().unwrap_or_else(|e| e.into_inner())
    }
}
