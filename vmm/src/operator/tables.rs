//! Answers as tables for people.

use std::time::Duration;

use byway_engine::interface::{
    AuditBooks, AuditEnding, AuditParty, AuditRecord, DomainInfo, EndpointInfo, EndpointUser, Share,
};
use comfy_table::{CellAlignment, Row, Table, presets};

use super::Use;
use crate::config::ByteSize;

/// An empty table whose columns from `numbers_from` on are numbers.
pub(crate) fn table(header: impl Into<Row>, numbers_from: usize) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_BORDERS_ONLY)
        .set_header(header);
    for column in table.column_iter_mut().skip(numbers_from) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// All that is used. `since` is how it was a while ago, and how long ago: then there is what was done a second, too.
pub(super) fn used(used: &Use, since: Option<(Duration, &Use)>) -> String {
    let domains = domains(&used.domains, since);
    if used.endpoints.is_empty() {
        return domains;
    }
    format!("{domains}\n{}", endpoints(&used.endpoints))
}

/// A row for each domain.
fn domains(domains: &[DomainInfo], since: Option<(Duration, &Use)>) -> String {
    let header = [
        "domain", "VMM", "contexts", "queues", "caps", "bytes", "done", "failed", "busy ms",
        "waiting", "weight", "misses", "4K", "2M", "1G",
    ];
    let mut header = header.to_vec();
    if since.is_some() {
        header.extend(["bytes/s", "done/s"]);
    }
    let mut table = table(header, 2);
    for d in domains {
        let mut row = vec![
            d.name.clone(),
            if d.attached { "attached" } else { "-" }.to_owned(),
            d.contexts.to_string(),
            d.queues.to_string(),
            d.capabilities.to_string(),
            d.bytes.to_string(),
            d.descriptors.to_string(),
            d.failures.to_string(),
            (d.busy_ns / 1_000_000).to_string(),
            d.parked.to_string(),
            d.share.weight.to_string(),
            d.iotlb_misses.to_string(),
            d.walks_4k.to_string(),
            d.walks_2m.to_string(),
            d.walks_1g.to_string(),
        ];
        if let Some((time, then)) = since {
            row.extend(rates(d, time, then));
        }
        table.add_row(row);
    }
    table.to_string()
}

/// Bytes and descriptors a second; a domain that was not there, or was another one, has none yet.
fn rates(now: &DomainInfo, time: Duration, then: &Use) -> [String; 2] {
    let then = then.domains.iter().find(|d| d.id == now.id);
    let rate = |now: u64, then: Option<u64>| {
        let done = then.and_then(|then| now.checked_sub(then));
        done.map_or_else(
            || "-".to_owned(),
            |done| format!("{:.0}", done as f64 / time.as_secs_f64().max(1e-3)),
        )
    };
    [
        rate(now.bytes, then.map(|d| d.bytes)),
        rate(now.descriptors, then.map(|d| d.descriptors)),
    ]
}

/// A row for each endpoint.
fn endpoints(endpoints: &[EndpointInfo]) -> String {
    let header = [
        "endpoint",
        "kind",
        "device",
        "used by",
        "block",
        "blocks",
        "requests",
        "failed",
        "read",
        "written",
        "calls",
        "under way",
        "direct",
        "held",
    ];
    let mut table = table(header, 4);
    for e in endpoints {
        let mark = |trusted| if trusted { "*" } else { "" };
        let users = e.users.iter();
        let users: Vec<_> = users
            .map(|user| format!("{}{}", user.domain, mark(user.trusted)))
            .collect();
        table.add_row([
            e.name.clone(),
            e.kind.clone(),
            match &e.reason {
                Some(reason) => format!("gone: {reason}"),
                None => e.path.clone(),
            },
            users.join(" "),
            e.block_bytes.to_string(),
            e.blocks.to_string(),
            e.requests.to_string(),
            e.failures.to_string(),
            e.bytes_read.to_string(),
            e.bytes_written.to_string(),
            e.system_calls.to_string(),
            e.under_way.to_string(),
            e.direct.to_string(),
            e.holds.to_string(),
        ]);
    }
    table.to_string()
}

/// Endpoints as `byway endpoint list` has them: what was said of each, and a line for each of its users.
pub(super) fn endpoint_list(endpoints: &[EndpointInfo]) -> String {
    let header = [
        "endpoint",
        "kind",
        "device",
        "state",
        "used by",
        "bytes",
        "requests",
        "failed",
        "read",
        "written",
        "under way",
    ];
    let mut table = table(header, 5);
    for e in endpoints {
        let users: Vec<_> = e.users.iter().map(user).collect();
        let size = ByteSize(e.blocks.saturating_mul(e.block_bytes.into()));
        table.add_row([
            e.name.clone(),
            e.kind.clone(),
            format!(
                "{}{}",
                e.path,
                if e.read_only { " (read-only)" } else { "" }
            ),
            match &e.reason {
                Some(reason) => format!("gone: {reason}"),
                None if e.attached => "attached".to_owned(),
                None => "gone".to_owned(),
            },
            users.join("\n"),
            size.to_string(),
            e.requests.to_string(),
            e.failures.to_string(),
            e.bytes_read.to_string(),
            e.bytes_written.to_string(),
            e.under_way.to_string(),
        ]);
    }
    table.to_string()
}

/// A domain, its rights (`t`: trusted), how much of it and from where.
fn user(user: &EndpointUser) -> String {
    let rights = letters([(user.read, 'r'), (user.write, 'w'), (user.trusted, 't')]);
    let (bytes, first) = (ByteSize(user.bytes), ByteSize(user.first));
    format!("{} {rights} {bytes} from {first}", user.domain)
}

/// One letter for each right that somebody has, and a dash for each other.
fn letters(rights: [(bool, char); 3]) -> String {
    let letters = rights.map(|(has, letter)| if has { letter } else { '-' });
    letters.iter().collect()
}

/// One domain's share.
pub(super) fn share(name: &str, share: &Share) -> String {
    let limit = |rate: u64| match rate {
        0 => "no limit".to_owned(),
        rate => rate.to_string(),
    };
    let mut table = table(
        ["domain", "weight", "bytes/s", "operations/s", "burst us"],
        1,
    );
    table.add_row([
        name.to_owned(),
        share.weight.to_string(),
        limit(share.bytes_per_s),
        limit(share.operations_per_s),
        share.burst_us.to_string(),
    ]);
    table.to_string()
}

/// Capabilities that live, then those that have ended, and how many are not shown.
pub(super) fn books(books: &AuditBooks) -> String {
    let header = [
        "id", "from", "giver", "holder", "rights", "end", "base", "bytes", "read", "written",
    ];
    let mut table = table(header, 6);
    for record in books.live.iter().chain(&books.past) {
        table.add_row(row(record));
    }
    let more = books.live_total.saturating_sub(books.live.len() as u64);
    format!(
        "{table}\n{more} more live; {} that have ended are not kept any more",
        books.forgotten
    )
}

fn row(record: &AuditRecord) -> [String; 10] {
    let rights = letters([(record.read, 'r'), (record.write, 'w'), (record.grant, 'g')]);
    let end = record.end.as_ref().map_or_else(
        || "lives".to_owned(),
        |end| match &end.how {
            AuditEnding::Dropped => "dropped".to_owned(),
            AuditEnding::Revoked { by, name } => {
                format!(
                    "revoked by {}",
                    name.clone().unwrap_or_else(|| by.to_string())
                )
            }
            AuditEnding::LinkEnded => "link ended".to_owned(),
            AuditEnding::ContextDestroyed => "context destroyed".to_owned(),
            AuditEnding::OwnerReset => "owner reset".to_owned(),
        },
    );
    [
        record.id.to_string(),
        record
            .parent
            .map_or_else(|| "-".to_owned(), |id| id.to_string()),
        party(&record.giver),
        party(&record.holder),
        rights,
        end,
        format!("{:#x}", record.base),
        record.length.to_string(),
        record.bytes_read.to_string(),
        record.bytes_written.to_string(),
    ]
}

fn party(party: &AuditParty) -> String {
    match party {
        AuditParty::Owner => "owner".to_owned(),
        AuditParty::Slot {
            domain,
            name,
            context,
            slot,
        } => {
            let name = name.clone().unwrap_or_else(|| domain.to_string());
            format!("{name}/{context}/{slot}")
        }
        AuditParty::Offer { offer } => format!("offer {offer}"),
        AuditParty::Nobody => "-".to_owned(),
    }
}
