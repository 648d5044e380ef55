//! A guest's whole file system: busybox, `/init`, modules, programs, and what a test adds.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::images::{Images, Kernel};

/// What runs first in every guest.
pub(crate) const INIT: &str = include_str!("../guest/init");
/// Device numbers of the console, which the kernel opens before anything is mounted.
const CONSOLE: (u32, u32) = (5, 1);

/// Which module a guest loads beside the kernel's own.
#[derive(Debug, Clone, Default)]
pub enum Module {
    /// The one that `tests/lib/linux-images module` has built.
    #[default]
    Built,
    /// This file.
    File(PathBuf),
    /// None.
    None,
}

/// Puts the archive together. `files` are (path in the guest, path here); they keep whether
/// they are executable.
///
/// # Errors
/// When a file cannot be read.
pub fn build(
    images: &Images,
    kernel: Kernel,
    module: &Module,
    files: &[(String, PathBuf)],
) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    let mut folders = BTreeSet::from(["/bin", "/dev", "/modules", "/root"].map(PathBuf::from));
    for (inside, _) in files {
        let above = Path::new(inside).ancestors().skip(1);
        folders.extend(
            above
                .filter(|path| path.parent().is_some())
                .map(Path::to_owned),
        );
    }
    // In this order a folder comes before what is in it.
    for folder in &folders {
        archive.folder(&folder.to_string_lossy());
    }
    archive.device("/dev/console", CONSOLE.0, CONSOLE.1);
    archive.file("/init", 0o755, INIT.as_bytes());
    add(&mut archive, "/bin/busybox", &images.busybox(), true)?;
    for path in images.kernel_modules(kernel)? {
        add(
            &mut archive,
            &format!("/modules/{}", name(&path)),
            &path,
            false,
        )?;
    }
    let byway = match module {
        Module::Built => images.byway_module(kernel),
        Module::File(path) => Some(path.clone()),
        Module::None => None,
    };
    if let Some(path) = byway {
        // After those it needs: names are loaded in order.
        add(
            &mut archive,
            &format!("/modules/90-{}", name(&path)),
            &path,
            false,
        )?;
    }
    for path in images.programs()? {
        add(&mut archive, &format!("/bin/{}", name(&path)), &path, true)?;
    }
    for (inside, path) in files {
        add(&mut archive, inside, path, is_executable(path)?)?;
    }
    Ok(archive.finish())
}

/// What [`build`] is to add for devices beside Byway's: they are loaded after the modules of the transport.
///
/// # Errors
/// When they cannot be listed.
pub fn device_modules(images: &Images, kernel: Kernel) -> Result<Vec<(String, PathBuf)>> {
    let modules = images.device_modules(kernel)?.into_iter();
    Ok(modules
        .map(|path| (format!("/modules/50-{}", name(&path)), path))
        .collect())
}

fn add(archive: &mut Archive, inside: &str, path: &Path, executable: bool) -> Result<()> {
    let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    archive.file(inside, if executable { 0o755 } else { 0o644 }, &content);
    Ok(())
}

fn is_executable(path: &Path) -> Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = fs::metadata(path).with_context(|| format!("no {}", path.display()))?;
    Ok(metadata.permissions().mode() & 0o100 != 0)
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
