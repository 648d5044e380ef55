//! Physical memory: blocks of 2 MiB, and frames of 4 KiB carved out of them.
//!
//! Owns one record for each block of RAM. A block whose frames have all come back is whole again,
//! so that large pages can always be had after small ones were freed.

use byway_agent::layout::MAILBOX_BYTES;

use super::boot_info::{BootInfo, Range};
use crate::layout::{DIRECT_MAP, LARGE_PAGE, PAGE};

const FRAMES_PER_BLOCK: usize = 512;

/// One block.
#[derive(Clone, Copy)]
struct Block {
    /// A bit for each frame; set = in use.
    used: [u64; 8],
    /// Bits set in `used`.
    count: u16,
    /// Not ours to give: no RAM, or the image, the mailbox, these records.
    reserved: bool,
}

const RESERVED: Block = Block {
    used: [u64::MAX; 8],
    count: 512,
    reserved: true,
};
const FREE: Block = Block {
    used: [0; 8],
    count: 0,
    reserved: false,
};

/// The frame allocator.
pub struct Frames {
    blocks: &'static mut [Block],
    /// Where the latest frame was found: the next one is likely there.
    hint: usize,
    free: usize,
}

/// Address at which the kernel process sees guest-physical `address`.
pub fn direct<T>(address: u64) -> *mut T {
    (DIRECT_MAP + address) as *mut T
}

impl Frames {
    /// Takes charge of all RAM but `image` and the mailbox.
    ///
    /// # Safety
    /// Called once; the RAM that `info` names is nobody else's, and its first GiB is mapped at
    /// [`DIRECT_MAP`].
    pub unsafe fn new(info: &BootInfo, image: Range) -> Result<Self, &'static str> {
        let top = info
            .ram()
            .iter()
            .map(|range| range.start + range.len)
            .max()
            .unwrap_or(0);
        let block_count = (top / LARGE_PAGE) as usize;
        let table_start = (image.start + image.len).next_multiple_of(LARGE_PAGE);
        let table = Range {
            start: table_start,
            len: ((block_count * size_of::<Block>()) as u64).next_multiple_of(LARGE_PAGE),
        };
        if !info.ram().iter().any(|range| contains(range, table)) {
            return Err("no RAM behind the image for the records of the frame allocator");
        }
        let records = direct::<Block>(table.start);
        for index in 0..block_count {
            let block = Range {
                start: index as u64 * LARGE_PAGE,
                len: LARGE_PAGE,
            };
            let taken = index == 0
                || overlaps(image, block)
                || overlaps(table, block)
                || info.mailbox.is_some_and(|mailbox| {
                    overlaps(
                        Range {
                            start: mailbox.start,
                            len: mailbox.len.max(MAILBOX_BYTES as u64),
                        },
                        block,
                    )
                })
                || !info.ram().iter().any(|range| contains(range, block));
            // SAFETY: inside the range that was just found to be RAM and nobody's.
            unsafe {
                records
                    .add(index)
                    .write(if taken { RESERVED } else { FREE })
            };
        }
        // SAFETY: initialised above, and reserved in its own records.
        let blocks = unsafe { core::slice::from_raw_parts_mut(records, block_count) };
        let free = blocks.iter().filter(|block| !block.reserved).count() * FRAMES_PER_BLOCK;
        Ok(Self {
            blocks,
            hint: 0,
            free,
        })
    }

    /// First address after the highest block.
    pub fn top(&self) -> u64 {
        self.blocks.len() as u64 * LARGE_PAGE
    }

    /// Frames that are free.
    pub const fn free_frames(&self) -> usize {
        self.free
    }

    /// A whole block.
    pub fn take_block(&mut self) -> Option<u64> {
        let index = self.blocks.iter().position(|block| block.count == 0)?;
        self.blocks[index] = Block {
            used: [u64::MAX; 8],
            count: 512,
            reserved: false,
        };
        self.free -= FRAMES_PER_BLOCK;
        Some(index as u64 * LARGE_PAGE)
    }

    /// `count` frames that follow each other, 1 to 512.
    pub fn take_run(&mut self, count: usize) -> Option<u64> {
        if count == 0 || count > FRAMES_PER_BLOCK {
            return None;
        }
        let blocks = self.blocks.len();
        for step in 0..blocks {
            let index = (self.hint + step) % blocks;
            let block = &mut self.blocks[index];
            if block.reserved || FRAMES_PER_BLOCK - usize::from(block.count) < count {
                continue;
            }
            if let Some(first) = find_run(&block.used, count) {
                for frame in first..first + count {
                    block.used[frame / 64] |= 1 << (frame % 64);
                }
                block.count += count as u16;
                self.free -= count;
                self.hint = index;
                return Some(index as u64 * LARGE_PAGE + first as u64 * PAGE);
            }
        }
        None
    }

    /// One frame, filled with zeros: what page tables are made of.
    pub fn take_zeroed(&mut self) -> Option<u64> {
        let frame = self.take_run(1)?;
        // SAFETY: the frame was free a moment ago, and all RAM is mapped.
        unsafe { direct::<u8>(frame).write_bytes(0, PAGE as usize) };
        Some(frame)
    }

    /// Takes back `count` frames from `address` on.
    ///
    /// # Panics
    /// When one of them was not in use: a bug of this kernel that must not go on.
    pub fn give_run(&mut self, address: u64, count: usize) {
        for step in 0..count as u64 {
            let at = address + step * PAGE;
            let frame = (at % LARGE_PAGE / PAGE) as usize;
            let block = &mut self.blocks[(at / LARGE_PAGE) as usize];
            let bit = 1 << (frame % 64);
            assert!(
                !block.reserved && block.used[frame / 64] & bit != 0,
                "frame {at:#x} freed twice"
            );
            block.used[frame / 64] &= !bit;
            block.count -= 1;
        }
        self.free += count;
    }

    /// Takes back a block.
    pub fn give_block(&mut self, address: u64) {
        self.give_run(address, FRAMES_PER_BLOCK);
    }
}

/// First of `count` clear bits in a row.
fn find_run(used: &[u64; 8], count: usize) -> Option<usize> {
    if count == 1 {
        let word = used.iter().position(|word| *word != u64::MAX)?;
        return Some(word * 64 + used[word].trailing_ones() as usize);
    }
    let mut run = 0;
    for frame in 0..FRAMES_PER_BLOCK {
        run = if used[frame / 64] & (1 << (frame % 64)) == 0 {
            run + 1
        } else {
            0
        };
        if run == count {
            return Some(frame + 1 - count);
        }
    }
    None
}

fn contains(outer: &Range, inner: Range) -> bool {
    inner.start >= outer.start && inner.start + inner.len <= outer.start + outer.len
}

fn overlaps(a: Range, b: Range) -> bool {
    a.start < b.start + b.len && b.start < a.start + a.len
}
