//! Survival of lost backing memory: a truncated file, a punched hole, bad memory.
//!
//! The kernel answers an access to such a page with SIGBUS. The handler finds the region
//! in a lock-free table, maps anonymous zero pages over all of it, flags it dead and
//! returns, so the access is repeated and succeeds. Workers look at [`generation`] after
//! each chunk; the domain is then detached. An access outside every region goes to the
//! handler that was there before; without one it is fatal, as it would have been.
//!
//! Must be installed after handlers that do not chain to an earlier one.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Regions in one process at once, all domains together.
const SLOTS: usize = 4096;
/// A slot holds the length in this many bits, in pages.
const LENGTH_BITS: u32 = 29;
/// Bits of a user-space address on x86-64 unless a process asks for more.
const ADDRESS_BITS: u32 = 47;
const PAGE_BITS: u32 = 12;
const _: () = assert!(LENGTH_BITS + ADDRESS_BITS - PAGE_BITS <= 64);

/// Most bytes of one region.
pub(super) const REGION_BYTES_MAX: u64 = ((1 << LENGTH_BITS) - 1) << PAGE_BITS;

/// One region. The range is one word, so the handler never sees half of a change.
struct Slot {
    /// First page and number of pages; 0 = none.
    range: AtomicU64,
    /// The flag to set, an `Arc` turned into a pointer; null = the slot is free.
    dead: AtomicPtr<AtomicBool>,
}

impl Slot {
    /// Start and length in bytes; a length of 0 = none.
    fn extent(&self) -> (u64, u64) {
        let range = self.range.load(Ordering::Acquire);
        let start = range >> LENGTH_BITS << PAGE_BITS;
        let len = (range & ((1 << LENGTH_BITS) - 1)) << PAGE_BITS;
        (start, len)
    }
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        range: AtomicU64::new(0),
        dead: AtomicPtr::new(ptr::null_mut()),
    }
}; SLOTS];
static GENERATION: AtomicU64 = AtomicU64::new(0);
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// How many times a region was found to have lost its backing; a change tells a worker
/// to look at [`super::GuestMemory::is_dead`]. One relaxed load.
#[must_use]
#[inline]
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

/// A region in the table, until dropped.
#[derive(Debug)]
pub(super) struct Registration(usize);

impl Registration {
    /// Enters a region of whole pages; `None` when the table is full or the address is
    /// above 47 bits.
    pub(super) fn new(base: usize, len: usize, dead: &Arc<AtomicBool>) -> Option<Self> {
        let (base, len) = (base as u64, len as u64);
        if base.checked_add(len)? >> ADDRESS_BITS != 0 || len > REGION_BYTES_MAX {
            return None;
        }
        let flag = Arc::into_raw(Arc::clone(dead)).cast_mut();
        let free = |slot: &Slot| {
            slot.dead
                .compare_exchange(ptr::null_mut(), flag, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        };
        let Some(index) = TABLE.iter().position(free) else {
            // SAFETY: made by `into_raw` above and not entered anywhere.
            drop(unsafe { Arc::from_raw(flag) });
            return None;
        };
        let range = (base >> PAGE_BITS) << LENGTH_BITS | len >> PAGE_BITS;
        TABLE[index].range.store(range, Ordering::Release);
        Some(Self(index))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let slot = &TABLE[self.0];
        slot.range.store(0, Ordering::Release);
        let flag = slot.dead.swap(ptr::null_mut(), Ordering::AcqRel);
        // SAFETY: `new` put it there by `into_raw`, and this registration alone takes it
        // out. The handler reads it only for an access inside the region, and none is in
        // flight once the region is being dropped.
        drop(unsafe { Arc::from_raw(flag) });
    }
}

/// Installs the handler, once in a process.
pub(super) fn install() -> io::Result<()> {
    static INSTALLED: Mutex<bool> = Mutex::new(false);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if *installed {
        return Ok(());
    }
    // The earlier action must be known before the handler can run.
    // SAFETY: all-zero is a valid `sigaction`, which the call fills in.
    let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: reads the current action only.
    check(unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut previous) })?;
    let _ = PREVIOUS.set(previous);
    // SAFETY: as above.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_sigbus as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: `sa_mask` is a signal set of this value.
    check(unsafe { libc::sigemptyset(&raw mut action.sa_mask) })?;
    // SAFETY: the handler is async-signal-safe: atomics, mmap and the earlier handler.
    check(unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) })?;
    *installed = true;
    Ok(())
}

fn check(rc: libc::c_int) -> io::Result<()> {
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

extern "C" fn on_sigbus(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a valid `siginfo_t`.
    let (code, addr) = unsafe { ((*info).si_code, (*info).si_addr() as u64) };
    match code {
        // Of an access of this thread.
        libc::BUS_ADRERR | libc::BUS_MCEERR_AR if cover(addr) => {}
        // Memory has failed that nobody was accessing. Whoever does gets a signal of their own; until then nothing
        // has happened here.
        libc::BUS_MCEERR_AO if is_registered(addr) => {}
        // Codes that are not positive carry no address.
        _ => pass_on(signal, info, context),
    }
}

/// Whether a region is around `addr` now. Says nothing of how long it stays: the flag behind it must not be touched.
fn is_registered(addr: u64) -> bool {
    TABLE.iter().any(|slot| {
        let (start, len) = slot.extent();
        addr.wrapping_sub(start) < len
    })
}

/// Maps zero pages over the region around `addr`; whether there is one and it worked.
fn cover(addr: u64) -> bool {
    for slot in &TABLE {
        let (start, len) = slot.extent();
        if addr.wrapping_sub(start) >= len {
            continue;
        }
        // SAFETY: the thread is in the middle of an access to this region, so it stays
        // registered and its flag alive until the handler returns.
        let dead = unsafe { &*slot.dead.load(Ordering::Acquire) };
        dead.store(true, Ordering::Release);
        GENERATION.fetch_add(1, Ordering::Release);
        // SAFETY: this thread's own error number, kept as the interrupted code had it.
        let errno = unsafe { *libc::__errno_location() };
        // SAFETY: replaces the region's pages, which nobody holds references into other
        // than to atomics; the same length and rights, so every access stays valid.
        let mapped = unsafe {
            libc::mmap(
                ptr::with_exposed_provenance_mut(start as usize),
                len as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = errno };
        return mapped != libc::MAP_FAILED;
    }
    false
}

/// Does what would have happened without this handler.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    type Simple = extern "C" fn(libc::c_int);
    type Extended = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
    match PREVIOUS.get() {
        Some(previous)
            if previous.sa_sigaction != libc::SIG_DFL && previous.sa_sigaction != libc::SIG_IGN =>
        {
            if previous.sa_flags & libc::SA_SIGINFO != 0 {
                // SAFETY: with SA_SIGINFO the field holds a handler of this type.
                let handler: Extended = unsafe { std::mem::transmute(previous.sa_sigaction) };
                handler(signal, info, context);
            } else {
                // SAFETY: without SA_SIGINFO the field holds a handler of this type.
                let handler: Simple = unsafe { std::mem::transmute(previous.sa_sigaction) };
                handler(signal);
            }
        }
        _ => {
            // SAFETY: all-zero means the default action. The access is repeated when the
            // handler returns and ends the process, as it would have at first.
            unsafe {
                let default: libc::sigaction = std::mem::zeroed();
                libc::sigaction(signal, &raw const default, ptr::null_mut());
                if (*info).si_code <= 0 {
                    libc::raise(signal);
                }
            }
        }
    }
}
