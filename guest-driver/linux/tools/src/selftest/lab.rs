//! What every check has at hand: a context, a queue, memory, and ways to say what went wrong.

use std::fmt;
use std::ptr::NonNull;

use byway_linux::{
    Buffer, Context, Device, DeviceInfo, Error, KernelError, Linux, QueueOptions, Region, Rights,
    Share, Status, WorkQueue,
};
use byway_protocols::control::features;
use byway_protocols::{Completion, Descriptor, Flags, Opcode, Word0};
use byway_ring::Capability;

/// Bytes of a small page.
pub const PAGE: usize = 4096;
/// Slots of a check's context.
const SLOTS: u32 = 32;

/// Why a check did not pass.
#[derive(Debug)]
pub enum Problem {
    /// What was expected, and what came.
    Failed(String),
    /// What it lacks.
    Skipped(String),
}

impl<E: fmt::Display> From<E> for Problem {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

/// The check fails with this text.
pub fn fail<T>(text: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Failed(text.into()))
}

/// The check cannot be made, for this reason.
pub fn skip<T>(text: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Skipped(text.into()))
}

/// Fails unless it holds.
pub fn ensure(holds: bool, text: &str) -> Result<(), Problem> {
    if holds { Ok(()) } else { fail(text) }
}

/// A context and a queue of the check's own.
#[derive(Debug)]
pub struct Lab {
    /// The context.
    pub context: Context,
    /// Its queue.
    pub queue: WorkQueue,
    info: DeviceInfo,
}

impl Lab {
    /// Opens the device.
    ///
    /// # Errors
    /// There is none; or it gives no context or queue.
    pub fn new() -> Result<Self, Error> {
        let device = Device::open().map_err(Error::Kernel)?;
        let info = device.info().map_err(Error::Kernel)?;
        let context = device.context(SLOTS).map_err(Error::Kernel)?;
        let queue = context.queue(&QueueOptions::default())?;
        Ok(Self {
            context,
            queue,
            info,
        })
    }

    /// What the device says of itself.
    #[must_use]
    pub const fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Skips unless the engine asks guest kernels for pages.
    pub fn needs_page_requests(&self) -> Result<(), Problem> {
        if self.info.raw().features & features::PAGE_REQUESTS == 0 {
            return skip("page requests are not in force");
        }
        Ok(())
    }

    /// Skips where the engine leaves accessed and dirty bits alone.
    pub fn needs_accessed_dirty(&self) -> Result<(), Problem> {
        if self.info.no_ad() {
            return skip("one CPU: the engine keeps no accessed and dirty bits");
        }
        Ok(())
    }

    /// Skips unless the engine carries the operation out.
    pub fn needs(&self, opcode: Opcode) -> Result<(), Problem> {
        if !self.info.supports(opcode) {
            return skip(format!("this engine has no {}", opcode.name()));
        }
        Ok(())
    }

    /// Has any descriptor at all carried out.
    pub fn execute(&mut self, descriptor: Descriptor) -> Result<Completion, Problem> {
        // SAFETY: descriptors of the checks name buffers and mappings that they hold, which are accessed by
        // volatile means, or memory that is not there.
        Ok(unsafe { self.queue.run(descriptor) }?)
    }

    /// Fails unless the descriptor ends so.
    pub fn expect(
        &mut self,
        descriptor: Descriptor,
        status: Status,
    ) -> Result<Completion, Problem> {
        let completion = self.execute(descriptor)?;
        if completion.status() == Some(status) {
            return Ok(completion);
        }
        let found = byway_linux::Ended { completion };
        fail(format!("expected status {status}; {found}"))
    }

    /// A buffer filled with a pattern.
    pub fn buffer(&self, bytes: usize, seed: u8) -> Result<Buffer, Problem> {
        let buffer = Buffer::new(bytes)?;
        write_pattern(buffer.region(), seed)?;
        Ok(buffer)
    }

    /// A capability over a fresh buffer with a pattern.
    pub fn share(&self, bytes: usize, seed: u8, rights: Rights) -> Result<Share, Problem> {
        Ok(self
            .context
            .share(self.buffer(bytes, seed)?, 0..bytes, rights)?)
    }
}

/// The byte at an offset of a pattern.
fn pattern(seed: u8, offset: usize) -> u8 {
    (offset as u8)
        .wrapping_mul(31)
        .wrapping_add((offset >> 8) as u8)
        ^ seed
}

/// Fills memory with a pattern.
pub fn write_pattern(region: Region<'_>, seed: u8) -> Result<(), Problem> {
    let mut block = [0; PAGE];
    for offset in (0..region.len()).step_by(PAGE) {
        let bytes = PAGE.min(region.len() - offset);
        for (index, byte) in block.iter_mut().enumerate() {
            *byte = pattern(seed, offset + index);
        }
        region.write(offset, &block[..bytes])?;
    }
    Ok(())
}

/// Fails unless memory holds the pattern, from its byte `from` on.
pub fn expect_pattern(region: Region<'_>, seed: u8, from: usize) -> Result<(), Problem> {
    let mut block = [0; PAGE];
    for offset in (0..region.len()).step_by(PAGE) {
        let bytes = PAGE.min(region.len() - offset);
        region.read(offset, &mut block[..bytes])?;
        for (index, found) in block[..bytes].iter().enumerate() {
            let expected = pattern(seed, from + offset + index);
            if *found != expected {
                let at = offset + index;
                return fail(format!(
                    "byte {at} is {found:#04x}; expected {expected:#04x}"
                ));
            }
        }
    }
    Ok(())
}

/// Fails unless memory holds this byte everywhere.
pub fn expect_bytes(region: Region<'_>, byte: u8) -> Result<(), Problem> {
    let mut block = vec![0; region.len()];
    region.read(0, &mut block)?;
    match block.iter().position(|found| *found != byte) {
        None => Ok(()),
        Some(at) => fail(format!(
            "byte {at} is {:#04x}; expected {byte:#04x}",
            block[at]
        )),
    }
}

/// MEMMOVE within one's own memory.
pub fn copy(to: u64, from: u64, bytes: u32) -> Descriptor {
    Descriptor {
        src: from,
        dst: to,
        size: bytes,
        ..Descriptor::new(Opcode::Memmove, Flags::NONE)
    }
}

/// MEMMOVE from a slot.
pub fn get(to: u64, slot: u16, offset: u64, bytes: u32) -> Descriptor {
    Descriptor {
        word0: Word0::new(slot, 0, false).0,
        ..copy(to, offset, bytes)
    }
}

/// MEMMOVE into a slot.
pub fn put(slot: u16, offset: u64, from: u64, bytes: u32) -> Descriptor {
    Descriptor {
        word0: Word0::new(0, slot, false).0,
        ..copy(offset, from, bytes)
    }
}

/// The same with a flag more.
pub fn with(descriptor: Descriptor, flags: Flags) -> Descriptor {
    Descriptor {
        flags_opcode: descriptor.flags_opcode | flags.0,
        ..descriptor
    }
}

/// The number of a capability's slot.
pub fn slot(capability: &Capability<Linux>) -> u16 {
    capability.slot().number()
}

/// Pages that a check may do anything to. Dropped, whatever is mapped there is unmapped.
#[derive(Debug)]
pub struct Pages {
    start: NonNull<u8>,
    bytes: usize,
}

impl Pages {
    /// Fresh private pages with this protection, not touched.
    pub fn new(pages: usize, protection: libc::c_int) -> Result<Self, Problem> {
        let bytes = pages * PAGE;
        // SAFETY: a new mapping at a place of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        match NonNull::new(start.cast::<u8>()) {
            Some(place) if start != libc::MAP_FAILED => {
                // So that small pages are what is there, whatever the guest's setting.
                // SAFETY: advice on the mapping just made.
                unsafe { libc::madvise(start, bytes, libc::MADV_NOHUGEPAGE) };
                Ok(Self {
                    start: place,
                    bytes,
                })
            }
            _ => Err(last("mmap")),
        }
    }

    /// Fresh pages to read and write.
    pub fn writable(pages: usize) -> Result<Self, Problem> {
        Self::new(pages, libc::PROT_READ | libc::PROT_WRITE)
    }

    /// Their address.
    pub fn address(&self) -> u64 {
        self.start.as_ptr().expose_provenance() as u64
    }

    /// Their number of bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// The memory, as long as it is mapped as `new` made it: what is not there faults, here as in
    /// any program.
    pub fn region(&self) -> Region<'_> {
        // SAFETY: no reference into the pages is ever made; a check that takes access away does not use this
        // afterwards, or wants the signal.
        unsafe { Region::from_raw(self.start, self.bytes) }
    }

    /// Has each page present by a read.
    pub fn touch(&self) -> Result<(), Problem> {
        for offset in (0..self.bytes).step_by(PAGE) {
            self.region().read(offset, &mut [0])?;
        }
        Ok(())
    }

    /// madvise of all of them.
    pub fn advise(&self, advice: libc::c_int) -> Result<(), Problem> {
        // SAFETY: of these pages, which nothing refers to.
        let result = unsafe { libc::madvise(self.start.as_ptr().cast(), self.bytes, advice) };
        if result == 0 {
            Ok(())
        } else {
            Err(last("madvise"))
        }
    }

    /// mprotect of all of them.
    pub fn protect(&self, protection: libc::c_int) -> Result<(), Problem> {
        // SAFETY: as above.
        let result = unsafe { libc::mprotect(self.start.as_ptr().cast(), self.bytes, protection) };
        if result == 0 {
            Ok(())
        } else {
            Err(last("mprotect"))
        }
    }

    /// munmap of all of them; the address stays known.
    pub fn unmap(&mut self) -> Result<(), Problem> {
        // SAFETY: as above.
        let result = unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
        self.bytes = 0;
        if result == 0 {
            Ok(())
        } else {
            Err(last("munmap"))
        }
    }

    /// Moves them elsewhere, and says where they were.
    pub fn move_away(&mut self) -> Result<u64, Problem> {
        let old = self.address();
        let target = Self::new(self.bytes / PAGE, libc::PROT_NONE)?;
        // SAFETY: onto a mapping made for this, whose owner is forgotten.
        let moved = unsafe {
            libc::mremap(
                self.start.as_ptr().cast(),
                self.bytes,
                self.bytes,
                libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
                target.start.as_ptr(),
            )
        };
        if moved == libc::MAP_FAILED {
            return Err(last("mremap"));
        }
        self.start = target.start;
        std::mem::forget(target);
        Ok(old)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.bytes != 0 {
            // SAFETY: of these pages, which nothing refers to.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
        }
    }
}

/// The error of the last system call.
pub fn last(call: &str) -> Problem {
    Problem::Failed(format!("{call}: {}", std::io::Error::last_os_error()))
}

/// Fails unless a call to the kernel was refused with this errno.
pub fn expect_errno<T>(outcome: Result<T, KernelError>, errno: i32) -> Result<(), Problem> {
    let expected = std::io::Error::from_raw_os_error(errno);
    match outcome {
        Err(error) if error.errno == errno => Ok(()),
        Err(error) => fail(format!("expected {expected:?}; {error}")),
        Ok(_) => fail(format!("expected {expected:?}; the call was granted")),
    }
}

/// The same for a call of the library.
pub fn expect_refusal<T>(outcome: Result<T, Error>, errno: i32) -> Result<(), Problem> {
    match outcome {
        Err(Error::Kernel(error)) => expect_errno::<()>(Err(error), errno),
        Err(other) => fail(format!("expected a refusal of the kernel; {other}")),
        Ok(_) => expect_errno(Ok(()), errno),
    }
}

/// Runs `child` in a forked process; says how that ended ([`libc::waitpid`]).
pub fn in_child(child: impl FnOnce() -> Result<(), Problem>) -> Result<i32, Problem> {
    // SAFETY: the tool has one thread, so the child may do what it likes; it ends here and runs no destructor of
    // the parent's.
    match unsafe { libc::fork() } {
        -1 => Err(last("fork")),
        0 => {
            let code = match child() {
                Ok(()) => 0,
                Err(problem) => {
                    eprintln!("# in a child: {problem:?}");
                    1
                }
            };
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(code) }
        }
        id => wait_for(id),
    }
}

/// Waits for a child.
pub fn wait_for(id: i32) -> Result<i32, Problem> {
    let mut status = 0;
    // SAFETY: a child of ours, and a place for its status.
    if unsafe { libc::waitpid(id, &raw mut status, 0) } != id {
        return Err(last("waitpid"));
    }
    Ok(status)
}

/// Fails unless the child ended with 0.
pub fn expect_ok(status: i32) -> Result<(), Problem> {
    ensure(
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
        &format!("the child ended with wait status {status:#x}; expected 0"),
    )
}
