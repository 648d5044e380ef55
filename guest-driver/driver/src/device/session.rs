//! QUERY: version, features and limits (SPEC sections 1 and 8.2).

use super::Device;
use crate::Error;
use crate::hal::Hal;
use crate::handle::DomainId;
use crate::message;
use crate::transport::Transport;
use byway_protocols::ABI_VERSION;
use byway_protocols::control::{NAME_BYTES, QueryReply, QueryRequest, features};

/// Features of QUERY that this driver can use.
/// Page requests are among them: whoever attaches answers, or has descriptors end late
/// ([`Device::answer_page`]).
pub(super) const WANTED: u64 = features::PAGE_REQUESTS
    | features::INVALIDATION_PAGE
    | features::LEVELS_5
    | features::EXPIRY
    | features::BYTE_QUOTA
    | features::ENDPOINTS
    | features::PINNED;

/// A domain's name: 1 to 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name([u8; NAME_BYTES]);

impl Name {
    /// The name, or `None` unless it has 1 to 32 bytes, none of them zero.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let mut bytes = [0; NAME_BYTES];
        bytes
            .get_mut(..name.len())?
            .copy_from_slice(name.as_bytes());
        (!name.is_empty() && !name.contains('\0')).then_some(Self(bytes))
    }

    /// The name as text; what is not UTF-8 is cut off.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let end = self
            .0
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(NAME_BYTES);
        let name = &self.0[..end];
        match core::str::from_utf8(name) {
            Ok(text) => text,
            Err(error) => core::str::from_utf8(&name[..error.valid_up_to()]).unwrap_or_default(),
        }
    }

    pub(super) const fn bytes(self) -> [u8; NAME_BYTES] {
        self.0
    }
}

impl core::fmt::Display for Name {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the engine is and allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineInfo {
    /// ABI version in force.
    pub version: u32,
    /// Instance of the engine; changes when it restarts.
    pub instance: u32,
    /// Bits of [`byway_protocols::control::features`] in force.
    pub features: u64,
    /// This domain's own number.
    pub domain: DomainId,
    /// This domain's name.
    pub name: Name,
    /// Workers that poll.
    pub workers: u32,
    /// Most entries of a work queue.
    pub queue_entries_max: u32,
    /// Most slots of a context, slot 0 included.
    pub slots_max: u32,
    /// Most bytes of a transfer.
    pub transfer_bytes_max: u32,
    /// Most descriptors of a batch.
    pub batch_count_max: u32,
    /// Longest time that a queue is polled without finding work, in microseconds.
    pub park_us: u32,
    opcodes: [u8; 32],
}

impl EngineInfo {
    /// Whether the engine carries out the operation with this code.
    #[must_use]
    pub const fn supports(&self, code: u8) -> bool {
        self.opcodes[code as usize / 8] & (1 << (code % 8)) != 0
    }

    /// Checks the version and takes over the rest.
    pub(super) const fn from_reply(reply: &QueryReply) -> Result<Self, Error> {
        if reply.version == 0 || reply.version > ABI_VERSION {
            return Err(Error::AbiVersion {
                engine: reply.version,
            });
        }
        Ok(Self {
            version: reply.version,
            instance: reply.instance,
            features: reply.features,
            domain: DomainId(reply.domain),
            name: Name(reply.name),
            workers: reply.workers,
            queue_entries_max: reply.queue_entries_max,
            slots_max: reply.slots_max,
            transfer_bytes_max: reply.transfer_bytes_max,
            batch_count_max: reply.batch_count_max,
            park_us: reply.park_us,
            opcodes: reply.opcodes,
        })
    }

    /// Nothing known yet.
    pub(super) const fn unknown() -> Self {
        Self {
            version: 0,
            instance: 0,
            features: 0,
            domain: DomainId(0),
            name: Name([0; NAME_BYTES]),
            workers: 0,
            queue_entries_max: 0,
            slots_max: 0,
            transfer_bytes_max: 0,
            batch_count_max: 0,
            park_us: 0,
            opcodes: [0; 32],
        }
    }
}

impl<T: Transport, H: Hal> Device<T, H> {
    /// QUERY anew (SPEC section 8.2): the engine's present limits, and whether it is still the
    /// same one.
    ///
    /// # Errors
    /// [`Error::Restarted`] when another instance answers: reset the device.
    pub fn query(&mut self) -> Result<EngineInfo, Error> {
        let info = self.ask()?;
        if info.instance != self.engine.instance {
            return Err(Error::Restarted {
                was: self.engine.instance,
                is: info.instance,
            });
        }
        Ok(info)
    }

    pub(super) fn ask(&mut self) -> Result<EngineInfo, Error> {
        let request = QueryRequest {
            version: ABI_VERSION,
            features: WANTED,
            ..QueryRequest::default()
        };
        EngineInfo::from_reply(&self.call(&message::Query(request))?)
    }
}
