//! [`KernelCommands`]: memory, page tables, sleep. They work without a Byway device.
//!
//! Owns nothing.

use byway_agent::commands::{
    ALLOC_EMPTY, ALLOC_READ_ONLY, ALLOC_ZERO, Alloc, Allocated, Churn, Churned, Free, Freed,
    IsLazy, KernelCommands, MakeLazy, MapPages, Mapped, MmioOnPurpose, Pager, PagerIs, PowerOff,
    PoweredOff, ProtectPages, Protected, PteGet, PteGot, PteOld, PteSet, Sleep, Slept, Touched,
    UnmapPages, Unmapped,
};
use byway_agent::{Failure, Status};
use byway_driver::Invalidation;

use crate::kernel::churn;
use crate::kernel::crash;
use crate::kernel::device::{failure, own_pasid};
use crate::kernel::frames::direct;
use crate::kernel::machine::Machine;
use crate::kernel::pager::Policy;
use crate::kernel::space::{MAX_REGION_BYTES, heap_bits};
use crate::layout::{LARGE_PAGE, MMIO_MAP, PAGE};
use crate::serial;

/// `value`, if it is the size of a page that this image makes.
fn page_size(index: u64, value: u64) -> Result<u64, Failure> {
    match value {
        PAGE | LARGE_PAGE => Ok(value),
        _ => Err(Failure::argument(index, value)),
    }
}

/// `value`, if it is a multiple of `unit` and at most the size of the largest region.
fn multiple(index: u64, value: u64, unit: u64) -> Result<u64, Failure> {
    if value.is_multiple_of(unit) && value <= MAX_REGION_BYTES {
        Ok(value)
    } else {
        Err(Failure::argument(index, value))
    }
}

impl KernelCommands for Machine {
    fn alloc(&mut self, request: Alloc) -> Result<Allocated, Failure> {
        let Alloc {
            bytes,
            page_size: size,
            flags,
        } = request;
        if bytes == 0 || bytes > MAX_REGION_BYTES {
            return Err(Failure::argument(0, bytes));
        }
        let size = page_size(1, size)?;
        if flags & !(ALLOC_ZERO | ALLOC_EMPTY | ALLOC_READ_ONLY) != 0 {
            return Err(Failure::argument(2, flags));
        }
        let populate = flags & ALLOC_EMPTY == 0;
        let (task, frames) = self.current();
        let bits = heap_bits(flags & ALLOC_READ_ONLY != 0);
        let (va, gpa) = task.space.alloc(frames, bytes, size, populate, bits)?;
        if populate && flags & ALLOC_ZERO != 0 {
            task.space.for_each_page(va, |page| {
                // SAFETY: a page that was just given to the region, and all RAM is mapped.
                unsafe { direct::<u8>(page).write_bytes(0, size as usize) };
            });
        }
        Ok(Allocated { va, gpa })
    }

    fn free(&mut self, request: Free) -> Result<Freed, Failure> {
        let (task, frames) = self.current();
        task.space.free(frames, request.va)?;
        Ok(Freed {})
    }

    fn pte_get(&mut self, request: PteGet) -> Result<PteGot, Failure> {
        let (task, frames) = self.current();
        let tables = task.space.tables;
        let mut levels = [0; 6];
        let mut lowest = None;
        for level in (1..=tables.levels).rev() {
            let Some(entry) = tables
                .walk(frames, request.va, level)
                .filter(|entry| entry.level == level)
            else {
                break;
            };
            levels[level as usize] = entry.value;
            lowest = Some(entry);
        }
        let lowest = lowest.ok_or(Failure::argument(0, request.va))?;
        let [_, level1, level2, level3, level4, level5] = levels;
        Ok(PteGot {
            lowest: u64::from(lowest.level),
            level1,
            level2,
            level3,
            level4,
            level5,
            entry_gpa: lowest.address,
        })
    }

    fn pte_set(&mut self, request: PteSet) -> Result<PteOld, Failure> {
        let (task, frames) = self.current();
        let tables = task.space.tables;
        if request.level == 0 || request.level > u64::from(tables.levels) {
            return Err(Failure::argument(1, request.level));
        }
        let level = request.level as u32;
        let entry = tables
            .walk(frames, request.va, level)
            .filter(|entry| entry.level == level)
            .ok_or(Failure::argument(0, request.va))?;
        entry.set(request.value);
        Ok(PteOld { value: entry.value })
    }

    fn map_pages(&mut self, request: MapPages) -> Result<Mapped, Failure> {
        let size = page_size(3, request.page_size)?;
        let bytes = multiple(2, request.bytes, size)?;
        for (index, address) in [request.va, request.gpa].into_iter().enumerate() {
            if !address.is_multiple_of(size) {
                return Err(Failure::argument(index as u64, address));
            }
        }
        if request.gpa.checked_add(bytes).is_none() {
            return Err(Failure::argument(1, request.gpa));
        }
        let (task, frames) = self.current();
        task.space
            .map(frames, request.va, request.gpa, bytes, size, request.bits)?;
        Ok(Mapped {})
    }

    fn unmap_pages(&mut self, request: UnmapPages) -> Result<Unmapped, Failure> {
        let (task, frames) = self.current();
        let bytes = multiple(1, request.bytes, 1)?;
        let entries = task
            .space
            .for_each_leaf(frames, request.va, bytes, |entry| entry.set(0))?;
        Ok(Unmapped { entries })
    }

    fn protect_pages(&mut self, request: ProtectPages) -> Result<Protected, Failure> {
        let (task, frames) = self.current();
        let bytes = multiple(1, request.bytes, 1)?;
        let entries = task
            .space
            .for_each_leaf(frames, request.va, bytes, |entry| {
                entry.set((entry.value | request.set) & !request.clear);
            })?;
        Ok(Protected { entries })
    }

    fn make_lazy(&mut self, request: MakeLazy) -> Result<IsLazy, Failure> {
        let MakeLazy { va, bytes, policy } = request;
        let policy = Policy::from_raw(policy).ok_or(Failure::argument(2, policy))?;
        if !va.is_multiple_of(PAGE) {
            return Err(Failure::argument(0, va));
        }
        let bytes = multiple(1, bytes, PAGE)?;
        let process = self.current_process();
        let (task, frames) = self.current();
        let pages = task
            .space
            .for_each_leaf(frames, va, bytes, |entry| entry.set(0))?;
        self.pager.set(process, va, bytes, policy)?;
        // What the engine has cached of them goes, as it would after any unmap.
        if let Some(byway) = self.byway.as_mut()
            && byway.bound[process as usize]
            && bytes != 0
        {
            let what = Invalidation::Range {
                pasid: own_pasid(process),
                address: va,
                pages: bytes / PAGE,
            };
            byway.device().invalidate(what).map_err(failure)?;
        }
        Ok(IsLazy { pages })
    }

    fn pager(&mut self, _request: Pager) -> Result<PagerIs, Failure> {
        self.drain_events();
        Ok(self.pager.counts)
    }

    fn sleep(&mut self, _request: Sleep) -> Result<Slept, Failure> {
        let before = self.interrupts.taken;
        let wake = self.info.wake_irq;
        // A VM without a wake interrupt wakes at any.
        self.sleep_until(|irq| wake.is_none() || irq == wake);
        Ok(Slept {
            interrupts: self.interrupts.taken - before,
        })
    }

    fn mmio_on_purpose(&mut self, request: MmioOnPurpose) -> Result<Touched, Failure> {
        let device = self
            .info
            .devices()
            .first()
            .ok_or(Failure::new(Status::NoDevice, 0))?;
        for _ in 0..request.count {
            // SAFETY: the device's first register, which reads as the same number always; mapped at
            // start.
            unsafe { ((MMIO_MAP + device.registers.start) as *const u32).read_volatile() };
        }
        Ok(Touched {})
    }

    fn churn(&mut self, request: Churn) -> Result<Churned, Failure> {
        churn::carry_out(self, request)
    }

    fn power_off(&mut self, _request: PowerOff) -> Result<PoweredOff, Failure> {
        serial::out(0x64, 0xfe);
        crash::stop()
    }
}
