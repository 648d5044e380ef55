//! [`Linux`]: the module as the transport of the application library.
//!
//! Owns descriptors and mappings, by the handles that it gives: each is closed and undone when its
//! handle is dropped.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use byway_protocols::codec::KEY_BYTES_MAX;
use byway_protocols::{Completion, Descriptor, QueueHeader, Rights};
use byway_ring::context::{
    Accepted, CapabilityInfo, Info, Key, Name, NewBlocks, NewCapability, NewQueue, Port,
    QueueOptions, State, Terms, Transport, Wait, Wake,
};
use byway_ring::{QueueMemory, Slot};

use crate::error::Error;
use crate::sys::{Mapping, Polled, deadline, ioctl, ioctl_none, owned, poll};
use crate::uapi::{self, Argument};
use crate::{DeviceInfo, device};

/// A context on an open file of `/dev/byway`. Clones mean the same one.
#[derive(Debug, Clone)]
pub struct Linux {
    file: Arc<OwnedFd>,
}

/// A work queue: its descriptor, and its mapping, which is undone first.
#[derive(Debug)]
pub struct QueueFile {
    mapping: Mapping,
    file: OwnedFd,
    number: u32,
}

/// A capability's descriptor. Readable when its state may have changed since it was last queried.
#[derive(Debug)]
pub struct CapabilityFile(OwnedFd);

/// A listener's descriptor. Readable when an offer waits.
#[derive(Debug)]
pub struct ListenerFile(OwnedFd);

impl QueueFile {
    /// Number of the queue, as the host's records name it.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// Has completion interrupts counted by an eventfd, too; `None` ends that.
    ///
    /// # Errors
    /// It is no eventfd, or the queue is gone.
    pub fn set_eventfd(&self, eventfd: Option<BorrowedFd<'_>>) -> Result<(), Error> {
        let mut argument = uapi::Eventfd {
            fd: eventfd.map_or(-1, |file| file.as_raw_fd()),
            reserved: 0,
        };
        ioctl(self.file.as_fd(), &mut argument)
    }

    /// Where it is mapped, and how long that is: for whoever tests what a child makes of it.
    #[must_use]
    pub fn mapping(&self) -> (*const u8, usize) {
        (self.mapping.start().as_ptr(), self.mapping.bytes())
    }
}

impl AsFd for QueueFile {
    /// Readable when the completion interrupt came since the queue was armed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsFd for CapabilityFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for ListenerFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for Linux {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Linux {
    pub(crate) const fn new(file: Arc<OwnedFd>) -> Self {
        Self { file }
    }

    /// All that module and engine say of themselves.
    ///
    /// # Errors
    /// The device is gone.
    pub fn device_info(&self) -> Result<DeviceInfo, Error> {
        device::info(self.as_fd())
    }

    fn call<A: Argument>(&self, argument: &mut A) -> Result<(), Error> {
        ioctl(self.as_fd(), argument)
    }

    fn attach_fd(
        &self,
        foreign: BorrowedFd<'_>,
        terms: &Terms,
    ) -> Result<NewCapability<CapabilityFile>, Error> {
        let mut argument = uapi::Attach {
            cap_fd: foreign.as_raw_fd(),
            rights: terms.rights.0,
            base: terms.base,
            length: terms.length,
            ..uapi::Attach::default()
        };
        self.call(&mut argument)?;
        Ok(NewCapability {
            handle: CapabilityFile(owned(argument.fd, uapi::Attach::NAME)?),
            slot: slot(argument.slot, uapi::Attach::NAME)?,
            length: argument.length,
            rights: Rights(argument.rights_out),
            badge: argument.badge,
        })
    }
}

/// A slot's number that the module answered with.
fn slot(number: u32, call: &'static str) -> Result<Slot, Error> {
    let slot = u16::try_from(number).ok().and_then(Slot::new);
    slot.ok_or(Error {
        call,
        errno: libc::EIO,
    })
}

// SAFETY: the module's interface promises that the mapping of a queue has the three areas where it
// says, checked here to be within it, zeroed, shared with the engine alone and in place until it is
// undone; that destroying a queue - its descriptor closed, its mapping undone - stops all access; and that
// CAP_REVOKE returns when the engine has acknowledged. A child made by fork shares the descriptors and so keeps the
// queue; whoever calls `fork`, which is unsafe, sees to it that the child calls exec or ends.
unsafe impl Transport for Linux {
    type Error = Error;
    type Queue = QueueFile;
    type Capability = CapabilityFile;
    type Listener = ListenerFile;
    type Foreign = OwnedFd;
    type Armed = ();

    fn info(&self) -> Result<Info, Error> {
        let info = self.device_info()?;
        let raw = info.raw();
        Ok(Info {
            version: raw.version,
            instance: raw.instance,
            features: raw.features,
            domain: raw.domain,
            queue_entries_max: raw.queue_entries_max,
            slots_max: raw.slots_max,
        })
    }

    fn create_queue(&self, options: &QueueOptions) -> Result<NewQueue<QueueFile>, Error> {
        let mut argument = uapi::Queue {
            entries: options.entries,
            flags: if options.no_park {
                uapi::QUEUE_NO_PARK
            } else {
                0
            },
            ..uapi::Queue::default()
        };
        self.call(&mut argument)?;
        let call = uapi::Queue::NAME;
        let file = owned(argument.fd, call)?;
        let broken = Error {
            call,
            errno: libc::EIO,
        };
        let bytes = usize::try_from(argument.mmap_bytes).map_err(|_| broken)?;
        let mapping = Mapping::new(Some(file.as_fd()), bytes)?;
        let entries = u64::from(options.entries);
        let memory = QueueMemory {
            ring: mapping
                .at(argument.ring_offset, entries * Descriptor::SIZE as u64)
                .ok_or(broken)?,
            completions: mapping
                .at(
                    argument.completions_offset,
                    entries * Completion::SIZE as u64,
                )
                .ok_or(broken)?,
            header: mapping
                .at(argument.header_offset, QueueHeader::SIZE as u64)
                .ok_or(broken)?,
            entries: options.entries,
        };
        let handle = QueueFile {
            mapping,
            file,
            number: argument.queue,
        };
        Ok(NewQueue {
            handle,
            memory,
            number: argument.queue,
        })
    }

    fn destroy_queue(&self, queue: QueueFile) -> Result<(), Error> {
        drop(queue);
        Ok(())
    }

    fn kick(&self, queue: &QueueFile) -> Result<(), Error> {
        ioctl_none(queue.as_fd(), uapi::KICK, "BYWAY_IOC_KICK")
    }

    fn arm(&self, queue: &QueueFile) -> Result<(), Error> {
        ioctl_none(queue.as_fd(), uapi::ARM, "BYWAY_IOC_ARM")
    }

    fn sleep(&self, queue: &QueueFile, (): (), wait: Wait) -> Result<Wake, Error> {
        Ok(match poll(queue.as_fd(), wait)? {
            Polled::Readable => Wake::Look,
            Polled::Gone => Wake::Dead,
            Polled::TimedOut => Wake::TimedOut,
        })
    }

    fn derive(
        &self,
        parent: Option<&CapabilityFile>,
        terms: &Terms,
    ) -> Result<NewCapability<CapabilityFile>, Error> {
        let mut argument = uapi::Derive {
            parent_fd: parent.map_or(uapi::OWN_MEMORY, |parent| parent.as_fd().as_raw_fd()),
            rights: terms.rights.0,
            base: terms.base,
            length: terms.length,
            badge: terms.badge,
            lifetime_ns: terms.lifetime_ns,
            byte_quota: terms.byte_quota,
            ..uapi::Derive::default()
        };
        self.call(&mut argument)?;
        Ok(NewCapability {
            handle: CapabilityFile(owned(argument.fd, uapi::Derive::NAME)?),
            slot: slot(argument.slot, uapi::Derive::NAME)?,
            length: terms.length,
            rights: terms.rights,
            badge: terms.badge,
        })
    }

    fn attach(
        &self,
        foreign: &OwnedFd,
        terms: &Terms,
    ) -> Result<NewCapability<CapabilityFile>, Error> {
        self.attach_fd(foreign.as_fd(), terms)
    }

    fn create_port(&self, port: &Port) -> Result<NewCapability<CapabilityFile>, Error> {
        let mut argument = uapi::PortCreate {
            depth: port.depth,
            bytes: port.bytes,
            badge: port.badge,
            ..uapi::PortCreate::default()
        };
        self.call(&mut argument)?;
        Ok(NewCapability {
            handle: CapabilityFile(owned(argument.fd, uapi::PortCreate::NAME)?),
            slot: slot(argument.slot, uapi::PortCreate::NAME)?,
            length: 0,
            rights: Rights::PORT,
            badge: port.badge,
        })
    }

    fn load_key(&self, key: &Key<'_>) -> Result<NewCapability<CapabilityFile>, Error> {
        let call = uapi::KeyLoad::NAME;
        let mut argument = uapi::KeyLoad {
            algorithm: key.algorithm as u32,
            length: u32::try_from(key.bytes.len()).unwrap_or(u32::MAX),
            rights: key.rights.0,
            badge: key.badge,
            ..uapi::KeyLoad::default()
        };
        // One that is too long is refused by its length.
        let used = key.bytes.len().min(KEY_BYTES_MAX);
        argument.key[..used].copy_from_slice(&key.bytes[..used]);
        let outcome = self.call(&mut argument);
        for byte in &mut argument.key {
            // SAFETY: a plain byte of ours; volatile, so that it is wiped although nobody reads it.
            unsafe { std::ptr::from_mut(byte).write_volatile(0) };
        }
        outcome?;
        Ok(NewCapability {
            handle: CapabilityFile(owned(argument.fd, call)?),
            slot: slot(argument.slot, call)?,
            length: 0,
            rights: key.rights,
            badge: key.badge,
        })
    }

    fn open_endpoint(
        &self,
        endpoint: &Name,
        badge: u64,
    ) -> Result<NewBlocks<CapabilityFile>, Error> {
        let mut argument = uapi::EndpointOpen {
            name: *endpoint.padded(),
            badge,
            ..uapi::EndpointOpen::default()
        };
        self.call(&mut argument)?;
        let call = uapi::EndpointOpen::NAME;
        Ok(NewBlocks {
            capability: NewCapability {
                handle: CapabilityFile(owned(argument.fd, call)?),
                slot: slot(argument.slot, call)?,
                length: argument.length,
                rights: Rights(argument.rights),
                badge,
            },
            block_bytes: argument.block_bytes,
            features: argument.features,
        })
    }

    fn query(&self, capability: &CapabilityFile) -> Result<CapabilityInfo, Error> {
        let mut is = uapi::CapQuery::default();
        ioctl(capability.as_fd(), &mut is)?;
        let state = match is.state {
            1 => State::Live,
            2 => State::Revoked,
            3 => State::Expired,
            _ => {
                return Err(Error {
                    call: uapi::CapQuery::NAME,
                    errno: libc::EIO,
                });
            }
        };
        Ok(CapabilityInfo {
            state,
            rights: Rights(is.rights),
            length: is.length,
            badge: is.badge,
            depth: is.depth,
            domain: is.domain,
            descendants: is.descendants,
            bytes_read: is.bytes_read,
            bytes_written: is.bytes_written,
        })
    }

    fn revoke(&self, capability: &CapabilityFile, descendants_only: bool) -> Result<(), Error> {
        let mut argument = uapi::CapRevoke {
            flags: if descendants_only {
                uapi::REVOKE_DESCENDANTS_ONLY
            } else {
                0
            },
            reserved: 0,
        };
        ioctl(capability.as_fd(), &mut argument)
    }

    fn drop_capability(&self, capability: CapabilityFile) -> Result<(), Error> {
        drop(capability);
        Ok(())
    }

    fn offer(
        &self,
        capability: &CapabilityFile,
        peer: &Name,
        port: &Name,
        rights: Rights,
    ) -> Result<(), Error> {
        self.call(&mut uapi::Offer {
            cap_fd: capability.as_fd().as_raw_fd(),
            rights: rights.0,
            peer: *peer.padded(),
            port: *port.padded(),
            ..uapi::Offer::default()
        })
    }

    fn listen(&self, port: &Name, peer: Option<&Name>) -> Result<ListenerFile, Error> {
        let mut argument = uapi::Listen {
            port: *port.padded(),
            peer: peer.map_or([0; uapi::NAME_BYTES], |peer| *peer.padded()),
            fd: -1,
            flags: uapi::LISTEN_NONBLOCK,
        };
        self.call(&mut argument)?;
        Ok(ListenerFile(owned(argument.fd, uapi::Listen::NAME)?))
    }

    fn accept(
        &self,
        listener: &ListenerFile,
        wait: Wait,
    ) -> Result<Option<Accepted<NewCapability<CapabilityFile>>>, Error> {
        let left = deadline(wait);
        loop {
            let mut argument = uapi::Accept::default();
            match ioctl(listener.as_fd(), &mut argument) {
                Ok(()) => {
                    let handle = CapabilityFile(owned(argument.fd, uapi::Accept::NAME)?);
                    let capability = NewCapability {
                        handle,
                        slot: slot(argument.slot, uapi::Accept::NAME)?,
                        length: argument.length,
                        rights: Rights(argument.rights),
                        badge: argument.badge,
                    };
                    return Ok(Some(Accepted {
                        capability,
                        domain: argument.domain,
                    }));
                }
                Err(error) if error.errno == libc::EAGAIN => {}
                Err(error) => return Err(error),
            }
            match poll(listener.as_fd(), left())? {
                Polled::Readable => {}
                Polled::TimedOut => return Ok(None),
                Polled::Gone => {
                    return Err(Error {
                        call: uapi::Accept::NAME,
                        errno: libc::ENODEV,
                    });
                }
            }
        }
    }
}
