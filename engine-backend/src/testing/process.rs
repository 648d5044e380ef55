//! [`Process`]: page tables, a context and capability slots in a [`Guest`].

use std::sync::Arc;

use byway_protocols::Rights;

use super::Guest;
use crate::address_space::{AddressSpace, Tables};
use crate::capability::{Capability, Ending, Held, Holder, Key, Terms};
use crate::context::Context;

/// Bits of a page-table entry (Intel SDM volume 3, 4-level paging).
pub mod pte {
    /// Present.
    pub const P: u64 = 1 << 0;
    /// Writable.
    pub const RW: u64 = 1 << 1;
    /// User.
    pub const US: u64 = 1 << 2;
    /// Accessed.
    pub const A: u64 = 1 << 5;
    /// Dirty.
    pub const D: u64 = 1 << 6;
    /// Large page.
    pub const PS: u64 = 1 << 7;
    /// The frame of an entry.
    pub const FRAME: u64 = 0x000f_ffff_ffff_f000;
    /// What a process's own data has.
    pub const USER: u64 = P | RW | US;
}

/// Size of a mapping's pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageSize {
    /// 4 KiB.
    Small,
    /// 2 MiB.
    Large,
    /// 1 GiB.
    Huge,
}

impl PageSize {
    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Small => 4096,
            Self::Large => 2 << 20,
            Self::Huge => 1 << 30,
        }
    }

    /// Level of the table entry that maps one; 1 = the last.
    const fn level(self) -> u32 {
        match self {
            Self::Small => 1,
            Self::Large => 2,
            Self::Huge => 3,
        }
    }
}

/// One process of a guest: four levels of page tables and what it opened.
#[derive(Debug)]
pub struct Process {
    guest: Arc<Guest>,
    root: u64,
    space: Arc<AddressSpace>,
    context: Arc<Context>,
    own: Held,
}

impl Process {
    /// A process with nothing mapped, and a context with `slots` slots.
    #[must_use]
    pub fn new(guest: &Arc<Guest>, slots: u32) -> Self {
        let root = guest.alloc(4096, 4096);
        let space = AddressSpace::tables(
            guest.memory().clone(),
            Tables {
                gpa: root,
                levels: 4,
                maxphyaddr: 46,
                nxe: true,
                pages_1g: true,
                no_ad: false,
            },
        );
        let space = Arc::new(space.expect("a root in RAM"));
        Self {
            guest: guest.clone(),
            root,
            own: Capability::root(guest.owner(), space.clone()),
            context: Arc::new(Context::new(
                guest.next_object(),
                guest.id(),
                space.clone(),
                slots,
            )),
            space,
        }
    }

    /// Its guest.
    #[must_use]
    pub fn guest(&self) -> &Arc<Guest> {
        &self.guest
    }
    /// Its address space.
    #[must_use]
    pub fn space(&self) -> &Arc<AddressSpace> {
        &self.space
    }
    /// Its context.
    #[must_use]
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Maps one page with these bits ([`pte`]), without invalidation.
    pub fn map_page(&self, va: u64, gpa: u64, size: PageSize, bits: u64) {
        let last = size.level();
        let mut table = self.root;
        for level in (last + 1..=4).rev() {
            let at = table + 8 * index(va, level);
            let mut entry = self.guest.read_u64(at);
            if entry & pte::P == 0 {
                entry = self.guest.alloc(4096, 4096) | pte::USER;
                self.guest.write_u64(at, entry);
            }
            table = entry & pte::FRAME;
        }
        let large = if last > 1 { pte::PS } else { 0 };
        self.guest
            .write_u64(table + 8 * index(va, last), gpa | bits | large);
    }

    /// Maps fresh zeroed RAM of the process's own, contiguous in guest-physical memory;
    /// returns where it starts there.
    pub fn map(&self, va: u64, bytes: u64, size: PageSize) -> u64 {
        let bytes = bytes.next_multiple_of(size.bytes());
        let gpa = self.guest.alloc(bytes, size.bytes());
        for offset in (0..bytes).step_by(size.bytes() as usize) {
            self.map_page(va + offset, gpa + offset, size, pte::USER);
        }
        gpa
    }

    /// The same with 4 KiB pages of which no two neighbours are contiguous.
    pub fn map_scattered(&self, va: u64, bytes: u64) {
        let pages = bytes.div_ceil(4096);
        let gpa = self.guest.alloc(pages * 4096, 4096);
        for page in 0..pages {
            let frame = gpa + (pages - 1 - page) * 4096;
            self.map_page(va + page * 4096, frame, PageSize::Small, pte::USER);
        }
    }

    /// Guest-physical address of the entry that maps `va`, if the tables reach so far.
    #[must_use]
    pub fn entry_of(&self, va: u64) -> Option<u64> {
        let mut table = self.root;
        for level in (1..=4).rev() {
            let at = table + 8 * index(va, level);
            let entry = self.guest.read_u64(at);
            if level == 1 || entry & pte::PS != 0 {
                return Some(at);
            }
            if entry & pte::P == 0 {
                return None;
            }
            table = entry & pte::FRAME;
        }
        None
    }

    /// Changes the entry that maps `va` and drops what is cached of the process.
    pub fn change_entry(&self, va: u64, change: impl FnOnce(u64) -> u64) {
        let at = self.entry_of(va).expect("a mapped page");
        self.guest.write_u64(at, change(self.guest.read_u64(at)));
        self.space.invalidate_all();
    }

    fn gpa(&self, va: u64) -> (u64, u64) {
        let at = self.entry_of(va).expect("a mapped page");
        let entry = self.guest.read_u64(at);
        assert!(entry & pte::P != 0, "{va:#x} is not present");
        let bytes = if entry & pte::PS != 0 { 2 << 20 } else { 4096 };
        let offset = va & (bytes - 1);
        ((entry & pte::FRAME & !(bytes - 1)) + offset, bytes - offset)
    }

    /// Reads by virtual address.
    #[must_use]
    pub fn read(&self, va: u64, bytes: u64) -> Vec<u8> {
        let mut out = Vec::new();
        while (out.len() as u64) < bytes {
            let (gpa, room) = self.gpa(va + out.len() as u64);
            let part = room.min(bytes - out.len() as u64);
            out.extend(self.guest.read(gpa, part));
        }
        out
    }

    /// Writes by virtual address.
    pub fn write(&self, va: u64, mut bytes: &[u8]) {
        let mut at = va;
        while !bytes.is_empty() {
            let (gpa, room) = self.gpa(at);
            let (part, rest) = bytes.split_at(bytes.len().min(room as usize));
            self.guest.write(gpa, part);
            at += part.len() as u64;
            bytes = rest;
        }
    }

    /// Gives `to` a capability over a range of this process; returns its slot there.
    pub fn give(&self, to: &Self, base: u64, length: u64, rights: Rights) -> u16 {
        let terms = Terms {
            base,
            length,
            rights,
            ..Terms::default()
        };
        let held = self
            .own
            .capability()
            .derive(terms, Holder::Nobody, None)
            .expect("terms that can be derived");
        match to.context.slots().insert(0, held) {
            Ok(slot) => slot,
            Err((error, _)) => panic!("no slot: {error:?}"),
        }
    }

    /// Gives `to` a key of this process's; returns its slot there.
    pub fn give_key(&self, to: &Self, key: Key, rights: Rights) -> u16 {
        let held = self
            .own
            .capability()
            .derive_key(key, rights, 0, Holder::Nobody, None)
            .expect("a key that can be loaded");
        match to.context.slots().insert(0, held) {
            Ok(slot) => slot,
            Err((error, _)) => panic!("no slot: {error:?}"),
        }
    }

    /// Revokes what the given slot of `holder` holds; over at the next grace period.
    pub fn revoke(&self, holder: &Self, slot: u16) {
        let capability = holder.context.slots().peek(u32::from(slot));
        let how = Ending::Revoked {
            by: self.guest.id(),
        };
        let capability = capability.expect("a full slot");
        let mut grave = self.guest.owner().revoke(&capability, how);
        while !grave.reap(usize::MAX, |_| ()) {}
    }
}

/// Index of a virtual address in a table of this level, 1 to 4.
fn index(va: u64, level: u32) -> u64 {
    va >> (3 + 9 * level) & 0x1ff
}
