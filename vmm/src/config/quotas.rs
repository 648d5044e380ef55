//! `[vm.quotas]`: the engine's bounds, with the place of what is out of them.

use std::ops::Range;

use byway_engine::interface::{Quotas, Share};
use toml::Spanned;

use super::file::QuotaTable;

impl QuotaTable {
    /// What the table says; keys that it lacks are the engine's defaults.
    pub(super) fn quotas(&self) -> Quotas {
        let default = Quotas::default();
        let or = |value: &Option<Spanned<u32>>, default| {
            value.as_ref().map_or(default, |value| *value.get_ref())
        };
        let share = &self.share;
        Quotas {
            address_spaces: or(&self.address_spaces, default.address_spaces),
            contexts: or(&self.contexts, default.contexts),
            queues: or(&self.queues, default.queues),
            queue_entries: or(&self.queue_entries, default.queue_entries),
            capabilities: or(&self.capabilities, default.capabilities),
            offers: or(&self.offers, default.offers),
            no_park_queues: or(&self.no_park_queues, default.no_park_queues),
            parked: or(&self.parked, default.parked),
            share: Share {
                weight: or(&share.weight, default.share.weight),
                bytes_per_s: share.bytes_per_s.unwrap_or(default.share.bytes_per_s),
                operations_per_s: share
                    .operations_per_s
                    .unwrap_or(default.share.operations_per_s),
                burst_us: or(&share.burst_us, default.share.burst_us),
            },
        }
    }

    /// Where the value that the engine calls `name` is.
    pub(super) fn place(&self, name: &str) -> Option<Range<usize>> {
        let value = match name {
            "address_spaces" => &self.address_spaces,
            "contexts" => &self.contexts,
            "queues" => &self.queues,
            "queue_entries" => &self.queue_entries,
            "capabilities" => &self.capabilities,
            "offers" => &self.offers,
            "no_park_queues" => &self.no_park_queues,
            "parked" => &self.parked,
            "share.weight" => &self.share.weight,
            "share.burst_us" => &self.share.burst_us,
            _ => return None,
        };
        value.as_ref().map(Spanned::span)
    }
}
