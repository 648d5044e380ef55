//! [`RemoteDomain`]: a domain whose engine is another process, driven over vhost-user.
//!
//! Every message asks for a reply, so that each verb is as synchronous as an embedded
//! engine's. What the engine's process may not survive is kept here: guest RAM and whether
//! writes are logged are told to the next engine ([`Domain::reattach`]); virtqueues are not,
//! because what the guest had set up in the engine is gone, which it has to be told
//! (DEVICE_NEEDS_RESET).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use byway_protocols::ConfigSpace;
use byway_protocols::config::QUEUE_COUNT;
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserDirtyLogRegion, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::connect::connect_within;
use super::watch::Watch;
use crate::interface::{DirtyBitmap, Domain, DomainError, MemoryRegion, Vring};
use crate::memory::{LOG_PAGE, SharedLog};

/// What the other side has to speak.
const PROTOCOL: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::LOG_SHMFD)
    .union(VhostUserProtocolFeatures::REPLY_ACK)
    .union(VhostUserProtocolFeatures::CONFIG)
    .union(VhostUserProtocolFeatures::RESET_DEVICE)
    .union(VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS);
/// Feature bits of the transport.
const TRANSPORT: u64 = VhostUserVirtioFeatures::all().bits();
const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
const LOG_ALL: u64 = VhostUserVirtioFeatures::LOG_ALL.bits();
/// Largest size of a virtqueue, which vhost-user does not tell: what stock devices have.
const QUEUE_SIZE_MAX: u16 = 256;
/// How long an engine may take for an answer: far longer than any takes, which maps memory at most.
const PATIENCE: Duration = Duration::from_secs(20);
/// Guest-physical bytes that one byte of the log stands for.
const BYTES_PER_LOG_BYTE: u64 = 8 * LOG_PAGE;

/// A domain behind a socket. Dropping it detaches.
#[derive(Debug)]
pub struct RemoteDomain {
    path: PathBuf,
    /// `None` while no engine is there.
    link: Option<Link>,
    lost: EventFd,
    offered: u64,
    taken: u64,
    config: [u8; ConfigSpace::SIZE],
    regions: Vec<MemoryRegion>,
    rings: [Option<Vring>; QUEUE_COUNT as usize],
    log: Option<SharedLog>,
    is_paused: bool,
    patience: Duration,
}

/// A connection and who watches it.
struct Link {
    frontend: Frontend,
    watch: Watch,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

impl RemoteDomain {
    /// Attaches to the domain whose socket is at `path`.
    ///
    /// # Errors
    /// [`DomainError::Gone`] when nobody answers there, or the engine refuses: the domain has
    /// another front end, or this process may not attach.
    pub fn connect(path: &Path) -> Result<Self, DomainError> {
        Self::connect_patiently(path, PATIENCE)
    }

    /// The same, with another bound of how long an answer of the engine's may take.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn connect_patiently(path: &Path, patience: Duration) -> Result<Self, DomainError> {
        let mut this = Self {
            path: path.to_owned(),
            link: None,
            lost: event_fd()?,
            offered: 0,
            taken: 0,
            config: [0; ConfigSpace::SIZE],
            regions: Vec::new(),
            rings: [const { None }; QUEUE_COUNT as usize],
            log: None,
            is_paused: false,
            patience,
        };
        this.attach()?;
        Ok(this)
    }

    /// Connects, negotiates, and tells of guest RAM.
    fn attach(&mut self) -> Result<(), DomainError> {
        let path = self.path.clone();
        let gone =
            |why: &dyn std::fmt::Display| DomainError::Gone(format!("{}: {why}", path.display()));
        let socket = connect_within(&path, self.patience).map_err(|e| gone(&e))?;
        let watched = socket.try_clone().map_err(|e| gone(&e))?;
        let mut frontend = Frontend::from_stream(socket, QUEUE_COUNT.into());
        let mut watch =
            Watch::start(watched, clone(&self.lost)?, self.patience).map_err(|e| gone(&e))?;
        let negotiated = watch.bounded(|| negotiate(&mut frontend));
        let (offered, config) = negotiated.map_err(|e| {
            let refused = || format!("the engine does not take this front end ({e})");
            gone(&watch.why().unwrap_or_else(refused))
        })?;
        let wanted = 1 << 32 | TRANSPORT;
        if offered & wanted != wanted {
            return Err(gone(&format!(
                "the engine offers features {offered:#x}: expected {wanted:#x} among them"
            )));
        }
        (self.offered, self.config) = (offered & !TRANSPORT, config);
        self.link = Some(Link { frontend, watch });
        let told = self.tell_everything();
        if told.is_err() {
            self.link = None;
        }
        told
    }

    fn tell_everything(&mut self) -> Result<(), DomainError> {
        for region in self.regions.clone() {
            self.tell_region(&region)?;
        }
        if self.log.is_some() {
            self.start_log()?;
        }
        Ok(())
    }

    /// Says something to the engine.
    fn say<R>(
        &mut self,
        what: &str,
        say: impl FnOnce(&mut Frontend) -> vhost::Result<R>,
    ) -> Result<R, DomainError> {
        let path = self.path.display();
        let link = self
            .link
            .as_mut()
            .ok_or_else(|| DomainError::Gone(format!("{path}: nobody is there")))?;
        let Link { frontend, watch } = link;
        match watch.bounded(|| say(frontend)) {
            Ok(done) => Ok(done),
            // It answered, and the connection stays.
            Err(vhost::Error::VhostUserProtocol(
                vhost::vhost_user::Error::BackendInternalError,
            )) => Err(DomainError::BadArgument(format!(
                "the engine refuses {what}; its log says why"
            ))),
            Err(error) => {
                let why = watch.why().unwrap_or_else(|| error.to_string());
                let gone = DomainError::Gone(format!("{path}: {what}: {why}"));
                // Whatever was left half said cannot be gone on with.
                self.link = None;
                // An eventfd that is full is readable anyway.
                let _ = self.lost.write(1);
                Err(gone)
            }
        }
    }

    fn tell_region(&mut self, region: &MemoryRegion) -> Result<(), DomainError> {
        let info = region_info(region);
        self.say("a memory region", |f| f.add_mem_region(&info).map(drop))
    }

    fn tell_features(&mut self) -> Result<(), DomainError> {
        let log = if self.log.is_some() { LOG_ALL } else { 0 };
        let features = self.taken | PROTOCOL_FEATURES | log;
        self.say("its features", |f| f.set_features(features))
    }

    fn tell_ring(&mut self, index: usize, vring: &Vring) -> Result<(), DomainError> {
        let config = VringConfigData {
            queue_max_size: QUEUE_SIZE_MAX,
            queue_size: vring.size,
            flags: 0,
            // Memory is told to be where the guest has it.
            desc_table_addr: vring.desc_table,
            used_ring_addr: vring.used_ring,
            avail_ring_addr: vring.avail_ring,
            log_addr: None,
        };
        self.say("a virtqueue", |f| {
            f.set_vring_num(index, vring.size)?;
            f.set_vring_addr(index, &config)
        })?;
        self.run_ring(index, vring)
    }

    /// Has a ring go on that is set up.
    fn run_ring(&mut self, index: usize, vring: &Vring) -> Result<(), DomainError> {
        self.say("to start a virtqueue", |f| {
            f.set_vring_base(index, vring.base)?;
            f.set_vring_call(index, &vring.call)?;
            f.set_vring_kick(index, &vring.kick)?;
            f.set_vring_enable(index, true)
        })
    }

    fn stop_ring(&mut self, index: usize) -> Result<u16, DomainError> {
        let base = self.say("to stop a virtqueue", |f| f.get_vring_base(index))?;
        Ok(base as u16)
    }

    /// Shares a log with bits for all of guest RAM, those of the former one included, and has
    /// the engine write it.
    fn start_log(&mut self) -> Result<(), DomainError> {
        let end = self.regions.iter().map(|r| r.guest_addr + r.size).max();
        let bytes = end.unwrap_or(0).div_ceil(BYTES_PER_LOG_BYTE);
        let bytes = bytes.next_multiple_of(4096).max(4096);
        let fresh = memfd(c"byway-dirty-log").map_err(host("cannot make a dirty log"))?;
        fresh
            .set_len(bytes)
            .map_err(host("cannot make room for the dirty log"))?;
        let region = VhostUserDirtyLogRegion {
            mmap_size: bytes,
            mmap_offset: 0,
            mmap_handle: fresh.as_raw_fd(),
        };
        self.say("a dirty log", |f| f.set_log_base(0, Some(region)))?;
        let fresh =
            SharedLog::new(fresh, 0, bytes).map_err(|e| DomainError::BadArgument(e.to_string()))?;
        if let Some(former) = self.log.take() {
            // The engine writes the new one only.
            let bitmap = DirtyBitmap {
                guest_addr: 0,
                words: former.take(0, former.pages()),
            };
            bitmap.pages().for_each(|page| fresh.mark(page));
        }
        self.log = Some(fresh);
        self.tell_features()
    }
}

impl Domain for RemoteDomain {
    fn features(&self) -> u64 {
        self.offered
    }

    fn set_features(&mut self, features: u64) -> Result<(), DomainError> {
        if features & !self.offered != 0 {
            return Err(DomainError::BadArgument(format!(
                "features {features:#x}: only {:#x} were offered",
                self.offered
            )));
        }
        self.taken = features;
        if self.link.is_none() {
            // The guest's driver may go on; it is told when its virtqueues cannot be started.
            return Ok(());
        }
        self.tell_features()
    }

    fn queue_count(&self) -> usize {
        self.rings.len()
    }

    fn queue_max_size(&self) -> u16 {
        QUEUE_SIZE_MAX
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        for (i, byte) in data.iter_mut().enumerate() {
            let at = (offset as usize).checked_add(i);
            *byte = at.and_then(|at| self.config.get(at)).copied().unwrap_or(0);
        }
    }

    fn add_region(&mut self, region: MemoryRegion) -> Result<(), DomainError> {
        if !region.writable {
            return Err(DomainError::Unsupported("memory that is read-only"));
        }
        self.tell_region(&region)?;
        self.regions.push(region);
        if self.log.is_some() {
            return self.start_log();
        }
        Ok(())
    }

    fn remove_region(&mut self, guest_addr: u64, size: u64) -> Result<(), DomainError> {
        let mut regions = self.regions.iter();
        let index = regions
            .position(|r| (r.guest_addr, r.size) == (guest_addr, size))
            .ok_or_else(|| DomainError::Region {
                guest_addr,
                size,
                what: "no such region".to_owned(),
            })?;
        let info = region_info(&self.regions[index]);
        self.say("to give up a memory region", |f| f.remove_mem_region(&info))?;
        self.regions.swap_remove(index);
        Ok(())
    }

    fn protect_region(&mut self, _: u64, _: u64, _: bool) -> Result<(), DomainError> {
        Err(DomainError::Unsupported("memory that becomes read-only"))
    }

    fn discard(&mut self, _: u64, _: u64) -> Result<(), DomainError> {
        Err(DomainError::Unsupported("ballooning"))
    }

    fn restore(&mut self, _: u64, _: u64) -> Result<(), DomainError> {
        Err(DomainError::Unsupported("ballooning"))
    }

    fn set_dirty_log(&mut self, on: bool) {
        self.log = None;
        let told = if on {
            self.start_log()
        } else {
            self.tell_features()
        };
        if let Err(error) = told {
            // Whoever harvests is told that it is off.
            tracing::error!("cannot turn the dirty log on or off: {error}");
            self.log = None;
        }
    }

    fn harvest_dirty(&mut self, guest_addr: u64, size: u64) -> Result<DirtyBitmap, DomainError> {
        let inside = |r: &MemoryRegion| {
            let offset = guest_addr.checked_sub(r.guest_addr);
            offset.is_some_and(|offset| offset <= r.size && size <= r.size - offset)
        };
        let aligned = guest_addr.is_multiple_of(LOG_PAGE) && size.is_multiple_of(LOG_PAGE);
        if !aligned || size == 0 || !self.regions.iter().any(inside) {
            return Err(DomainError::BadArgument(format!(
                "{guest_addr:#x}+{size:#x}: expected whole pages inside one region"
            )));
        }
        // The engine brings the log up to date before it answers.
        self.tell_features()?;
        let log = self
            .log
            .as_ref()
            .ok_or_else(|| DomainError::BadArgument("the dirty log is off".to_owned()))?;
        Ok(DirtyBitmap {
            guest_addr,
            words: log.take(guest_addr / LOG_PAGE, size / LOG_PAGE),
        })
    }

    fn start_vring(&mut self, index: usize, vring: Vring) -> Result<(), DomainError> {
        let count = self.rings.len();
        let ring = self.rings.get(index);
        if ring
            .ok_or(DomainError::NoSuchQueue(index, count))?
            .is_some()
        {
            return Err(DomainError::BadArgument(format!(
                "virtqueue {index} runs already: stop it first"
            )));
        }
        self.tell_ring(index, &vring)?;
        self.rings[index] = Some(vring);
        Ok(())
    }

    fn stop_vring(&mut self, index: usize) -> Result<u16, DomainError> {
        let count = self.rings.len();
        let ring = self.rings.get_mut(index);
        let ring = ring.ok_or(DomainError::NoSuchQueue(index, count))?.take();
        match ring {
            Some(vring) if self.is_paused => Ok(vring.base),
            Some(_) => self.stop_ring(index),
            None => Ok(0),
        }
    }

    fn reset(&mut self) {
        self.rings = [const { None }; QUEUE_COUNT as usize];
        self.is_paused = false;
        self.taken = 0;
        let reset = self.say("a reset", |f| f.reset_device());
        match reset {
            // With no engine nothing of the domain is accessed.
            Ok(()) | Err(DomainError::Gone(_)) => {}
            Err(error) => {
                tracing::error!("{error}: detached");
                self.link = None;
            }
        }
    }

    fn pause(&mut self) {
        if std::mem::replace(&mut self.is_paused, true) {
            return;
        }
        for index in 0..self.rings.len() {
            if self.rings[index].is_none() {
                continue;
            }
            match self.stop_ring(index) {
                Ok(base) => {
                    if let Some(vring) = &mut self.rings[index] {
                        vring.base = base;
                    }
                }
                Err(error) => tracing::warn!("cannot pause: {error}"),
            }
        }
    }

    fn resume(&mut self) {
        if !std::mem::take(&mut self.is_paused) {
            return;
        }
        for index in 0..self.rings.len() {
            let Some(vring) = self.rings[index].take() else {
                continue;
            };
            if let Err(error) = self.run_ring(index, &vring) {
                tracing::warn!("cannot resume: {error}");
            }
            self.rings[index] = Some(vring);
        }
    }

    fn lost(&self) -> Option<&EventFd> {
        Some(&self.lost)
    }

    fn reattach(&mut self) -> Result<(), DomainError> {
        self.link = None;
        // What comes from now on is of the new connection.
        let _ = self.lost.read();
        self.rings = [const { None }; QUEUE_COUNT as usize];
        self.is_paused = false;
        self.taken = 0;
        self.attach()
    }
}

/// Feature bits offered, and the configuration space.
fn negotiate(frontend: &mut Frontend) -> vhost::Result<(u64, [u8; ConfigSpace::SIZE])> {
    frontend.set_owner()?;
    let offered = frontend.get_features()?;
    let protocol = frontend.get_protocol_features()?;
    frontend.set_protocol_features(PROTOCOL & protocol)?;
    frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    let mut config = [0; ConfigSpace::SIZE];
    let flags = VhostUserConfigFlags::empty();
    let (_, bytes) = frontend.get_config(0, config.len() as u32, flags, &config)?;
    // Its length was compared with the one asked for.
    config.copy_from_slice(&bytes);
    Ok((offered, config))
}

fn region_info(region: &MemoryRegion) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: region.guest_addr,
        memory_size: region.size,
        // So that ring addresses need no translation.
        userspace_addr: region.guest_addr,
        mmap_offset: region.file_offset,
        mmap_handle: region.file.as_raw_fd(),
    }
}

fn event_fd() -> Result<EventFd, DomainError> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(host("cannot make an eventfd"))
}

fn clone(fd: &EventFd) -> Result<EventFd, DomainError> {
    fd.try_clone().map_err(host("cannot duplicate an eventfd"))
}

fn host(what: &'static str) -> impl FnOnce(io::Error) -> DomainError {
    move |source| DomainError::Host {
        what: what.to_owned(),
        source,
    }
}

fn memfd(name: &std::ffi::CStr) -> io::Result<File> {
    // SAFETY: the name is a string with its end.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { File::from_raw_fd(fd) })
}
