//! Guest RAM for tests, which look at it through its file: never by the engine's mapping.

use std::fs::File;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::GuestMemory;
use crate::interface::MemoryRegion;

/// A sealable anonymous file of this many bytes.
pub(crate) fn memfd(bytes: u64) -> Arc<File> {
    // SAFETY: a new file descriptor, owned by the `File` alone.
    let file = unsafe {
        let fd = libc::memfd_create(c"test-ram".as_ptr(), libc::MFD_ALLOW_SEALING);
        assert!(fd >= 0);
        File::from_raw_fd(fd)
    };
    file.set_len(bytes).unwrap();
    Arc::new(file)
}

/// A domain's RAM over one file.
pub(crate) struct TestRam {
    pub(crate) memory: Arc<GuestMemory>,
    file: Arc<File>,
    /// Guest-physical start, size, writable.
    regions: Vec<(u64, u64, bool)>,
}

impl TestRam {
    /// Regions: guest-physical start, size, writable.
    pub(crate) fn new(regions: &[(u64, u64, bool)]) -> Self {
        let file = memfd(regions.iter().map(|r| r.1).sum());
        let memory = Arc::new(GuestMemory::new());
        let mut file_offset = 0;
        for &(guest_addr, size, writable) in regions {
            memory
                .add_region(MemoryRegion {
                    guest_addr,
                    size,
                    file: Arc::clone(&file),
                    file_offset,
                    writable,
                    populate: false,
                })
                .unwrap();
            file_offset += size;
        }
        Self {
            memory,
            file,
            regions: regions.to_vec(),
        }
    }

    /// Takes what is behind the first `bytes` bytes of its file away.
    pub(crate) fn truncate(&self, bytes: u64) {
        self.file.set_len(bytes).unwrap();
    }

    /// Offset in the file, and whether the region may be written; `None` outside RAM.
    pub(crate) fn locate(&self, gpa: u64) -> Option<(u64, bool)> {
        let mut file_offset = 0;
        for &(start, size, writable) in &self.regions {
            if (start..start + size).contains(&gpa) {
                return Some((file_offset + gpa - start, writable));
            }
            file_offset += size;
        }
        None
    }

    pub(crate) fn read_u64(&self, gpa: u64) -> u64 {
        let mut bytes = [0; 8];
        let (offset, _) = self.locate(gpa).unwrap();
        self.file.read_exact_at(&mut bytes, offset).unwrap();
        u64::from_le_bytes(bytes)
    }

    pub(crate) fn write_u64(&self, gpa: u64, value: u64) {
        let (offset, _) = self.locate(gpa).unwrap();
        self.file
            .write_all_at(&value.to_le_bytes(), offset)
            .unwrap();
    }
}
