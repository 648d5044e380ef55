//! Where the parts of a guest are: kernels, busybox, modules, programs.
//!
//! `tests/lib/linux-images` puts them there; this module only finds them, and says what to run
//! when something is not there.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A kernel series that the module supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// 6.1, of Debian 12.
    V6_1,
    /// 6.12, of Debian 12's backports and Debian 13.
    V6_12,
}

impl Kernel {
    /// Both, the older first.
    pub const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    /// As people write it, and as its folder is named.
    #[must_use]
    pub fn series(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.series())
    }
}

impl std::str::FromStr for Kernel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|kernel| kernel.series() == text)
            .ok_or_else(|| format!("no kernel '{text}'; there are 6.1 and 6.12"))
    }
}

/// The folders that `tests/lib/linux-images` fills.
#[derive(Debug, Clone)]
pub struct Images {
    cache: PathBuf,
    built: PathBuf,
}

impl Images {
    /// Those of this checkout.
    ///
    /// # Errors
    /// When busybox is not there, so that nothing can boot.
    pub fn find() -> Result<Self> {
        let cache = repository().join("tests/.cache/linux");
        let images = Self {
            cache,
            built: target_folder().join("linux-guest"),
        };
        ensure!(
            images.busybox().exists(),
            "there is no {}: run tests/lib/linux-images fetch",
            images.busybox().display()
        );
        Ok(images)
    }

    /// The static busybox.
    #[must_use]
    pub fn busybox(&self) -> PathBuf {
        self.cache.join("busybox")
    }

    /// The kernel: the compressed image, or, for a machine with four levels of page tables, what is in it.
    /// The latter boots in half the time, but it is the former's decompressor that turns on the fifth level.
    ///
    /// # Errors
    /// When it has not been fetched.
    pub fn kernel(&self, kernel: Kernel, four_levels: bool) -> Result<PathBuf> {
        let folder = self.cache.join(kernel.series());
        let unpacked = folder.join("vmlinux");
        if four_levels && unpacked.exists() {
            return Ok(unpacked);
        }
        let path = folder.join("vmlinuz");
        ensure!(
            path.exists(),
            "there is no {}: run tests/lib/linux-images fetch {kernel}",
            path.display()
        );
        Ok(path)
    }

    /// The kernel as an ELF image, which needs no time to unpack itself.
    ///
    /// # Errors
    /// When it has not been fetched, or could not be unpacked.
    pub fn unpacked_kernel(&self, kernel: Kernel) -> Result<PathBuf> {
        let path = self.cache.join(kernel.series()).join("vmlinux");
        ensure!(
            path.exists(),
            "there is no {}: install lz4 and zstd, remove tests/.cache/linux/{kernel}, and run \
             tests/lib/linux-images fetch {kernel}",
            path.display()
        );
        Ok(path)
    }

    /// The modules that make a kernel's own KVM on an AMD processor, in the order of loading.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn kvm_modules(&self, kernel: Kernel) -> Result<Vec<PathBuf>> {
        files_of(&self.cache.join(kernel.series()).join("kvm"))
    }

    /// A QEMU that is new enough for guests with several CPUs, as `tests/lib/linux-images qemu` finds it.
    ///
    /// # Errors
    /// When there is none.
    pub fn recent_qemu(&self) -> Result<PathBuf> {
        let output = Command::new("tests/lib/linux-images")
            .arg("qemu")
            .current_dir(repository())
            .output()
            .context("cannot run tests/lib/linux-images")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "no QEMU: {}", said.trim_end());
        let path = String::from_utf8(output.stdout)?;
        Ok(PathBuf::from(path.trim_end()))
    }

    /// Its modules for disks, network interfaces and random numbers, in the order of loading.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn device_modules(&self, kernel: Kernel) -> Result<Vec<PathBuf>> {
        files_of(&self.cache.join(kernel.series()).join("devices"))
    }

    /// The kernel's own modules that a guest loads, in that order.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn kernel_modules(&self, kernel: Kernel) -> Result<Vec<PathBuf>> {
        files_of(&self.cache.join(kernel.series()).join("modules"))
    }

    /// The Byway module built for a kernel; none when it has not been built.
    #[must_use]
    pub fn byway_module(&self, kernel: Kernel) -> Option<PathBuf> {
        let path = self.built.join(kernel.series()).join("byway.ko");
        path.exists().then_some(path)
    }

    /// The guest programs; none when they have not been built.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn programs(&self) -> Result<Vec<PathBuf>> {
        let folder = self.built.join("bin");
        if folder.exists() {
            files_of(&folder)
        } else {
            Ok(Vec::new())
        }
    }
}

/// The checkout's root.
#[must_use]
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .expect("this crate lies two folders below the root")
        .to_owned()
}

/// Cargo's target folder.
#[must_use]
pub fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || repository().join("target"),
        |path| repository().join(path),
    )
}

/// The files of a folder, by name.
fn files_of(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        files.push(entry?.path());
    }
    files.sort();
    Ok(files)
}
