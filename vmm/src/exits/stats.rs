//! Reader of KVM's binary statistics (`KVM_GET_STATS_FD`, kernel 5.14 and later).
//!
//! The file is `header | id | descriptors | data`. Header and descriptors do not change
//! while the file is open, so they are read and checked once; a sample is one
//! `pread` of the data block. Offsets come from the kernel but are checked
//! all the same: a short or odd file gives an error, never a wrong figure.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use kvm_bindings::{KVM_STATS_TYPE_CUMULATIVE, KVM_STATS_TYPE_INSTANT, KVM_STATS_TYPE_MASK};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(KVM_GET_STATS_FD, kvm_bindings::KVMIO, 0xce);

const HEADER_BYTES: usize = 24;
const DESCRIPTOR_BYTES: usize = 16;
/// Bounds on what a sane kernel says; far above the real figures (about 60 of each).
const DESCRIPTORS_MAX: usize = 4096;
const NAME_BYTES_MAX: usize = 256;
const DATA_BYTES_MAX: usize = 1 << 20;

/// What can go wrong with a statistics file.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// KVM offers no such file.
    #[error("KVM gives no statistics file; it needs Linux 5.14 or later")]
    Unavailable(#[source] io::Error),
    /// The file cannot be read.
    #[error("cannot read KVM's statistics")]
    Read(#[from] io::Error),
    /// The file is not in the documented format.
    #[error("KVM's statistics file is malformed: {0}")]
    Malformed(&'static str),
    /// There is no vCPU of that number.
    #[error("there is no vCPU {0}")]
    NoSuchVcpu(usize),
}

/// One counter of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Counter {
    name: String,
    /// Byte offset of its first value within the data block.
    offset: usize,
}

/// Names and places of the scalar counters of one statistics file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatsLayout {
    counters: Vec<Counter>,
    data_offset: u64,
    data_bytes: usize,
}

impl StatsLayout {
    /// Parses header and descriptors. `read_at` fills a buffer from an offset.
    ///
    /// # Errors
    /// When reading fails or the file is not in the documented format.
    pub fn parse(read_at: impl Fn(&mut [u8], u64) -> io::Result<()>) -> Result<Self, StatsError> {
        let mut header = [0; HEADER_BYTES];
        read_at(&mut header, 0)?;
        let name_bytes = word(&header, 4) as usize;
        let count = word(&header, 8) as usize;
        let descriptors_offset = u64::from(word(&header, 16));
        let data_offset = u64::from(word(&header, 20));
        if name_bytes == 0 || name_bytes > NAME_BYTES_MAX {
            return Err(StatsError::Malformed("length of names"));
        }
        if count > DESCRIPTORS_MAX {
            return Err(StatsError::Malformed("number of descriptors"));
        }

        let stride = DESCRIPTOR_BYTES + name_bytes;
        let mut descriptors = vec![0; stride * count];
        read_at(&mut descriptors, descriptors_offset)?;

        let mut counters = Vec::with_capacity(count);
        let mut data_bytes = 0;
        for descriptor in descriptors.chunks_exact(stride) {
            let kind = word(descriptor, 0) & KVM_STATS_TYPE_MASK;
            let values = usize::from(u16::from_le_bytes([descriptor[6], descriptor[7]]));
            let offset = word(descriptor, 8) as usize;
            let end = offset
                .checked_add(values * 8)
                .filter(|end| *end <= DATA_BYTES_MAX)
                .ok_or(StatsError::Malformed("offset of a counter"))?;
            data_bytes = data_bytes.max(end);
            // Histograms and peaks are of no use as a witness.
            let scalar = values == 1
                && (kind == KVM_STATS_TYPE_CUMULATIVE || kind == KVM_STATS_TYPE_INSTANT);
            if !scalar {
                continue;
            }
            let name = &descriptor[DESCRIPTOR_BYTES..];
            let length = name
                .iter()
                .position(|byte| *byte == 0)
                .unwrap_or(name.len());
            let name = std::str::from_utf8(&name[..length])
                .map_err(|_| StatsError::Malformed("name of a counter"))?;
            counters.push(Counter {
                name: name.to_owned(),
                offset,
            });
        }
        Ok(Self {
            counters,
            data_offset,
            data_bytes,
        })
    }

    /// Names of the scalar counters, in the kernel's order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.counters.iter().map(|counter| counter.name.as_str())
    }

    /// Reads one sample.
    ///
    /// # Errors
    /// When reading fails.
    pub fn sample(
        &self,
        read_at: impl Fn(&mut [u8], u64) -> io::Result<()>,
    ) -> Result<StatsSample<'_>, StatsError> {
        let mut data = vec![0; self.data_bytes];
        read_at(&mut data, self.data_offset)?;
        Ok(StatsSample { layout: self, data })
    }
}

/// The values of all counters at one moment.
#[derive(Debug)]
pub struct StatsSample<'a> {
    layout: &'a StatsLayout,
    data: Vec<u8>,
}

impl StatsSample<'_> {
    /// Value of a counter; `None` when the kernel does not offer it.
    pub fn get(&self, name: &str) -> Option<u64> {
        let counter = self.layout.counters.iter().find(|c| c.name == name)?;
        let bytes = self.data.get(counter.offset..counter.offset + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }
}

/// The statistics of one vCPU. Stays readable from any thread while the vCPU runs.
#[derive(Debug)]
pub struct VcpuStats {
    file: File,
    layout: StatsLayout,
}

impl VcpuStats {
    /// Opens the statistics of `vcpu`.
    ///
    /// # Errors
    /// When the kernel has none, or the file is not in the documented format.
    pub fn open(vcpu: &VcpuFd) -> Result<Self, StatsError> {
        // SAFETY: the descriptor is a vCPU's and the call takes no argument.
        let fd = unsafe { ioctl(vcpu, KVM_GET_STATS_FD()) };
        if fd < 0 {
            return Err(StatsError::Unavailable(io::Error::last_os_error()));
        }
        // SAFETY: the kernel just gave us this descriptor and nobody else holds it.
        let file = unsafe { File::from_raw_fd(fd) };
        debug_assert!(file.as_raw_fd() >= 0);
        let layout = StatsLayout::parse(|buffer, at| file.read_exact_at(buffer, at))?;
        Ok(Self { file, layout })
    }

    /// Names of the counters that this kernel offers.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.layout.names()
    }

    /// Reads all counters.
    ///
    /// # Errors
    /// When reading fails.
    pub fn sample(&self) -> Result<StatsSample<'_>, StatsError> {
        self.layout
            .sample(|buffer, at| self.file.read_exact_at(buffer, at))
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub const LOG_HISTOGRAM: u32 = 4;

    /// A statistics file as the kernel lays it out, `(name, type, values)`.
    pub fn synthetic(counters: &[(&str, u32, &[u64])]) -> Vec<u8> {
        const NAME: usize = 48;
        let id_offset = HEADER_BYTES;
        let descriptors_offset = id_offset + NAME;
        let data_offset = descriptors_offset + counters.len() * (DESCRIPTOR_BYTES + NAME);
        let mut file = Vec::new();
        for word in [
            0,
            NAME,
            counters.len(),
            id_offset,
            descriptors_offset,
            data_offset,
        ] {
            file.extend((word as u32).to_le_bytes());
        }
        file.resize(descriptors_offset, 0);
        let mut offset = 0u32;
        for (name, kind, values) in counters {
            file.extend(kind.to_le_bytes());
            file.extend(0i16.to_le_bytes());
            file.extend((values.len() as u16).to_le_bytes());
            file.extend(offset.to_le_bytes());
            file.extend(0u32.to_le_bytes());
            let mut bytes = name.as_bytes().to_vec();
            bytes.resize(NAME, 0);
            file.extend(bytes);
            offset += values.len() as u32 * 8;
        }
        for (_, _, values) in counters {
            for value in *values {
                file.extend(value.to_le_bytes());
            }
        }
        file
    }

    pub fn reader(file: &[u8]) -> impl Fn(&mut [u8], u64) -> io::Result<()> + '_ {
        move |buffer, at| {
            let at = at as usize;
            let from = file
                .get(at..at + buffer.len())
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(from);
            Ok(())
        }
    }

    #[test]
    fn scalars_are_found_between_histograms() {
        let file = synthetic(&[
            ("exits", KVM_STATS_TYPE_CUMULATIVE, &[7]),
            ("halt_wait_hist", LOG_HISTOGRAM, &[1, 2, 3]),
            ("irq_exits", KVM_STATS_TYPE_CUMULATIVE, &[u64::MAX]),
            ("pages", KVM_STATS_TYPE_INSTANT, &[4, 5]),
            ("guest_mode", KVM_STATS_TYPE_INSTANT, &[1]),
        ]);
        let layout = StatsLayout::parse(reader(&file)).unwrap();
        assert_eq!(
            layout.names().collect::<Vec<_>>(),
            ["exits", "irq_exits", "guest_mode"]
        );
        let sample = layout.sample(reader(&file)).unwrap();
        assert_eq!(sample.get("exits"), Some(7));
        assert_eq!(sample.get("irq_exits"), Some(u64::MAX));
        assert_eq!(sample.get("halt_wait_hist"), None);
        assert_eq!(sample.get("mmio_exits"), None);
    }

    #[test]
    fn a_truncated_file_is_an_error() {
        let file = synthetic(&[("exits", KVM_STATS_TYPE_CUMULATIVE, &[7])]);
        for length in 0..file.len() {
            let short = &file[..length];
            let read = StatsLayout::parse(reader(short)).and_then(|layout| {
                layout
                    .sample(reader(short))
                    .map(|sample| sample.get("exits"))
            });
            assert!(read.is_err(), "{length} bytes");
        }
    }

    #[test]
    fn absurd_headers_are_refused() {
        let good = synthetic(&[("exits", KVM_STATS_TYPE_CUMULATIVE, &[7])]);
        for (at, value) in [(4, 0), (4, 1 << 20), (8, 1 << 30)] {
            let mut bad = good.clone();
            bad[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
            assert!(matches!(
                StatsLayout::parse(reader(&bad)),
                Err(StatsError::Malformed(_))
            ));
        }
        let mut bad = good;
        let offset_of_first = HEADER_BYTES + 48 + 8;
        bad[offset_of_first..offset_of_first + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(
            StatsLayout::parse(reader(&bad)),
            Err(StatsError::Malformed(_))
        ));
    }
}
