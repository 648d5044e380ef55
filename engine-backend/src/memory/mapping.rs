//! The engine's own mapping of one region of guest RAM.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::sigbus::{self, Registration};
use super::{MemoryError, file_system};
use crate::interface::MemoryRegion;

/// Regions are mapped so that host and guest-physical addresses agree modulo this, or no
/// large stage-2 leaf could exist.
const CONGRUENCE: usize = 1 << 30;

/// A region's file, mapped shared; unmapped when dropped.
///
/// Whoever hands out addresses in it keeps it alive: spans by holding it, translations by
/// the grace period that passes before [`super::Retired::free`].
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    /// `Some` until dropped: taken out before the memory goes.
    registration: Option<Registration>,
}

// SAFETY: a mapping belongs to the process, not to a thread; access is by atomics.
unsafe impl Send for Mapping {}
// SAFETY: as for `Send`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the region; `dead` is set when it loses its backing.
    pub(super) fn new(region: &MemoryRegion, dead: &Arc<AtomicBool>) -> Result<Self, MemoryError> {
        let host = |what| move |source| MemoryError::Host { what, source };
        let len = usize::try_from(region.size)
            .ok()
            .filter(|&len| len as u64 <= sigbus::REGION_BYTES_MAX)
            .ok_or_else(|| {
                MemoryError::BadArgument(format!(
                    "region of {:#x} bytes: at most {:#x} are supported",
                    region.size,
                    sigbus::REGION_BYTES_MAX
                ))
            })?;
        fits_pages(region)?;
        sigbus::install().map_err(host("cannot install the SIGBUS handler"))?;
        let base = map_congruent(region, len).map_err(host("cannot map guest RAM"))?;
        // From here on the drop of `mapping` unmaps it.
        let mut mapping = Self {
            base,
            len,
            registration: None,
        };
        let registration =
            Registration::new(base.as_ptr().addr(), len, dead).ok_or(MemoryError::Region {
                guest_addr: region.guest_addr,
                size: region.size,
                what: "too many regions in this process",
            })?;
        mapping.registration = Some(registration);
        // Advice: where the host offers no huge pages for this file, small ones do.
        let _ = mapping.advise(libc::MADV_HUGEPAGE);
        if region.populate {
            let advice = if region.writable {
                libc::MADV_POPULATE_WRITE
            } else {
                libc::MADV_POPULATE_READ
            };
            mapping
                .advise(advice)
                .map_err(host("cannot fault in guest RAM (is there enough memory?)"))?;
        }
        Ok(mapping)
    }

    /// First byte.
    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Length in bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn advise(&self, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: the range is this mapping; none of the advices used changes its contents.
        check(unsafe { libc::madvise(self.base.as_ptr().cast(), self.len, advice) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // First out of the table: the range may be mapped anew by anybody afterwards.
        drop(self.registration.take());
        // SAFETY: mapped by `map_congruent` for this value, which nobody uses any more.
        let rc = unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert_eq!(rc, 0);
    }
}

/// Checks that a region of a file of hugetlbfs begins and ends with a page of that. The kernel maps no part of one: what it maps
/// beyond the region would take the place of whatever lies there, the engine's own memory included.
fn fits_pages(region: &MemoryRegion) -> Result<(), MemoryError> {
    let Some(page) = huge_page_bytes(&region.file).map_err(|source| MemoryError::Host {
        what: "cannot tell which file system the file behind guest RAM is on",
        source,
    })?
    else {
        return Ok(());
    };
    let MemoryRegion {
        guest_addr,
        size,
        file_offset,
        ..
    } = *region;
    let numbers = [guest_addr, size, file_offset];
    if page > CONGRUENCE as u64 || !numbers.iter().all(|number| number.is_multiple_of(page)) {
        return Err(MemoryError::BadArgument(format!(
            "region {guest_addr:#x}+{size:#x} at file offset {file_offset:#x}: the file has huge pages of {page:#x} bytes; \
             expected multiples of that, and pages of at most {CONGRUENCE:#x} bytes"
        )));
    }
    Ok(())
}

/// How large a file's pages are, if it is one of hugetlbfs. Asked of the file system: a file of tmpfs may have huge pages, too,
/// and be mapped in parts of them all the same.
fn huge_page_bytes(file: &File) -> io::Result<Option<u64>> {
    let found = file_system(file)?;
    Ok((found.f_type == libc::HUGETLBFS_MAGIC).then_some(found.f_bsize as u64))
}

/// Maps the file at an address congruent to the region's guest-physical address: reserves
/// enough address space, maps over the right part of it and gives back the rest.
fn map_congruent(region: &MemoryRegion, len: usize) -> io::Result<NonNull<u8>> {
    let reserved = len
        .checked_add(CONGRUENCE)
        .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
    let offset = libc::off_t::try_from(region.file_offset)
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: a fresh reservation at an address of the kernel's choice.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            reserved,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let start = start.cast::<u8>();
    let wanted = (region.guest_addr as usize) % CONGRUENCE;
    let before = wanted.wrapping_sub(start.addr()) % CONGRUENCE;
    let base = start.wrapping_add(before);
    let mut prot = libc::PROT_READ;
    if region.writable {
        prot |= libc::PROT_WRITE;
    }
    // SAFETY: replaces a part of the reservation made above, which nobody else knows of.
    let mapped = unsafe {
        libc::mmap(
            base.cast(),
            len,
            prot,
            libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE,
            region.file.as_raw_fd(),
            offset,
        )
    };
    let result = if mapped == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        NonNull::new(base).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))
    };
    // Where mapping failed, all of the reservation goes.
    let (tail, tail_len) = match result {
        Ok(_) => (base.wrapping_add(len), CONGRUENCE - before),
        Err(_) => (base, reserved - before),
    };
    let end = start.addr() + reserved;
    for (at, len, rest) in [(start, before, start), (tail, tail_len, base)] {
        // SAFETY: a part of the reservation that the region does not use.
        if len != 0 && unsafe { libc::munmap(at.cast(), len) } < 0 {
            let refused = io::Error::last_os_error();
            // SAFETY: all that there still is of the reservation, of which nobody has been told.
            unsafe { libc::munmap(rest.cast(), end - rest.addr()) };
            return Err(refused);
        }
    }
    result
}

fn check(rc: libc::c_int) -> io::Result<()> {
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
