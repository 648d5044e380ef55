//! The file as it is written: what serde reads, before anything is checked.
//!
//! Unknown keys are refused everywhere. Values that a check may complain about keep
//! their place in the file.

use byway_engine::backend::Choice;
use byway_engine::interface::EndpointKind;
use serde::Deserialize;
use toml::Spanned;

use super::size::ByteSize;
use crate::memory::HugePages;
use crate::vcpu::Template;

/// The whole file: of VMs to run, or of an engine that is a daemon.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileConfig {
    #[serde(default)]
    pub engine: EngineTable,
    #[serde(default)]
    pub vm: Vec<Spanned<VmTable>>,
    #[serde(default)]
    pub domain: Vec<Spanned<DomainTable>>,
    #[serde(default)]
    pub link: Vec<Spanned<LinkTable>>,
    #[serde(default)]
    pub endpoint: Vec<Spanned<EndpointTable>>,
}

/// `[engine]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EngineTable {
    pub workers: Option<Spanned<u64>>,
    pub pin: Option<Spanned<Vec<usize>>>,
    pub spin_us: Option<Spanned<u64>>,
    pub page_response_ms: Option<Spanned<u64>>,
    #[serde(default)]
    pub backend: Choice,
}

/// `[[vm]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VmTable {
    pub name: Spanned<String>,
    pub kernel: Option<Spanned<String>>,
    pub image: Option<Spanned<String>>,
    pub initrd: Option<Spanned<String>>,
    #[serde(default)]
    pub cmdline: String,
    pub memory: Spanned<ByteSize>,
    pub cpus: Option<Spanned<u64>>,
    #[serde(default)]
    pub cpu_template: Template,
    pub pin: Option<Spanned<Vec<usize>>>,
    #[serde(default)]
    pub hugepages: HugePages,
    #[serde(default)]
    pub populate: bool,
    pub serial: Option<Spanned<String>>,
    pub device_id: Option<Spanned<u64>>,
    #[serde(default)]
    pub disks: Vec<Spanned<DiskTable>>,
    pub spare_disks: Option<Spanned<u64>>,
    #[serde(default)]
    pub nets: Vec<Spanned<NetTable>>,
    #[serde(default)]
    pub rng: bool,
    pub rng_bytes_per_s: Option<Spanned<u64>>,
    #[serde(default)]
    pub nvmes: Vec<Spanned<NvmeTable>>,
    #[serde(default)]
    pub quotas: QuotaTable,
}

/// An element of `disks`, or `[[vm.disks]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DiskTable {
    pub path: Spanned<String>,
    #[serde(default)]
    pub readonly: bool,
    #[serde(default)]
    pub overlay: bool,
    pub overlay_file: Option<Spanned<String>>,
}

/// An element of `nvmes`, or `[[vm.nvmes]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NvmeTable {
    pub path: Spanned<String>,
    #[serde(default)]
    pub readonly: bool,
}

/// An element of `nets`, or `[[vm.nets]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NetTable {
    pub tap: Option<Spanned<String>>,
    pub fd: Option<Spanned<i32>>,
    pub mac: Option<Spanned<String>>,
}

/// `[[domain]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DomainTable {
    pub name: Spanned<String>,
    pub uid: Option<u32>,
    #[serde(default)]
    pub quotas: QuotaTable,
}

/// `[vm.quotas]`, `[domain.quotas]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QuotaTable {
    pub address_spaces: Option<Spanned<u32>>,
    pub contexts: Option<Spanned<u32>>,
    pub queues: Option<Spanned<u32>>,
    pub queue_entries: Option<Spanned<u32>>,
    pub capabilities: Option<Spanned<u32>>,
    pub offers: Option<Spanned<u32>>,
    pub no_park_queues: Option<Spanned<u32>>,
    pub parked: Option<Spanned<u32>>,
    #[serde(default)]
    pub share: ShareTable,
}

/// `[vm.quotas.share]`, `[domain.quotas.share]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ShareTable {
    pub weight: Option<Spanned<u32>>,
    pub bytes_per_s: Option<u64>,
    pub operations_per_s: Option<u64>,
    pub burst_us: Option<Spanned<u32>>,
}

/// `[[endpoint]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EndpointTable {
    pub name: Spanned<String>,
    pub kind: EndpointKind,
    pub path: Spanned<String>,
    #[serde(default)]
    pub read_only: bool,
    pub timeout_ms: Option<Spanned<u64>>,
    #[serde(default)]
    pub grant: Vec<Spanned<GrantTable>>,
}

/// `[[endpoint.grant]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GrantTable {
    pub domain: Spanned<String>,
    #[serde(default)]
    pub first: ByteSize,
    #[serde(default)]
    pub bytes: ByteSize,
    #[serde(default)]
    pub read: bool,
    #[serde(default)]
    pub write: bool,
    /// The device may reach the domain's own memory where its kernel has pinned that.
    pub trusted: Option<Spanned<bool>>,
}

/// `[[link]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LinkTable {
    pub from: Spanned<String>,
    pub to: Spanned<String>,
    #[serde(default)]
    pub read: bool,
    #[serde(default)]
    pub write: bool,
    #[serde(default)]
    pub grant: bool,
    #[serde(default)]
    pub keys: bool,
    #[serde(default)]
    pub max_bytes: ByteSize,
}
