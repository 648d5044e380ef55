//! The manual's page walk, step by step: one data access of ring 3 through both stages
//! (Intel SDM volume 3, "4-Level Paging and 5-Level Paging"; SPEC section 3.4).

use byway_protocols::Status;

/// The guest's CPU.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cpu {
    pub(super) levels: u8,
    pub(super) maxphyaddr: u8,
    pub(super) nxe: bool,
    pub(super) pages_1g: bool,
    pub(super) no_ad: bool,
}

impl Cpu {
    /// Bits of an address that are translated.
    pub(super) fn address_bits(self) -> u32 {
        12 + 9 * u32::from(self.levels)
    }
    fn has_reserved_bit(self, entry: u64, level: u8) -> bool {
        let high = u32::from(self.maxphyaddr);
        if high < 52 && bits(entry, 51, high) != 0 || bit(entry, 63) && !self.nxe {
            return true;
        }
        match (level, bit(entry, 7)) {
            (4 | 5, large) => large,
            (3, true) => !self.pages_1g || bits(entry, 29, 13) != 0,
            (2, true) => bits(entry, 20, 13) != 0,
            _ => false,
        }
    }
}

/// A translation.
#[derive(Debug)]
pub(super) struct Found {
    /// Of the very byte.
    pub(super) gpa: u64,
    /// Size of the guest's page.
    pub(super) page_bytes: u64,
    /// Where the entries that led there are, top down.
    pub(super) path: Vec<u64>,
}

fn bit(value: u64, n: u32) -> bool {
    value >> n & 1 == 1
}

fn bits(value: u64, high: u32, low: u32) -> u64 {
    value >> low & ((1u128 << (high - low + 1)) - 1) as u64
}

/// What an access comes to. `read` reads 8 bytes of RAM; `writable` says of a
/// guest-physical address whether it is there and, if so, whether stage 2 lets it be
/// written.
pub(super) fn by_the_manual(
    read: &dyn Fn(u64) -> u64,
    writable: &dyn Fn(u64) -> Option<bool>,
    cpu: Cpu,
    root: u64,
    va: u64,
    write: bool,
) -> Result<Found, Status> {
    let top = cpu.address_bits() - 1;
    let sign = bits(va, 63, top);
    if sign != 0 && sign != (1 << (64 - top)) - 1 {
        return Err(Status::NonCanonical);
    }
    let (mut table, mut path, mut entries) = (root, vec![], vec![]);
    let mut level = cpu.levels;
    let (page, page_bytes) = loop {
        let shift = 12 + 9 * (u32::from(level) - 1);
        let at = table + 8 * bits(va, shift + 8, shift);
        // A table is read as if it were written: its accessed bits may have to be set.
        match writable(at) {
            None => return Err(Status::Stage2Pending),
            Some(false) => return Err(Status::Stage2Permission),
            Some(true) => {}
        }
        let entry = read(at);
        path.push(at);
        entries.push(entry);
        if !bit(entry, 0) {
            return Err(Status::Stage1NotPresent);
        }
        if cpu.has_reserved_bit(entry, level) {
            return Err(Status::ReservedBit);
        }
        if !bit(entry, 2) {
            return Err(Status::Stage1Permission);
        }
        if level == 1 || level < 4 && bit(entry, 7) {
            break (bits(entry, 51, shift) << shift, 1 << shift);
        }
        table = bits(entry, 51, 12) << 12;
        level -= 1;
    };
    if write && !entries.iter().all(|e| bit(*e, 1)) {
        return Err(Status::Stage1Permission);
    }
    let dirty = entries.last().is_some_and(|leaf| bit(*leaf, 6));
    if cpu.no_ad && (!entries.iter().all(|e| bit(*e, 5)) || write && !dirty) {
        return Err(Status::Stage1NotPresent);
    }
    let gpa = page + va % page_bytes;
    match writable(gpa) {
        None => Err(Status::Stage2Pending),
        Some(false) if write => Err(Status::Stage2Permission),
        Some(_) => Ok(Found {
            gpa,
            page_bytes,
            path,
        }),
    }
}
