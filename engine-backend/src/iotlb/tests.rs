//! Tests of the cache against the walker without one, under random changes and
//! invalidations.

use std::sync::Arc;

use byway_protocols::Status;
use proptest::prelude::*;

use super::*;
use crate::address_space::Tables;
use crate::memory::test_ram::TestRam;
use crate::stage2::Perms;

const MIB: u64 = 1 << 20;
const K4: u64 = 4096;
const M2: u64 = 2 * MIB;
/// P, R/W, U/S.
const USER: u64 = 0b111;
const PS: u64 = 1 << 7;
const ACCESSED_DIRTY: u64 = 3 << 5;
/// Blocks of 2 MiB of virtual addresses that a space uses, from 0 on.
const BLOCKS: u64 = 3;
/// Pages of each block that the tests look at.
const PAGES: [u64; 4] = [0, 1, 300, 511];
const WORKER: usize = 1;
/// Where the second process has its invalidation page.
const INVALIDATIONS: u64 = 3 * MIB;
/// The worker's busy word there.
const BUSY: u64 = INVALIDATIONS + 64 + 8 * WORKER as u64;

/// A guest with two processes.
struct Guest {
    ram: TestRam,
    spaces: [AddressSpace; 2],
}

impl Guest {
    fn new() -> Self {
        let ram = TestRam::new(&[(0, 16 * MIB, true)]);
        let space = |n: u64| {
            let root = Self::root(n);
            ram.write_u64(root, (root + K4) | USER);
            ram.write_u64(root + K4, (root + 2 * K4) | USER);
            let tables = Tables {
                gpa: root,
                levels: 4,
                maxphyaddr: 46,
                nxe: true,
                pages_1g: true,
                no_ad: false,
            };
            AddressSpace::tables(Arc::clone(&ram.memory), tables).unwrap()
        };
        let paged = space(1).with_invalidation_page(INVALIDATIONS, 2).unwrap();
        let spaces = [space(0), paged];
        let guest = Self { ram, spaces };
        for space in 0..2 {
            for block in 0..BLOCKS {
                guest.set_block(space, block, None);
            }
        }
        guest
    }
    /// What a kernel of SPEC section 10 does in atomic context, waiting apart.
    fn append(&self, addr: u64, pages: u64) {
        let generation = self.ram.read_u64(INVALIDATIONS);
        let at = INVALIDATIONS + 1024 + 16 * (generation % 128);
        self.ram.write_u64(at, addr);
        self.ram.write_u64(at + 8, pages);
        self.ram.write_u64(INVALIDATIONS, generation + 1);
    }
    fn root(space: u64) -> u64 {
        0x10_0000 * (space + 1)
    }
    /// Address of the level-2 entry of a block.
    fn block_entry(space: u64, block: u64) -> u64 {
        Self::root(space) + 2 * K4 + 8 * block
    }
    /// Address of a level-1 entry.
    fn page_entry(space: u64, block: u64, page: u64) -> u64 {
        Self::root(space) + (3 + block) * K4 + 8 * page
    }
    /// A block is one page at a multiple of 2 MiB, or a table of 4 KiB pages.
    fn set_block(&self, space: u64, block: u64, large: Option<u64>) {
        let entry = match large {
            Some(gpa) => gpa | USER | PS,
            None => (Self::root(space) + (3 + block) * K4) | USER,
        };
        self.ram.write_u64(Self::block_entry(space, block), entry);
    }
    fn set_page(&self, space: u64, block: u64, page: u64, entry: u64) {
        self.ram
            .write_u64(Self::page_entry(space, block, page), entry);
    }
    /// The leaf entry for a page, which is mapped.
    fn leaf(&self, space: u64, block: u64, page: u64) -> u64 {
        match self.ram.read_u64(Self::block_entry(space, block)) {
            large if large & PS != 0 => large,
            _ => self.ram.read_u64(Self::page_entry(space, block, page)),
        }
    }
}

fn address(block: u64, page: u64) -> u64 {
    block * M2 + page * K4
}

/// Translates by the cache and by the walker alone; both must agree.
fn translate_both(
    iotlb: &mut Iotlb,
    space: &AddressSpace,
    addr: u64,
    access: Access,
) -> Result<Span, Fault> {
    let cached = iotlb.translate(space, addr, access);
    let walked = walk::translate(space, addr, access).map(|t| Span {
        host: t.host,
        bytes: t.page_bytes - addr % t.page_bytes,
        gpa: t.gpa,
    });
    assert_eq!(cached, walked, "{addr:#x} {access:?}");
    cached
}

/// How a change is made known to the engine.
#[derive(Debug, Clone, Copy)]
enum Tell {
    Range,
    Larger,
    WholeRange,
    Generation,
    Flood,
    /// By the invalidation page, where there is one.
    Page,
}

#[derive(Debug, Clone)]
enum Op {
    Access(u64, u64, usize, bool),
    Page(u64, u64, usize, u64, Tell),
    Large(u64, u64, u64, Tell),
    Small(u64, u64, Tell),
    ClearDirty(u64, u64, usize, Tell),
    Protect(u64, bool),
}

fn op() -> impl Strategy<Value = Op> {
    let tell = || {
        prop_oneof![
            6 => Just(Tell::Range),
            2 => Just(Tell::Larger),
            1 => Just(Tell::WholeRange),
            1 => Just(Tell::Generation),
            1 => Just(Tell::Flood),
            4 => Just(Tell::Page),
        ]
    };
    let entry = (8 * MIB / K4..16 * MIB / K4, 0..16u64).prop_map(|(frame, choice)| {
        let flags = match choice {
            0 => 0,
            1 => 0b011,
            2..5 => 0b101,
            5 => USER | 1 << 51,
            _ => USER,
        };
        (frame * K4) | flags
    });
    prop_oneof![
        12 => (0..2u64, 0..BLOCKS, 0..4usize, any::<bool>()).prop_map(|(s, b, p, w)| Op::Access(s, b, p, w)),
        4 => (0..2u64, 0..BLOCKS, 0..4usize, entry, tell()).prop_map(|(s, b, p, e, t)| Op::Page(s, b, p, e, t)),
        2 => (0..2u64, 0..BLOCKS, 4..8u64, tell()).prop_map(|(s, b, g, t)| Op::Large(s, b, g * M2, t)),
        1 => (0..2u64, 0..BLOCKS, tell()).prop_map(|(s, b, t)| Op::Small(s, b, t)),
        2 => (0..2u64, 0..BLOCKS, 0..4usize, tell()).prop_map(|(s, b, p, t)| Op::ClearDirty(s, b, p, t)),
        // Pages that the accesses reach through a large page of the guest.
        2 => (4..8u64, 0..4usize, any::<bool>())
            .prop_map(|(block, p, w)| Op::Protect(block * M2 + PAGES[p] * K4, w)),
    ]
}

/// The engine's side of a test.
struct Engine {
    iotlb: Iotlb,
    invalidations: Invalidations,
    /// An address space that nobody uses.
    stranger: AddressSpace,
}

impl Engine {
    fn new() -> Self {
        let memory = Arc::new(crate::memory::GuestMemory::new());
        Self {
            iotlb: Iotlb::for_worker(WORKER),
            invalidations: Invalidations::new(2),
            stranger: AddressSpace::physical(memory),
        }
    }
    fn tell(&self, guest: &Guest, space: u64, how: Tell, addr: u64, pages: u64) {
        let space = &guest.spaces[space as usize];
        match how {
            Tell::Page if space.page().is_some() => guest.append(addr, pages),
            Tell::Page => self.invalidations.push(space, addr, pages),
            Tell::Range => self.invalidations.push(space, addr, pages),
            Tell::Larger => {
                let first = addr.saturating_sub(3 * K4);
                let pages = (addr - first) / K4 + pages + 700;
                self.invalidations.push(space, first, pages);
            }
            Tell::WholeRange => self.invalidations.push(space, addr, 0),
            Tell::Generation => space.invalidate_all(),
            Tell::Flood => {
                for _ in 0..300 {
                    self.invalidations.push(&self.stranger, 0, 1);
                }
                self.invalidations.push(space, addr, pages);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn the_cache_agrees_with_the_walker_whatever_changes(
        ops in proptest::collection::vec(op(), 1..120),
    ) {
        let guest = Guest::new();
        let mut engine = Engine::new();
        for op in ops {
            match op {
                Op::Access(s, block, page, write) => {
                    let (space, page) = (&guest.spaces[s as usize], PAGES[page]);
                    let access = if write { Access::Write } else { Access::Read };
                    let addr = address(block, page) + 0x123;
                    engine.iotlb.catch_up(&engine.invalidations, WORKER);
                    let translated = engine.iotlb.translate(space, addr, access);
                    // Before the walker can set it: whoever may write has marked the page.
                    if translated.is_ok() && write {
                        prop_assert_eq!(guest.leaf(s, block, page) & ACCESSED_DIRTY, ACCESSED_DIRTY);
                    }
                    prop_assert_eq!(translate_both(&mut engine.iotlb, space, addr, access), translated);
                    engine.iotlb.end_chunk();
                    prop_assert_eq!(guest.ram.read_u64(BUSY), 0);
                }
                Op::Page(s, block, page, entry, tell) => {
                    guest.set_page(s, block, PAGES[page], entry);
                    engine.tell(&guest, s, tell, address(block, PAGES[page]), 1);
                }
                Op::Large(s, block, gpa, tell) => {
                    let was_large = guest.ram.read_u64(Guest::block_entry(s, block)) & PS != 0;
                    guest.set_block(s, block, Some(gpa));
                    // Any one address of a large page invalidates all of it, as INVLPG does.
                    let (at, pages) = if was_large { (77 * K4, 1) } else { (0, 512) };
                    engine.tell(&guest, s, tell, block * M2 + at, pages);
                }
                Op::Small(s, block, tell) => {
                    let was_large = guest.ram.read_u64(Guest::block_entry(s, block)) & PS != 0;
                    guest.set_block(s, block, None);
                    let (at, pages) = if was_large { (511 * K4, 1) } else { (0, 512) };
                    engine.tell(&guest, s, tell, block * M2 + at, pages);
                }
                Op::ClearDirty(s, block, page, tell) => {
                    let page = PAGES[page];
                    let large = guest.ram.read_u64(Guest::block_entry(s, block));
                    let at = if large & PS != 0 {
                        Guest::block_entry(s, block)
                    } else {
                        Guest::page_entry(s, block, page)
                    };
                    guest.ram.write_u64(at, guest.ram.read_u64(at) & !ACCESSED_DIRTY);
                    engine.tell(&guest, s, tell, address(block, page), 1);
                }
                Op::Protect(gpa, writable) => {
                    let perms = if writable { Perms::ALL } else { Perms::READ };
                    guest.ram.memory.stage2().protect(gpa, K4, perms).unwrap();
                }
            }
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn the_cache_agrees_with_the_walker_when_it_is_far_too_small(seed: u64) {
        let ram = TestRam::new(&[(0, 18 * MIB, true)]);
        // Small leaves: twice as many pages as there is room for.
        ram.memory.stage2().protect(0, 16 * MIB, Perms::ALL).unwrap();
        for page in (0..4 * MIB / K4).step_by(2) {
            ram.memory.stage2().protect(page * K4, K4, Perms::READ).unwrap();
        }
        for block in 2..8 {
            ram.memory.stage2().protect(block * M2, K4, Perms::READ).unwrap();
        }
        let space = AddressSpace::physical(Arc::clone(&ram.memory));
        let mut iotlb = Iotlb::new();
        let mut n = seed;
        for _ in 0..20_000 {
            n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let access = if n >> 62 & 1 == 0 { Access::Read } else { Access::Write };
            let _ = translate_both(&mut iotlb, &space, (n >> 20) % (20 * MIB), access);
        }
        let stats = *iotlb.stats();
        prop_assert!(stats.hits > 1000 && stats.walks[0] > 4096 && stats.walks[1] > 0, "{:?}", stats);
        prop_assert_eq!(stats.misses, stats.walks.iter().sum::<u64>() + stats.faults);
    }
}

#[test]
fn a_translation_is_kept_until_its_page_is_invalidated() {
    let guest = Guest::new();
    let space = &guest.spaces[0];
    let mut iotlb = Iotlb::new();
    let invalidations = Invalidations::new(2);
    guest.set_page(0, 0, 0, (8 * MIB) | USER);
    guest.set_page(0, 0, 1, (9 * MIB) | USER);
    assert_eq!(
        iotlb.translate(space, 5, Access::Read).unwrap().gpa,
        8 * MIB + 5
    );
    guest.set_page(0, 0, 0, (10 * MIB) | USER);
    invalidations.push(space, K4, 1);
    invalidations.push(&guest.spaces[1], 0, 1);
    iotlb.catch_up(&invalidations, WORKER);
    // Another page, another space: the old translation is still there.
    assert_eq!(
        iotlb.translate(space, 5, Access::Read).unwrap().gpa,
        8 * MIB + 5
    );
    assert_eq!(
        iotlb.translate(space, K4, Access::Read).unwrap().gpa,
        9 * MIB
    );
    invalidations.push(space, 0, 1);
    iotlb.catch_up(&invalidations, WORKER);
    assert_eq!(
        iotlb.translate(space, 5, Access::Read).unwrap().gpa,
        10 * MIB + 5
    );
    // Every worker is told.
    let mut other = Iotlb::new();
    other.translate(space, K4, Access::Read).unwrap();
    guest.set_page(0, 0, 1, (11 * MIB) | USER);
    other.catch_up(&invalidations, 0);
    assert_eq!(
        other.translate(space, K4, Access::Read).unwrap().gpa,
        11 * MIB
    );
}

#[test]
fn a_translation_read_before_is_walked_again_for_the_first_write() {
    let guest = Guest::new();
    let space = &guest.spaces[0];
    let mut iotlb = Iotlb::new();
    guest.set_page(0, 0, 0, (8 * MIB) | USER);
    iotlb.translate(space, 0, Access::Read).unwrap();
    assert_eq!(guest.leaf(0, 0, 0) >> 5 & 3, 1);
    iotlb.translate(space, 0, Access::Write).unwrap();
    assert_eq!(guest.leaf(0, 0, 0) >> 5 & 3, 3);
    iotlb.translate(space, 0, Access::Write).unwrap();
    iotlb.translate(space, 0, Access::Read).unwrap();
    let stats = *iotlb.stats();
    assert_eq!((stats.hits, stats.misses, stats.walks), (2, 2, [2, 0, 0]));
}

#[test]
fn an_entry_answers_for_its_space_version_page_and_access_only() {
    // One set, so that everything competes for the same place.
    let mut array = Array::new(Size::Page4K, 1);
    let walked = walk::Translation {
        host: HostAddr(0x7000),
        gpa: 0x2000,
        page_bytes: K4,
        guest_page_bytes: K4,
        writable: false,
    };
    array.insert(Entry::new(5, 9, 0x3000, &walked));
    let found = |space, version, addr, write| array.find(space, version, addr, write).is_some();
    assert!(found(5, 9, 0x3000, false) && found(5, 9, 0x3fff, false));
    assert!(!found(4, 9, 0x3000, false), "another space");
    assert!(!found(5, 8, 0x3000, false) && !found(5, 10, 0x3000, false));
    assert!(!found(5, 9, 0x4000, false) && !found(5, 9, 0x2fff, false));
    assert!(!found(5, 9, 0x3000, true), "filled by a read");
}

#[test]
fn faults_are_not_cached() {
    let guest = Guest::new();
    let space = &guest.spaces[0];
    let mut iotlb = Iotlb::new();
    let fault = iotlb.translate(space, 8, Access::Write).unwrap_err();
    assert_eq!(
        fault,
        Fault {
            status: Status::Stage1NotPresent,
            write: true,
            addr: 8
        }
    );
    // The guest mends it and, as on a CPU, need not invalidate anything.
    guest.set_page(0, 0, 0, (8 * MIB) | 0b101);
    assert!(iotlb.translate(space, 8, Access::Read).is_ok());
    let fault = iotlb.translate(space, 8, Access::Write).unwrap_err();
    assert_eq!(fault.status, Status::Stage1Permission);
    guest.set_page(0, 0, 0, (8 * MIB) | USER);
    assert!(iotlb.translate(space, 8, Access::Write).is_ok());
    assert_eq!(iotlb.stats().faults, 2);
}

#[test]
fn a_killed_space_has_no_cached_translation_left() {
    let ram = TestRam::new(&[(0, MIB, true)]);
    let space = AddressSpace::physical(Arc::clone(&ram.memory));
    let mut iotlb = Iotlb::new();
    iotlb.translate(&space, 0, Access::Write).unwrap();
    space.kill();
    let fault = iotlb.translate(&space, 0, Access::Write).unwrap_err();
    assert_eq!(fault.status, Status::Revoked);
}

#[test]
fn ranges_at_the_end_of_the_address_space_do_not_wrap() {
    let ram = TestRam::new(&[(0, MIB, true)]);
    let space = AddressSpace::physical(Arc::clone(&ram.memory));
    let mut iotlb = Iotlb::new();
    let cached = |iotlb: &mut Iotlb, addr| {
        let before = iotlb.stats().hits;
        iotlb.translate(&space, addr, Access::Read).unwrap();
        iotlb.stats().hits > before
    };
    for (addr, pages, dropped) in [
        (u64::MAX, 1, false),
        (!0xfff, u64::MAX, false),
        (K4, u64::MAX, false),
        (0, u64::MAX, true),
        (0, 1 << 52, true),
        (0xfff, 1, true),
    ] {
        iotlb.flush();
        assert!(!cached(&mut iotlb, 0) && cached(&mut iotlb, 0));
        iotlb.drop_range(space.id(), addr, pages);
        assert_eq!(!cached(&mut iotlb, 0), dropped, "{addr:#x} {pages:#x}");
    }
}

#[test]
fn a_page_is_busy_from_the_first_use_to_the_end_of_the_chunk() {
    let guest = Guest::new();
    let (plain, paged) = (&guest.spaces[0], &guest.spaces[1]);
    let busy = || guest.ram.read_u64(BUSY);
    let mut iotlb = Iotlb::for_worker(WORKER);
    guest.set_page(0, 0, 0, (8 * MIB) | USER);
    guest.set_page(1, 0, 0, (9 * MIB) | USER);
    iotlb.translate(plain, 0, Access::Write).unwrap();
    assert_eq!(busy(), 0);
    iotlb.translate(paged, 0, Access::Write).unwrap();
    let first = busy();
    assert_ne!(first, 0);
    assert_eq!(guest.ram.read_u64(BUSY - 8), 0, "another worker's");
    iotlb.translate(plain, 0, Access::Read).unwrap();
    iotlb.translate(paged, 0, Access::Read).unwrap();
    assert_eq!(busy(), first);
    iotlb.end_chunk();
    assert_eq!(busy(), 0);
    // The very same translation again: remembered, and busy nevertheless.
    let before = *iotlb.stats();
    iotlb.translate(paged, 0, Access::Read).unwrap();
    assert_eq!(iotlb.stats().hits, before.hits + 1);
    assert!(busy() != 0 && busy() != first);
    iotlb.end_chunk();
}

#[test]
fn what_a_page_names_is_met_at_the_beginning_of_a_chunk() {
    let guest = Guest::new();
    let space = &guest.spaces[1];
    let mut iotlb = Iotlb::for_worker(WORKER);
    let gpa = |iotlb: &mut Iotlb| iotlb.translate(space, 0, Access::Read).unwrap().gpa;
    for (n, (addr, pages)) in [(0, 1), (0, 0), (0, u64::MAX)].into_iter().enumerate() {
        let (old, new) = (8 + n as u64, 9 + n as u64);
        guest.set_page(1, 0, 0, (old * MIB) | USER);
        guest.append(0, 1);
        assert_eq!(gpa(&mut iotlb), old * MIB);
        guest.set_page(1, 0, 0, (new * MIB) | USER);
        guest.append(addr, pages);
        // Its kernel waits for this chunk.
        assert_eq!(gpa(&mut iotlb), old * MIB);
        iotlb.end_chunk();
        assert_eq!(gpa(&mut iotlb), new * MIB);
        iotlb.end_chunk();
    }
    // Another page, and nothing at all.
    guest.set_page(1, 0, 0, (8 * MIB) | USER);
    guest.append(K4, 1);
    assert_eq!(gpa(&mut iotlb), 11 * MIB);
    iotlb.end_chunk();
    // More than are looked at one by one.
    for _ in 0..200 {
        guest.append(5 * K4, 1);
    }
    assert_eq!(gpa(&mut iotlb), 8 * MIB);
}

#[test]
fn a_space_whose_page_goes_faults_and_comes_back_with_it() {
    let guest = Guest::new();
    let space = &guest.spaces[1];
    let mut iotlb = Iotlb::for_worker(WORKER);
    guest.set_page(1, 0, 0, (8 * MIB) | USER);
    iotlb.translate(space, 0, Access::Write).unwrap();
    iotlb.end_chunk();
    let memory = &guest.ram.memory;
    let status = |iotlb: &mut Iotlb| {
        let ended = iotlb.translate(space, 0, Access::Read);
        iotlb.end_chunk();
        ended.err().map(|fault| fault.status)
    };
    memory.protect(INVALIDATIONS, K4, false).unwrap();
    assert_eq!(status(&mut iotlb), Some(Status::Stage2Permission));
    std::mem::forget(memory.discard(INVALIDATIONS, K4).unwrap());
    assert_eq!(status(&mut iotlb), Some(Status::Stage2Pending));
    memory.restore(INVALIDATIONS, K4).unwrap();
    assert_eq!(status(&mut iotlb), None);
}

#[test]
fn a_flood_of_ranges_costs_its_own_space_only() {
    let guest = Guest::new();
    let invalidations = Invalidations::new(2);
    let mut iotlb = Iotlb::for_worker(WORKER);
    guest.set_page(0, 0, 0, (8 * MIB) | USER);
    let ram = TestRam::new(&[(0, MIB, true)]);
    let flooding = AddressSpace::physical(Arc::clone(&ram.memory));
    iotlb.translate(&guest.spaces[0], 0, Access::Read).unwrap();
    iotlb.translate(&flooding, 0, Access::Read).unwrap();
    for _ in 0..1000 {
        invalidations.push(&flooding, MIB, 1);
    }
    iotlb.catch_up(&invalidations, WORKER);
    let before = *iotlb.stats();
    iotlb.translate(&guest.spaces[0], 0, Access::Read).unwrap();
    assert_eq!(iotlb.stats().hits, before.hits + 1);
    iotlb.translate(&flooding, 0, Access::Read).unwrap();
    assert_eq!(iotlb.stats().misses, before.misses + 1);
}

#[test]
fn under_a_log_each_page_is_walked_for_and_marked_once_it_is_written() {
    let ram = TestRam::new(&[(0, 4 * MIB, true)]);
    let space = AddressSpace::physical(Arc::clone(&ram.memory));
    let mut iotlb = Iotlb::new();
    let marked = || ram.memory.take_dirty(0, 4 * MIB).unwrap();
    iotlb.translate(&space, 0, Access::Write).unwrap();
    ram.memory.set_dirty_log(true);
    let span = iotlb
        .translate(&space, 5 * K4 + 100, Access::Write)
        .unwrap();
    assert_eq!((span.gpa, span.bytes), (5 * K4 + 100, K4 - 100));
    let read = iotlb.translate(&space, 9 * K4, Access::Read).unwrap();
    assert!(read.bytes >= K4);
    assert_eq!(marked()[0], 0, "not before the bytes");
    iotlb.log_writes();
    assert_eq!(marked()[0], 1 << 5);
    // Remembered for reading only: the next write is noted as well.
    iotlb.translate(&space, 5 * K4, Access::Write).unwrap();
    iotlb.end_chunk();
    assert_eq!(marked()[0], 1 << 5);
    iotlb.end_chunk();
    assert_eq!(marked()[0], 0);
    ram.memory.set_dirty_log(false);
    iotlb.translate(&space, 5 * K4, Access::Write).unwrap();
    assert!(!iotlb.has_writes());
}
