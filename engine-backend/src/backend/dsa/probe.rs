//! Which DSA work queues this host offers to user space, from sysfs and `/dev/dsa`.
//!
//! Only looks. `byway doctor` shows what is found, the engine opens what is usable.

use std::fs;
use std::path::{Path, PathBuf};

use super::portal::Operations;

/// Where Linux's idxd driver shows devices and queues.
const SYSFS: &str = "/sys/bus/dsa/devices";
/// Where their device files are.
const NODES: &str = "/dev/dsa";

/// How a queue is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By any number of processes, and workers.
    Shared,
    /// Open once.
    Dedicated,
}

/// A queue that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueInfo {
    /// Name, such as `wq0.1`.
    pub name: String,
    /// Its device file.
    pub node: PathBuf,
    /// Mode.
    pub mode: Mode,
    /// Descriptors that it holds.
    pub size: u32,
    /// Largest transfer of one descriptor, in bytes.
    pub transfer_bytes_max: u64,
    /// Most descriptors of a batch; 0 where the device knows no batches.
    pub batch_max: u32,
    /// Operations of the device, narrowed to those of the queue.
    pub operations: Operations,
    /// The device's version: 0x100 is DSA 1.
    pub version: u32,
}

/// Why a queue cannot be used, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Its device is not enabled.
    #[error("its device {0} is {1:?}; run `accel-config enable-device {0}`")]
    Device(String, String),
    /// It is not enabled.
    #[error("it is {0:?}; configure it and run `accel-config enable-wq`")]
    State(String),
    /// It is the kernel's.
    #[error("its type is {0:?}; only those of type \"user\" can be opened")]
    Type(String),
    /// Its mode is unknown.
    #[error("its mode is {0:?}: expected \"shared\" or \"dedicated\"")]
    Mode(String),
    /// Without shared virtual addressing it takes no host addresses.
    #[error("its device has no PASID; enable the IOMMU (intel_iommu=on,sm_on)")]
    NoPasid,
    /// It has no device file.
    #[error("{0} is not there; check udev and the container's devices")]
    NoNode(String),
    /// The kernel says nothing of what it can do.
    #[error("the kernel does not say its {0}; use Linux 5.11 or later")]
    Unknown(&'static str),
}

/// A queue, usable or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Name, such as `wq0.1`.
    pub name: String,
    /// What it offers, or why it cannot be used.
    pub found: Result<QueueInfo, Unusable>,
}

/// All queues that the kernel knows, by name. None where there is no DSA.
#[must_use]
pub fn candidates() -> Vec<Candidate> {
    candidates_in(Path::new(SYSFS), Path::new(NODES))
}

fn candidates_in(sysfs: &Path, nodes: &Path) -> Vec<Candidate> {
    let Ok(entries) = fs::read_dir(sysfs) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("wq"))
        .collect();
    names.sort();
    let examined = names.into_iter().map(|name| Candidate {
        found: examine(sysfs, nodes, &name),
        name,
    });
    // Analytics devices (IAA) hang on the same bus: their queues take other descriptors.
    examined
        .filter(|c| !matches!(&c.found, Err(Unusable::Unknown("device"))))
        .collect()
}

fn examine(sysfs: &Path, nodes: &Path, name: &str) -> Result<QueueInfo, Unusable> {
    // "wq0.1" is queue 1 of "dsa0".
    let number = name.trim_start_matches("wq").split('.').next();
    let device = format!("dsa{}", number.unwrap_or_default());
    let of_queue = Attributes(sysfs.join(name));
    let of_device = Attributes(sysfs.join(&device));
    if !of_device.0.is_dir() {
        return Err(Unusable::Unknown("device"));
    }
    let state = of_device.text("state");
    if state != "enabled" {
        return Err(Unusable::Device(device, state));
    }
    let kind = of_queue.text("type");
    if kind != "user" {
        return Err(Unusable::Type(kind));
    }
    let state = of_queue.text("state");
    if state != "enabled" {
        return Err(Unusable::State(state));
    }
    if of_device.text("pasid_enabled") == "0" {
        return Err(Unusable::NoPasid);
    }
    let mode = match of_queue.text("mode").as_str() {
        "shared" => Mode::Shared,
        "dedicated" => Mode::Dedicated,
        other => return Err(Unusable::Mode(other.to_owned())),
    };
    let node = nodes.join(name);
    if !node.exists() {
        return Err(Unusable::NoNode(node.display().to_string()));
    }
    let of_device_operations =
        operations(&of_device.text("op_cap")).ok_or(Unusable::Unknown("op_cap"))?;
    // Newer kernels let the operator narrow a queue.
    let narrowed = operations(&of_queue.text("op_config"));
    Ok(QueueInfo {
        name: name.to_owned(),
        node,
        mode,
        size: of_queue.number("size").ok_or(Unusable::Unknown("size"))? as u32,
        transfer_bytes_max: of_queue
            .number("max_transfer_size")
            .ok_or(Unusable::Unknown("max_transfer_size"))?,
        batch_max: of_queue.number("max_batch_size").unwrap_or(0) as u32,
        operations: narrowed.map_or(of_device_operations, |n| of_device_operations.and(&n)),
        version: of_device.number("version").unwrap_or(0) as u32,
    })
}

/// A folder of sysfs attributes.
struct Attributes(PathBuf);

impl Attributes {
    /// Empty when it is not there.
    fn text(&self, name: &str) -> String {
        let text = fs::read_to_string(self.0.join(name)).unwrap_or_default();
        text.trim().to_owned()
    }

    fn number(&self, name: &str) -> Option<u64> {
        let text = self.text(name);
        match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        }
    }
}

/// Reads a set of operations in both forms that kernels have used: words of 64 bits with
/// `0x`, the lowest first; or words of 32 bits with commas, the highest first.
fn operations(text: &str) -> Option<Operations> {
    let mut words = [0; 4];
    if text.contains("0x") {
        for (i, word) in text.split_whitespace().enumerate() {
            *words.get_mut(i)? = u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()?;
        }
    } else {
        if text.is_empty() {
            return None;
        }
        for (i, word) in text.split(',').rev().enumerate() {
            let word = u64::from(u32::from_str_radix(word.trim(), 16).ok()?);
            *words.get_mut(i / 2)? |= word << (32 * (i % 2));
        }
    }
    Some(Operations(words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use byway_protocols::Opcode;

    /// The operations of DSA 1, as Linux 5.x and as Linux 6.x write them.
    const OLD: &str = "0x1003f03ff 0x0 0x0 0x0";
    const NEW: &str = "00000000,00000000,00000000,00000000,00000000,00000000,00000001,003f03ff";

    /// A host with `dsa0` and `wq0.0`, and what is different about it.
    fn host(changes: &[(&str, &str)]) -> Vec<Candidate> {
        let root = tempfile::tempdir().unwrap();
        let usual = [
            ("sys/dsa0/state", "enabled"),
            ("sys/dsa0/pasid_enabled", "1"),
            ("sys/dsa0/op_cap", NEW),
            ("sys/dsa0/version", "0x100"),
            ("sys/wq0.0/state", "enabled"),
            ("sys/wq0.0/type", "user"),
            ("sys/wq0.0/mode", "shared"),
            ("sys/wq0.0/size", "16"),
            ("sys/wq0.0/max_transfer_size", "2097152"),
            ("sys/wq0.0/max_batch_size", "32"),
            ("dev/wq0.0", ""),
        ];
        for (path, text) in usual.iter().chain(changes) {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if *text == "absent" {
                fs::remove_file(path).unwrap();
            } else {
                fs::write(path, format!("{text}\n")).unwrap();
            }
        }
        candidates_in(&root.path().join("sys"), &root.path().join("dev"))
    }

    fn only(changes: &[(&str, &str)]) -> Result<QueueInfo, Unusable> {
        let mut all = host(changes);
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0).found
    }

    #[test]
    fn a_usable_queue_is_described() {
        let queue = only(&[]).unwrap();
        assert_eq!((queue.name.as_str(), queue.mode), ("wq0.0", Mode::Shared));
        assert_eq!(
            (queue.size, queue.batch_max, queue.version),
            (16, 32, 0x100)
        );
        assert_eq!(queue.transfer_bytes_max, 2 << 20);
        assert!(queue.node.ends_with("dev/wq0.0"));
        assert!(queue.operations.has(Opcode::Memmove));
        assert!(!queue.operations.has(Opcode::Crc64));
    }

    #[test]
    fn operations_are_read_in_both_forms() {
        assert_eq!(operations(OLD), operations(NEW));
        let set = operations(OLD).unwrap();
        assert!(set.has(Opcode::CopyCrc) && set.has(Opcode::CacheFlush));
        assert!(!set.has(Opcode::TranslationFetch) && !set.has(Opcode::Xor));
        for bad in ["", "zz", "0x1 0x2 0x3 0x4 0x5", "1,2,3,4,5,6,7,8,9"] {
            assert_eq!(operations(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_queue_takes_no_more_than_it_was_configured_for() {
        let queue = only(&[("sys/wq0.0/op_config", "00000009")]).unwrap();
        assert_eq!(
            queue.operations,
            Operations::of(&[Opcode::Nop, Opcode::Memmove])
        );
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let why = |path, text| only(&[(path, text)]).unwrap_err().to_string();
        assert!(why("sys/dsa0/state", "disabled").contains("enable-device dsa0"));
        assert!(why("sys/wq0.0/state", "disabled").contains("enable-wq"));
        assert!(why("sys/wq0.0/type", "kernel").contains("\"kernel\""));
        assert!(why("sys/wq0.0/mode", "odd").contains("\"odd\""));
        assert!(why("sys/dsa0/pasid_enabled", "0").contains("IOMMU"));
        assert!(why("dev/wq0.0", "absent").contains("dev/wq0.0"));
        assert!(why("sys/dsa0/op_cap", "absent").contains("op_cap"));
        assert!(why("sys/wq0.0/size", "many").contains("size"));
    }

    #[test]
    fn a_host_without_it_has_no_candidates() {
        assert!(candidates_in(Path::new("/nowhere"), Path::new("/nowhere")).is_empty());
        // A queue of an analytics device.
        let names: Vec<_> = host(&[("sys/wq1.0/type", "user"), ("sys/iax1/state", "enabled")])
            .into_iter()
            .map(|c| c.name)
            .collect();
        assert_eq!(names, ["wq0.0"]);
    }
}
