//! What a front end's messages mean for its domain.
//!
//! The `vhost` crate takes messages apart and checks their form; a [`Session`] checks what
//! they ask for and calls the [`Domain`]'s verbs, which are synchronous: so is every reply.
//!
//! # When a ring runs
//! From the moment at which it has size, addresses and a kick and is enabled, until
//! SET_VRING_ENABLE 0, GET_VRING_BASE, a reset or the end of the connection. GET_VRING_BASE of
//! either ring stops the whole domain: when the reply goes out, nobody touches its memory,
//! its own work queues and its peers included.
//!
//! # Pausing or starting anew?
//! A front end that stops a device and starts it again may have paused its VM, or the guest may
//! have been reset and have forgotten all that it had set up. vhost-user does not say which
//! (QEMU's GPIO device sends no reset). The control ring's base tells: a paused VM goes on where
//! it was, a guest that starts anew begins with 0. So the domain is reset, before its memory can be
//! reached again, unless the base is where the ring stopped; and where that was at 0, unless the
//! front end has not set the ring up again either. From the stop on the guest may have put what were its queues' rings to
//! another use: such a reset writes nothing to them, nor does the end of the connection.

use std::fmt::Display;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use byway_protocols::config::CONTROL_QUEUE;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVirtioFeatures,
    VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::descriptors::{check_memory, event_fd};
use super::log::Log;
use crate::interface::{Domain, MemoryRegion, Vring};
use crate::memory::SharedLog;

/// Most regions that a front end can have at once: as many as the engine maps for a domain.
const REGIONS_MAX: u64 = crate::memory::REGIONS_MAX as u64;

/// Most guest RAM that a front end can have, in bytes: no domain is to use up the address space of
/// the engine's process, nor its memory by the dirty log of a large sparse file.
const RAM_MAX: u64 = 1 << 40;

/// What is spoken beside the plain protocol. REPLY_ACK is required: it makes changes of
/// memory synchronous.
const PROTOCOL: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::REPLY_ACK)
    .union(VhostUserProtocolFeatures::CONFIG)
    .union(VhostUserProtocolFeatures::RESET_DEVICE)
    .union(VhostUserProtocolFeatures::LOG_SHMFD)
    .union(VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS);

/// Feature bits of the transport, which the domain does not know.
const TRANSPORT: u64 = VhostUserVirtioFeatures::all().bits();
/// The engine's writes are to be logged.
const LOG_ALL: u64 = VhostUserVirtioFeatures::LOG_ALL.bits();

/// One region of guest RAM, as the front end described it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Region {
    guest_addr: u64,
    size: u64,
    /// Where the front end has it, which is how it names ring addresses.
    user_addr: u64,
    file_offset: u64,
    /// Device and inode of the file.
    file: (u64, u64),
}

impl Region {
    fn new(region: &VhostUserMemoryRegion, file: &File) -> io::Result<Self> {
        let found = file.metadata()?;
        Ok(Self {
            guest_addr: region.guest_phys_addr,
            size: region.memory_size,
            user_addr: region.user_addr,
            file_offset: region.mmap_offset,
            file: (found.dev(), found.ino()),
        })
    }
    /// Whether it is the same memory at the same place of the guest; where the front end
    /// has it does not matter.
    fn is_same_memory(&self, other: &Self) -> bool {
        let elsewhere = Self {
            user_addr: other.user_addr,
            ..*self
        };
        elsewhere == *other
    }
}

/// Addresses in the front end's address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Areas {
    descriptors: u64,
    available: u64,
    used: u64,
}

/// A virtqueue as far as the front end has set it up.
#[derive(Debug)]
struct Ring {
    size: u16,
    areas: Option<Areas>,
    base: u16,
    kick: Option<EventFd>,
    /// Written by the engine, never by the front end: it cannot block.
    bell: EventFd,
    /// The front end's, if it wants interrupts.
    call: Option<EventFd>,
    is_enabled: bool,
    is_running: bool,
    /// Its addresses were told since it stopped.
    is_fresh: bool,
}

impl Ring {
    fn new() -> io::Result<Self> {
        Ok(Self {
            size: 0,
            areas: None,
            base: 0,
            kick: None,
            bell: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            call: None,
            is_enabled: false,
            is_running: false,
            is_fresh: false,
        })
    }
}

/// One connection's state. Dropping it detaches the domain.
pub(super) struct Session {
    domain: Box<dyn Domain>,
    regions: Vec<Region>,
    rings: Vec<Ring>,
    /// REPLY_ACK is negotiated.
    acknowledges: bool,
    /// The domain is paused, by GET_VRING_BASE.
    is_stopped: bool,
    /// The control ring's base when it stopped; what is set up may be what it was then.
    stopped_at: Option<u16>,
    log: Log,
}

impl Session {
    /// A session of a front end that has said nothing yet.
    pub(super) fn new(domain: Box<dyn Domain>) -> io::Result<Self> {
        let rings = (0..domain.queue_count()).map(|_| Ring::new());
        Ok(Self {
            rings: rings.collect::<io::Result<_>>()?,
            domain,
            regions: Vec::new(),
            acknowledges: false,
            is_stopped: false,
            stopped_at: None,
            log: Log::default(),
        })
    }

    /// What the engine writes when a ring's driver is to be interrupted, by ring.
    pub(super) fn bells(&self) -> io::Result<Vec<EventFd>> {
        self.rings
            .iter()
            .map(|ring| ring.bell.try_clone())
            .collect()
    }

    /// A copy of what the front end wants written for an interrupt of a ring.
    pub(super) fn call(&self, ring: usize) -> Option<&EventFd> {
        self.rings.get(ring)?.call.as_ref()
    }

    /// Whether messages are acknowledged that ask for it.
    pub(super) fn acknowledges(&self) -> bool {
        self.acknowledges
    }

    fn ring(&mut self, index: u32) -> Result<&mut Ring> {
        let count = self.rings.len();
        self.rings
            .get_mut(index as usize)
            .ok_or_else(|| refused(format!("ring {index}: the device has {count}")))
    }

    /// A ring that is to be set up: it must not run.
    fn idle_ring(&mut self, index: u32, what: &str) -> Result<&mut Ring> {
        self.need_acknowledgements()?;
        let ring = self.ring(index)?;
        if ring.is_running {
            return Err(refused(format!("{what} of ring {index}, which runs")));
        }
        Ok(ring)
    }

    fn need_acknowledgements(&self) -> Result<()> {
        if !self.acknowledges {
            return Err(refused(
                "the front end has not negotiated the protocol feature REPLY_ACK, without which \
                 changes of guest memory would not be synchronous",
            ));
        }
        Ok(())
    }

    /// Whether there is a log to bring up to date now and then.
    pub(super) fn logs(&self) -> bool {
        self.log.is_on()
    }

    /// Tells the front end which pages were written.
    pub(super) fn sync_log(&mut self) -> Result<()> {
        let regions = self.regions.iter().map(|r| (r.guest_addr, r.size));
        self.log
            .sync(self.domain.as_mut(), regions)
            .map_err(refused)
    }

    /// Guest-physical address of a byte in the front end's address space.
    fn guest_addr(&self, user_addr: u64) -> Result<u64> {
        let inside = |region: &&Region| {
            user_addr
                .checked_sub(region.user_addr)
                .is_some_and(|offset| offset < region.size)
        };
        let region = self.regions.iter().find(inside).ok_or_else(|| {
            refused(format!(
                "ring address {user_addr:#x} is in no memory region"
            ))
        })?;
        Ok(user_addr - region.user_addr + region.guest_addr)
    }

    /// Starts a ring that has all it needs.
    fn start_if_ready(&mut self, index: u32) -> Result<()> {
        let ring = self.ring(index)?;
        let (Some(areas), Some(kick)) = (ring.areas, &ring.kick) else {
            return Ok(());
        };
        if !ring.is_enabled || ring.is_running {
            return Ok(());
        }
        let vring = Vring {
            size: ring.size,
            desc_table: 0,
            avail_ring: 0,
            used_ring: 0,
            base: ring.base,
            kick: kick.try_clone().map_err(Error::ReqHandlerError)?,
            call: ring.bell.try_clone().map_err(Error::ReqHandlerError)?,
        };
        let vring = Vring {
            desc_table: self.guest_addr(areas.descriptors)?,
            avail_ring: self.guest_addr(areas.available)?,
            used_ring: self.guest_addr(areas.used)?,
            ..vring
        };
        if index == u32::from(CONTROL_QUEUE) {
            self.begin_anew_unless_continued()?;
        }
        self.domain
            .start_vring(index as usize, vring)
            .map_err(refused)?;
        self.ring(index)?.is_running = true;
        tracing::debug!(ring = index, "started");
        // Not before it is known whether the guest starts anew.
        if self.ring(CONTROL_QUEUE.into())?.is_running && std::mem::take(&mut self.is_stopped) {
            self.domain.resume();
        }
        Ok(())
    }

    /// Resets the domain if its guest was reset while the device was stopped.
    fn begin_anew_unless_continued(&mut self) -> Result<()> {
        let ring = self.ring(CONTROL_QUEUE.into())?;
        let (base, is_fresh) = (ring.base, std::mem::take(&mut ring.is_fresh));
        match self.stopped_at.take() {
            Some(stopped_at) if base != stopped_at || (base == 0 && is_fresh) => {
                tracing::debug!(stopped_at, base, "the guest was reset");
                // The other ring, if it runs already, was set up anew.
                self.restart(|session| session.domain.reset())
            }
            _ => Ok(()),
        }
    }

    /// Does what stops every ring of the domain, and starts those again that ran.
    fn restart(&mut self, act: impl FnOnce(&mut Self)) -> Result<()> {
        let ran: Vec<u32> = (0..self.rings.len() as u32)
            .filter(|&index| self.rings[index as usize].is_running)
            .collect();
        for &index in &ran {
            self.stop(index)?;
        }
        act(self);
        ran.into_iter()
            .try_for_each(|index| self.start_if_ready(index))
    }

    /// Stops a ring, if it runs; its base is where it can go on.
    fn stop(&mut self, index: u32) -> Result<u16> {
        let ring = self.ring(index)?;
        if !std::mem::take(&mut ring.is_running) {
            return Ok(ring.base);
        }
        let base = self.domain.stop_vring(index as usize).map_err(refused)?;
        self.ring(index)?.base = base;
        if index == u32::from(CONTROL_QUEUE) {
            self.stopped_at = Some(base);
        }
        tracing::debug!(ring = index, base, "stopped");
        Ok(base)
    }

    fn reset(&mut self) -> Result<()> {
        self.domain.reset();
        self.stopped_at = None;
        for ring in &mut self.rings {
            *ring = Ring {
                // Whoever waits for it has a copy.
                bell: ring.bell.try_clone().map_err(Error::ReqHandlerError)?,
                ..Ring::new().map_err(Error::ReqHandlerError)?
            };
        }
        Ok(())
    }

    fn add(&mut self, region: Region, file: File) -> Result<()> {
        check_memory(&file).map_err(refused)?;
        let sizes = self.regions.iter().map(|region| region.size);
        let sum = sizes.fold(region.size, u64::saturating_add);
        if sum > RAM_MAX {
            return Err(refused(format!(
                "{sum:#x} bytes of guest RAM: at most {RAM_MAX:#x} are served over vhost-user"
            )));
        }
        self.domain
            .add_region(MemoryRegion {
                guest_addr: region.guest_addr,
                size: region.size,
                file: Arc::new(file),
                file_offset: region.file_offset,
                writable: true,
                populate: false,
            })
            .map_err(refused)?;
        self.regions.push(region);
        Ok(())
    }

    fn remove(&mut self, index: usize) -> Result<()> {
        // Its part of the log goes with it.
        self.sync_log()?;
        let Region {
            guest_addr, size, ..
        } = self.regions[index];
        self.domain
            .remove_region(guest_addr, size)
            .map_err(refused)?;
        self.regions.swap_remove(index);
        Ok(())
    }
}

/// What the domain, or a check in its stead, does not accept.
pub(super) fn refused(why: impl Display) -> Error {
    Error::ReqHandlerError(io::Error::other(why.to_string()))
}

fn not_offered<T>(what: &'static str) -> Result<T> {
    Err(Error::InvalidOperation(what))
}

impl VhostUserBackendReqHandlerMut for Session {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.reset()
    }

    fn reset_device(&mut self) -> Result<()> {
        self.reset()
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.domain.features() | TRANSPORT)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        tracing::debug!("features {features:#x}");
        self.domain
            .set_features(features & !TRANSPORT)
            .map_err(refused)?;
        self.log
            .turn(self.domain.as_mut(), features & LOG_ALL != 0)
            .map_err(refused)?;
        // A front end that does not acknowledge this bit sends no SET_VRING_ENABLE: its rings are enabled from the
        // start. QEMU 7.2's vhost-user-gpio is one.
        if features & TRANSPORT == 0 {
            for index in 0..self.rings.len() as u32 {
                self.ring(index)?.is_enabled = true;
                self.start_if_ready(index)?;
            }
        }
        self.sync_log()
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(PROTOCOL)
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        tracing::debug!("protocol features {features:#x}");
        if features & !PROTOCOL.bits() != 0 {
            return Err(refused(format!(
                "protocol features {features:#x}: only {:#x} were offered",
                PROTOCOL.bits()
            )));
        }
        self.acknowledges = features & VhostUserProtocolFeatures::REPLY_ACK.bits() != 0;
        self.need_acknowledgements()
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.rings.len() as u64)
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(REGIONS_MAX)
    }

    fn set_mem_table(
        &mut self,
        table: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        self.need_acknowledgements()?;
        let described = table
            .iter()
            .zip(&files)
            .map(|(r, file)| Region::new(r, file));
        let wanted: Vec<Region> = described
            .collect::<io::Result<_>>()
            .map_err(Error::ReqHandlerError)?;
        // What goes makes room for what comes.
        for index in (0..self.regions.len()).rev() {
            let stays = wanted
                .iter()
                .find(|w| w.is_same_memory(&self.regions[index]));
            match stays {
                Some(moved) => self.regions[index].user_addr = moved.user_addr,
                None => self.remove(index)?,
            }
        }
        for (region, file) in wanted.into_iter().zip(files) {
            if !self.regions.contains(&region) {
                self.add(region, file)?;
            }
        }
        Ok(None)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<u64>> {
        self.need_acknowledgements()?;
        let region = Region::new(region, &file).map_err(Error::ReqHandlerError)?;
        self.add(region, file)?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        self.need_acknowledgements()?;
        let (guest_addr, size) = (region.guest_phys_addr, region.memory_size);
        let mut regions = self.regions.iter();
        let index = regions.position(|r| (r.guest_addr, r.size) == (guest_addr, size));
        match index {
            Some(index) => self.remove(index),
            None => Err(refused(format!(
                "no memory region {guest_addr:#x}+{size:#x} is there to be removed"
            ))),
        }
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let most = self.domain.queue_max_size();
        let size = u16::try_from(num).ok();
        let size = size.filter(|size| size.is_power_of_two() && *size <= most);
        self.idle_ring(index, "size")?.size = size
            .ok_or_else(|| refused(format!("ring size {num}: use a power of two up to {most}")))?;
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let areas = Some(Areas {
            descriptors: descriptor,
            available,
            used,
        });
        // Front ends repeat it to a running ring to change the flags, which say whether used
        // rings are logged: with the log on, they always are.
        if self.ring(index)?.areas != areas || !self.ring(index)?.is_running {
            let ring = self.idle_ring(index, "addresses")?;
            ring.areas = areas;
            ring.is_fresh = true;
        }
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let base = u16::try_from(base).map_err(|_| refused(format!("ring base {base}")))?;
        self.idle_ring(index, "base")?.base = base;
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.ring(index)?;
        if !self.is_stopped {
            self.domain.pause();
            self.is_stopped = true;
        }
        let base = self.stop(index)?;
        self.sync_log()?;
        // It starts again when it gets another.
        self.ring(index)?.kick = None;
        Ok(VhostUserVringState::new(index, base.into()))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let file = file.ok_or_else(|| refused("a ring without a kick cannot be polled"))?;
        let kick = event_fd(file).map_err(refused)?;
        self.need_acknowledgements()?;
        let index = u32::from(index);
        self.stop(index)?;
        self.ring(index)?.kick = Some(kick);
        self.start_if_ready(index)
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let call = file.map(event_fd).transpose().map_err(refused)?;
        let ring = self.ring(index.into())?;
        ring.call = call;
        // Whatever was meant for the former one: a needless interrupt is harmless.
        ring.bell.write(1).map_err(Error::ReqHandlerError)
    }

    fn set_vring_err(&mut self, index: u8, _file: Option<File>) -> Result<()> {
        self.ring(index.into()).map(drop)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.need_acknowledgements()?;
        self.ring(index)?.is_enabled = enable;
        if enable {
            return self.start_if_ready(index);
        }
        self.stop(index).map(drop)
    }

    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> Result<Vec<u8>> {
        let mut bytes = vec![0; size as usize];
        self.domain.read_config(offset, &mut bytes);
        Ok(bytes)
    }

    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        Err(refused("the configuration space is read-only"))
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        not_offered("GPU sockets")
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        not_offered("shared objects")
    }

    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        not_offered("inflight tracking")
    }

    fn set_inflight_fd(&mut self, _: &VhostUserInflight, _: File) -> Result<()> {
        not_offered("inflight tracking")
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        not_offered("transfer of device state")
    }

    fn check_device_state(&mut self) -> Result<()> {
        not_offered("transfer of device state")
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        not_offered("shared memory regions")
    }

    fn set_log_base(&mut self, log: &VhostUserLog, file: File) -> Result<()> {
        self.need_acknowledgements()?;
        check_memory(&file).map_err(refused)?;
        // What the former one is to know it gets.
        self.sync_log()?;
        let log = SharedLog::new(file, log.mmap_offset, log.mmap_size).map_err(refused)?;
        self.log.share(log);
        self.sync_log()
    }
}
