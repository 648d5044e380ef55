//! The books of a domain in the operator's words.

use std::collections::BTreeMap;

use byway_protocols::Rights;

use crate::capability::{Audit, Ending, Holder, Record};
use crate::interface::{AuditBooks, AuditEnd, AuditEnding, AuditParty, AuditRecord};

/// Names of the domains that are there, by number.
pub(super) type Names = BTreeMap<u32, String>;

pub(super) fn books(audit: &Audit, names: &Names) -> AuditBooks {
    let records = |of: &[Record]| of.iter().map(|r| record(r, names)).collect();
    AuditBooks {
        live: records(&audit.live),
        live_total: audit.live_total,
        past: records(&audit.past),
        forgotten: audit.forgotten,
    }
}

fn record(r: &Record, names: &Names) -> AuditRecord {
    AuditRecord {
        id: r.id,
        parent: r.parent,
        giver: party(r.giver, names),
        holder: party(r.holder, names),
        given_ms: r.given_ms,
        base: r.base,
        length: r.length,
        read: r.rights.contains(Rights::READ),
        write: r.rights.contains(Rights::WRITE),
        grant: r.rights.contains(Rights::GRANT),
        badge: r.badge,
        depth: r.depth,
        bytes_read: r.traffic.read,
        bytes_written: r.traffic.written,
        end: r.end.map(|end| AuditEnd {
            at_ms: end.at_ms,
            how: ending(end.how, names),
        }),
    }
}

fn party(holder: Holder, names: &Names) -> AuditParty {
    match holder {
        Holder::Nobody => AuditParty::Nobody,
        Holder::Root => AuditParty::Owner,
        Holder::Offer(offer) => AuditParty::Offer { offer },
        Holder::Slot {
            domain,
            context,
            slot,
        } => AuditParty::Slot {
            domain,
            name: names.get(&domain).cloned(),
            context,
            slot,
        },
    }
}

fn ending(how: Ending, names: &Names) -> AuditEnding {
    match how {
        Ending::Dropped => AuditEnding::Dropped,
        Ending::Revoked { by } => AuditEnding::Revoked {
            by,
            name: names.get(&by).cloned(),
        },
        Ending::LinkEnded => AuditEnding::LinkEnded,
        Ending::ContextDestroyed => AuditEnding::ContextDestroyed,
        Ending::OwnerReset => AuditEnding::OwnerReset,
    }
}
