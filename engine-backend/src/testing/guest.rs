//! [`Guest`]: RAM of one domain, seen from inside.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::capability::Owner;
use crate::interface::{MemoryRegion, Share};
use crate::memory::GuestMemory;
use crate::worker::Account;

/// Where RAM starts: not at 0, so that a null address is outside.
const RAM_START: u64 = 1 << 30;

/// One domain's RAM: a single region from 1 GiB on.
#[derive(Debug)]
pub struct Guest {
    id: u32,
    file: Arc<File>,
    memory: Arc<GuestMemory>,
    owner: Arc<Owner>,
    account: Arc<Account>,
    window: *mut libc::c_void,
    bytes: u64,
    next: AtomicU64,
    next_object: AtomicU32,
}

// SAFETY: the window is accessed by atomics only.
unsafe impl Send for Guest {}
// SAFETY: as above.
unsafe impl Sync for Guest {}

impl Guest {
    /// A guest with `bytes` bytes of RAM, a multiple of 2 MiB, that can be truncated.
    #[must_use]
    pub fn new(id: u32, bytes: u64) -> Arc<Self> {
        Self::with_seals(id, bytes, 0)
    }

    /// The same with RAM that can not, as it should be.
    #[must_use]
    pub fn sealed(id: u32, bytes: u64) -> Arc<Self> {
        Self::with_seals(id, bytes, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW)
    }

    fn with_seals(id: u32, bytes: u64, seals: libc::c_int) -> Arc<Self> {
        // SAFETY: a new descriptor, owned by the `File` alone.
        let file = unsafe {
            let fd = libc::memfd_create(c"byway-test-guest".as_ptr(), libc::MFD_ALLOW_SEALING);
            assert!(fd >= 0, "memfd_create");
            File::from_raw_fd(fd)
        };
        file.set_len(bytes).expect("room for the guest's RAM");
        // SAFETY: the descriptor is the file's.
        let sealed = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) };
        assert_eq!(sealed, 0, "F_ADD_SEALS");
        let file = Arc::new(file);
        // SAFETY: a new shared mapping at an address of the kernel's choice.
        let window = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(window, libc::MAP_FAILED, "mmap");
        let memory = Arc::new(GuestMemory::new());
        memory
            .add_region(MemoryRegion {
                guest_addr: RAM_START,
                size: bytes,
                file: file.clone(),
                file_offset: 0,
                writable: true,
                populate: true,
            })
            .expect("a region that can be mapped");
        Arc::new(Self {
            id,
            file,
            memory,
            owner: Owner::new(id),
            account: Account::new(&Share::default()),
            window,
            bytes,
            next: AtomicU64::new(RAM_START),
            next_object: AtomicU32::new(1),
        })
    }

    /// The domain's number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }
    /// The engine's view of the RAM.
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }
    /// Who owns the capabilities over this guest's memory.
    #[must_use]
    pub fn owner(&self) -> &Arc<Owner> {
        &self.owner
    }
    /// What the guest gets of the workers.
    #[must_use]
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }
    /// The RAM's file.
    #[must_use]
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }
    /// Guest-physical start and length of the RAM.
    #[must_use]
    pub fn ram(&self) -> (u64, u64) {
        (RAM_START, self.bytes)
    }

    /// A number that no other context or queue of this guest has; unique among guests,
    /// too, while their numbers are.
    pub(crate) fn next_object(&self) -> u32 {
        self.id << 16 | self.next_object.fetch_add(1, Ordering::Relaxed)
    }

    /// Sets RAM aside that is still zero; returns its guest-physical address.
    #[must_use]
    pub fn alloc(&self, bytes: u64, align: u64) -> u64 {
        let place = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                Some(next.next_multiple_of(align) + bytes)
            });
        let start = place.unwrap_or(0).next_multiple_of(align);
        assert!(
            start + bytes <= RAM_START + self.bytes,
            "the guest is out of RAM"
        );
        start
    }

    /// Where the guest sees its RAM; panics outside of it.
    #[must_use]
    pub fn host(&self, gpa: u64, bytes: u64) -> *mut u8 {
        let offset = gpa.checked_sub(RAM_START).expect("an address in RAM");
        assert!(offset + bytes <= self.bytes, "an address in RAM");
        self.window.cast::<u8>().wrapping_add(offset as usize)
    }

    /// Reads 8 bytes, aligned.
    #[must_use]
    pub fn read_u64(&self, gpa: u64) -> u64 {
        assert!(gpa.is_multiple_of(8));
        // SAFETY: mapped and aligned, both checked.
        unsafe { AtomicU64::from_ptr(self.host(gpa, 8).cast()) }.load(Ordering::Acquire)
    }

    /// Writes 8 bytes, aligned.
    pub fn write_u64(&self, gpa: u64, value: u64) {
        assert!(gpa.is_multiple_of(8));
        // SAFETY: mapped and aligned, both checked.
        unsafe { AtomicU64::from_ptr(self.host(gpa, 8).cast()) }.store(value, Ordering::Release);
    }

    /// Reads bytes.
    #[must_use]
    pub fn read(&self, gpa: u64, bytes: u64) -> Vec<u8> {
        let from = self.host(gpa, bytes);
        let mut out = vec![0; bytes as usize];
        let mut at = 0;
        for step in steps(gpa, bytes) {
            // SAFETY: mapped, checked; a step of 8 is aligned.
            unsafe {
                if step == 8 {
                    let word = AtomicU64::from_ptr(from.add(at).cast()).load(Ordering::Relaxed);
                    out[at..at + 8].copy_from_slice(&word.to_le_bytes());
                } else {
                    out[at] = AtomicU8::from_ptr(from.add(at)).load(Ordering::Relaxed);
                }
            }
            at += step;
        }
        out
    }

    /// Writes bytes.
    pub fn write(&self, gpa: u64, bytes: &[u8]) {
        let to = self.host(gpa, bytes.len() as u64);
        let mut at = 0;
        for step in steps(gpa, bytes.len() as u64) {
            // SAFETY: mapped, checked; a step of 8 is aligned.
            unsafe {
                if let Ok(word) = <[u8; 8]>::try_from(&bytes[at..at + step]) {
                    AtomicU64::from_ptr(to.add(at).cast())
                        .store(u64::from_le_bytes(word), Ordering::Relaxed);
                } else {
                    AtomicU8::from_ptr(to.add(at)).store(bytes[at], Ordering::Relaxed);
                }
            }
            at += step;
        }
    }
}

/// Cuts a range into aligned words and single bytes.
fn steps(gpa: u64, bytes: u64) -> impl Iterator<Item = usize> {
    let mut at = gpa;
    std::iter::from_fn(move || {
        let left = gpa + bytes - at;
        let step = match left {
            0 => return None,
            8.. if at.is_multiple_of(8) => 8,
            _ => 1,
        };
        at += step;
        Some(step as usize)
    })
}

impl Drop for Guest {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; no pointer into it outlives the guest in a
        // test that keeps the guest alive, as the documentation of its users asks.
        unsafe { libc::munmap(self.window, self.bytes as usize) };
    }
}
