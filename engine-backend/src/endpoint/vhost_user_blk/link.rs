//! [`Link`]: what is said to a vhost-user-blk device over its socket.
//!
//! Every message asks for a reply and each conversation has a deadline ([`Watch`]), so that
//! a device can neither be half set up without anybody noticing nor hold whoever opens it.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;

use super::config::{CONFIG_BYTES, UNDERSTOOD};
use crate::endpoint::OpenError;
use crate::endpoint::watch::{Watch, connect};

/// What the other side has to speak.
const PROTOCOL: VhostUserProtocolFeatures =
    VhostUserProtocolFeatures::CONFIG.union(VhostUserProtocolFeatures::REPLY_ACK);
/// The transport's own feature bit.
const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
/// The one virtqueue that is used.
const QUEUE: usize = 0;

/// Where the device finds its virtqueue, in its own addresses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Queue {
    pub(super) size: u16,
    pub(super) descriptors: u64,
    pub(super) avail: u64,
    pub(super) used: u64,
}

/// Memory that the device is given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Region<'a> {
    /// In its own addresses.
    pub(super) address: u64,
    pub(super) bytes: u64,
    pub(super) file: BorrowedFd<'a>,
}

/// What a device offers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offer {
    pub(super) features: u64,
    pub(super) config: [u8; CONFIG_BYTES],
}

/// A connection. Dropping it hangs up.
pub(super) struct Link {
    frontend: Frontend,
    watch: Watch,
    path: String,
    limit: Duration,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = &self.path;
        f.debug_struct("Link")
            .field("path", path)
            .finish_non_exhaustive()
    }
}

impl Link {
    /// Connects and learns what the device offers.
    pub(super) fn connect(path: &Path, limit: Duration) -> Result<(Self, Offer), OpenError> {
        let (socket, watch) = connect(path, limit)?;
        let mut link = Self {
            frontend: Frontend::from_stream(socket, QUEUE as u64 + 1),
            watch,
            path: path.display().to_string(),
            limit,
        };
        let offered = link.say("its features", |f, _| {
            f.set_owner()?;
            f.get_features()
        })?;
        let needed = 1 << VIRTIO_F_VERSION_1 | PROTOCOL_FEATURES;
        if offered & needed != needed {
            return Err(link.not_usable(format!(
                "features {offered:#x}: expected {needed:#x} among them (virtio 1, protocol \
                 features)"
            )));
        }
        let protocol = link.say("its protocol features", |f, _| f.get_protocol_features())?;
        if !protocol.contains(PROTOCOL) {
            return Err(link.not_usable(format!(
                "protocol features {:#x}: expected {:#x} among them (configuration space, replies)",
                protocol.bits(),
                PROTOCOL.bits()
            )));
        }
        let bytes = link.say("its configuration", |f, _| {
            f.set_protocol_features(PROTOCOL)?;
            f.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
            let flags = VhostUserConfigFlags::empty();
            let (_, bytes) = f.get_config(0, CONFIG_BYTES as u32, flags, &[0; CONFIG_BYTES])?;
            Ok(bytes)
        })?;
        let config = bytes.as_slice().try_into().map_err(|_| {
            link.not_usable(format!(
                "{} bytes of configuration space: expected {CONFIG_BYTES}",
                bytes.len()
            ))
        })?;
        let features = offered & UNDERSTOOD;
        Ok((link, Offer { features, config }))
    }

    /// Hands over memory and virtqueue, and lets the device run.
    pub(super) fn start(
        &mut self,
        features: u64,
        memory: [Region<'_>; 2],
        queue: &Queue,
    ) -> Result<(), OpenError> {
        let regions = memory.map(|region| VhostUserMemoryRegionInfo {
            guest_phys_addr: region.address,
            memory_size: region.bytes,
            // So that the ring's addresses need no translation.
            userspace_addr: region.address,
            mmap_offset: 0,
            mmap_handle: region.file.as_raw_fd(),
        });
        let config = VringConfigData {
            queue_max_size: queue.size,
            queue_size: queue.size,
            flags: 0,
            desc_table_addr: queue.descriptors,
            used_ring_addr: queue.used,
            avail_ring_addr: queue.avail,
            log_addr: None,
        };
        self.say("features and memory", |f, _| {
            f.set_features(features | PROTOCOL_FEATURES)?;
            f.set_mem_table(&regions).map(drop)
        })?;
        let what = format!("a virtqueue of {} descriptors", queue.size);
        self.say(&what, |f, watch| {
            f.set_vring_num(QUEUE, queue.size)?;
            f.set_vring_addr(QUEUE, &config)?;
            f.set_vring_base(QUEUE, 0)?;
            f.set_vring_call(QUEUE, watch.call_fd())?;
            f.set_vring_kick(QUEUE, watch.kick_fd())?;
            f.set_vring_enable(QUEUE, true)
        })
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn watch(&self) -> &Watch {
        &self.watch
    }

    pub(super) fn not_usable(&self, what: String) -> OpenError {
        OpenError::NotUsable {
            path: self.path.clone(),
            what,
        }
    }

    fn say<R>(
        &mut self,
        what: &str,
        say: impl FnOnce(&mut Frontend, &Watch) -> vhost::Result<R>,
    ) -> Result<R, OpenError> {
        let (frontend, watch) = (&mut self.frontend, &self.watch);
        let said = watch.within(self.limit, || say(frontend, watch));
        said.map_err(|error| match error {
            vhost::Error::VhostUserProtocol(vhost::vhost_user::Error::BackendInternalError) => {
                self.not_usable(format!("it refuses {what}; its own log may say why"))
            }
            error => OpenError::NoAnswer {
                path: self.path.clone(),
                what: format!("{what}: {error}"),
            },
        })
    }
}
