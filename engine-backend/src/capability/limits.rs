//! Expiry and byte quota of a capability.
//!
//! Both bind everything derived below: a child can neither outlive its parent nor move
//! more through itself than its parent may.

use std::sync::atomic::{AtomicU64, Ordering};

/// Nanoseconds of the host's monotonic clock. A vDSO call, no system call.
#[must_use]
pub(crate) fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a valid timespec to write to. CLOCK_MONOTONIC exists on every
    // Linux, so the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    (now.tv_sec as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(now.tv_nsec as u64)
}

/// The limits of one capability, those of its ancestors not included, but for the expiry.
#[derive(Debug)]
pub(super) struct Limits {
    /// Monotonic time at which it ends, its ancestors' taken into account;
    /// `u64::MAX` = never.
    expires_ns: u64,
    /// Bytes that may be moved through it and all below; `u64::MAX` = no limit.
    quota_bytes: u64,
    used_bytes: AtomicU64,
}

impl Limits {
    pub(super) const NONE: u64 = u64::MAX;

    pub(super) fn new(expires_ns: u64, quota_bytes: u64) -> Self {
        Self {
            expires_ns,
            quota_bytes,
            used_bytes: AtomicU64::new(0),
        }
    }
    pub(super) fn expires_ns(&self) -> u64 {
        self.expires_ns
    }
    pub(super) fn is_limited(&self) -> bool {
        self.expires_ns != Self::NONE || self.has_quota()
    }
    fn has_quota(&self) -> bool {
        self.quota_bytes != Self::NONE
    }
    pub(super) fn has_expired(&self) -> bool {
        self.expires_ns != Self::NONE && monotonic_ns() >= self.expires_ns
    }
    /// Whether `bytes` more may be moved.
    pub(super) fn allows(&self, bytes: u64) -> bool {
        !self.has_quota()
            || self
                .used_bytes
                .load(Ordering::Relaxed)
                .checked_add(bytes)
                .is_some_and(|used| used <= self.quota_bytes)
    }
    pub(super) fn spend(&self, bytes: u64) {
        if self.has_quota() {
            self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_counts_down_to_the_byte() {
        let limits = Limits::new(Limits::NONE, 10);
        assert!(limits.is_limited());
        assert!(limits.allows(10));
        assert!(!limits.allows(11));
        limits.spend(7);
        assert!(limits.allows(3));
        assert!(!limits.allows(4));
        assert!(!limits.allows(u64::MAX));
        let unlimited = Limits::new(Limits::NONE, Limits::NONE);
        assert!(!unlimited.is_limited());
        assert!(unlimited.allows(u64::MAX));
    }

    #[test]
    fn expiry_is_a_point_in_time() {
        assert!(Limits::new(monotonic_ns(), Limits::NONE).has_expired());
        let later = Limits::new(monotonic_ns() + 60_000_000_000, Limits::NONE);
        assert!(!later.has_expired());
        assert!(!Limits::new(Limits::NONE, 1).has_expired());
    }
}
