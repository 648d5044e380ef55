//! How a command names its data: PRP entries and lists, or one SGL descriptor (sections 4.3
//! and 4.4 of the base specification).

use byway_nvme::layout::{Command, PAGE_BYTES, SglDescriptor};

use crate::memory::HostSpan;

/// Most bytes that one page of PRP entries and the first entry name, wherever they begin.
pub(super) const BYTES_MAX: u32 = 512 * PAGE_BYTES as u32;

/// Where a slot's list of PRP entries is: a page of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct List<'a> {
    pub(super) span: &'a HostSpan,
    /// In the engine's mapping.
    pub(super) offset: usize,
    /// For the controller.
    pub(super) address: u64,
}

/// Names `bytes` bytes, 1 to [`BYTES_MAX`], at an address that is a multiple of 4.
pub(super) fn by_prp(command: Command, address: u64, bytes: u32, list: List<'_>) -> Command {
    let end = address + u64::from(bytes);
    let second = address - address % PAGE_BYTES + PAGE_BYTES;
    if end <= second {
        return command.with_prp([address, 0]);
    }
    if end <= second + PAGE_BYTES {
        return command.with_prp([address, second]);
    }
    let pages = (second..end).step_by(PAGE_BYTES as usize);
    for (i, page) in pages.enumerate() {
        list.span.store_u64(list.offset + 8 * i, page.to_le());
    }
    command.with_prp([address, list.address])
}

/// The same by SGL.
pub(super) fn by_sgl(command: Command, address: u64, bytes: u32) -> Command {
    command.with_sgl(&SglDescriptor {
        address,
        length: bytes,
        reserved: 0,
        kind: SglDescriptor::DATA,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::peer_memory::PeerMemory;

    #[test]
    fn entries_name_the_pages_that_a_range_touches() {
        let memory = PeerMemory::new(c"byway-test", 8192).unwrap();
        let list = List {
            span: memory.span(),
            offset: 4096,
            address: 0x9000_1000,
        };
        let of = |address, bytes| by_prp(Command::default(), address, bytes, list).prp();
        let entry = |i: usize| memory.span().load_u64(4096 + 8 * i);
        assert_eq!(of(0x1000, 4096), [0x1000, 0]);
        assert_eq!(of(0x1004, 4092), [0x1004, 0]);
        assert_eq!(of(0x1004, 4096), [0x1004, 0x2000]);
        assert_eq!(of(0x1000, 8192), [0x1000, 0x2000]);
        assert_eq!(of(0x1004, 8192), [0x1004, 0x9000_1000]);
        assert_eq!([entry(0), entry(1), entry(2)], [0x2000, 0x3000, 0]);
        assert_eq!(of(0x1ffc, BYTES_MAX), [0x1ffc, 0x9000_1000]);
        assert_eq!([entry(0), entry(511)], [0x2000, 0x20_1000]);
        // The page behind the list was not touched, nor the one before.
        assert_eq!(memory.span().load_u64(4088), 0);
    }
}
