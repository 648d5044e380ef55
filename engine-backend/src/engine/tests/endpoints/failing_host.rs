//! Files and block devices of the host that fail as real ones do: one that is full, and one
//! with blocks that cannot be read.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;

use super::*;

/// A file of a file system on which there is no room for all of it.
pub(super) struct FullDisk {
    file: File,
    filler: File,
}

impl FullDisk {
    /// A file that says it has `bytes` bytes, of which the first `room` can be written: in a
    /// small tmpfs, mounted where this thread alone sees it. `None`, and a line that says why,
    /// where the host lets nobody mount.
    pub(super) fn new(bytes: u64, room: u64) -> Option<Self> {
        let made = std::thread::spawn(move || Self::in_own_mounts(bytes, room));
        match made.join().unwrap() {
            Ok(disk) => Some(disk),
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
                println!("SKIPPED: no mounts of one's own on this host ({e}): run as root");
                None
            }
            Err(e) => panic!("{e}"),
        }
    }

    fn in_own_mounts(bytes: u64, room: u64) -> std::io::Result<Self> {
        let ok = |result: libc::c_int| match result {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        };
        let folder = tempfile::tempdir()?;
        let at = std::ffi::CString::new(folder.path().to_str().unwrap())?;
        let options = std::ffi::CString::new(format!("size={bytes}"))?;
        let nothing = std::ptr::null();
        // SAFETY: C strings and flags; what is mounted is seen by this thread alone, and goes
        // with the last file that is open in it.
        unsafe {
            ok(libc::unshare(libc::CLONE_NEWNS))?;
            let private = libc::MS_REC | libc::MS_PRIVATE;
            ok(libc::mount(
                nothing,
                c"/".as_ptr(),
                nothing,
                private,
                nothing.cast(),
            ))?;
            let tmpfs = c"tmpfs".as_ptr();
            ok(libc::mount(
                tmpfs,
                at.as_ptr(),
                tmpfs,
                0,
                options.as_ptr().cast(),
            ))?;
        }
        let create = |name| {
            let mut options = File::options();
            options.read(true).write(true).create_new(true);
            options.open(folder.path().join(name))
        };
        let (file, filler) = (create("disk")?, create("filler")?);
        file.write_all_at(&vec![0; room as usize], 0)?;
        file.set_len(bytes)?;
        for at in (0..).step_by(4096) {
            if let Err(e) = filler.write_all_at(&[0; 4096], at) {
                assert_eq!(e.raw_os_error(), Some(libc::ENOSPC));
                break;
            }
        }
        // SAFETY: a C string; what is open stays.
        unsafe { ok(libc::umount2(at.as_ptr(), libc::MNT_DETACH))? };
        Ok(Self { file, filler })
    }

    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
    pub(super) fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }
    /// There is room from now on.
    pub(super) fn make_room(&self) {
        self.filler.set_len(0).unwrap();
    }
}

/// A loop device over a file: what the file does not have any more cannot be read.
pub(super) struct FailingLoop {
    _device: File,
    path: PathBuf,
    backing: Disk,
}

impl FailingLoop {
    const CONFIGURE: libc::c_ulong = 0x4c0a;
    const GET_FREE: libc::c_ulong = 0x4c82;
    /// Bytes of `struct loop_config`, and where its flags are.
    const CONFIG_BYTES: usize = 304;
    const FLAGS: usize = 60;
    /// It goes when it is closed, whatever becomes of this process.
    const AUTOCLEAR: u32 = 4;

    /// One with these bytes. `None`, and a line that says why, where the host has none.
    pub(super) fn new(bytes: &[u8]) -> Option<Self> {
        match Self::configured(bytes) {
            Ok(device) => Some(device),
            Err(e) => {
                println!(
                    "SKIPPED: no loop devices on this host ({e}): run as root, with the module loop"
                );
                None
            }
        }
    }

    fn configured(bytes: &[u8]) -> std::io::Result<Self> {
        let control = File::options().write(true).open("/dev/loop-control")?;
        let backing = Disk::new(bytes);
        for _ in 0..10 {
            // SAFETY: no argument.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), Self::GET_FREE) };
            if number < 0 {
                return Err(std::io::Error::last_os_error());
            }
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let mut options = File::options();
            let device = options.read(true).write(true).open(&path)?;
            if Self::configure(device.as_raw_fd(), &backing) {
                return Ok(Self {
                    _device: device,
                    path,
                    backing,
                });
            }
        }
        panic!("others take every loop device that is free");
    }

    /// False: somebody else was faster.
    fn configure(device: RawFd, backing: &Disk) -> bool {
        let mut config = [0_u8; Self::CONFIG_BYTES];
        let fd = backing.0.as_file().as_raw_fd();
        config[..4].copy_from_slice(&fd.to_ne_bytes());
        config[Self::FLAGS..Self::FLAGS + 4].copy_from_slice(&Self::AUTOCLEAR.to_ne_bytes());
        // SAFETY: the structure is as long as this command reads.
        let result = unsafe { libc::ioctl(device, Self::CONFIGURE, config.as_ptr()) };
        let e = std::io::Error::last_os_error();
        assert!(result == 0 || e.raw_os_error() == Some(libc::EBUSY), "{e}");
        result == 0
    }

    pub(super) fn path(&self) -> PathBuf {
        self.path.clone()
    }
    /// From this byte on nothing can be read.
    pub(super) fn fail_from(&self, at: u64) {
        self.backing.0.as_file().set_len(at).unwrap();
    }
}
