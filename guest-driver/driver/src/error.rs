//! What can go wrong, and whether the device is still usable afterwards.

use byway_protocols::{ABI_VERSION, ControlStatus, config};
use core::fmt;

/// Why a call failed. Only [`Error::Broken`] makes later calls fail as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The transport's registers do not begin with virtio's magic value.
    NotVirtio {
        /// What stood there.
        found: u32,
    },
    /// The transport speaks another version of virtio-mmio than 2.
    TransportVersion {
        /// Its version.
        found: u32,
    },
    /// The transport has no device behind it (device id 0).
    NoDevice,
    /// A virtio device of another kind than the driver's.
    DeviceId {
        /// Its virtio id.
        found: u32,
        /// That of the driver's.
        expected: u32,
    },
    /// A virtio device, but not Byway's: its config space begins otherwise.
    NotByway {
        /// What stood in place of the magic.
        found: u32,
    },
    /// No ABI version that both sides speak (SPEC section 1).
    AbiVersion {
        /// Version that the engine named.
        engine: u32,
    },
    /// The device does not offer VIRTIO_F_VERSION_1.
    LegacyDevice,
    /// The device took back FEATURES_OK.
    FeaturesRefused,
    /// A virtqueue is absent, too small, or in use already.
    Virtqueue {
        /// Its index.
        queue: u16,
        /// Most entries that the device allows; 0 = absent.
        size_max: u16,
    },
    /// The kernel has no DMA memory left.
    NoMemory,
    /// A name is empty, longer than 32 bytes, or contains a zero byte.
    Name,
    /// Entries of a work queue that are not a power of two from 2 to 32768.
    Entries(u32),
    /// The engine serves under another instance number than at attach: all objects are gone.
    /// Reset the device.
    Restarted {
        /// Instance at attach.
        was: u32,
        /// Instance now.
        is: u32,
    },
    /// The engine refused the request.
    Refused(ControlStatus),
    /// The engine refused the request with a status that this driver does not know.
    RefusedUnknown(u32),
    /// The device cannot be relied on until it is reset.
    Broken(Broken),
}

/// In what way the device is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Broken {
    /// It did not answer in time.
    TimedOut,
    /// It set DEVICE_NEEDS_RESET.
    NeedsReset,
    /// It did not acknowledge a reset; its memory is never reused.
    ResetIgnored,
    /// It returned more buffers than it was given.
    UsedIndex,
    /// It returned a buffer that it was not given, or claims more bytes than there was room for.
    UsedElement,
    /// A reply is too short, of another length than the request's kind has, or answers another.
    Reply,
    /// An event is shorter than 64 bytes.
    EventLength(u32),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotVirtio { found } => {
                write!(
                    f,
                    "no virtio-mmio registers there: magic {found:#010x}, expected 0x74726976"
                )
            }
            Self::TransportVersion { found } => {
                write!(f, "virtio-mmio version {found}; expected 2 (not legacy)")
            }
            Self::NoDevice => f.write_str("virtio-mmio registers with no device behind them"),
            Self::DeviceId { found, expected } => {
                write!(f, "a virtio device of id {found}; expected {expected}")
            }
            Self::NotByway { found } => write!(
                f,
                "not a Byway device: config space begins {found:#010x}, expected {:#010x}",
                config::MAGIC
            ),
            Self::AbiVersion { engine } => write!(
                f,
                "no common ABI version: the engine speaks {engine}, this driver {ABI_VERSION}"
            ),
            Self::LegacyDevice => f.write_str("the device does not offer VIRTIO_F_VERSION_1"),
            Self::FeaturesRefused => f.write_str("the device refused features that it offers"),
            Self::Virtqueue { queue, size_max } => {
                write!(
                    f,
                    "virtqueue {queue} allows {size_max} entries or is in use"
                )
            }
            Self::NoMemory => f.write_str("no DMA memory left"),
            Self::Name => f.write_str("a domain name has 1 to 32 bytes, none of them zero"),
            Self::Entries(found) => {
                write!(
                    f,
                    "{found} entries; expected a power of two from 2 to 32768"
                )
            }
            Self::Restarted { was, is } => {
                write!(
                    f,
                    "the engine restarted (instance {was}, now {is}); reset the device"
                )
            }
            Self::Refused(status) => write!(f, "refused: {status}"),
            Self::RefusedUnknown(code) => write!(f, "refused with unknown status {code}"),
            Self::Broken(how) => write!(f, "device broken, reset it: {how}"),
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("no answer in time"),
            Self::NeedsReset => f.write_str("it asks for a reset"),
            Self::ResetIgnored => f.write_str("it does not acknowledge a reset"),
            Self::UsedIndex => f.write_str("it returned more buffers than it was given"),
            Self::UsedElement => f.write_str("it returned a buffer that it was not given"),
            Self::Reply => f.write_str("a reply does not fit its request"),
            Self::EventLength(found) => write!(f, "an event of {found} bytes, expected 64"),
        }
    }
}

impl core::error::Error for Error {}
impl core::error::Error for Broken {}

impl From<Broken> for Error {
    fn from(how: Broken) -> Self {
        Self::Broken(how)
    }
}
