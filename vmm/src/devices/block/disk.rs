//! [`Disk`]: an open file or block device, with its overlay; and where those of a VM are kept while it reboots.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use byway_engine::seldom::Seldom;

use super::SECTOR_BYTES;
use super::overlay::Overlay;
use super::request::{Range, Status};
use super::transfer::{Way, discard, transfer, write_zeros};
use crate::devices::memory::Snapshot;
use crate::devices::served_queue::{Part, cut};
use crate::devices::settings::{DiskSettings, DiskWrites};

/// Why a disk cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The host refused something.
    #[error("cannot {what} disk {}", path.display())]
    Host {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// Somebody else writes it, or reads what this one would write.
    #[error(
        "disk {} is in use by another VM or program; use overlay or readonly for all of them, or \
         end the other",
        .0.display()
    )]
    InUse(PathBuf),
    /// It is empty, or no whole number of sectors.
    #[error(
        "disk {} has {bytes} bytes; it must be a multiple of {SECTOR_BYTES}, and not 0",
        path.display()
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
}

/// An open disk. Whatever is asked of it lies on it: the caller has checked that.
#[derive(Debug)]
pub struct Disk {
    settings: DiskSettings,
    file: File,
    bytes: u64,
    overlay: Option<Overlay>,
}

impl Disk {
    /// Opens a disk, and claims it: a file that is written belongs to one VM alone.
    ///
    /// # Errors
    /// See [`DiskError`].
    pub fn open(settings: &DiskSettings) -> Result<Self, DiskError> {
        let path = &settings.path;
        let host = |what| {
            move |source| DiskError::Host {
                what,
                path: path.clone(),
                source,
            }
        };
        let writes = settings.writes == DiskWrites::Through;
        let mut file = OpenOptions::new()
            .read(true)
            .write(writes)
            .custom_flags(libc::O_NOCTTY)
            .open(path)
            .map_err(host("open"))?;
        claim(&file, writes)
            .map_err(host("claim"))?
            .then_some(())
            .ok_or_else(|| DiskError::InUse(path.clone()))?;
        let bytes = file.seek(SeekFrom::End(0)).map_err(host("measure"))?;
        if bytes == 0 || !bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(DiskError::Size {
                path: path.clone(),
                bytes,
            });
        }
        let overlay = match &settings.writes {
            DiskWrites::Through | DiskWrites::Refused => None,
            DiskWrites::Overlay => {
                Some(unnamed_overlay(path).map_err(host("make the overlay of"))?)
            }
            DiskWrites::KeptOverlay(overlay) => {
                let kept = kept(overlay).map_err(host("open the overlay of"))?;
                Some(kept.ok_or_else(|| DiskError::InUse(overlay.clone()))?)
            }
        };
        let overlay = overlay
            .map(|overlay| {
                let lasts = settings.writes != DiskWrites::Overlay;
                Overlay::open(overlay, lasts, &file, bytes)
            })
            .transpose()
            .map_err(host("use the overlay of"))?;
        Ok(Self {
            settings: settings.clone(),
            file,
            bytes,
            overlay,
        })
    }

    /// What it was made from.
    pub fn settings(&self) -> &DiskSettings {
        &self.settings
    }

    /// Bytes: a multiple of [`SECTOR_BYTES`].
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The file itself, with what claims it; without its overlay.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Whether it takes no writes.
    pub fn is_readonly(&self) -> bool {
        self.settings.writes == DiskWrites::Refused
    }

    /// Reads `range` into all of `parts` but their last byte, the status.
    pub(super) fn read(&self, range: Range, parts: &[Part], memory: &Snapshot) -> io::Result<()> {
        match &self.overlay {
            Some(overlay) => overlay.read(&self.file, range.at, parts, (0, range.len), memory),
            None => {
                let parts = cut(parts, 0, range.len);
                transfer(&self.file, range.at, parts, memory, Way::ToGuest)
            }
        }
    }

    /// Writes `range` from `parts`, whose first `skip` bytes are the header.
    pub(super) fn write(
        &mut self,
        range: Range,
        parts: &[Part],
        skip: u64,
        memory: &Snapshot,
    ) -> Result<(), Status> {
        self.may_write()?;
        let span = (skip, range.len);
        let done = match &mut self.overlay {
            Some(overlay) => overlay.write(&self.file, range.at, parts, span, memory),
            None => {
                let parts = cut(parts, skip, range.len);
                transfer(&self.file, range.at, parts, memory, Way::ToFile)
            }
        };
        self.told(done)
    }

    pub(super) fn flush(&mut self) -> Result<(), Status> {
        let is_readonly = self.is_readonly();
        let done = match &mut self.overlay {
            Some(overlay) => overlay.flush(),
            None if is_readonly => Ok(()),
            None => self.file.sync_data(),
        };
        self.told(done)
    }

    pub(super) fn discard(&mut self, range: Range) -> Result<(), Status> {
        self.may_write()?;
        let done = match &self.overlay {
            Some(overlay) => overlay.discard(range.at, range.len),
            None => discard(&self.file, range.at, range.len),
        };
        self.told(done)
    }

    pub(super) fn zero(&mut self, range: Range, unmap: bool) -> Result<(), Status> {
        self.may_write()?;
        let done = match &mut self.overlay {
            Some(overlay) => overlay.zero(&self.file, range.at, range.len, unmap),
            None => write_zeros(&self.file, range.at, range.len, unmap),
        };
        self.told(done)
    }

    fn may_write(&self) -> Result<(), Status> {
        if self.is_readonly() {
            return Err(Status::Error);
        }
        Ok(())
    }

    /// The host's operator learns why, the guest that it failed.
    pub(super) fn told(&self, done: io::Result<()>) -> Result<(), Status> {
        static TOLD: Seldom = Seldom::new();
        done.map_err(|error| {
            TOLD.tell(|| tracing::warn!("disk {}: {error}", self.settings.path.display()));
            Status::Error
        })
    }
}

/// Claims a file for this process alone, or for many who only read it; `false` if somebody else has it.
fn claim(file: &File, alone: bool) -> io::Result<bool> {
    let kind = if alone { libc::LOCK_EX } else { libc::LOCK_SH };
    // SAFETY: locks an open file and touches no memory.
    if unsafe { libc::flock(file.as_raw_fd(), kind | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.kind() {
        io::ErrorKind::WouldBlock => Ok(false),
        _ => Err(error),
    }
}

/// A file without a name, beside the base or in the folder for temporary files: gone when it is closed, however
/// its process ends.
///
/// # Errors
/// As the host says of both places.
pub fn unnamed_overlay(base: &Path) -> io::Result<File> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let beside = base.parent().unwrap_or(Path::new("")).to_owned();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!(".byway-overlay-{}-{number}", std::process::id());
    let make = |folder: PathBuf| {
        let path = folder.join(&name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    };
    make(beside).or_else(|_: io::Error| make(std::env::temp_dir()))
}

/// A file that stays; `None` if somebody else has it.
fn kept(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    Ok(claim(&file, true)?.then_some(file))
}

/// A disk that the device's thread and the VM's owner share.
pub type SharedDisk = Arc<Mutex<Disk>>;

/// Which disk of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskPlace {
    /// That of a virtio-blk device, by its number.
    Disk(usize),
    /// That of an NVMe controller, by its number.
    Nvme(usize),
}

/// The open disks of a VM. Whoever rebuilds the VM, to reboot it, passes the same store on: then
/// the guest finds its overlays, and the disks that were added, as they were.
#[derive(Debug, Clone, Default)]
pub struct DiskStore(Arc<Mutex<BTreeMap<DiskPlace, SharedDisk>>>);

impl DiskStore {
    /// The disk at `place`, opened by `settings` unless it is there.
    ///
    /// # Errors
    /// See [`DiskError`].
    pub fn get_or_open(
        &self,
        place: DiskPlace,
        settings: &DiskSettings,
    ) -> Result<SharedDisk, DiskError> {
        if let Some(disk) = self.get(place) {
            return Ok(disk);
        }
        let disk = Arc::new(Mutex::new(Disk::open(settings)?));
        self.put(place, Arc::clone(&disk));
        Ok(disk)
    }

    /// The disk at `place`, if there is one.
    #[must_use]
    pub fn get(&self, place: DiskPlace) -> Option<SharedDisk> {
        self.lock().get(&place).cloned()
    }

    /// Keeps a disk.
    pub fn put(&self, place: DiskPlace, disk: SharedDisk) {
        self.lock().insert(place, disk);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<DiskPlace, SharedDisk>> {
        // Each change is one insertion.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
