//! What a VM's devices are made from: plain values, filled in by `vms.toml`, by the command
//! line, or by an action of the API socket. Nothing is opened here.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Most virtio devices of one VM beside the Byway device: so many interrupt lines are left.
pub const DEVICES_MAX: usize = 14;
/// Bytes a second that virtio-rng gives where nothing else is said.
pub const RNG_BYTES_PER_S: u64 = 1 << 20;

/// The devices of a VM, beside the Byway device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSettings {
    /// Disks, in the order in which the guest finds them.
    pub disks: Vec<DiskSettings>,
    /// Empty disks after them, into which a disk can be put while the VM runs.
    pub spare_disks: u8,
    /// Network interfaces.
    pub nets: Vec<NetSettings>,
    /// A source of random numbers.
    pub rng: Option<RngSettings>,
    /// NVMe controllers, in the order of their numbers on the PCI bus.
    #[serde(default)]
    pub nvmes: Vec<NvmeSettings>,
}

impl DeviceSettings {
    /// How many virtio devices there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.disks.len()
            + usize::from(self.spare_disks)
            + self.nets.len()
            + usize::from(self.rng.is_some())
    }
}

/// What becomes of a disk's writes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskWrites {
    /// They go to the file itself.
    #[default]
    Through,
    /// There are none: the disk is read-only.
    Refused,
    /// The file stays as it is; they go to a private overlay, which is gone when the VM is.
    Overlay,
    /// As before, but the overlay is this file, which is made if it is not there, and kept.
    KeptOverlay(PathBuf),
}

/// A disk: a raw file or a block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSettings {
    /// The file or device.
    pub path: PathBuf,
    /// What becomes of writes.
    #[serde(default)]
    pub writes: DiskWrites,
}

/// What an NVMe controller's namespace is kept on: a raw file or a block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvmeSettings {
    /// The file or device.
    pub path: PathBuf,
    /// Whether the namespace is write-protected.
    #[serde(default)]
    pub readonly: bool,
}

impl NvmeSettings {
    /// The same as a disk, without an overlay.
    #[must_use]
    pub fn disk(&self) -> DiskSettings {
        DiskSettings {
            path: self.path.clone(),
            writes: if self.readonly {
                DiskWrites::Refused
            } else {
                DiskWrites::Through
            },
        }
    }
}

/// Where a network interface's frames come from and go to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TapSource {
    /// The host's TAP interface of this name; it is made if it is not there and the process may.
    Name(String),
    /// A descriptor that whoever started this process has made ready: of `/dev/net/tun`, attached; or a connected Unix socket of type
    /// `SOCK_SEQPACKET`, of which each packet is a frame.
    Fd(i32),
}

impl fmt::Display for TapSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Fd(fd) => write!(f, "descriptor {fd}"),
        }
    }
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetSettings {
    /// Its other end.
    pub tap: TapSource,
    /// Its address; without one, an address that follows from the VM's name and the interface's number.
    pub mac: Option<Mac>,
}

/// A source of random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RngSettings {
    /// Most bytes a second; the guest waits for more. At least 1.
    pub bytes_per_s: u64,
}

impl Default for RngSettings {
    fn default() -> Self {
        Self {
            bytes_per_s: RNG_BYTES_PER_S,
        }
    }
}

/// An Ethernet address: unicast, and not zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mac([u8; 6]);

impl Mac {
    /// The six bytes, as sent.
    #[must_use]
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }

    /// A locally administered address that follows from a VM's name and an interface's number, so
    /// that it is the same at each start.
    #[must_use]
    pub fn of(vm: &str, interface: usize) -> Self {
        // FNV-1a: all that matters is that other names give other addresses.
        let bytes = vm.bytes().chain([0, interface as u8]);
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        let [a, b, c, d, e, ..] = (hash ^ hash >> 32).to_be_bytes();
        Self([0x02, a, b, c, d, e])
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2);
            let value = part.and_then(|part| u8::from_str_radix(part, 16).ok());
            // `from_str_radix` takes a sign.
            *byte = value
                .filter(|_| !text.contains('+'))
                .ok_or_else(|| format!("{text:?} is not six pairs of hexadecimal digits"))?;
        }
        if parts.next().is_some() {
            return Err(format!("{text:?} has more than six pairs"));
        }
        if bytes[0] & 1 != 0 {
            return Err(format!("{text} is a multicast address"));
        }
        if bytes == [0; 6] {
            return Err(format!("{text} is no interface's address"));
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        let mac: Mac = "02:0a:FF:00:10:99".parse().unwrap();
        assert_eq!(mac.bytes(), [2, 10, 255, 0, 16, 0x99]);
        assert_eq!(mac.to_string(), "02:0a:ff:00:10:99");
        for bad in [
            "",
            "02:0a:ff:00:10",
            "02:0a:ff:00:10:99:01",
            "02:0a:ff:00:10:9",
            "02:0a:ff:00:10:+9",
            "02-0a-ff-00-10-99",
            "01:00:00:00:00:00",
            "00:00:00:00:00:00",
            "gg:00:00:00:00:00",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_follow_from_names() {
        let mac = Mac::of("alice", 0);
        assert_eq!(mac, Mac::of("alice", 0));
        assert_eq!(mac.to_string().parse(), Ok(mac));
        assert_ne!(mac, Mac::of("alice", 1));
        assert_ne!(mac, Mac::of("bob", 0));
    }
}
