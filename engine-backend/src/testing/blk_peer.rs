//! [`BlkPeer`]: a vhost-user-blk device on a thread, which keeps the rules or breaks one.
//!
//! It is written from the specification and shares nothing with the engine's front end. What
//! it breaks, and after how many requests, is told when it is started, so that a test knows
//! what has to be found out. It serves one connection after the other, as a device would
//! that is attached again.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{
    BackendReqHandler, Error, GpuBackend, Result, VhostUserBackendReqHandlerMut,
};
use vmm_sys_util::eventfd::EventFd;

use crate::memory::HostSpan;

/// What a device does that it must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mischief {
    /// Nothing: it keeps the rules.
    None,
    /// It fails requests, with this status.
    Fails(u8),
    /// It reads a block less than asked, and says so.
    ShortRead,
    /// It ends a request that there is not.
    UnknownId,
    /// It names the second descriptor of a chain.
    MiddleOfChain,
    /// It ends a request twice.
    Twice,
    /// It says that it wrote more than there was room for.
    TooLong,
    /// It says that it used more than it was given.
    RunsAway,
    /// It ends a request without writing a status.
    NoStatus,
    /// It never ends a request.
    Silent,
    /// It does nothing until it is told to go on ([`BlkPeer::go_on`]).
    Hangs,
    /// It hangs up with requests in its hands, and keeps the memory.
    HangsUp,
    /// It writes all over staging, then does what it was asked.
    WritesBeyond,
    /// It writes noise into the used ring, drawn from this.
    Noise(u64),
    /// It makes the engine's kicks block.
    BlocksKicks,
    /// It has no room for a block, or blocks of no size, or more blocks than can be.
    LiesAboutSize,
    /// It accepts the connection and says nothing.
    Mute,
}

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlkPlan {
    /// Bytes of the disk.
    pub bytes: usize,
    /// Bytes of a block, as it tells.
    pub block_bytes: u32,
    /// Most sectors of one discard or write of zeroes.
    pub range_sectors_max: u32,
    /// Whether event indices are offered.
    pub event_idx: bool,
    /// Whether it is read-only.
    pub read_only: bool,
    /// What it breaks.
    pub mischief: Mischief,
    /// After how many requests.
    pub after: u64,
}

impl Default for BlkPlan {
    fn default() -> Self {
        Self {
            bytes: 8 << 20,
            block_bytes: 512,
            range_sectors_max: 64,
            event_idx: true,
            read_only: false,
            mischief: Mischief::None,
            after: 0,
        }
    }
}

/// A device that listens at a path until dropped.
#[derive(Debug)]
pub struct BlkPeer {
    path: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    disk: Mutex<Vec<u8>>,
    ends: AtomicBool,
    served: AtomicU64,
    calls: AtomicU64,
    goes_on: AtomicBool,
}

impl BlkPeer {
    /// Starts a device that listens at `path`.
    ///
    /// # Panics
    /// When it cannot listen there.
    #[must_use]
    pub fn start(path: &Path, plan: BlkPlan) -> Self {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).expect("a socket to listen at");
        listener.set_nonblocking(true).expect("non-blocking");
        let shared = Arc::new(Shared {
            disk: Mutex::new(vec![0; plan.bytes]),
            ends: AtomicBool::new(false),
            served: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            goes_on: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            while !theirs.ends.load(Ordering::Acquire) {
                match listener.accept() {
                    Ok((socket, _)) => {
                        // A connection that breaks off ends, and the next is waited for.
                        let _ = serve(&socket, plan, &theirs);
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        Self {
            path: path.to_owned(),
            shared,
            thread: Some(thread),
        }
    }

    /// What is on the disk.
    pub fn disk(&self) -> MutexGuard<'_, Vec<u8>> {
        lock(&self.shared.disk)
    }

    /// Has one that hangs do what it was asked, and hang no more.
    pub fn go_on(&self) {
        self.shared.goes_on.store(true, Ordering::Release);
    }

    /// Requests that it has carried out, or taken and let lie.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.shared.served.load(Ordering::Acquire)
    }

    /// How often it signalled.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.shared.calls.load(Ordering::Acquire)
    }
}

impl Drop for BlkPeer {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves one connection until it ends.
fn serve(socket: &UnixStream, plan: BlkPlan, shared: &Arc<Shared>) -> io::Result<()> {
    if plan.mischief == Mischief::Mute {
        while !shared.ends.load(Ordering::Acquire) && !readable(&[socket.as_raw_fd()], 10)[0].1 {
            std::hint::spin_loop();
        }
        return Ok(());
    }
    let device = Arc::new(Mutex::new(Device::new(plan, Arc::clone(shared))));
    let mut handler = BackendReqHandler::from_stream(socket.try_clone()?, Arc::clone(&device));
    while !shared.ends.load(Ordering::Acquire) {
        let kick = lock(&device).kick.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        let ready = readable(&[socket.as_raw_fd(), kick], 10);
        if ready[0].0 && handler.handle_request().is_err() {
            return Ok(());
        }
        let mut device = lock(&device);
        if ready.get(1).is_some_and(|ready| ready.0) {
            let _ = device.kick.as_ref().map(EventFd::read);
        }
        if device.run() == Next::HangUp {
            return Ok(());
        }
    }
    Ok(())
}

/// For each descriptor whether it can be read, and whether its other side is gone.
fn readable(fds: &[i32], timeout_ms: i32) -> Vec<(bool, bool)> {
    let mut fds: Vec<_> = fds
        .iter()
        .map(|&fd| libc::pollfd {
            fd,
            events: libc::POLLIN | libc::POLLRDHUP,
            revents: 0,
        })
        .collect();
    // SAFETY: the vector is valid for its length.
    unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout_ms) };
    fds.iter()
        .map(|fd| (fd.revents != 0, fd.revents & libc::POLLRDHUP != 0))
        .collect()
}

#[derive(Debug, PartialEq, Eq)]
enum Next {
    GoOn,
    HangUp,
}

#[derive(Debug)]
struct Device {
    plan: BlkPlan,
    shared: Arc<Shared>,
    features: u64,
    /// Address, and what is there.
    memory: Vec<(u64, HostSpan)>,
    size: u16,
    descriptors: u64,
    avail: u64,
    used: u64,
    taken: u16,
    put: u16,
    kick: Option<EventFd>,
    call: Option<EventFd>,
    is_on: bool,
    /// Chains that it has taken and done nothing about.
    hanging: Vec<u16>,
}

const VERSION_1: u64 = 1 << 32;
const PROTOCOL_FEATURES: u64 = 1 << 30;
const EVENT_IDX: u64 = 1 << 29;
/// Block size, flush, discard, zeroes; and read-only.
const BLK: u64 = 1 << 6 | 1 << 9 | 1 << 13 | 1 << 14;
const READ_ONLY: u64 = 1 << 5;

impl Device {
    fn new(plan: BlkPlan, shared: Arc<Shared>) -> Self {
        Self {
            plan,
            shared,
            features: 0,
            memory: Vec::new(),
            size: 0,
            descriptors: 0,
            avail: 0,
            used: 0,
            taken: 0,
            put: 0,
            kick: None,
            call: None,
            is_on: false,
            hanging: Vec::new(),
        }
    }

    fn span(&self, at: u64, len: usize) -> HostSpan {
        self.memory
            .iter()
            .find_map(|(start, span)| span.part(at.checked_sub(*start)? as usize, len))
            .expect("an address in the memory that was given")
    }

    fn u16(&self, at: u64) -> u16 {
        self.span(at, 2).load_u16_acquire(0)
    }

    fn run(&mut self) -> Next {
        if !self.is_on || self.kick.is_none() {
            return Next::GoOn;
        }
        if self.plan.mischief == Mischief::BlocksKicks {
            let kick = self.kick.as_ref().expect("looked at");
            // SAFETY: the descriptor is open; flags are an integer.
            unsafe { libc::fcntl(kick.as_raw_fd(), libc::F_SETFL, 0) };
            let _ = kick.write(u64::MAX - 1);
            self.kick = None;
            return Next::GoOn;
        }
        let goes_on = self.shared.goes_on.load(Ordering::Acquire);
        if goes_on && !self.hanging.is_empty() {
            let before = self.put;
            for head in std::mem::take(&mut self.hanging) {
                self.one(head, Mischief::None);
            }
            self.signal(before);
        }
        while self.u16(self.avail + 2) != self.taken {
            let place = u64::from(self.taken % self.size);
            let head = self.u16(self.avail + 4 + 2 * place);
            self.taken = self.taken.wrapping_add(1);
            let has_event_idx = self.features & EVENT_IDX != 0;
            if has_event_idx {
                let event = self.used + 4 + 8 * u64::from(self.size);
                self.span(event, 2).store_u16_release(0, self.taken);
                std::sync::atomic::fence(Ordering::SeqCst);
            }
            let number = self.shared.served.load(Ordering::Acquire);
            let breaks = number >= self.plan.after;
            if breaks && self.plan.mischief == Mischief::Hangs && !goes_on {
                self.hanging.push(head);
                self.shared.served.fetch_add(1, Ordering::AcqRel);
                continue;
            }
            let before = self.put;
            if breaks && self.plan.mischief == Mischief::HangsUp {
                return Next::HangUp;
            }
            self.one(
                head,
                if breaks {
                    self.plan.mischief
                } else {
                    Mischief::None
                },
            );
            self.shared.served.fetch_add(1, Ordering::AcqRel);
            self.signal(before);
        }
        Next::GoOn
    }

    /// Carries out one chain, with what is to be broken.
    fn one(&mut self, head: u16, mischief: Mischief) {
        let mut chain = Vec::new();
        let mut at = head;
        loop {
            let d = self.span(self.descriptors + 16 * u64::from(at), 16);
            let (address, rest) = (d.load_u64(0), d.load_u64(8));
            let (length, flags, next) = (rest as u32, (rest >> 32) as u16, (rest >> 48) as u16);
            chain.push((address, length, flags & 2 != 0));
            if flags & 1 == 0 || chain.len() > 8 {
                break;
            }
            at = next;
        }
        let (header, _, _) = chain[0];
        let header = self.span(header, 16);
        let (code, sector) = (header.load_u64(0) as u32, header.load_u64(8));
        let (status_at, _, _) = *chain.last().expect("the status");
        let data = (chain.len() > 2).then(|| chain[1]);
        if mischief == Mischief::WritesBeyond {
            for (_, span) in &self.memory[..1] {
                for at in (0..span.len()).step_by(8) {
                    span.store_u64(at, 0x5a5a_5a5a_5a5a_5a5a);
                }
            }
        }
        let mut written = 0;
        let mut status = 0;
        if let Mischief::Fails(code) = mischief {
            status = code;
        } else {
            (status, written) = self.perform(code, sector, data, mischief, status);
        }
        if mischief != Mischief::NoStatus {
            self.span(status_at, 1).write_bytes(0, &[status]);
        }
        let length = if mischief == Mischief::TooLong {
            data.map_or(0, |data| data.1) + 2
        } else {
            written + 1
        };
        match mischief {
            Mischief::Silent => {}
            Mischief::Noise(seed) => self.noise(seed),
            Mischief::UnknownId => self.put(0x1_0000 | u32::from(head), length),
            Mischief::MiddleOfChain => self.put(u32::from(head) + 1, length),
            Mischief::Twice => {
                self.put(head.into(), length);
                self.put(head.into(), length);
            }
            Mischief::RunsAway => {
                self.put(head.into(), length);
                self.put = self.put.wrapping_add(1000);
                self.show();
            }
            _ => self.put(head.into(), length),
        }
    }

    /// Status, and bytes written into memory.
    fn perform(
        &self,
        code: u32,
        sector: u64,
        data: Option<(u64, u32, bool)>,
        mischief: Mischief,
        status: u8,
    ) -> (u8, u32) {
        let mut disk = lock(&self.shared.disk);
        let at = sector as usize * 512;
        match (code, data) {
            (0, Some((address, length, true))) => {
                let mut length = length as usize;
                if mischief == Mischief::ShortRead {
                    length -= 512;
                }
                self.span(address, length)
                    .write_bytes(0, &disk[at..at + length]);
                (status, length as u32)
            }
            (1, Some((address, length, false))) => {
                let length = length as usize;
                self.span(address, length)
                    .read_bytes(0, &mut disk[at..at + length]);
                (status, 0)
            }
            (4, None) => (status, 0),
            (11 | 13, Some((address, 16, false))) => {
                let range = self.span(address, 16);
                let (sector, count) = (range.load_u64(0) as usize, range.load_u64(8));
                if count == 0 || count > self.plan.range_sectors_max.into() {
                    return (1, 0);
                }
                disk[sector * 512..(sector + count as usize) * 512].fill(0);
                (status, 0)
            }
            _ => (2, 0),
        }
    }

    fn put(&mut self, id: u32, length: u32) {
        let at = self.used + 4 + 8 * u64::from(self.put % self.size);
        let entry = self.span(at, 8);
        entry.store_u32(0, id);
        entry.store_u32(4, length);
        self.put = self.put.wrapping_add(1);
        self.show();
    }

    /// Used entries that may be anything, and often are nearly right.
    fn noise(&mut self, seed: u64) {
        let mut state = (seed ^ u64::from(self.taken)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = |below: u32| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 16) as u32 % below
        };
        for i in 0..4 {
            let id = [3 * draw(8), draw(24), draw(u32::MAX)][draw(3) as usize];
            let length = [1, 1025, draw(2000), draw(u32::MAX)][draw(4) as usize];
            let at = self.used + 4 + 8 * u64::from(self.put.wrapping_add(i) % self.size);
            let entry = self.span(at, 8);
            entry.store_u32(0, id);
            entry.store_u32(4, length);
        }
        self.put = self.put.wrapping_add(draw(3) as u16);
        self.show();
    }

    fn show(&self) {
        self.span(self.used + 2, 2).store_u16_release(0, self.put);
    }

    fn signal(&self, before: u16) {
        std::sync::atomic::fence(Ordering::SeqCst);
        let wanted = if self.features & EVENT_IDX != 0 {
            let event = self.u16(self.avail + 4 + 2 * u64::from(self.size));
            self.put.wrapping_sub(event).wrapping_sub(1) < self.put.wrapping_sub(before)
        } else {
            self.u16(self.avail) & 1 == 0
        };
        if let Some(call) = self.call.as_ref().filter(|_| wanted) {
            self.shared.calls.fetch_add(1, Ordering::AcqRel);
            let _ = call.write(1);
        }
    }
}

fn event(file: Option<File>) -> Option<EventFd> {
    // SAFETY: the descriptor is the file's, which gives it up.
    file.map(|file| unsafe { EventFd::from_raw_fd(file.into_raw_fd()) })
}

fn unexpected<T>() -> Result<T> {
    Err(Error::InvalidOperation("this device does not offer that"))
}

impl VhostUserBackendReqHandlerMut for Device {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        unexpected()
    }

    fn get_features(&mut self) -> Result<u64> {
        let event_idx = if self.plan.event_idx { EVENT_IDX } else { 0 };
        let read_only = if self.plan.read_only { READ_ONLY } else { 0 };
        Ok(VERSION_1 | PROTOCOL_FEATURES | BLK | event_idx | read_only)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        self.features = features;
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::CONFIG)
    }

    fn set_protocol_features(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(1)
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        unexpected()
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        self.memory = regions
            .iter()
            .zip(files)
            .map(|(region, file)| {
                let span = HostSpan::of_file(Arc::new(file), region.memory_size);
                (
                    region.guest_phys_addr,
                    span.expect("memory that can be mapped"),
                )
            })
            .collect();
        Ok(None)
    }

    fn add_mem_region(
        &mut self,
        _: &VhostUserSingleMemoryRegion,
        _: File,
        _: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        unexpected()
    }

    fn remove_mem_region(&mut self, _: &VhostUserSingleMemoryRegion) -> Result<()> {
        unexpected()
    }

    fn set_vring_num(&mut self, _: u32, size: u32) -> Result<()> {
        self.size = u16::try_from(size).map_err(|_| Error::InvalidParam)?;
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        _: u32,
        _: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        avail: u64,
        _: u64,
    ) -> Result<()> {
        (self.descriptors, self.used, self.avail) = (descriptors, used, avail);
        Ok(())
    }

    fn set_vring_base(&mut self, _: u32, base: u32) -> Result<()> {
        (self.taken, self.put) = (base as u16, base as u16);
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.is_on = false;
        Ok(VhostUserVringState::new(index, self.taken.into()))
    }

    fn set_vring_kick(&mut self, _: u8, file: Option<File>) -> Result<()> {
        self.kick = event(file);
        Ok(())
    }

    fn set_vring_call(&mut self, _: u8, file: Option<File>) -> Result<()> {
        self.call = event(file);
        Ok(())
    }

    fn set_vring_err(&mut self, _: u8, _: Option<File>) -> Result<()> {
        Ok(())
    }

    fn set_vring_enable(&mut self, _: u32, is_on: bool) -> Result<()> {
        self.is_on = is_on;
        Ok(())
    }

    fn get_config(&mut self, offset: u32, size: u32, _: VhostUserConfigFlags) -> Result<Vec<u8>> {
        let mut config = [0; 60];
        let mut set = |at: usize, value: u32| {
            config[at..at + 4].copy_from_slice(&value.to_le_bytes());
        };
        set(0, (self.plan.bytes / 512) as u32);
        set(20, self.plan.block_bytes);
        set(36, self.plan.range_sectors_max);
        set(40, 1);
        set(48, self.plan.range_sectors_max);
        set(52, 1);
        if self.plan.mischief == Mischief::LiesAboutSize {
            set(4, u32::MAX);
        }
        let (offset, size) = (offset as usize, size as usize);
        let bytes = config.get(offset..offset.saturating_add(size));
        bytes.map(<[u8]>::to_vec).ok_or(Error::InvalidParam)
    }

    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        unexpected()
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        unexpected()
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        unexpected()
    }

    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        unexpected()
    }

    fn set_inflight_fd(&mut self, _: &VhostUserInflight, _: File) -> Result<()> {
        unexpected()
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        unexpected()
    }

    fn check_device_state(&mut self) -> Result<()> {
        unexpected()
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        unexpected()
    }

    fn set_log_base(&mut self, _: &VhostUserLog, _: File) -> Result<()> {
        unexpected()
    }
}
