//! Tests of roots, lives and versions.

use byway_protocols::Status;

use super::walk::translate;
use super::*;
use crate::memory::test_ram::TestRam;

fn ram() -> TestRam {
    TestRam::new(&[(0, 1 << 20, true), (1 << 20, 1 << 20, false)])
}

const TABLES: Tables = Tables {
    gpa: 0x4000,
    levels: 4,
    maxphyaddr: 46,
    nxe: true,
    pages_1g: true,
    no_ad: false,
};

#[test]
fn a_root_must_be_a_table_in_writable_ram() {
    let ram = ram();
    let with = |tables| AddressSpace::tables(Arc::clone(&ram.memory), tables).map(|_| ());
    let at = |gpa| with(Tables { gpa, ..TABLES });
    assert_eq!(at(0x4000), Ok(()));
    assert_eq!(at(0xf_f000), Ok(()));
    // PCID and the LAM bits are not part of the address.
    assert_eq!(at(0x4fff | 3 << 61), Ok(()));
    for gpa in [
        1 << 20,
        2 << 20,
        0x4000 | 1 << 46,
        0x4000 | 1 << 63,
        u64::MAX,
    ] {
        let error = at(gpa).unwrap_err();
        assert!(
            matches!(error, RootError::OutsideRam(_)),
            "{gpa:#x}: {error}"
        );
    }
    for levels in [0, 3, 6, 255] {
        assert_eq!(
            with(Tables { levels, ..TABLES }),
            Err(RootError::Levels(levels))
        );
    }
    for maxphyaddr in [0, 31, 53, 64, 255] {
        let error = with(Tables {
            maxphyaddr,
            ..TABLES
        });
        assert_eq!(error, Err(RootError::MaxPhyAddr(maxphyaddr)));
    }
}

#[test]
fn a_root_must_be_below_the_top_of_the_guests_physical_addresses() {
    let ram = TestRam::new(&[(1 << 33, 1 << 20, true)]);
    let with = |maxphyaddr| {
        let tables = Tables {
            gpa: 1 << 33,
            maxphyaddr,
            ..TABLES
        };
        AddressSpace::tables(Arc::clone(&ram.memory), tables).map(|_| ())
    };
    assert_eq!(with(34), Ok(()));
    assert_eq!(with(33), Err(RootError::OutsideRam(1 << 33)));
}

#[test]
fn a_page_is_as_large_as_both_stages_allow() {
    const M2: u64 = 2 << 20;
    // Tables below, then memory of which one 2 MiB block has small leaves.
    let ram = TestRam::new(&[(0, 4 * M2, true)]);
    let stage2 = ram.memory.stage2();
    stage2
        .protect(M2, 4096, crate::stage2::Perms::READ)
        .unwrap();
    ram.write_u64(0x4000, 0x5007);
    ram.write_u64(0x5000, 0x6007);
    ram.write_u64(0x6000, M2 | 0x87);
    ram.write_u64(0x6008, (2 * M2) | 0x87);
    ram.write_u64(0x6010, 0x7007);
    ram.write_u64(0x7000, (2 * M2) | 7);
    let space = AddressSpace::tables(Arc::clone(&ram.memory), TABLES).unwrap();
    for (va, page_bytes, guest_page_bytes) in [
        (0x3000, 4096, M2),
        (M2 + 0x3000, M2, M2),
        (2 * M2, 4096, 4096),
    ] {
        let t = translate(&space, va, Access::Read).unwrap();
        assert_eq!(
            (t.page_bytes, t.guest_page_bytes),
            (page_bytes, guest_page_bytes)
        );
    }
}

#[test]
fn a_masked_root_is_walked() {
    let ram = ram();
    // The root maps itself at every level, so address 0 is the root table.
    ram.write_u64(0x4000, 0x4000 | 0b111);
    let space = AddressSpace::tables(
        Arc::clone(&ram.memory),
        Tables {
            gpa: 0x4abc | 1 << 61,
            ..TABLES
        },
    )
    .unwrap();
    let t = translate(&space, 8, Access::Read).unwrap();
    assert_eq!(
        (t.gpa, t.page_bytes, t.guest_page_bytes),
        (0x4008, 4096, 4096)
    );
    assert!(!t.writable);
    assert!(translate(&space, 8, Access::Write).unwrap().writable);
}

#[test]
fn physical_addresses_go_through_stage_2_only() {
    let ram = ram();
    let space = AddressSpace::physical(Arc::clone(&ram.memory));
    let t = translate(&space, 0x1234, Access::Write).unwrap();
    assert_eq!(t.gpa, 0x1234);
    assert_eq!(t.host, ram.memory.contiguous(0x1234, 1).unwrap().host());
    let fault = |addr, access| translate(&space, addr, access).unwrap_err();
    assert_eq!(
        fault((1 << 20) + 8, Access::Write),
        Fault {
            status: Status::Stage2Permission,
            write: true,
            addr: (1 << 20) + 8
        }
    );
    for addr in [2 << 20, 1 << 48, 1 << 63, u64::MAX] {
        assert_eq!(fault(addr, Access::Read).status, Status::Stage2Pending);
    }
}

/// The engine builds no such entry, so one is made here: writable and not readable.
#[test]
fn a_misconfigured_stage_2_entry_has_a_status_of_its_own() {
    use std::sync::atomic::Ordering;
    let ram = ram();
    let space = AddressSpace::physical(Arc::clone(&ram.memory));
    let (_, leaf) = *ram.memory.stage2().path(0x1000).last().unwrap();
    let good = leaf.load(Ordering::Relaxed);
    leaf.store(good & !1 | 2, Ordering::Relaxed);
    let fault = translate(&space, 0x1000, Access::Read).unwrap_err();
    leaf.store(good, Ordering::Relaxed);
    assert_eq!(fault.status, Status::Stage2Misconfigured);
    assert!(translate(&space, 0x1000, Access::Read).is_ok());
}

#[test]
fn a_killed_space_translates_nothing_and_its_number_is_not_given_again() {
    let ram = ram();
    let space = AddressSpace::physical(Arc::clone(&ram.memory));
    let version = space.version();
    assert!(space.is_alive() && translate(&space, 0, Access::Read).is_ok());
    space.kill();
    assert!(!space.is_alive());
    assert_ne!(space.version(), version);
    let fault = translate(&space, 0, Access::Read).unwrap_err();
    assert_eq!(fault.status, Status::Revoked);
    let id = space.id();
    drop(space);
    assert!(AddressSpace::physical(Arc::clone(&ram.memory)).id() > id);
}

#[test]
fn the_version_changes_with_either_stage() {
    let ram = ram();
    let space = AddressSpace::physical(Arc::clone(&ram.memory));
    let mut versions = vec![space.version()];
    space.invalidate_all();
    versions.push(space.version());
    // SAFETY: nobody translates by this memory.
    drop(unsafe { ram.memory.remove_region(0, 1 << 20).unwrap().free() });
    versions.push(space.version());
    versions.dedup();
    assert_eq!(versions.len(), 3);
    assert_eq!(space.generation(), 1);
}
