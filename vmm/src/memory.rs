//! Guest RAM: sealed memfds, mapped once here and handed to KVM and the engine.
//!
//! Owns the mappings and the files. A region is never resized after creation:
//! the file carries `F_SEAL_SHRINK` and `F_SEAL_GROW`, so that no holder of the
//! descriptor can turn an engine's access into SIGBUS by truncation.
//! It must never hand out a reference to guest bytes: the guest changes them at
//! any time, so access goes through vm-memory's volatile operations or raw pointers.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;
use std::sync::OnceLock;

use byway_engine::interface::MemoryRegion;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};
use vm_memory::{
    Address, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap, MmapRegion,
};

use crate::layout::{LARGE_PAGE_SIZE, PAGE_SIZE, RAM_HOLE_END, RAM_HOLE_START};

/// Least guest RAM, in bytes.
pub const RAM_MIN: u64 = 16 << 20;
/// Most guest RAM, in bytes. A typing error should not become a 2^60 byte memfd.
pub const RAM_MAX: u64 = 16 << 40;

const SHMEM_ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// Which pages back guest RAM on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HugePages {
    /// Transparent huge pages where the host offers them for shared memory, else 4 KiB.
    #[default]
    Auto,
    /// 4 KiB pages.
    Off,
    /// Ask for transparent huge pages; an error where the host refuses the advice.
    Transparent,
    /// 2 MiB pages from the host's reserved pool (`vm.nr_hugepages`).
    Hugetlb,
}

/// What can go wrong while guest RAM is set up.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The size is out of range or not a multiple of the page size.
    #[error(
        "guest RAM of {size} bytes: use a multiple of {multiple} between {RAM_MIN} and {RAM_MAX}"
    )]
    Size {
        /// Bytes asked for.
        size: u64,
        /// What it must be a multiple of.
        multiple: u64,
    },
    /// A host call failed.
    #[error("cannot {what} ({size} bytes of guest RAM at {guest_addr:#x}){advice}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// Guest-physical start of the region.
        guest_addr: u64,
        /// Length of the region in bytes.
        size: u64,
        /// What the user can do, or nothing.
        advice: &'static str,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// vm-memory refused the regions.
    #[error("cannot assemble guest RAM: {0}")]
    Assemble(String),
    /// KVM refused a memory slot.
    #[error("KVM refused memory slot {slot}")]
    Slot {
        /// Number of the slot.
        slot: u32,
        /// What KVM said.
        #[source]
        source: kvm_ioctls::Error,
    },
}

/// How guest RAM is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RamConfig {
    /// Bytes of RAM, [`RAM_MIN`] to [`RAM_MAX`].
    pub size: u64,
    /// Pages behind it.
    pub huge_pages: HugePages,
    /// Whether all of it is faulted in before the guest starts.
    pub populate: bool,
}

/// The RAM of one VM.
#[derive(Debug)]
pub struct GuestRam {
    memory: GuestMemoryMmap,
    populate: bool,
}

impl GuestRam {
    /// Makes and maps guest RAM: one region up to 3 GiB, the rest above 4 GiB.
    ///
    /// # Errors
    /// When the size is out of range or the host has not the memory asked for.
    pub fn new(config: &RamConfig) -> Result<Self, MemoryError> {
        let multiple = match config.huge_pages {
            HugePages::Hugetlb => LARGE_PAGE_SIZE,
            _ => PAGE_SIZE,
        };
        if !(RAM_MIN..=RAM_MAX).contains(&config.size) || !config.size.is_multiple_of(multiple) {
            return Err(MemoryError::Size {
                size: config.size,
                multiple,
            });
        }
        let regions = ram_ranges(config.size)
            .into_iter()
            .map(|(start, size)| map_region(start, size, config))
            .collect::<Result<Vec<_>, _>>()?;
        let memory = GuestMemoryMmap::from_regions(regions)
            .map_err(|error| MemoryError::Assemble(error.to_string()))?;
        Ok(Self {
            memory,
            populate: config.populate,
        })
    }

    /// The mapped RAM.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// Total bytes of RAM.
    pub fn size(&self) -> u64 {
        self.memory.iter().map(GuestMemoryRegion::len).sum()
    }

    /// First address after the last byte of RAM.
    pub fn end(&self) -> u64 {
        self.ranges().last().map_or(0, |(start, size)| start + size)
    }

    /// `(first address, bytes)` of each region, ascending.
    pub fn ranges(&self) -> Vec<(u64, u64)> {
        self.memory
            .iter()
            .map(|region| (region.start_addr().raw_value(), region.len()))
            .collect()
    }

    /// Host address of `len` bytes at `guest_addr`, if they lie in one region.
    ///
    /// Valid as long as `self`. The guest and the engine change the bytes at any
    /// time: use atomic or volatile access.
    pub fn host_ptr(&self, guest_addr: u64, len: usize) -> Option<*mut u8> {
        self.memory
            .get_slice(GuestAddress(guest_addr), len)
            .ok()
            .map(|slice| slice.ptr_guard_mut().as_ptr())
    }

    /// The regions as the engine takes them.
    pub fn engine_regions(&self) -> Vec<MemoryRegion> {
        self.memory
            .iter()
            .filter_map(|region| engine_region(region, self.populate))
            .collect()
    }

    /// Gives every region to KVM, one memory slot each.
    ///
    /// # Errors
    /// When KVM refuses one.
    pub fn register(&self, vm: &VmFd) -> Result<(), MemoryError> {
        for (slot, region) in self.slots() {
            // SAFETY: `Vm` drops its KVM descriptors, and with them the last user of the
            // slot, before its `GuestRam`.
            unsafe { set_slot(vm, slot, region, 0) }?;
        }
        Ok(())
    }

    /// The regions with their memory slots.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (u32, &GuestRegionMmap)> {
        (0u32..).zip(self.memory.iter())
    }
}

/// Makes or changes a memory slot over all of a region; see KVM_SET_USER_MEMORY_REGION for
/// the flags.
///
/// # Safety
/// The region outlives the slot: until the slot is removed, or the VM's descriptors are
/// closed.
pub(crate) unsafe fn set_slot(
    vm: &VmFd,
    slot: u32,
    region: &GuestRegionMmap,
    flags: u32,
) -> Result<(), MemoryError> {
    let region = kvm_userspace_memory_region {
        slot,
        flags,
        guest_phys_addr: region.start_addr().raw_value(),
        memory_size: region.len(),
        userspace_addr: region.as_ptr() as u64,
    };
    // SAFETY: the range is a mapping of exactly that length, which the caller keeps.
    unsafe { vm.set_user_memory_region(region) }
        .map_err(|source| MemoryError::Slot { slot, source })
}

/// Removes a memory slot: no vCPU reaches its memory any more.
pub(crate) fn remove_slot(vm: &VmFd, slot: u32) -> Result<(), MemoryError> {
    let nothing = kvm_userspace_memory_region {
        slot,
        ..Default::default()
    };
    // SAFETY: a size of 0 removes the slot; no memory is named.
    unsafe { vm.set_user_memory_region(nothing) }
        .map_err(|source| MemoryError::Slot { slot, source })
}

/// A region as the engine takes it.
pub(crate) fn engine_region(region: &GuestRegionMmap, populate: bool) -> Option<MemoryRegion> {
    let backing = region.file_offset()?;
    Some(MemoryRegion {
        guest_addr: region.start_addr().raw_value(),
        size: region.len(),
        file: Arc::clone(backing.arc()),
        file_offset: backing.start(),
        writable: true,
        populate,
    })
}

/// Splits RAM around the hole below 4 GiB.
fn ram_ranges(size: u64) -> Vec<(u64, u64)> {
    let low = size.min(RAM_HOLE_START);
    let mut ranges = vec![(0, low)];
    if size > low {
        ranges.push((RAM_HOLE_END, size - low));
    }
    ranges
}

/// One region of guest RAM, which the guest does not see yet.
pub(crate) fn map_region(
    start: u64,
    size: u64,
    config: &RamConfig,
) -> Result<GuestRegionMmap, MemoryError> {
    let host_error = |what, advice| {
        move |source| MemoryError::Host {
            what,
            guest_addr: start,
            size,
            advice,
            source,
        }
    };
    let hugetlb = config.huge_pages == HugePages::Hugetlb;
    let pool_advice = if hugetlb {
        ": reserve 2 MiB pages with `sysctl vm.nr_hugepages=N`, or use hugepages = \"auto\""
    } else {
        ""
    };
    let file = sealed_memfd(size, hugetlb).map_err(host_error("create a memfd", pool_advice))?;
    let mapping = MmapRegion::from_file(FileOffset::new(file, 0), size as usize)
        .map_err(|error| io::Error::other(error.to_string()))
        .map_err(host_error("map a memfd", pool_advice))?;

    let transparent = match config.huge_pages {
        HugePages::Auto => shmem_huge_pages_offered(),
        HugePages::Transparent => true,
        HugePages::Off | HugePages::Hugetlb => false,
    };
    if transparent {
        advise(&mapping, libc::MADV_HUGEPAGE).map_err(host_error(
            "ask for transparent huge pages",
            ": use hugepages = \"auto\" or \"off\"",
        ))?;
    }
    if config.populate {
        advise(&mapping, libc::MADV_POPULATE_WRITE).map_err(host_error(
            "fault in the memory",
            ": give the VM less memory, or leave out `populate`",
        ))?;
    }
    GuestRegionMmap::new(mapping, GuestAddress(start))
        .ok_or_else(|| MemoryError::Assemble(format!("region {start:#x}+{size:#x} wraps")))
}

/// A memfd of exactly `size` bytes that nobody can resize any more.
pub(crate) fn sealed_memfd(size: u64, hugetlb: bool) -> io::Result<File> {
    let mut flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    if hugetlb {
        flags |= libc::MFD_HUGETLB | libc::MFD_HUGE_2MB;
    }
    let name = CString::from(c"byway-guest-ram");
    // SAFETY: the name is a live C string; the call takes no other pointer.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor and nobody else holds it.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(size)?;
    // F_SEAL_SEAL is left out: a later front end may want to add F_SEAL_FUTURE_WRITE.
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
    // SAFETY: F_ADD_SEALS takes an int and touches no memory of ours.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

fn advise(mapping: &MmapRegion, advice: libc::c_int) -> io::Result<()> {
    // SAFETY: the range is the mapping's own; neither advice used here
    // (MADV_HUGEPAGE, MADV_POPULATE_WRITE) changes what its bytes read as.
    let done = unsafe { libc::madvise(mapping.as_ptr().cast(), mapping.size(), advice) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Whether shared memory can get transparent huge pages here, as of the first time that it was asked for: a process in
/// its jail reads no files.
pub fn shmem_huge_pages_offered() -> bool {
    static OFFERED: OnceLock<bool> = OnceLock::new();
    *OFFERED.get_or_init(|| {
        fs::read_to_string(SHMEM_ENABLED)
            .is_ok_and(|text| !matches!(selected(&text), None | Some("never" | "deny")))
    })
}

/// The choice in brackets of a sysfs file such as `always [madvise] never`.
pub fn selected(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(choice, _)| choice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    fn ram(size: u64) -> GuestRam {
        GuestRam::new(&RamConfig {
            size,
            huge_pages: HugePages::Auto,
            populate: false,
        })
        .unwrap()
    }

    #[test]
    fn small_ram_is_one_region() {
        assert_eq!(ram(64 << 20).ranges(), [(0, 64 << 20)]);
    }

    #[test]
    fn ram_above_three_gib_goes_around_the_hole() {
        let ram = ram(4 << 30);
        assert_eq!(ram.ranges(), [(0, 3 << 30), (4 << 30, 1 << 30)]);
        assert_eq!(ram.size(), 4 << 30);
        assert!(ram.host_ptr(RAM_HOLE_START, 1).is_none());
        assert!(ram.host_ptr(RAM_HOLE_START - 1, 2).is_none());
        assert!(ram.host_ptr(RAM_HOLE_END, 4096).is_some());
    }

    #[test]
    fn the_file_cannot_be_resized() {
        let ram = ram(16 << 20);
        let file = &ram.engine_regions()[0].file;
        assert!(file.set_len(4096).is_err());
        assert!(file.set_len(32 << 20).is_err());
        assert_eq!(file.metadata().unwrap().len(), 16 << 20);
    }

    #[test]
    fn the_engine_sees_the_same_bytes() {
        use std::os::unix::fs::FileExt;
        let ram = ram(16 << 20);
        ram.memory()
            .write_obj(0x1122_3344_5566_7788u64, GuestAddress(0x5000))
            .unwrap();
        let region = &ram.engine_regions()[0];
        let mut bytes = [0; 8];
        region
            .file
            .read_exact_at(&mut bytes, region.file_offset + 0x5000)
            .unwrap();
        assert_eq!(u64::from_le_bytes(bytes), 0x1122_3344_5566_7788);
    }

    #[test]
    fn sizes_out_of_range_are_refused() {
        for size in [
            0,
            4096,
            RAM_MIN - 4096,
            RAM_MIN + 1,
            RAM_MAX + 4096,
            u64::MAX,
        ] {
            let refused = GuestRam::new(&RamConfig {
                size,
                huge_pages: HugePages::Off,
                populate: false,
            });
            assert!(matches!(refused, Err(MemoryError::Size { .. })), "{size}");
        }
    }

    #[test]
    fn populate_faults_every_page_in() {
        let ram = GuestRam::new(&RamConfig {
            size: 16 << 20,
            huge_pages: HugePages::Off,
            populate: true,
        })
        .unwrap();
        use std::os::unix::fs::MetadataExt;
        let blocks = ram.engine_regions()[0].file.metadata().unwrap().blocks();
        assert_eq!(blocks * 512, 16 << 20);
    }

    #[test]
    fn sysfs_choices_are_read() {
        assert_eq!(selected("always [madvise] never\n"), Some("madvise"));
        assert_eq!(selected("nothing chosen"), None);
    }
}
