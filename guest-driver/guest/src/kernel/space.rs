//! An unprivileged process's address space: the image's sections, its part of the mailbox, and the
//! heap from which the host program allocates.
//!
//! Owns the frames behind private sections and heap regions. What it gave to a region is recorded
//! apart from the page tables, because tests overwrite those at will; freeing goes by the record.

use byway_agent::layout::{BULK_BYTES, Process};
use byway_agent::{Failure, Status};
use byway_driver::virtio::Buffer;

use super::frames::{Frames, direct};
use super::tables::{
    ACCESSED, ADDRESS, DIRTY, Entry, LARGE, NO_EXECUTE, OutOfFrames, PRESENT, Tables, USER,
    WRITABLE,
};
use crate::layout::{
    HEAP, HEAP_END, LARGE_PAGE, MAILBOX_BULK, MAILBOX_CHANNEL, MAILBOX_HEADER, PAGE,
};

/// Most heap regions of a process.
pub const MAX_REGIONS: usize = 256;
/// Most bytes of one region.
pub const MAX_REGION_BYTES: u64 = 4 << 30;

unsafe extern "C" {
    static ring0_start: u8;
    static trap_area_start: u8;
    static trap_area_end: u8;
    static text_start: u8;
    static text_end: u8;
    static rodata_start: u8;
    static rodata_end: u8;
    static data_start: u8;
    static data_end: u8;
    static bss_end: u8;
    static stack_start: u8;
    static stack_end: u8;
    static image_start: u8;
    static image_end: u8;
}

/// Address of a symbol of the linker script.
macro_rules! symbol {
    ($name:ident) => {
        // Only the address of a symbol means anything.
        core::ptr::addr_of!($name) as u64
    };
}

/// The image as a range of guest-physical memory.
pub fn image() -> (u64, u64) {
    (symbol!(image_start), symbol!(image_end))
}

/// Top of the stack, in every process.
pub fn stack_top() -> u64 {
    symbol!(stack_end)
}

/// A mapping could not be made.
impl From<OutOfFrames> for Failure {
    fn from(_: OutOfFrames) -> Self {
        Self::new(Status::NoMemory, PAGE)
    }
}

const LEAF: u64 = PRESENT | USER | ACCESSED;
const DATA: u64 = LEAF | WRITABLE | DIRTY | NO_EXECUTE;

/// Maps what every process has of the image: ring 0's parts, which ring 3 sees only in the kernel
/// process, the code and the constants.
pub fn map_image(tables: Tables, frames: &mut Frames, ring0_bits: u64) -> Result<(), OutOfFrames> {
    let mut same =
        |start: u64, end: u64, bits: u64| tables.map(frames, start, start, end - start, bits);
    same(
        symbol!(ring0_start),
        symbol!(trap_area_start),
        PRESENT | ACCESSED,
    )?;
    let trap_area = PRESENT | WRITABLE | ACCESSED | DIRTY | NO_EXECUTE | ring0_bits;
    same(symbol!(trap_area_start), symbol!(trap_area_end), trap_area)?;
    same(symbol!(text_start), symbol!(text_end), LEAF)?;
    same(
        symbol!(rodata_start),
        symbol!(rodata_end),
        LEAF | NO_EXECUTE,
    )
}

/// Maps the kernel process's private sections: the image's own memory.
pub fn map_kernel_data(tables: Tables, frames: &mut Frames) -> Result<(), OutOfFrames> {
    for (start, end) in [
        (symbol!(data_start), symbol!(bss_end)),
        (symbol!(stack_start), symbol!(stack_end)),
    ] {
        tables.map(frames, start, start, end - start, DATA)?;
    }
    Ok(())
}

/// One heap region.
#[derive(Debug, Clone, Copy, Default)]
struct Region {
    va: u64,
    /// Bytes of memory, a multiple of `page_size`.
    bytes: u64,
    page_size: u64,
    /// Whether memory was given to it, or only page tables.
    populated: bool,
    /// Guest-physical address of the record: an array with the address of each page (if populated),
    /// then of each page table at level 1 (unless the pages are large).
    record: u64,
}

impl Region {
    fn pages(&self) -> u64 {
        if self.populated {
            self.bytes / self.page_size
        } else {
            0
        }
    }

    /// Whether level-1 tables were made for it.
    fn has_tables(&self) -> bool {
        self.page_size == PAGE || !self.populated
    }

    fn tables(&self) -> u64 {
        if self.has_tables() {
            self.bytes.div_ceil(LARGE_PAGE)
        } else {
            0
        }
    }

    /// Address space taken, with the unmapped page behind it.
    fn span(&self) -> u64 {
        (self.bytes + PAGE).next_multiple_of(LARGE_PAGE)
    }

    fn record_frames(&self) -> usize {
        ((self.pages() + self.tables()) * 8).div_ceil(PAGE).max(1) as usize
    }

    fn slot(&self, index: u64) -> *mut u64 {
        direct::<u64>(self.record).wrapping_add(index as usize)
    }

    /// Guest-physical address of page or table `index`.
    fn recorded(&self, index: u64) -> u64 {
        debug_assert!(index < self.pages() + self.tables());
        // SAFETY: inside the record, which is this region's alone.
        unsafe { self.slot(index).read() }
    }

    fn set_recorded(&self, index: u64, address: u64) {
        debug_assert!(index < self.pages() + self.tables());
        // SAFETY: as in `recorded`.
        unsafe { self.slot(index).write(address) };
    }
}

/// The address space.
pub struct Space {
    /// Its page tables.
    pub tables: Tables,
    /// In the order of their addresses; the first `region_count` are in use.
    regions: [Region; MAX_REGIONS],
    region_count: usize,
}

impl Space {
    /// Makes the address space of `process`: everything but heap regions, which come later.
    pub fn new(
        frames: &mut Frames,
        process: Process,
        mailbox: Option<u64>,
        levels: u32,
    ) -> Result<Self, OutOfFrames> {
        let tables = Tables::new(frames, levels).ok_or(OutOfFrames)?;
        map_image(tables, frames, 0)?;
        // Initialised data is copied from the image; the kernel process has not changed its own
        // yet.
        let private = [
            (symbol!(data_start), symbol!(data_end), true),
            (symbol!(data_end), symbol!(bss_end), false),
            (symbol!(stack_start), symbol!(stack_end), false),
        ];
        for (start, end, copy) in private {
            for va in (start..end).step_by(PAGE as usize) {
                let frame = frames.take_zeroed().ok_or(OutOfFrames)?;
                if copy {
                    // SAFETY: a page of the image's data, and a frame that was just taken.
                    unsafe {
                        direct::<u8>(frame).copy_from_nonoverlapping(va as *const u8, PAGE as usize)
                    };
                }
                tables.map(frames, va, frame, PAGE, DATA)?;
            }
        }
        if let Some(mailbox) = mailbox {
            tables.map(frames, MAILBOX_HEADER, mailbox, PAGE, LEAF | NO_EXECUTE)?;
            let channel = mailbox + process.channel_offset() as u64;
            tables.map(frames, MAILBOX_CHANNEL, channel, PAGE, DATA)?;
            let bulk = mailbox + process.bulk_offset() as u64;
            tables.map(frames, MAILBOX_BULK, bulk, BULK_BYTES as u64, DATA)?;
        }
        Ok(Self {
            tables,
            regions: [Region::default(); MAX_REGIONS],
            region_count: 0,
        })
    }

    /// Allocates a heap region of `bytes` in pages of `page_size`; `populate` gives it memory,
    /// mapped with `bits`. Returns its address and the guest-physical address of its first page.
    pub fn alloc(
        &mut self,
        frames: &mut Frames,
        bytes: u64,
        page_size: u64,
        populate: bool,
        bits: u64,
    ) -> Result<(u64, u64), Failure> {
        let no_memory = Failure::new(Status::NoMemory, bytes);
        let bytes = bytes.next_multiple_of(page_size);
        if self.region_count == MAX_REGIONS {
            return Err(Failure::new(Status::NoMemory, MAX_REGIONS as u64));
        }
        let mut region = Region {
            va: 0,
            bytes,
            page_size,
            populated: populate,
            record: 0,
        };
        let wanted =
            region.pages() * (page_size / PAGE) + region.tables() + region.record_frames() as u64;
        if wanted > frames.free_frames() as u64 || region.record_frames() > 512 {
            return Err(no_memory);
        }
        let (position, va) = self.find_gap(region.span()).ok_or(no_memory)?;
        region.va = va;
        region.record = frames.take_run(region.record_frames()).ok_or(no_memory)?;
        // Nothing is recorded yet, so that a failure below gives back exactly what was taken.
        for index in 0..region.pages() + region.tables() {
            region.set_recorded(index, 0);
        }
        if let Err(failure) = self.populate(frames, &region, bits) {
            self.release(frames, &region);
            return Err(failure);
        }
        self.regions
            .copy_within(position..self.region_count, position + 1);
        self.regions[position] = region;
        self.region_count += 1;
        Ok((va, if populate { region.recorded(0) } else { 0 }))
    }

    fn populate(&self, frames: &mut Frames, region: &Region, bits: u64) -> Result<(), Failure> {
        for index in 0..region.tables() {
            let table = frames.take_zeroed().ok_or(OutOfFrames)?;
            region.set_recorded(region.pages() + index, table);
        }
        self.link_tables(frames, region)?;
        // From the last page to the first, so that small pages that follow each other in virtual
        // memory do not in physical memory: a mover that forgets to look up the next page is
        // caught.
        for index in (0..region.pages()).rev() {
            let large = region.page_size == LARGE_PAGE;
            let page = if large {
                frames.take_block()
            } else {
                frames.take_run(1)
            }
            .ok_or(OutOfFrames)?;
            region.set_recorded(index, page);
            let va = region.va + index * region.page_size;
            let (level, extra) = if large { (2, LARGE) } else { (1, 0) };
            self.tables
                .entry(frames, va, level)?
                .set(page | bits | extra);
        }
        Ok(())
    }

    /// Makes the level-2 entries of a region point at its recorded tables.
    fn link_tables(&self, frames: &mut Frames, region: &Region) -> Result<(), OutOfFrames> {
        for index in 0..region.tables() {
            let entry = self
                .tables
                .entry(frames, region.va + index * LARGE_PAGE, 2)?;
            entry.set(
                region.recorded(region.pages() + index) | PRESENT | WRITABLE | USER | ACCESSED,
            );
        }
        Ok(())
    }

    /// First fit: where in the list, and at which address.
    fn find_gap(&self, span: u64) -> Option<(usize, u64)> {
        let mut va = HEAP;
        for (position, region) in self.regions[..self.region_count].iter().enumerate() {
            if region.va - va >= span {
                return Some((position, va));
            }
            va = region.va + region.span();
        }
        (HEAP_END - va >= span).then_some((self.region_count, va))
    }

    /// Frees the heap region at `va`.
    pub fn free(&mut self, frames: &mut Frames, va: u64) -> Result<(), Failure> {
        let position = self.position(va).filter(|at| self.regions[*at].va == va);
        let position = position.ok_or(Failure::argument(0, va))?;
        let region = self.regions[position];
        self.release(frames, &region);
        self.regions
            .copy_within(position + 1..self.region_count, position);
        self.region_count -= 1;
        Ok(())
    }

    fn release(&self, frames: &mut Frames, region: &Region) {
        for slot in (0..region.span()).step_by(LARGE_PAGE as usize) {
            if let Some(entry) = self.tables.walk(frames, region.va + slot, 2)
                && entry.level == 2
            {
                entry.set(0);
            }
        }
        for index in 0..region.pages() {
            match region.recorded(index) {
                0 => {}
                page if region.page_size == LARGE_PAGE => frames.give_block(page),
                page => frames.give_run(page, 1),
            }
        }
        for index in region.pages()..region.pages() + region.tables() {
            match region.recorded(index) {
                0 => {}
                table => frames.give_run(table, 1),
            }
        }
        frames.give_run(region.record, region.record_frames());
    }

    /// Index of the region that holds `va`.
    fn position(&self, va: u64) -> Option<usize> {
        self.regions[..self.region_count]
            .iter()
            .position(|region| va >= region.va && va - region.va < region.span())
    }

    /// Whether all of `va`, `bytes` lies in one heap region, and whether that has tables of level
    /// 1.
    fn check_heap(&self, va: u64, bytes: u64) -> Result<&Region, Failure> {
        let position = self.position(va).ok_or(Failure::argument(0, va))?;
        let region = &self.regions[position];
        let end = va.checked_add(bytes).ok_or(Failure::argument(1, bytes))?;
        if end > region.va + region.span() {
            return Err(Failure::argument(1, bytes));
        }
        Ok(region)
    }

    /// Maps `pages` pages that follow each other from guest-physical `gpa` on, outside the heap.
    pub fn map_window(
        &self,
        frames: &mut Frames,
        va: u64,
        gpa: u64,
        pages: usize,
    ) -> Result<(), OutOfFrames> {
        for offset in (0..pages as u64 * PAGE).step_by(PAGE as usize) {
            self.tables
                .entry(frames, va + offset, 1)?
                .set((gpa + offset) | DATA);
        }
        Ok(())
    }

    /// Takes away what [`Self::map_window`] mapped.
    pub fn unmap_window(&self, frames: &Frames, va: u64, pages: usize) {
        for page in 0..pages as u64 {
            if let Some(entry) = self.tables.walk(frames, va + page * PAGE, 1)
                && entry.level == 1
            {
                entry.set(0);
            }
        }
    }

    /// Maps memory into a heap region that was allocated without.
    pub fn map(
        &mut self,
        frames: &mut Frames,
        va: u64,
        gpa: u64,
        bytes: u64,
        page_size: u64,
        bits: u64,
    ) -> Result<(), Failure> {
        let region = *self.check_heap(va, bytes)?;
        let large = page_size == LARGE_PAGE;
        if !large {
            if !region.has_tables() {
                return Err(Failure::argument(3, page_size));
            }
            // Large leaves or tests may have taken their place.
            for slot in (va & !(LARGE_PAGE - 1)..va + bytes).step_by(LARGE_PAGE as usize) {
                let table = region.recorded(region.pages() + (slot - region.va) / LARGE_PAGE);
                let entry = self.tables.entry(frames, slot, 2)?;
                if entry.value & PRESENT == 0 || entry.is_leaf() || entry.value & ADDRESS != table {
                    entry.set(table | PRESENT | WRITABLE | USER | ACCESSED);
                }
            }
        }
        let (level, extra) = if large { (2, LARGE) } else { (1, 0) };
        for offset in (0..bytes).step_by(page_size as usize) {
            self.tables
                .entry(frames, va + offset, level)?
                .set((gpa + offset) | bits | extra);
        }
        Ok(())
    }

    /// Maps the page of a heap region that holds `va` to the memory that is its own, as [`alloc`]
    /// did. False: there is none such, or its pages are large.
    ///
    /// [`alloc`]: Self::alloc
    pub fn put_back(&self, frames: &mut Frames, va: u64) -> bool {
        let Some((region, index)) = self.small_page(va) else {
            return false;
        };
        let Ok(entry) = self.tables.entry(frames, va, 1) else {
            return false;
        };
        entry.set(region.recorded(index) | heap_bits(false));
        true
    }

    /// Refuses a range that is not in one heap region of small pages with memory of its own.
    pub fn check_pages(&self, va: u64, pages: u64) -> Result<(), Failure> {
        let bytes = pages.checked_mul(PAGE).ok_or(Failure::argument(1, pages))?;
        let region = self.check_heap(va, bytes)?;
        let small = region.populated && region.page_size == PAGE;
        if !small {
            return Err(Failure::argument(0, va));
        }
        if va - region.va + bytes > region.bytes {
            return Err(Failure::argument(1, pages));
        }
        Ok(())
    }

    /// Region and index of the small page at `va`.
    fn small_page(&self, va: u64) -> Option<(&Region, u64)> {
        let region = &self.regions[self.position(va)?];
        let index = (va - region.va) / PAGE;
        (region.page_size == PAGE && index < region.pages()).then_some((region, index))
    }

    /// The frame behind the small heap page at `va`, if it has one, by the record.
    pub fn frame_of(&self, va: u64) -> Option<u64> {
        let (region, index) = self.small_page(va)?;
        Some(region.recorded(index)).filter(|gpa| *gpa != 0)
    }

    /// Records that `gpa` is behind the small heap page at `va` from now on; 0 = none. The page tables
    /// and the old frame are the caller's.
    pub fn set_frame(&mut self, va: u64, gpa: u64) {
        if let Some((region, index)) = self.small_page(va) {
            region.set_recorded(index, gpa);
        }
    }

    /// Calls `use_page` with the guest-physical address of each page that was given to the region
    /// at `va`.
    pub fn for_each_page(&self, va: u64, mut use_page: impl FnMut(u64)) {
        let Some(position) = self.position(va) else {
            return;
        };
        let region = &self.regions[position];
        for index in 0..region.pages() {
            use_page(region.recorded(index));
        }
    }

    /// Calls `change` for each leaf entry of the range in a heap region that is not 0; returns how
    /// many there were. A large leaf counts once.
    pub fn for_each_leaf(
        &self,
        frames: &Frames,
        va: u64,
        bytes: u64,
        mut change: impl FnMut(Entry),
    ) -> Result<u64, Failure> {
        self.check_heap(va, bytes)?;
        let mut at = va & !(PAGE - 1);
        let mut leaves = 0;
        while at < va + bytes {
            let Some(entry) = self.tables.walk(frames, at, 1) else {
                break;
            };
            if entry.is_leaf() && entry.value != 0 {
                change(entry);
                leaves += 1;
            }
            at = match entry.level {
                1 => at + PAGE,
                _ => (at & !(LARGE_PAGE - 1)) + LARGE_PAGE,
            };
        }
        Ok(leaves)
    }
}

/// The memory of a process, as its kernel reaches it: what the process itself may read or write, and no more.
pub struct Reach<'m> {
    space: &'m Space,
    frames: &'m Frames,
}

impl<'m> Reach<'m> {
    /// That of the process with this address space.
    pub const fn new(space: &'m Space, frames: &'m Frames) -> Self {
        Self { space, frames }
    }

    /// Where `va` is, guest-physical, and how many bytes follow it in the same page.
    fn page(&self, va: u64, writes: bool) -> Option<(u64, u64)> {
        let needed = PRESENT | USER | if writes { WRITABLE } else { 0 };
        let entry = self.space.tables.walk(self.frames, va, 1)?;
        if !entry.is_leaf() || entry.level > 2 || entry.value & needed != needed {
            return None;
        }
        let size = if entry.level == 1 { PAGE } else { LARGE_PAGE };
        let offset = va & (size - 1);
        let gpa = (entry.value & ADDRESS & !(size - 1)) + offset;
        let left = size - offset;
        (gpa + left <= self.frames.top()).then_some((gpa, left))
    }

    /// Calls `part` with each stretch of `bytes` bytes at `va`, where the kernel sees it, and its length.
    pub fn each(
        &self,
        va: u64,
        bytes: u64,
        writes: bool,
        mut part: impl FnMut(*mut u8, usize),
    ) -> Result<(), Failure> {
        let mut done = 0;
        while done < bytes {
            let at = va + done;
            let page = self.page(at, writes);
            let (gpa, left) = page.ok_or(Failure::argument(0, at))?;
            let len = left.min(bytes - done);
            part(direct(gpa), len as usize);
            done += len;
        }
        Ok(())
    }

    /// The same for a device that writes there: fills `parts` and says how many there are, or `None` where the process may
    /// not write or they are too many.
    pub fn parts(&self, va: u64, bytes: u64, parts: &mut [Buffer]) -> Option<usize> {
        let (mut done, mut count) = (0, 0);
        while done < bytes {
            let (gpa, left) = self.page(va + done, true)?;
            let len = left.min(bytes - done);
            *parts.get_mut(count)? = Buffer {
                gpa,
                bytes: u32::try_from(len).ok()?,
            };
            count += 1;
            done += len;
        }
        Some(count)
    }
}

/// Bits of a leaf for ordinary heap memory.
pub const fn heap_bits(read_only: bool) -> u64 {
    if read_only {
        DATA & !(WRITABLE | DIRTY)
    } else {
        DATA
    }
}
