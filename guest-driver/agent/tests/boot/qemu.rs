//! A guest under QEMU, its RAM in a file, so that the mailbox can be reached.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use byway_agent::host::CallError;
use byway_agent::layout::MAILBOX_BYTES;
use byway_agent::{GuestState, HostMailbox, Process, Request};

const RAM_BYTES: usize = 256 << 20;
const MAILBOX_AT: usize = 0xe00_0000;
const PATIENCE: Duration = Duration::from_secs(30);

/// A running guest; ends when dropped.
pub struct Guest {
    child: Child,
    mailbox: NonNull<u8>,
    directory: tempfile::TempDir,
}

/// The image, built once; in a target folder of its own, as it is a workspace of its own.
fn image() -> &'static PathBuf {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest/Cargo.toml");
        let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("guest");
        let status = Command::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "--release",
                "--manifest-path",
                manifest,
                "--target-dir",
            ])
            .arg(&target)
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .status()
            .expect("cargo runs");
        assert!(status.success(), "the guest image does not build");
        target.join("release/byway-guest")
    })
}

impl Guest {
    /// Boots the image; `None`, with a word why, where there is no QEMU.
    pub fn boot() -> Option<Self> {
        Self::boot_with("")
    }

    /// As [`Self::boot`], with more words on the command line.
    pub fn boot_with(words: &str) -> Option<Self> {
        let found = Command::new("qemu-system-x86_64")
            .arg("--version")
            .stdout(Stdio::null())
            .status();
        if !found.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: qemu-system-x86_64 is not installed");
            return None;
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        let ram = directory.path().join("ram");
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&ram);
        let file = file.expect("a file for RAM");
        file.set_len(RAM_BYTES as u64).expect("room for RAM");
        let serial = directory.path().join("serial");
        let child = Command::new("qemu-system-x86_64")
            .args([
                "-accel",
                "tcg",
                "-cpu",
                "max",
                "-smp",
                "2",
                "-m",
                "256M",
                "-M",
                "q35,memory-backend=mem",
            ])
            .args([
                "-nographic",
                "-no-reboot",
                "-nodefaults",
                "-monitor",
                "none",
            ])
            .arg("-object")
            .arg(format!(
                "memory-backend-file,id=mem,size=256M,share=on,mem-path={}",
                ram.display()
            ))
            .arg("-serial")
            .arg(format!("file:{}", serial.display()))
            .args([
                "-append",
                &format!("mailbox={MAILBOX_AT:#x},{MAILBOX_BYTES} {words}"),
                "-kernel",
            ])
            .arg(image())
            .stdin(Stdio::null())
            .spawn()
            .expect("QEMU starts");
        let guest = Self {
            child,
            mailbox: map(&file),
            directory,
        };
        let deadline = Instant::now() + PATIENCE;
        while !(guest.mailbox().is_set_up() && guest.mailbox().state() == Some(GuestState::Ready)) {
            let log =
                std::fs::read_to_string(guest.directory.path().join("serial")).unwrap_or_default();
            assert!(
                Instant::now() < deadline,
                "the guest does not come up; it says:\n{log}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(guest)
    }

    /// Its mailbox.
    pub fn mailbox(&self) -> HostMailbox<'_> {
        // SAFETY: `map` mapped it, aligned, for as long as `self` lives.
        unsafe { HostMailbox::new(self.mailbox) }
    }

    /// Carries out a command.
    pub fn call<R: Request>(&self, process: Process, request: R) -> Result<R::Reply, CallError> {
        let deadline = Instant::now() + PATIENCE;
        let outcome = self.mailbox().call(process, request, || {
            std::thread::sleep(Duration::from_micros(50));
            Instant::now() < deadline
        });
        if let Err(CallError::NoAnswer { .. }) = outcome {
            panic!("{outcome:?}; crash: {:?}", self.mailbox().crash());
        }
        outcome
    }

    /// Waits for something.
    pub fn wait<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "nothing came; crash: {:?}",
                self.mailbox().crash()
            );
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Whether the machine ends by itself.
    pub fn ended(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Ok(Some(_)) = self.child.try_wait() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

/// Maps the mailbox's part of the RAM file.
fn map(file: &std::fs::File) -> NonNull<u8> {
    use std::os::fd::AsRawFd;
    // SAFETY: a fresh shared mapping of a file that is long enough.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            MAILBOX_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            MAILBOX_AT as libc::off_t,
        )
    };
    assert_ne!(
        address,
        libc::MAP_FAILED,
        "{}",
        std::io::Error::last_os_error()
    );
    NonNull::new(address.cast()).expect("mmap does not map page 0")
}

impl Drop for Guest {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // SAFETY: mapped by `map`; nothing borrows it any more.
        unsafe { libc::munmap(self.mailbox.as_ptr().cast(), MAILBOX_BYTES) };
    }
}
