//! [`Device`]: `/dev/byway`, before and after a context was opened on it.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use byway_protocols::{Opcode, Rights};
use byway_ring::context::Name;

use crate::error::{Error, OPEN};
use crate::sys::ioctl;
use crate::transport::Linux;
use crate::{Context, uapi};

/// Where the module puts the device.
pub const PATH: &str = "/dev/byway";

/// An open file of the device, on which no context was opened.
#[derive(Debug)]
pub struct Device {
    file: OwnedFd,
}

/// A linked domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its number.
    pub domain: u32,
    /// Rights that may be given to it.
    pub rights_out: Rights,
    /// Rights that it may give.
    pub rights_in: Rights,
}

/// What module and engine say of themselves.
#[derive(Debug, Clone, Copy)]
pub struct DeviceInfo(uapi::Info);

impl DeviceInfo {
    /// All of it, as the header has it.
    #[must_use]
    pub const fn raw(&self) -> &uapi::Info {
        &self.0
    }

    /// The domain's own name.
    #[must_use]
    pub fn name(&self) -> String {
        let used = self.0.name.iter().take_while(|byte| **byte != 0);
        String::from_utf8_lossy(&used.copied().collect::<Vec<_>>()).into_owned()
    }

    /// Whether the engine carries an operation out.
    #[must_use]
    pub fn supports(&self, opcode: Opcode) -> bool {
        let code = opcode as usize;
        self.0
            .opcodes
            .get(code / 8)
            .is_some_and(|byte| byte & 1 << (code % 8) != 0)
    }

    /// Whether the engine leaves accessed and dirty bits alone, because the guest has one CPU: pages that were
    /// not touched before are faults.
    #[must_use]
    pub const fn no_ad(&self) -> bool {
        self.0.flags & uapi::INFO_NO_AD != 0
    }
}

impl Device {
    /// Opens `/dev/byway`.
    ///
    /// # Errors
    /// There is no such device, it may not be opened, or its interface is another one.
    pub fn open() -> Result<Self, Error> {
        Self::open_at(Path::new(PATH))
    }

    /// Opens the device elsewhere.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_at(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_CLOEXEC)
            .open(path);
        let file = file.map_err(|error| Error {
            call: OPEN,
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        })?;
        let device = Self { file: file.into() };
        if device.info()?.0.interface != uapi::INTERFACE {
            return Err(Error {
                call: OPEN,
                errno: libc::EPROTONOSUPPORT,
            });
        }
        Ok(device)
    }

    /// What module and engine say of themselves.
    ///
    /// # Errors
    /// The device is gone.
    pub fn info(&self) -> Result<DeviceInfo, Error> {
        info(self.file.as_fd())
    }

    /// A linked domain by its name.
    ///
    /// # Errors
    /// There is no link to a domain of that name.
    pub fn lookup(&self, peer: &Name) -> Result<Peer, Error> {
        let mut argument = uapi::Lookup {
            name: *peer.padded(),
            ..uapi::Lookup::default()
        };
        ioctl(self.file.as_fd(), &mut argument)?;
        Ok(Peer {
            domain: argument.domain,
            rights_out: Rights(argument.rights_out),
            rights_in: Rights(argument.rights_in),
        })
    }

    /// Opens a context over this process's memory, with so many capability slots, slot 0 included.
    ///
    /// # Errors
    /// Too many slots, a quota, no device.
    pub fn context(self, slots: u32) -> Result<Context, Error> {
        let mut argument = uapi::Context {
            slots,
            ..uapi::Context::default()
        };
        ioctl(self.file.as_fd(), &mut argument)?;
        Ok(Context::new(Linux::new(Arc::new(self.file))))
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<Device> for OwnedFd {
    fn from(device: Device) -> Self {
        device.file
    }
}

pub(crate) fn info(file: BorrowedFd<'_>) -> Result<DeviceInfo, Error> {
    let mut argument = uapi::Info::default();
    ioctl(file, &mut argument)?;
    Ok(DeviceInfo(argument))
}
