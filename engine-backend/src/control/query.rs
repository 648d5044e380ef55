//! QUERY and LOOKUP.

use byway_protocols::control::{
    LookupReply, LookupRequest, NAME_BYTES, QueryReply, QueryRequest, features,
};
use byway_protocols::descriptor::{BATCH_COUNT_MAX, TRANSFER_BYTES_MAX};
use byway_protocols::{ABI_VERSION, ControlStatus};

use crate::domain::Domain;

/// What this engine offers.
pub(super) const FEATURES: u64 = features::PAGE_REQUESTS
    | features::INVALIDATION_PAGE
    | features::LEVELS_5
    | features::EXPIRY
    | features::BYTE_QUOTA
    | features::ENDPOINTS
    | features::PINNED;

pub(super) fn query(domain: &Domain, q: &QueryRequest) -> Result<QueryReply, ControlStatus> {
    let version = q.version.min(ABI_VERSION);
    if version == 0 {
        return Err(ControlStatus::Version);
    }
    if !domain.is_ready() {
        domain.set_ready(q.features & FEATURES);
    }
    let mut name = [0; NAME_BYTES];
    let bytes = domain.name().as_bytes();
    name[..bytes.len()].copy_from_slice(bytes);
    Ok(QueryReply {
        version,
        instance: domain.instance(),
        features: domain.features(),
        domain: domain.id(),
        workers: domain.core().worker_count(),
        queue_entries_max: domain.quotas().queue_entries,
        slots_max: domain.core().limits().slots_max,
        transfer_bytes_max: TRANSFER_BYTES_MAX,
        batch_count_max: BATCH_COUNT_MAX,
        park_us: domain.core().limits().park_us,
        opcodes: domain.core().limits().opcodes,
        name,
        ..QueryReply::default()
    })
}

pub(super) fn lookup(domain: &Domain, q: &LookupRequest) -> Result<LookupReply, ControlStatus> {
    let name = decode_name(&q.name).ok_or(ControlStatus::BadArgument)?;
    let peers = domain.core().peers();
    // A name without a link is told from no such name by nobody.
    let peer = peers.find(name).ok_or(ControlStatus::NoLink)?;
    let rights = peers
        .rights(domain.id(), peer.id())
        .ok_or(ControlStatus::NoLink)?;
    Ok(LookupReply {
        domain: peer.id(),
        rights_out: rights.out.0,
        rights_in: rights.into.0,
        reserved12: 0,
    })
}

/// A domain's or an endpoint's name from its padded form.
pub(super) fn decode_name(padded: &[u8; NAME_BYTES]) -> Option<&str> {
    let length = padded.iter().position(|&b| b == 0).unwrap_or(NAME_BYTES);
    let (name, padding) = padded.split_at(length);
    let name = std::str::from_utf8(name).ok()?;
    let is_padded = padding.iter().all(|&b| b == 0);
    (is_padded && is_domain_name(name)).then_some(name)
}

/// Whether a domain can be called so: 1 to 32 of `a-z`, `0-9` and `-`.
#[must_use]
pub fn is_domain_name(name: &str) -> bool {
    (1..=NAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_padded_with_zeros_alone() {
        let mut padded = [0; NAME_BYTES];
        padded[..5].copy_from_slice(b"bob-1");
        assert_eq!(decode_name(&padded), Some("bob-1"));
        padded[20] = b'x';
        assert_eq!(decode_name(&padded), None);
        assert_eq!(decode_name(&[0; NAME_BYTES]), None);
        assert_eq!(decode_name(&[b'a'; NAME_BYTES]).map(str::len), Some(32));
        assert_eq!(decode_name(&[0xff; NAME_BYTES]), None);
        assert_eq!(decode_name(&[b'A'; NAME_BYTES]), None);
    }
}
