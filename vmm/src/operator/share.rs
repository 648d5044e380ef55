//! Options for a domain's share of the workers, as `byway quota` and `byway domain create` take them.

use byway_engine::interface::Share;
use clap::Args;

/// Named as the keys of `[domain.quotas.share]`.
#[derive(Debug, Clone, Args)]
pub(super) struct ShareOptions {
    /// Weight beside others with work, 1 to 256
    #[arg(long, value_name = "N")]
    weight: Option<u32>,
    /// Bytes a second over all workers; 0: no limit
    #[arg(long, value_name = "N")]
    bytes_per_s: Option<u64>,
    /// Operations a second over all workers; 0: no limit
    #[arg(long, value_name = "N")]
    operations_per_s: Option<u64>,
    /// How much of a rate may be used at once, in microseconds, up to 1000000
    #[arg(long, value_name = "N")]
    burst_us: Option<u32>,
}

impl ShareOptions {
    /// What they make of a share; the others stay as they are.
    pub(super) fn instead_of(&self, now: Share) -> Share {
        Share {
            weight: self.weight.unwrap_or(now.weight),
            bytes_per_s: self.bytes_per_s.unwrap_or(now.bytes_per_s),
            operations_per_s: self.operations_per_s.unwrap_or(now.operations_per_s),
            burst_us: self.burst_us.unwrap_or(now.burst_us),
        }
    }
}
