//! [`EndpointConfig`]: what the operator says of an endpoint.

use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use byway_protocols::operands::ENDPOINT_NAME_BYTES;
use serde::{Deserialize, Serialize};

/// What carries a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointKind {
    /// A file or block device of the host, by io_uring.
    File,
    /// A vhost-user-blk device at a Unix socket, the engine being its front end.
    VhostUserBlk,
    /// An NVMe controller in shared memory, at a Unix socket.
    Nvme,
    /// The built-in model of one over a file, on a thread of the engine's.
    NvmeModel,
}

impl EndpointKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::File, Self::VhostUserBlk, Self::Nvme, Self::NvmeModel];

    /// As in TOML and on the admin socket.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::VhostUserBlk => "vhost-user-blk",
            Self::Nvme => "nvme",
            Self::NvmeModel => "nvme-model",
        }
    }
}

/// By [`EndpointKind::name`].
impl FromStr for EndpointKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|kind| kind.name() == text);
        named.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("no kind of endpoint {text:?}; use one of {names}")
        })
    }
}

/// One endpoint. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointConfig {
    /// What guests ask for it by: 1 to 32 characters of a-z, 0-9 and '-'.
    pub name: String,
    /// What carries it.
    pub kind: EndpointKind,
    /// The file, device or socket.
    pub path: PathBuf,
    /// Nobody may write to it.
    #[serde(default)]
    pub read_only: bool,
    /// How long the device may take for a request before it counts as gone, in milliseconds; in
    /// [`Self::TIMEOUT_MS`].
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u32,
}

fn default_timeout_ms() -> u32 {
    EndpointConfig::TIMEOUT_MS_DEFAULT
}

/// Why there is no such endpoint.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// A name that none can have.
    #[error("endpoint name {0:?}: use 1 to 32 characters of a-z, 0-9 and '-'")]
    BadName(String),
    /// A time-out that is out of range.
    #[error(
        "endpoint {name}: timeout_ms = {timeout_ms}: expected {} to {}",
        EndpointConfig::TIMEOUT_MS.start(), EndpointConfig::TIMEOUT_MS.end()
    )]
    BadTimeout {
        /// Which.
        name: String,
        /// What was asked for.
        timeout_ms: u32,
    },
    /// It is there already.
    #[error("endpoint {0:?} is attached already; choose another name, or detach it first")]
    Exists(String),
    /// It was another one before.
    #[error(
        "endpoint {0:?} was attached with other settings before; use those, which \
         `byway endpoint list --json` tells, or another name"
    )]
    Changed(String),
    /// There are as many as there can be.
    #[error("an engine has at most 32 endpoints")]
    TooMany,
    /// There is none of this name.
    #[error("no endpoint named {0:?}; `byway ps` lists them")]
    Unknown(String),
    /// A grant of what is not there.
    #[error("endpoint {name}: {reason}")]
    Refused {
        /// Which.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The host refused something.
    #[error("endpoint {name}: the host refused staging memory")]
    Host {
        /// Which.
        name: String,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// Whether an endpoint can be called so: as a domain.
#[must_use]
pub fn is_endpoint_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=ENDPOINT_NAME_BYTES).contains(&name.len()) && name.bytes().all(allowed)
}

impl EndpointConfig {
    /// What `timeout_ms` can be.
    pub const TIMEOUT_MS: RangeInclusive<u32> = 10..=600_000;
    /// What it is where nothing is said.
    pub const TIMEOUT_MS_DEFAULT: u32 = 30_000;

    /// Whether it can be opened at all.
    ///
    /// # Errors
    /// What is out of range.
    pub fn check(&self) -> Result<(), EndpointError> {
        if !is_endpoint_name(&self.name) {
            return Err(EndpointError::BadName(self.name.clone()));
        }
        if !Self::TIMEOUT_MS.contains(&self.timeout_ms) {
            return Err(EndpointError::BadTimeout {
                name: self.name.clone(),
                timeout_ms: self.timeout_ms,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_read_by_the_names_that_json_has() {
        for kind in EndpointKind::ALL {
            let name = serde_json::to_string(&kind).unwrap();
            assert_eq!(name, format!("{:?}", kind.name()));
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        let refused = "tape".parse::<EndpointKind>().unwrap_err();
        assert!(refused.contains("vhost-user-blk, nvme,"), "{refused}");
    }
}
