//! What the operator says and is told of endpoints.

use serde::{Deserialize, Serialize};

/// The operator's permission for a domain to use blocks of an endpoint. None by default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointGrant {
    /// Name of the endpoint.
    pub endpoint: String,
    /// Name of the domain.
    pub domain: String,
    /// First byte, a multiple of the endpoint's blocks.
    #[serde(default)]
    pub first: u64,
    /// Bytes, a multiple of the endpoint's blocks; 0 = all behind the first.
    #[serde(default)]
    pub bytes: u64,
    /// Whether it may read them.
    #[serde(default)]
    pub read: bool,
    /// Whether it may write them.
    #[serde(default)]
    pub write: bool,
    /// Whether the device may reach the domain's own memory where its kernel has pinned that, whoever the blocks are read
    /// or written for. Revocation waits for the device then.
    #[serde(default)]
    pub trusted: bool,
}

/// Who may use an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointUser {
    /// Name of the domain.
    pub domain: String,
    /// First byte.
    pub first: u64,
    /// Bytes.
    pub bytes: u64,
    /// Whether it may read.
    pub read: bool,
    /// Whether it may write.
    pub write: bool,
    /// Whether the device may reach its pinned memory.
    #[serde(default)]
    pub trusted: bool,
}

/// One row of [`Reply::Endpoints`](super::Reply::Endpoints).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointInfo {
    /// Its name.
    pub name: String,
    /// What carries it, as in TOML.
    pub kind: String,
    /// The file, device or socket.
    pub path: String,
    /// Whether the operator attached it so that nobody may write to it.
    #[serde(default)]
    pub read_only: bool,
    /// Whether its device is there.
    pub attached: bool,
    /// Why it is not.
    pub reason: Option<String>,
    /// Bytes of a block.
    pub block_bytes: u32,
    /// Blocks.
    pub blocks: u64,
    /// Requests that ended since it was attached last.
    pub requests: u64,
    /// Those of them that failed.
    pub failures: u64,
    /// Bytes read from it since then.
    pub bytes_read: u64,
    /// Bytes written to it.
    pub bytes_written: u64,
    /// System calls made to drive it.
    pub system_calls: u64,
    /// Requests under way now.
    pub under_way: u32,
    /// Requests by which its device was given memory of guests.
    #[serde(default)]
    pub direct: u64,
    /// Those of them that it has not answered. Revocations wait for them, for `timeout_ms` and 3 seconds at most.
    #[serde(default)]
    pub holds: u32,
    /// How long its device may take, in milliseconds.
    #[serde(default)]
    pub timeout_ms: u32,
    /// Who may use it.
    pub users: Vec<EndpointUser>,
}
