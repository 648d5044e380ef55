//! Changes of a running VM's memory: added, removed, made read-only, ballooned, and the log
//! of its dirty pages.
//!
//! Two look at guest RAM, KVM for the vCPUs and the engine for transfers, and the order in
//! which they are told is what this module owns: what is given, KVM gets first; what is
//! taken, the engine gives up first, and returns after its last access. Neither asks the
//! guest, so that a guest that does not cooperate loses its own memory and nothing else.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use byway_engine::interface::{DirtyBitmap, Domain, DomainError};
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY};
use vm_memory::{Address, GuestMemoryRegion, GuestRegionMmap};

use super::{Vm, VmError};
use crate::acpi::{AcpiError, MEMORY_SLOTS, MemorySlots};
use crate::layout::{self, PAGE_SIZE};
use crate::memory::{self, HugePages, RamConfig};

/// What memory that a guest is told of comes in: the size of Linux' memory blocks.
pub const PLUG_UNIT: u64 = 128 << 20;

/// Memory that came after the VM was built.
#[derive(Debug)]
struct Added {
    slot: u32,
    region: Arc<GuestRegionMmap>,
    writable: bool,
}

impl Added {
    fn is(&self, guest_addr: u64, size: u64) -> bool {
        (self.region.start_addr().raw_value(), self.region.len()) == (guest_addr, size)
    }
}

/// What has changed since the VM was built.
#[derive(Debug, Default)]
pub(super) struct Changes {
    added: Vec<Added>,
    /// What the guest was told of.
    told: MemorySlots,
    logs_dirty: bool,
}

impl Changes {
    /// Flags of a memory slot.
    fn flags(&self, writable: bool) -> u32 {
        let log = if self.logs_dirty {
            KVM_MEM_LOG_DIRTY_PAGES
        } else {
            0
        };
        let read_only = if writable { 0 } else { KVM_MEM_READONLY };
        log | read_only
    }
}

impl Vm {
    /// Adds `size` bytes of zeroed RAM at `guest_addr`, both multiples of 4096, above 4 GiB
    /// and where nothing is. The guest is not told; the VM's mailbox cannot be there.
    ///
    /// # Errors
    /// When the range is misaligned, in use, or cannot be had; nothing has changed then.
    pub fn add_memory(&mut self, guest_addr: u64, size: u64) -> Result<(), VmError> {
        check_range(guest_addr, size)?;
        if guest_addr < layout::RAM_HOLE_END {
            return Err(VmError::Config(format!(
                "memory {guest_addr:#x}+{size:#x} cannot be added: devices and the first RAM are \
                 below {:#x}",
                layout::RAM_HOLE_END
            )));
        }
        let region = memory::map_region(
            guest_addr,
            size,
            &RamConfig {
                size,
                huge_pages: HugePages::Auto,
                populate: false,
            },
        )?;
        let taken: Vec<u32> = self.slots().map(|(slot, ..)| slot).collect();
        let slot = (0..).find(|slot| !taken.contains(slot)).unwrap_or(u32::MAX);
        let flags = self.changes.flags(true);
        // SAFETY: the region is kept beside the RAM, which outlives KVM's descriptors, until
        // the slot is removed.
        unsafe { memory::set_slot(&self.vm, slot, &region, flags) }?;
        let added = memory::engine_region(&region, false)
            .and_then(|region| self.with_domain(|domain| domain.add_region(region)));
        if let Some(Err(error)) = added {
            memory::remove_slot(&self.vm, slot)?;
            return Err(error.into());
        }
        let region = Arc::new(region);
        self.give_devices(&region)?;
        self.changes.added.push(Added {
            slot,
            region,
            writable: true,
        });
        Ok(())
    }

    /// Adds `size` bytes of zeroed RAM above all that there is and tells the guest by ACPI, which may begin to use it; returns where
    /// it is. `size` is a multiple of [`PLUG_UNIT`].
    ///
    /// # Errors
    /// When the size is another, memory has been added [`MEMORY_SLOTS`] times, or it cannot be had; nothing has changed then.
    pub fn plug_memory(&mut self, size: u64) -> Result<u64, VmError> {
        if size == 0 || !size.is_multiple_of(PLUG_UNIT) {
            return Err(VmError::Config(format!(
                "{size} bytes of memory cannot be added to VM {:?}: use a multiple of {}M",
                self.name(),
                PLUG_UNIT >> 20
            )));
        }
        if !self.changes.told.has_room() {
            return Err(VmError::Config(format!(
                "memory has been added to VM {:?} {MEMORY_SLOTS} times, which is as often as can be; \
                 start it anew with more memory",
                self.name()
            )));
        }
        let end = self.slots().map(|(_, region, _)| {
            let start = region.start_addr().raw_value();
            start.saturating_add(region.len())
        });
        let guest_addr = end
            .max()
            .unwrap_or(0)
            .max(layout::RAM_HOLE_END)
            .next_multiple_of(PLUG_UNIT);
        self.add_memory(guest_addr, size)?;
        let told = &mut self.changes.told;
        told.enter(self.ram.memory(), guest_addr, size)
            .map_err(AcpiError::Write)?;
        self.pulse(layout::ADDED_MEMORY_GSI)
            .map_err(|source| VmError::Host {
                what: "raise the interrupt of added memory",
                source,
            })?;
        Ok(guest_addr)
    }

    /// Removes what [`Self::add_memory`] added, whole; afterwards neither engine nor guest
    /// reaches it. Transfers that meet it end in status 42, and what the guest's vCPUs do
    /// there reads as all ones.
    ///
    /// # Errors
    /// When no such memory was added.
    pub fn remove_memory(&mut self, guest_addr: u64, size: u64) -> Result<(), VmError> {
        let index = self.added(guest_addr, size)?;
        self.tell_engine(|domain| domain.remove_region(guest_addr, size))?;
        self.take_from_devices(guest_addr, size);
        memory::remove_slot(&self.vm, self.changes.added[index].slot)?;
        self.changes.added.swap_remove(index);
        // One that the guest was told of would find nothing there.
        let told = &mut self.changes.told;
        told.remove(self.ram.memory(), guest_addr)
            .map_err(AcpiError::Write)?;
        Ok(())
    }

    /// Makes what [`Self::add_memory`] added read-only, or writable again, whole: for the
    /// engine (status 59) and for the guest, whose writes become MMIO exits to nowhere.
    ///
    /// KVM changes this by making the slot anew: an access of the guest in the moment between
    /// goes nowhere. The VMM pauses the guest where it matters.
    ///
    /// # Errors
    /// When no such memory was added.
    pub fn protect_memory(
        &mut self,
        guest_addr: u64,
        size: u64,
        writable: bool,
    ) -> Result<(), VmError> {
        let index = self.added(guest_addr, size)?;
        if !writable {
            self.tell_engine(|domain| domain.protect_region(guest_addr, size, false))?;
            // They know no memory that cannot be written, so they know none of it.
            self.take_from_devices(guest_addr, size);
        }
        let flags = self.changes.flags(writable);
        let added = &mut self.changes.added[index];
        memory::remove_slot(&self.vm, added.slot)?;
        // SAFETY: as in `add_memory`.
        unsafe { memory::set_slot(&self.vm, added.slot, &added.region, flags) }?;
        added.writable = writable;
        if writable {
            self.tell_engine(|domain| domain.protect_region(guest_addr, size, true))?;
            // They may have it still: then there is nothing to give.
            self.take_from_devices(guest_addr, size);
            self.give_devices(&Arc::clone(&self.changes.added[index].region))?;
        }
        Ok(())
    }

    fn give_devices(&self, region: &Arc<GuestRegionMmap>) -> Result<(), VmError> {
        let given = self.devices.memory().add(Arc::clone(region));
        given.map_err(|error| VmError::Config(format!("devices cannot have the memory: {error}")))
    }

    /// Returns after their last access.
    fn take_from_devices(&self, guest_addr: u64, size: u64) {
        self.devices.memory().remove(guest_addr, size);
        self.devices.settle();
    }

    /// Takes pages of RAM from a guest that has said it does not need them (virtio-balloon's
    /// "inflate"): the host gets the memory behind them. Transfers that meet them end in
    /// status 42; a vCPU that touches one finds a fresh page of zeros.
    ///
    /// # Errors
    /// When the range is misaligned or not inside one region.
    pub fn inflate_balloon(&mut self, guest_addr: u64, size: u64) -> Result<(), VmError> {
        check_range(guest_addr, size)?;
        self.tell_engine(|domain| domain.discard(guest_addr, size))?;
        self.punch(guest_addr, size)
    }

    /// Gives pages back, zeroed; ones that were not taken stay as they are.
    ///
    /// # Errors
    /// As [`Self::inflate_balloon`].
    pub fn deflate_balloon(&mut self, guest_addr: u64, size: u64) -> Result<(), VmError> {
        check_range(guest_addr, size)?;
        self.tell_engine(|domain| domain.restore(guest_addr, size))
    }

    /// Turns the log of dirty pages on, with no page marked, or off.
    ///
    /// # Errors
    /// When KVM refuses it.
    pub fn set_dirty_log(&mut self, on: bool) -> Result<(), VmError> {
        self.changes.logs_dirty = on;
        for (slot, region, writable) in self.slots() {
            // SAFETY: the slots are there already, over just these regions.
            unsafe { memory::set_slot(&self.vm, slot, region, self.changes.flags(writable)) }?;
        }
        self.with_domain(|domain| domain.set_dirty_log(on));
        self.devices.memory().set_log(on);
        Ok(())
    }

    /// Which pages of RAM were written since the last harvest, by the vCPUs (KVM's log), by
    /// the engine or by this process' devices (their own), and clears the logs; a bitmap for each region, ascending. A
    /// page that is marked can be copied right away.
    ///
    /// # Errors
    /// When the log is off.
    pub fn harvest_dirty(&mut self) -> Result<Vec<DirtyBitmap>, VmError> {
        let by_devices = self.devices.memory().take_log();
        let mut harvest = Vec::new();
        for (slot, region, _) in self.slots() {
            let (guest_addr, size) = (region.start_addr().raw_value(), region.len());
            let by_guest = self
                .vm
                .get_dirty_log(slot, size as usize)
                .map_err(|source| VmError::Kvm {
                    what: "tell which pages the guest wrote",
                    source,
                })?;
            let by_engine = self.with_domain(|domain| domain.harvest_dirty(guest_addr, size));
            let mut dirty = by_engine.transpose()?.unwrap_or(DirtyBitmap {
                guest_addr,
                words: vec![0; by_guest.len()],
            });
            dirty.merge(&by_guest)?;
            let first = guest_addr / PAGE_SIZE;
            for page in by_devices.range(first..first + size / PAGE_SIZE) {
                let page = (page - first) as usize;
                if let Some(word) = dirty.words.get_mut(page / 64) {
                    *word |= 1 << (page % 64);
                }
            }
            harvest.push(dirty);
        }
        harvest.sort_unstable_by_key(|bitmap| bitmap.guest_addr);
        Ok(harvest)
    }

    /// Every memory slot: its number, its region, whether the guest may write it.
    fn slots(&self) -> impl Iterator<Item = (u32, &GuestRegionMmap, bool)> {
        let built = self.ram.slots().map(|(slot, region)| (slot, region, true));
        let added = &self.changes.added;
        built.chain(added.iter().map(|a| (a.slot, &*a.region, a.writable)))
    }

    fn added(&self, guest_addr: u64, size: u64) -> Result<usize, VmError> {
        let mut added = self.changes.added.iter();
        added.position(|a| a.is(guest_addr, size)).ok_or_else(|| {
            VmError::Config(format!(
                "VM {:?} has no added memory {guest_addr:#x}+{size:#x}",
                self.name()
            ))
        })
    }

    /// A VM without the Byway device has nobody to tell.
    fn tell_engine(
        &self,
        verb: impl FnOnce(&mut dyn Domain) -> Result<(), DomainError>,
    ) -> Result<(), VmError> {
        Ok(self.with_domain(verb).transpose().map(|_| ())?)
    }

    /// Frees the memory behind a range; it reads as zeros.
    fn punch(&self, guest_addr: u64, size: u64) -> Result<(), VmError> {
        let end = guest_addr.saturating_add(size);
        let found = self.slots().find_map(|(_, region, _)| {
            let start = region.start_addr().raw_value();
            let inside = guest_addr >= start && end <= start + region.len();
            let backing = region.file_offset().filter(|_| inside)?;
            Some((backing, backing.start() + (guest_addr - start)))
        });
        let (backing, offset) = found.ok_or_else(|| {
            VmError::Config(format!(
                "{guest_addr:#x}+{size:#x} is not inside one region of VM {:?}",
                self.name()
            ))
        })?;
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: changes the contents of an open file; guest RAM is only accessed by means
        // that expect any contents.
        let done = unsafe {
            libc::fallocate(
                backing.file().as_raw_fd(),
                mode,
                offset as libc::off_t,
                size as libc::off_t,
            )
        };
        if done < 0 {
            return Err(VmError::Host {
                what: "free ballooned memory",
                source: io::Error::last_os_error(),
            });
        }
        Ok(())
    }
}

fn check_range(guest_addr: u64, size: u64) -> Result<(), VmError> {
    let aligned = guest_addr.is_multiple_of(PAGE_SIZE) && size.is_multiple_of(PAGE_SIZE);
    if !aligned || size == 0 || guest_addr.checked_add(size).is_none() {
        return Err(VmError::Config(format!(
            "memory {guest_addr:#x}+{size:#x}: use multiples of {PAGE_SIZE}, not empty"
        )));
    }
    Ok(())
}
