//! [`UserQueue`]: the portal of a real device, a character device under `/dev/dsa`.
//!
//! Owns the open file and the mapped portal page. Opening binds the process's address
//! space to the queue (shared virtual addressing), closing makes the kernel drain it. The
//! instructions are written as bytes and run only where the processor has them.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::ptr;

use super::portal::{Entry, Features, Portal};
use super::probe::{Mode, QueueInfo};
use super::wire::HwDescriptor;

/// Bytes of a portal: 64 addresses of 64 bytes, all the same door.
const PORTAL_BYTES: usize = 4096;
/// CPUID leaf 7, ECX.
const HAS_MOVDIR64B: u32 = 1 << 28;
/// CPUID leaf 7, ECX.
const HAS_ENQCMD: u32 = 1 << 29;
/// The version of devices that may be given batches by mapped portals only.
const VERSION_1: u32 = 0x100;

/// Why a queue cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its device file cannot be opened.
    #[error("cannot open {path}")]
    Open {
        /// The file.
        path: String,
        /// What the kernel said: busy means that another process has the dedicated queue.
        #[source]
        source: io::Error,
    },
    /// Neither the portal nor `write` can be used.
    #[error("cannot map the portal of {path}; grant CAP_SYS_RAWIO or use a newer kernel")]
    Map {
        /// The device file.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// An open queue.
#[derive(Debug)]
pub struct UserQueue {
    /// `None` once closed.
    file: Option<File>,
    /// Null where `write` is the way in, or once closed.
    portal: *mut u8,
    /// Where in the portal the next descriptor goes.
    offset: usize,
}

// SAFETY: the portal page is the queue's own, and used by whoever owns the queue only.
unsafe impl Send for UserQueue {}

impl UserQueue {
    /// Opens a queue, by its portal if that can be mapped and the processor has the
    /// instruction, else by `write`.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(info: &QueueInfo) -> Result<(Self, Features), OpenError> {
        let path = || info.node.display().to_string();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&info.node)
            .map_err(|source| OpenError::Open {
                path: path(),
                source,
            })?;
        let mut features = Features {
            entry: Entry::Write,
            operations: info.operations,
            transfer_bytes_max: info.transfer_bytes_max,
            batch_max: info.batch_max,
        };
        let mapped = entry_of(info).map(|entry| map(&file).map(|portal| (entry, portal)));
        let portal = match mapped {
            Some(Ok((entry, portal))) => {
                features.entry = entry;
                portal
            }
            // Kernels that refuse the mapping take descriptors by `write` instead; none at
            // all is a valid and harmless one to ask with.
            Some(Err(source)) if (&file).write(&[]).is_err() => {
                return Err(OpenError::Map {
                    path: path(),
                    source,
                });
            }
            Some(Err(_)) | None => {
                if info.version <= VERSION_1 {
                    features.batch_max = 0;
                }
                ptr::null_mut()
            }
        };
        let queue = Self {
            file: Some(file),
            portal,
            offset: 0,
        };
        Ok((queue, features))
    }

    /// The next address of the portal; neighbouring stores to one address would wait for
    /// each other.
    fn door(&mut self) -> *mut u8 {
        let door = self.portal.wrapping_add(self.offset);
        self.offset = (self.offset + size_of::<HwDescriptor>()) % PORTAL_BYTES;
        door
    }
}

/// The instruction for the queue's mode, if the processor has it.
fn entry_of(info: &QueueInfo) -> Option<Entry> {
    let has = __cpuid_count(7, 0).ecx;
    match info.mode {
        Mode::Shared if has & HAS_ENQCMD != 0 => Some(Entry::Enqcmd),
        Mode::Dedicated if has & HAS_MOVDIR64B != 0 => Some(Entry::Movdir64b {
            credits: info.size.max(1),
        }),
        Mode::Shared | Mode::Dedicated => None,
    }
}

fn map(file: &File) -> io::Result<*mut u8> {
    // SAFETY: a new mapping at an address of the kernel's choice.
    let portal = unsafe {
        libc::mmap(
            ptr::null_mut(),
            PORTAL_BYTES,
            libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_POPULATE,
            file.as_raw_fd(),
            0,
        )
    };
    if portal == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(portal.cast())
}

impl Portal for UserQueue {
    unsafe fn enqcmd(&mut self, descriptor: &HwDescriptor) -> bool {
        let full: u8;
        // SAFETY: the portal is mapped while the queue is open, and `open` chose this way
        // in because the processor has the instruction. It reads the descriptor alone; what
        // the device does with it is the caller's guarantee. SFENCE: the instruction is not
        // ordered behind the stores that made the descriptor's memory what it is.
        unsafe {
            asm!(
                "sfence",
                // enqcmd rax, [rdx]
                ".byte 0xf2, 0x0f, 0x38, 0xf8, 0x02",
                "setz {full}",
                full = out(reg_byte) full,
                in("rax") self.door(),
                in("rdx") descriptor,
                options(nostack),
            );
        }
        full == 0
    }

    unsafe fn movdir64b(&mut self, descriptor: &HwDescriptor) {
        // SAFETY: as above.
        unsafe {
            asm!(
                "sfence",
                // movdir64b rax, [rdx]
                ".byte 0x66, 0x0f, 0x38, 0xf8, 0x02",
                in("rax") self.door(),
                in("rdx") descriptor,
                options(nostack, preserves_flags),
            );
        }
    }

    unsafe fn write(&mut self, descriptors: &[HwDescriptor]) -> io::Result<usize> {
        let Some(file) = &mut self.file else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let bytes = size_of_val(descriptors);
        // SAFETY: descriptors are plain data without padding.
        let bytes = unsafe { std::slice::from_raw_parts(descriptors.as_ptr().cast(), bytes) };
        Ok(file.write(bytes)? / size_of::<HwDescriptor>())
    }

    fn relax(&mut self) {
        std::hint::spin_loop();
    }

    fn close(&mut self) {
        if !self.portal.is_null() {
            // SAFETY: mapped by `map`, at this length; nothing uses it after this.
            unsafe { libc::munmap(self.portal.cast(), PORTAL_BYTES) };
            self.portal = ptr::null_mut();
        }
        // The last reference to the file: the kernel drains or ends what is in flight.
        self.file = None;
    }
}

impl Drop for UserQueue {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    use byway_protocols::{Flags, Opcode};

    use super::super::portal::Operations;
    use super::*;

    const LINE: usize = size_of::<HwDescriptor>();

    fn queue(node: &Path, mode: Mode, version: u32) -> QueueInfo {
        QueueInfo {
            name: "wq0.0".to_owned(),
            node: node.to_owned(),
            mode,
            size: 5,
            transfer_bytes_max: 2 << 20,
            batch_max: 32,
            operations: Operations::of(&[Opcode::Memmove]),
            version,
        }
    }

    fn numbered(size: u32) -> HwDescriptor {
        HwDescriptor {
            size,
            ..HwDescriptor::new(Opcode::Memmove, Flags::NONE)
        }
    }

    fn bytes(descriptor: &HwDescriptor) -> [u8; LINE] {
        // SAFETY: plain data without padding, of as many bytes.
        unsafe { std::mem::transmute(*descriptor) }
    }

    /// A file in a portal's place has what the instruction stores: each descriptor whole, one address behind the other.
    #[test]
    fn movdir64b_stores_whole_descriptors_at_the_portal() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(PORTAL_BYTES as u64).unwrap();
        let dedicated = queue(file.path(), Mode::Dedicated, VERSION_1);
        if entry_of(&dedicated).is_none() {
            println!("SKIPPED: this processor has no MOVDIR64B");
            return;
        }
        let (mut portal, features) = UserQueue::open(&dedicated).unwrap();
        assert_eq!(features.entry, Entry::Movdir64b { credits: 5 });
        assert_eq!(features.batch_max, 32);
        let lines = PORTAL_BYTES / LINE;
        for number in 0..=lines as u32 {
            // SAFETY: no device: nobody follows the addresses in it.
            unsafe { portal.movdir64b(&numbered(number)) };
        }
        portal.close();
        // Round the page: the last one came where the first one was.
        for (line, number) in (1..lines).map(|n| (n, n as u32)).chain([(0, lines as u32)]) {
            let mut found = [0; LINE];
            file.as_file()
                .read_exact_at(&mut found, (line * LINE) as u64)
                .unwrap();
            assert_eq!(found, bytes(&numbered(number)), "line {line}");
        }
    }

    /// A pipe in the device file's place cannot be mapped, as with kernels that refuse it.
    #[test]
    fn what_cannot_be_mapped_is_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let node = folder.path().join("wq0.0");
        let name = std::ffi::CString::new(node.to_str().unwrap()).unwrap();
        // SAFETY: the name ends with a zero.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        // DSA 1 takes no batches this way.
        for (version, batch_max) in [(VERSION_1, 0), (0x200, 32)] {
            let info = queue(&node, Mode::Dedicated, version);
            let (mut queue, features) = UserQueue::open(&info).unwrap();
            assert_eq!(
                (features.entry, features.batch_max),
                (Entry::Write, batch_max)
            );
            let two = [numbered(1), numbered(2)];
            let mut device = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&node)
                .unwrap();
            // SAFETY: as above.
            assert_eq!(unsafe { queue.write(&two) }.unwrap(), 2);
            let mut found = [0; 2 * LINE];
            device.read_exact(&mut found).unwrap();
            assert_eq!(found, two.map(|line| bytes(&line)).concat()[..]);
            queue.close();
            // SAFETY: as above.
            let behind = unsafe { queue.write(&two) };
            assert_eq!(behind.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        }
    }

    #[test]
    fn what_is_not_there_is_said_with_its_path() {
        let info = queue(Path::new("/nowhere/wq0.0"), Mode::Shared, VERSION_1);
        let error = UserQueue::open(&info).unwrap_err().to_string();
        assert_eq!(error, "cannot open /nowhere/wq0.0");
    }
}
