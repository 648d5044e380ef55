//! Puts a kernel, its initramfs and its command line into guest RAM.
//!
//! Three kinds of kernel are known: an ELF with a PVH note (preferred: no
//! decompression, no mode switching), another 64-bit ELF and a bzImage, both by the 64-bit
//! Linux boot protocol. Files come from the operator, but may be damaged: anything
//! that does not fit is a clear error.

mod boot_info;

pub use boot_info::{MemoryKind, MemoryMap};

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::{BzImage, Elf, KernelLoader, KernelLoaderResult};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, ReadVolatile};

use crate::layout::{COMMAND_LINE_MAX, HIGH_RAM, PAGE_SIZE};
use crate::vcpu::Entry;

const ELF_MAGIC: [u8; 4] = *b"\x7fELF";
/// Where a bzImage's setup header has its magic.
const SETUP_MAGIC_OFFSET: u64 = 0x202;
const SETUP_MAGIC: [u8; 4] = *b"HdrS";
/// `xloadflags`: the kernel has the 64-bit entry point at 0x200.
const XLF_KERNEL_64: u16 = 1;
const BZIMAGE_ENTRY64: u64 = 0x200;
/// The 64-bit entry came with this version of the boot protocol.
const BOOT_PROTOCOL_64: u16 = 0x020c;
/// Where the initramfs must end if the kernel does not say (what Linux' x86 code assumes).
const INITRD_ADDR_MAX: u64 = 0x37ff_ffff;

/// Where a kernel comes from.
#[derive(Debug, Clone)]
pub enum KernelSource {
    /// A file.
    File(PathBuf),
    /// An image in memory, such as the built-in guest.
    Image(&'static [u8]),
}

/// What can go wrong while a guest is loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error("cannot read {what} {path:?}")]
    File {
        /// Which file.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The kernel is of no known kind.
    #[error(
        "the kernel is neither an ELF image nor a bzImage; use vmlinux, vmlinuz or a PVH image"
    )]
    UnknownKind,
    /// The bzImage is 32-bit or too old.
    #[error("the bzImage has no 64-bit entry point (boot protocol {0:#06x}); use an x86-64 kernel")]
    No64BitEntry(u16),
    /// linux-loader refused the kernel.
    #[error("the kernel cannot be loaded into {ram} bytes of RAM")]
    Kernel {
        /// Bytes of RAM that a kernel may use.
        ram: u64,
        /// Why.
        #[source]
        source: linux_loader::loader::Error,
    },
    /// The kernel's entry point is not in what was loaded.
    #[error("the kernel's entry point {0:#x} is not in usable RAM")]
    Entry(u64),
    /// The initramfs does not fit beside the kernel.
    #[error(
        "an initramfs of {size} bytes does not fit between the kernel's end {from:#x} and {to:#x}; give the VM more memory"
    )]
    Initrd {
        /// Bytes of the initramfs.
        size: u64,
        /// First address it could use.
        from: u64,
        /// Where it must end.
        to: u64,
    },
    /// The command line is too long or has a NUL.
    #[error(
        "the kernel command line has {0} bytes or a NUL in it; at most {max} bytes of text work",
        max = COMMAND_LINE_MAX - 1
    )]
    CommandLine(usize),
    /// Boot information cannot be written.
    #[error("cannot write boot information: {0}")]
    BootInfo(String),
}

/// What to load.
#[derive(Debug)]
pub struct Payload<'a> {
    /// The kernel.
    pub kernel: &'a KernelSource,
    /// The initramfs, if any.
    pub initrd: Option<&'a Path>,
    /// The command line.
    pub cmdline: &'a str,
    /// Address of the RSDP.
    pub rsdp: u64,
}

/// Loads everything and says where the boot vCPU starts.
///
/// # Errors
/// See [`LoadError`].
pub fn load(
    memory: &GuestMemoryMmap,
    map: &MemoryMap,
    payload: &Payload<'_>,
) -> Result<Entry, LoadError> {
    let cmdline = payload.cmdline.as_bytes();
    if cmdline.len() >= COMMAND_LINE_MAX || cmdline.contains(&0) {
        return Err(LoadError::CommandLine(cmdline.len()));
    }
    let kernel = match payload.kernel {
        KernelSource::Image(image) => load_kernel(
            memory,
            map,
            &mut Cursor::new(*image),
            "the built-in image".as_ref(),
        )?,
        KernelSource::File(path) => {
            let mut file = open(path, "kernel")?;
            load_kernel(memory, map, &mut file, path)?
        }
    };
    let initrd = payload
        .initrd
        .map(|path| load_initrd(memory, map, path, &kernel))
        .transpose()?;
    let info = boot_info::BootInfo {
        cmdline,
        initrd,
        rsdp: payload.rsdp,
    };
    match kernel.entry {
        Entry::Pvh(_) => boot_info::write_pvh(memory, map, &info)?,
        Entry::Linux64(_) => boot_info::write_linux(memory, map, &info, kernel.header)?,
    }
    Ok(kernel.entry)
}

/// A kernel in guest RAM.
struct Loaded {
    entry: Entry,
    /// First address after everything it needs.
    end: u64,
    header: Option<setup_header>,
}

fn load_kernel<F: Read + ReadVolatile + Seek>(
    memory: &GuestMemoryMmap,
    map: &MemoryMap,
    image: &mut F,
    path: &Path,
) -> Result<Loaded, LoadError> {
    let refused = |source| LoadError::Kernel {
        ram: map.low_ram_end(),
        source,
    };
    let unreadable = |source| LoadError::File {
        what: "kernel",
        path: path.to_owned(),
        source,
    };
    let high = Some(GuestAddress(HIGH_RAM));
    let loaded = if magic(image, 0).map_err(unreadable)? == ELF_MAGIC {
        let result = Elf::load(memory, None, image, high).map_err(refused)?;
        let entry = match result.pvh_boot_cap {
            PvhBootCapability::PvhEntryPresent(entry) => Entry::Pvh(entry.0),
            _ => Entry::Linux64(result.kernel_load.0),
        };
        Loaded {
            entry,
            end: result.kernel_end,
            header: None,
        }
    } else if magic(image, SETUP_MAGIC_OFFSET).map_err(unreadable)? == SETUP_MAGIC {
        let result = BzImage::load(memory, None, image, high).map_err(refused)?;
        bzimage_entry(&result)?
    } else {
        return Err(LoadError::UnknownKind);
    };
    let (Entry::Pvh(at) | Entry::Linux64(at)) = loaded.entry;
    if !(HIGH_RAM..loaded.end.min(map.low_ram_end())).contains(&at) {
        return Err(LoadError::Entry(at));
    }
    Ok(loaded)
}

fn bzimage_entry(result: &KernelLoaderResult) -> Result<Loaded, LoadError> {
    let header = result.setup_header.ok_or(LoadError::UnknownKind)?;
    if header.version < BOOT_PROTOCOL_64 || header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(LoadError::No64BitEntry(header.version));
    }
    // The kernel unpacks itself to its preferred address and needs `init_size` there.
    let preferred = { header.pref_address }.max(result.kernel_load.0);
    let end = preferred.saturating_add(u64::from(header.init_size));
    Ok(Loaded {
        entry: Entry::Linux64(result.kernel_load.0 + BZIMAGE_ENTRY64),
        end: end.max(result.kernel_end),
        header: Some(header),
    })
}

/// Four bytes at `offset`; zeros where the file is shorter.
fn magic<F: Read + Seek>(image: &mut F, offset: u64) -> io::Result<[u8; 4]> {
    let mut bytes = [0; 4];
    image.seek(SeekFrom::Start(offset))?;
    match image.read_exact(&mut bytes) {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        _ => Ok(bytes),
    }
}

/// Loads the initramfs as high as the kernel allows, out of its way.
fn load_initrd(
    memory: &GuestMemoryMmap,
    map: &MemoryMap,
    path: &Path,
    kernel: &Loaded,
) -> Result<(u64, u64), LoadError> {
    let unreadable = |source| LoadError::File {
        what: "initramfs",
        path: path.to_owned(),
        source,
    };
    let mut file = open(path, "initramfs")?;
    let size = file.metadata().map_err(unreadable)?.len();
    let limit = kernel.header.map_or(INITRD_ADDR_MAX, |header| {
        u64::from(header.initrd_addr_max).max(PAGE_SIZE)
    });
    let to = map.low_ram_end().min(limit + 1);
    let at = to
        .checked_sub(size)
        .map(|at| at & !(PAGE_SIZE - 1))
        .filter(|at| *at >= kernel.end)
        .ok_or(LoadError::Initrd {
            size,
            from: kernel.end,
            to,
        })?;
    memory
        .read_exact_volatile_from(GuestAddress(at), &mut file, size as usize)
        .map_err(|error| unreadable(io::Error::other(error.to_string())))?;
    Ok((at, size))
}

fn open(path: &Path, what: &'static str) -> Result<File, LoadError> {
    File::open(path).map_err(|source| LoadError::File {
        what,
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;
