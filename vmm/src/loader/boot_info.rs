//! The memory map, and the structures by which each boot protocol hands it over.

use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::LoadError;
use crate::layout::{
    COMMAND_LINE, COMMAND_LINE_MAX, HIGH_RAM, LOW_RAM_END, PVH_MEMORY_MAP, PVH_MODULES,
    PVH_START_INFO, ZERO_PAGE,
};

/// `hvm_start_info` magic and version of the PVH protocol.
const PVH_MAGIC: u32 = 0x336e_c578;
const PVH_VERSION: u32 = 1;
/// Linux boot protocol: boot sector magic, header magic, "unknown loader".
const BOOT_SECTOR_MAGIC: u16 = 0xaa55;
const SETUP_HEADER_MAGIC: u32 = 0x5372_6448;
const LOADER_UNDEFINED: u8 = 0xff;
const KERNEL_ALIGNMENT: u32 = 0x100_0000;

/// What a range of guest-physical memory is for. The numbers are those of E820 and PVH.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
#[repr(u32)]
pub enum MemoryKind {
    /// RAM that the guest may use as it likes.
    Ram = 1,
    /// RAM or addresses that it must leave alone.
    Reserved = 2,
}

/// The memory map of a VM: ascending, without overlaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryMap {
    entries: Vec<(u64, u64, MemoryKind)>,
    low_ram_end: u64,
}

impl MemoryMap {
    /// The map for RAM in `ranges` (`(start, bytes)`, ascending, the first from 0), of which the
    /// top `reserved_top` bytes are kept from the guest's allocator.
    pub fn new(ranges: &[(u64, u64)], reserved_top: u64) -> Self {
        let mut entries = vec![
            (0, LOW_RAM_END, MemoryKind::Ram),
            (LOW_RAM_END, HIGH_RAM - LOW_RAM_END, MemoryKind::Reserved),
        ];
        let mut low_ram_end = 0;
        let last = ranges.len().saturating_sub(1);
        for (index, (start, size)) in ranges.iter().copied().enumerate() {
            let end = start + size;
            let usable_start = start.max(HIGH_RAM);
            let usable_end = if index == last {
                end.saturating_sub(reserved_top).max(usable_start)
            } else {
                end
            };
            if index == 0 {
                low_ram_end = usable_end;
            }
            if usable_end > usable_start {
                entries.push((usable_start, usable_end - usable_start, MemoryKind::Ram));
            }
            if end > usable_end {
                entries.push((usable_end, end - usable_end, MemoryKind::Reserved));
            }
        }
        Self {
            entries,
            low_ram_end,
        }
    }

    /// The same with addresses that are no RAM and that the guest is to put nothing at.
    #[must_use]
    pub fn with_reserved(mut self, start: u64, bytes: u64) -> Self {
        let at = self.entries.partition_point(|(other, ..)| *other < start);
        self.entries
            .insert(at, (start, bytes, MemoryKind::Reserved));
        self
    }

    /// `(start, bytes, kind)` of each range.
    pub fn entries(&self) -> &[(u64, u64, MemoryKind)] {
        &self.entries
    }

    /// Where RAM that a kernel may use ends below 4 GiB.
    pub fn low_ram_end(&self) -> u64 {
        self.low_ram_end
    }
}

/// What both protocols hand over beside the memory map.
pub(super) struct BootInfo<'a> {
    /// Checked: shorter than [`COMMAND_LINE_MAX`], no NUL.
    pub cmdline: &'a [u8],
    /// `(start, bytes)`.
    pub initrd: Option<(u64, u64)>,
    pub rsdp: u64,
}

impl BootInfo<'_> {
    fn write_cmdline(&self, memory: &GuestMemoryMmap) -> Result<(), LoadError> {
        let mut bytes = self.cmdline.to_vec();
        bytes.push(0);
        memory
            .write_slice(&bytes, GuestAddress(COMMAND_LINE))
            .map_err(|error| LoadError::BootInfo(error.to_string()))
    }
}

/// PVH: `hvm_start_info`, memory map and module list.
pub(super) fn write_pvh(
    memory: &GuestMemoryMmap,
    map: &MemoryMap,
    info: &BootInfo<'_>,
) -> Result<(), LoadError> {
    info.write_cmdline(memory)?;
    let memmap: Vec<_> = map
        .entries()
        .iter()
        .map(|(addr, size, kind)| hvm_memmap_table_entry {
            addr: *addr,
            size: *size,
            type_: *kind as u32,
            reserved: 0,
        })
        .collect();
    let mut start = hvm_start_info {
        magic: PVH_MAGIC,
        version: PVH_VERSION,
        cmdline_paddr: COMMAND_LINE,
        rsdp_paddr: info.rsdp,
        memmap_paddr: PVH_MEMORY_MAP,
        memmap_entries: memmap.len() as u32,
        ..Default::default()
    };
    let modules: Vec<_> = info
        .initrd
        .iter()
        .map(|(paddr, size)| hvm_modlist_entry {
            paddr: *paddr,
            size: *size,
            ..Default::default()
        })
        .collect();
    if !modules.is_empty() {
        start.nr_modules = modules.len() as u32;
        start.modlist_paddr = PVH_MODULES;
    }
    let mut params = BootParams::new(&start, GuestAddress(PVH_START_INFO));
    params.set_sections(&memmap, GuestAddress(PVH_MEMORY_MAP));
    params.set_modules(&modules, GuestAddress(PVH_MODULES));
    PvhBootConfigurator::write_bootparams(&params, memory)
        .map_err(|error| LoadError::BootInfo(error.to_string()))
}

/// Linux: the zero page, with the bzImage's own header where there is one.
pub(super) fn write_linux(
    memory: &GuestMemoryMmap,
    map: &MemoryMap,
    info: &BootInfo<'_>,
    header: Option<setup_header>,
) -> Result<(), LoadError> {
    info.write_cmdline(memory)?;
    let mut params = boot_params {
        hdr: header.unwrap_or(setup_header {
            boot_flag: BOOT_SECTOR_MAGIC,
            header: SETUP_HEADER_MAGIC,
            kernel_alignment: KERNEL_ALIGNMENT,
            ..Default::default()
        }),
        acpi_rsdp_addr: info.rsdp,
        ..Default::default()
    };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = COMMAND_LINE as u32;
    params.hdr.cmdline_size = COMMAND_LINE_MAX as u32;
    if let Some((start, size)) = info.initrd {
        // Both fit: an initramfs lies below 4 GiB by `load_initrd`.
        params.hdr.ramdisk_image = start as u32;
        params.hdr.ramdisk_size = size as u32;
    }
    for (slot, (addr, size, kind)) in params.e820_table.iter_mut().zip(map.entries()) {
        *slot = boot_e820_entry {
            addr: *addr,
            size: *size,
            r#type: *kind as _,
        };
        params.e820_entries += 1;
    }
    LinuxBootConfigurator::write_bootparams(
        &BootParams::new(&params, GuestAddress(ZERO_PAGE)),
        memory,
    )
    .map_err(|error| LoadError::BootInfo(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use MemoryKind::{Ram, Reserved};

    #[test]
    fn the_top_of_ram_is_kept_from_the_guest() {
        let map = MemoryMap::new(&[(0, 64 << 20)], 16 << 20);
        assert_eq!(
            map.entries(),
            [
                (0, LOW_RAM_END, Ram),
                (LOW_RAM_END, HIGH_RAM - LOW_RAM_END, Reserved),
                (HIGH_RAM, (48 << 20) - HIGH_RAM, Ram),
                (48 << 20, 16 << 20, Reserved),
            ]
        );
        assert_eq!(map.low_ram_end(), 48 << 20);
    }

    #[test]
    fn the_hole_splits_the_map_and_keeps_low_ram_whole() {
        let map = MemoryMap::new(&[(0, 3 << 30), (4 << 30, 1 << 30)], 1 << 20);
        assert_eq!(map.low_ram_end(), 3 << 30);
        assert_eq!(
            map.entries()[3..],
            [
                (4 << 30, (1 << 30) - (1 << 20), Ram),
                ((5 << 30) - (1 << 20), 1 << 20, Reserved)
            ]
        );
    }

    #[test]
    fn entries_never_overlap() {
        for top in [0, 4096, 32 << 20] {
            let map = MemoryMap::new(&[(0, 3 << 30), (4 << 30, 64 << 20)], top);
            for pair in map.entries().windows(2) {
                assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:?}");
            }
        }
    }

    #[test]
    fn addresses_without_ram_can_be_reserved() {
        let map = MemoryMap::new(&[(0, 3 << 30), (4 << 30, 1 << 30)], 0);
        let with = map.clone().with_reserved(0xe000_0000, 1 << 20);
        let new = (0xe000_0000, 1 << 20, MemoryKind::Reserved);
        assert_eq!(with.entries().len(), map.entries().len() + 1);
        assert_eq!(with.entries()[map.entries().len() - 1], new);
        assert!(with.entries().is_sorted());
        assert_eq!(with.low_ram_end(), map.low_ram_end());
        let map = MemoryMap::new(&[(0, 64 << 20)], 16 << 20);
        let with = map.with_reserved(0xe000_0000, 1 << 20);
        assert_eq!(with.entries().last(), Some(&new));
    }
}
