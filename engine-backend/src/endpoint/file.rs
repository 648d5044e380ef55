//! [`FileDevice`]: a file or block device of the host, by io_uring.
//!
//! With O_DIRECT where the file system permits it, so that blocks go between the disk and the
//! staging without a copy and without the host's page cache; file and staging are registered
//! with the ring once. Submitting is one system call for all that was queued; completions are
//! read from memory that the kernel shares.
//!
//! A request may be about memory of a guest instead ([`Lent`]), whose parts are then given as a vector: the kernel pins
//! the pages for itself while it has it. What it has begun it cannot be made to leave off, so such a request is
//! told of when the kernel has answered, and not before.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::register::Restriction;
use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::config::EndpointConfig;
use super::device::{BlockDevice, Geometry, Outcome, Refused, Request, Token};
use super::slot::{SLOT_BYTES, SLOTS_MAX};
use super::staging::StagingMemory;
use crate::memory::{LENT_PARTS_MAX, Lent};

/// What a request that ended before its end is said to have met, when the host says nothing: the file has become
/// shorter.
const SHORT: u16 = libc::ENODATA as u16;

/// What is under way under a token.
#[derive(Debug, Clone, Copy)]
struct Flight {
    request: Request,
    /// Bytes that the kernel has done of it.
    done: u32,
    /// Parts of memory that it is about; 0: it is about staging.
    parts: u32,
}

/// For each token, where the parts of its memory are.
struct Vectors(Box<[[libc::iovec; LENT_PARTS_MAX]]>);

// SAFETY: the addresses are handed to the kernel, and never followed here.
unsafe impl Send for Vectors {}

/// No bytes.
const NOWHERE: libc::iovec = libc::iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

/// A file.
pub struct FileDevice {
    geometry: Geometry,
    // Before what it works with: it is dropped first.
    ring: IoUring,
    staging: Arc<StagingMemory>,
    /// The staging is registered with the ring.
    is_registered: bool,
    flights: [Option<Flight>; SLOTS_MAX],
    vectors: Vectors,
    system_calls: u64,
    gone: Option<String>,
    /// Requests without memory have been told of as gone.
    told: bool,
}

impl FileDevice {
    /// Opens it.
    ///
    /// # Errors
    /// What is wrong with it, for the operator.
    pub fn open(config: &EndpointConfig, staging: &Arc<StagingMemory>) -> Result<Self, String> {
        let path = config.path.display();
        let (file, is_direct) = open(config).map_err(|e| format!("cannot open {path}: {e}"))?;
        let kind = file
            .metadata()
            .map_err(|e| format!("cannot look at {path}: {e}"))?
            .file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(format!(
                "{path} is neither a file nor a block device: name one that can be read at any offset"
            ));
        }
        let block_bytes = block_bytes(&file, is_direct)
            .map_err(|e| format!("cannot read the first block of {path}: {e}"))?;
        // SAFETY: no pointers; the result is checked.
        let bytes = unsafe { libc::lseek64(file.as_raw_fd(), 0, libc::SEEK_END) };
        let blocks = u64::try_from(bytes).unwrap_or(0) / u64::from(block_bytes);
        if blocks == 0 {
            return Err(format!(
                "{path} has {bytes} bytes: expected at least a block of {block_bytes}"
            ));
        }
        // Nothing can be asked of it until it is told what it may be asked.
        let ring = IoUring::builder()
            .setup_r_disabled()
            .build(SLOTS_MAX as u32)
            .map_err(|e| format!("the host gives no io_uring for {path}: {e}"))?;
        let vector = libc::iovec {
            iov_base: staging.address().cast(),
            iov_len: staging.bytes() as usize,
        };
        // SAFETY: the staging stays mapped for as long as the ring, which is dropped first.
        let registered = unsafe { ring.submitter().register_buffers(&[vector]) };
        let is_registered = registered.is_ok();
        ring.submitter()
            .register_files(&[file.as_raw_fd()])
            .map_err(|e| format!("the host's io_uring does not take {path}: {e}"))?;
        restrict(&ring)
            .map_err(|e| format!("the host's io_uring for {path} cannot be restricted: {e}"))?;
        tracing::info!(
            "endpoint {}: {path}, {blocks} blocks of {block_bytes} bytes, {}, staging {}",
            config.name,
            if is_direct {
                "O_DIRECT"
            } else {
                "through the page cache"
            },
            if is_registered {
                "registered"
            } else {
                "not registered"
            },
        );
        Ok(Self {
            geometry: Geometry {
                block_bytes,
                blocks,
                transfer_bytes_max: SLOT_BYTES,
                depth: SLOTS_MAX as u16,
                read_only: config.read_only,
                flush: true,
                discard: !config.read_only,
                write_zeroes: !config.read_only,
                compare: false,
            },
            ring,
            staging: Arc::clone(staging),
            is_registered,
            flights: [None; SLOTS_MAX],
            vectors: Vectors(vec![[NOWHERE; LENT_PARTS_MAX]; SLOTS_MAX].into_boxed_slice()),
            system_calls: 0,
            gone: None,
            told: false,
        })
    }

    /// What the kernel is asked for the rest of a request.
    fn entry(&self, token: Token, flight: &Flight) -> squeue::Entry {
        let block = u64::from(self.geometry.block_bytes);
        let file = types::Fixed(0);
        let done = flight.done;
        let mode = libc::FALLOC_FL_KEEP_SIZE;
        let vector = self.vectors.0[token.0 as usize].as_ptr();
        let entry = match flight.request {
            // Never in the middle: see `outcome`.
            Request::Read { lba, .. } if flight.parts != 0 => {
                opcode::Readv::new(file, vector, flight.parts)
                    .offset(lba * block)
                    .build()
            }
            Request::Write { lba, .. } if flight.parts != 0 => {
                opcode::Writev::new(file, vector, flight.parts)
                    .offset(lba * block)
                    .build()
            }
            Request::Read { lba, at, .. } | Request::Compare { lba, at, .. } => {
                let (buffer, length) = self.bytes(at, done);
                let offset = lba * block + u64::from(done);
                if self.is_registered {
                    opcode::ReadFixed::new(file, buffer, length, 0)
                        .offset(offset)
                        .build()
                } else {
                    opcode::Read::new(file, buffer, length)
                        .offset(offset)
                        .build()
                }
            }
            Request::Write { lba, at, .. } => {
                let (buffer, length) = self.bytes(at, done);
                let offset = lba * block + u64::from(done);
                if self.is_registered {
                    opcode::WriteFixed::new(file, buffer, length, 0)
                        .offset(offset)
                        .build()
                } else {
                    opcode::Write::new(file, buffer, length)
                        .offset(offset)
                        .build()
                }
            }
            Request::Flush => opcode::Fsync::new(file)
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
            Request::Discard { lba, blocks } => {
                opcode::Fallocate::new(file, u64::from(blocks) * block)
                    .offset(lba * block)
                    .mode(mode | libc::FALLOC_FL_PUNCH_HOLE)
                    .build()
            }
            Request::WriteZeroes { lba, blocks } => {
                opcode::Fallocate::new(file, u64::from(blocks) * block)
                    .offset(lba * block)
                    .mode(mode | libc::FALLOC_FL_ZERO_RANGE)
                    .build()
            }
        };
        entry.user_data(token.0.into())
    }

    fn bytes(&self, at: super::device::StagingRange, done: u32) -> (*mut u8, u32) {
        // In range: the core checked it, and `done` is below the length.
        let offset = at.offset as usize + done as usize;
        (
            self.staging.address().wrapping_add(offset),
            at.length - done,
        )
    }

    fn push(&mut self, entry: &squeue::Entry) -> Result<(), Refused> {
        // SAFETY: file, staging and vectors are this device's and outlive the ring; each slot's bytes
        // are left alone until its request has ended, and memory that was lent stays mapped until that has been told.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.map_err(|_| Refused::Full)
    }

    /// One system call for all that was queued.
    fn enter(&mut self) {
        self.system_calls += 1;
        match self.ring.submit() {
            Ok(_) => {}
            // What was not taken stays in the queue: `poll` comes back to it.
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)
                ) => {}
            Err(e) => self.gone = Some(format!("the host's io_uring fails: {e}")),
        }
    }

    /// What came of a request; `None` when the kernel is to go on with it.
    fn outcome(&mut self, token: Token, flight: &mut Flight, result: i32) -> Option<Outcome> {
        let block = self.geometry.block_bytes;
        let whole = |done: u32| done / block * block;
        let failed = |device_status, done| {
            Some(Outcome::Failed {
                device_status,
                bytes_done: whole(done),
            })
        };
        let Ok(moved) = u32::try_from(result) else {
            return match -result {
                libc::EINTR | libc::EAGAIN => self.again(token, flight),
                errno => failed(errno as u16, flight.done),
            };
        };
        let (Request::Read { at, .. } | Request::Write { at, .. } | Request::Compare { at, .. }) =
            flight.request
        else {
            return Some(Outcome::Done);
        };
        let done = flight.done.saturating_add(moved);
        if done >= at.length {
            return Some(Outcome::Done);
        }
        if flight.parts != 0 {
            // The rest would need another vector. It is tried again by staging, which tells exactly.
            return failed(SHORT, 0);
        }
        if moved == 0 || !done.is_multiple_of(block) {
            return failed(SHORT, done);
        }
        flight.done = done;
        self.again(token, flight)
    }

    fn again(&mut self, token: Token, flight: &Flight) -> Option<Outcome> {
        if self.gone.is_some() {
            return Some(Outcome::Gone);
        }
        let entry = self.entry(token, flight);
        match self.push(&entry) {
            Ok(()) => None,
            Err(_) => Some(Outcome::Failed {
                device_status: libc::EAGAIN as u16,
                bytes_done: flight.done,
            }),
        }
    }
}

impl BlockDevice for FileDevice {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn submit(&mut self, token: Token, request: &Request) -> Result<(), Refused> {
        if self.gone.is_some() {
            return Err(Refused::Gone);
        }
        if let Request::Compare { .. } = request {
            return Err(Refused::NotSupported);
        }
        self.begin(token, request, 0)
    }

    fn reaches_memory(&self) -> bool {
        true
    }

    fn submit_direct(
        &mut self,
        token: Token,
        request: &Request,
        memory: &Lent,
    ) -> Result<(), Refused> {
        if self.gone.is_some() {
            return Err(Refused::Gone);
        }
        if !matches!(request, Request::Read { .. } | Request::Write { .. }) {
            return Err(Refused::NotSupported);
        }
        let parts = memory.parts();
        let vector = &mut self.vectors.0[token.0 as usize];
        for (place, part) in vector.iter_mut().zip(parts) {
            *place = libc::iovec {
                iov_base: std::ptr::with_exposed_provenance_mut(part.host as usize),
                iov_len: part.bytes as usize,
            };
        }
        self.begin(token, request, parts.len() as u32)
    }

    fn flush_submissions(&mut self) {
        if !self.ring.submission().is_empty() {
            self.enter();
        }
    }

    fn poll(&mut self, ended: &mut dyn FnMut(Token, Outcome)) {
        let mut again = false;
        for _ in 0..SLOTS_MAX {
            let next: Option<cqueue::Entry> = self.ring.completion().next();
            let Some(entry) = next else { break };
            let token = Token(entry.user_data() as u32);
            let Some(mut flight) = self.flights[token.0 as usize].take() else {
                continue;
            };
            match self.outcome(token, &mut flight, entry.result()) {
                Some(outcome) => ended(token, outcome),
                None => {
                    self.flights[token.0 as usize] = Some(flight);
                    again = true;
                }
            }
        }
        if again || !self.ring.submission().is_empty() {
            self.enter();
        }
        if self.gone.is_some() && !self.told {
            self.told = true;
            // The kernel may write to staging for as long as it likes; what is lent it has until it says so.
            for (index, flight) in self.flights.iter().enumerate() {
                if flight.is_some_and(|flight| flight.parts == 0) {
                    ended(Token(index as u32), Outcome::Gone);
                }
            }
        }
    }

    fn system_calls(&self) -> u64 {
        self.system_calls
    }

    fn gone(&self) -> Option<&str> {
        self.gone.as_deref()
    }

    fn close(&mut self, patience: Duration) {
        self.gone.get_or_insert_with(|| "it was closed".to_owned());
        // Whoever closes it counts them as gone.
        self.told = true;
        let deadline = Instant::now() + patience;
        if self.is_busy() {
            // What the kernel does not know yet, it need not.
            let _ = self.ring.submit();
            let timeout = types::Timespec::new().nsec(1);
            let everything = types::CancelBuilder::any();
            // Asked for, not insisted on: disks finish what they have begun.
            let _ = self
                .ring
                .submitter()
                .register_sync_cancel(Some(timeout), everything);
        }
        // What has ended stays in the completion queue, for `poll`: nothing is done but to wait.
        while self.is_busy() && Instant::now() < deadline {
            let waiting = self.ring.completion().len();
            let under_way = self.flights.iter().flatten().count();
            if waiting >= under_way {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl FileDevice {
    fn begin(&mut self, token: Token, request: &Request, parts: u32) -> Result<(), Refused> {
        let flight = Flight {
            request: *request,
            done: 0,
            parts,
        };
        let entry = self.entry(token, &flight);
        self.push(&entry)?;
        self.flights[token.0 as usize] = Some(flight);
        Ok(())
    }

    fn is_busy(&self) -> bool {
        self.flights.iter().any(Option::is_some)
    }
}

impl Drop for FileDevice {
    fn drop(&mut self) {
        self.poll(&mut |_, _| ());
        if self.is_busy() {
            // The kernel may write to it for as long as it likes. So it may to what was lent, which whoever lent it keeps.
            std::mem::forget(Arc::clone(&self.staging));
        }
    }
}

/// Has the ring take what this device asks of its one file, and nothing else for good: whoever has its descriptor could have the kernel
/// open and connect by it, whatever filter of system calls there is.
fn restrict(ring: &IoUring) -> io::Result<()> {
    /// `IOSQE_FIXED_FILE` (linux/io_uring.h): the file is one of those that were registered.
    const FIXED_FILE: u8 = 1 << 0;
    /// `IORING_REGISTER_SYNC_CANCEL`; Linux 6.0 and later.
    const SYNC_CANCEL: u8 = 24;
    let operations = [
        opcode::Read::CODE,
        opcode::ReadFixed::CODE,
        opcode::Readv::CODE,
        opcode::Write::CODE,
        opcode::WriteFixed::CODE,
        opcode::Writev::CODE,
        opcode::Fsync::CODE,
        opcode::Fallocate::CODE,
    ];
    let mut all: Vec<_> = operations.map(Restriction::sqe_op).into();
    all.push(Restriction::sqe_flags_allowed(FIXED_FILE));
    all.push(Restriction::sqe_flags_required(FIXED_FILE));
    all.push(Restriction::register_op(SYNC_CANCEL));
    let submitter = ring.submitter();
    match submitter.register_restrictions(&mut all) {
        // It does not know that; nor can it be asked for it, then.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            all.pop();
            submitter.register_restrictions(&mut all)?;
        }
        done => done?,
    }
    submitter.register_enable_rings()
}

/// Opens the file, directly if the file system can do that.
fn open(config: &EndpointConfig) -> io::Result<(File, bool)> {
    let mut options = OpenOptions::new();
    // Not to wait for the other end of what turns out to be a FIFO.
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    options.read(true).write(!config.read_only);
    match options
        .custom_flags(flags | libc::O_DIRECT)
        .open(&config.path)
    {
        Ok(file) => Ok((file, true)),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            Ok((options.custom_flags(flags).open(&config.path)?, false))
        }
        Err(e) => Err(e),
    }
}

/// The smallest block that can be read.
fn block_bytes(file: &File, is_direct: bool) -> io::Result<u32> {
    if !is_direct {
        return Ok(512);
    }
    let page = Page::new();
    for bytes in [512_u32, 4096] {
        // SAFETY: the page has room for it.
        let got = unsafe { libc::pread64(file.as_raw_fd(), page.0.cast(), bytes as usize, 0) };
        if got >= 0 {
            return Ok(bytes);
        }
        let e = io::Error::last_os_error();
        if e.raw_os_error() != Some(libc::EINVAL) {
            return Err(e);
        }
    }
    Err(io::Error::other("blocks of more than 4096 bytes"))
}

/// An aligned page.
struct Page(*mut u8);

impl Page {
    const LAYOUT: std::alloc::Layout = match std::alloc::Layout::from_size_align(4096, 4096) {
        Ok(layout) => layout,
        Err(_) => panic!("a page is one"),
    };
    fn new() -> Self {
        // SAFETY: the layout is not empty.
        let page = unsafe { std::alloc::alloc_zeroed(Self::LAYOUT) };
        if page.is_null() {
            std::alloc::handle_alloc_error(Self::LAYOUT);
        }
        Self(page)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout by `new`.
        unsafe { std::alloc::dealloc(self.0, Self::LAYOUT) };
    }
}

#[cfg(test)]
mod tests;
