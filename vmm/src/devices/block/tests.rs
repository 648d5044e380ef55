//! The block device against a driver, honest and hostile.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use tempfile::TempDir;
use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO};

use super::*;
use crate::devices::memory::DeviceMemory;
use crate::devices::seat::OwnThread;
use crate::devices::settings::{DiskSettings, DiskWrites};
use crate::devices::test_driver::{DATA, Driver, RAM, SIZE, hostile, ram};
use crate::devices::virtio::VirtioDevice;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const ZEROES: u32 = 13;

const OK: u8 = 0;
const FAILED: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// Where tests put header, data and status.
const HEADER: u64 = DATA;
const BODY: u64 = DATA + 0x1000;
const STATUS: u64 = RAM - 1;

/// Bytes of the disk: more than its last whole block of 4096.
const BYTES: u64 = 64 * 1024 + 512;

struct World {
    folder: TempDir,
    device: BlockDevice,
    memory: DeviceMemory,
    driver: Driver,
}

fn pattern() -> Vec<u8> {
    (0..BYTES).map(|at| (at / 7 % 251) as u8).collect()
}

impl World {
    fn new(writes: fn(PathBuf) -> DiskWrites) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("disk"), pattern()).unwrap();
        Self::over(folder, writes)
    }

    fn over(folder: TempDir, writes: fn(PathBuf) -> DiskWrites) -> Self {
        let disk = Disk::open(&DiskSettings {
            path: folder.path().join("disk"),
            writes: writes(folder.path().join("overlay")),
        });
        Self::with(folder, Some(Arc::new(Mutex::new(disk.unwrap()))))
    }

    fn with(folder: TempDir, disk: Option<Arc<Mutex<Disk>>>) -> Self {
        let memory = DeviceMemory::new(ram());
        let mut device = BlockDevice::new(memory.clone(), disk, "byway-disk-0").unwrap();
        device
            .start_thread("test".to_owned(), Box::new(|| ()))
            .unwrap();
        device.set_features(1 << VIRTIO_BLK_F_FLUSH).unwrap();
        let driver = Driver::new(&mut device, 0, &memory);
        Self {
            folder,
            device,
            memory,
            driver,
        }
    }

    fn header(&self, kind: u32, sector: u64) {
        self.driver.write(HEADER, &kind.to_le_bytes());
        self.driver.write(HEADER + 8, &sector.to_le_bytes());
    }

    /// A request with these parts between header and status; returns its status.
    fn ask(&mut self, kind: u32, sector: u64, out: &[(u64, u32)], into: &[(u64, u32)]) -> u8 {
        self.header(kind, sector);
        self.driver.write(STATUS, &[0xaa]);
        let out: Vec<_> = [(HEADER, 16)].iter().chain(out).copied().collect();
        let into: Vec<_> = into.iter().chain(&[(STATUS, 1)]).copied().collect();
        self.driver.request(&out, &into);
        let (head, _) = self.driver.used();
        assert_eq!(head, 0);
        self.driver.read(STATUS, 1)[0]
    }

    fn read(&mut self, sector: u64, bytes: u32) -> Vec<u8> {
        assert_eq!(self.ask(IN, sector, &[], &[(BODY, bytes)]), OK);
        self.driver.read(BODY, bytes as usize)
    }

    fn range(&mut self, kind: u32, sector: u64, sectors: u32, flags: u32) -> u8 {
        let mut range = sector.to_le_bytes().to_vec();
        range.extend(sectors.to_le_bytes());
        range.extend(flags.to_le_bytes());
        self.driver.write(BODY, &range);
        self.ask(kind, 0, &[(BODY, 16)], &[])
    }

    fn file(&self) -> Vec<u8> {
        fs::read(self.folder.path().join("disk")).unwrap()
    }
}

fn through(_: PathBuf) -> DiskWrites {
    DiskWrites::Through
}

fn overlay(_: PathBuf) -> DiskWrites {
    DiskWrites::Overlay
}

#[test]
fn reads_and_writes_reach_the_file_in_parts() {
    let mut world = World::new(through);
    let parts = [(BODY, 100), (BODY + 0x2000, 412), (BODY + 0x3000, 512)];
    assert_eq!(world.ask(IN, 2, &[], &parts), OK);
    let got = [
        world.driver.read(BODY, 100),
        world.driver.read(BODY + 0x2000, 412),
        world.driver.read(BODY + 0x3000, 512),
    ]
    .concat();
    assert_eq!(got, pattern()[1024..2048]);
    assert!(world.driver.interrupted(&world.device));

    world.driver.write(BODY, &[7; 1024]);
    assert_eq!(
        world.ask(OUT, 5, &[(BODY, 1000), (BODY + 1000, 24)], &[]),
        OK
    );
    let mut expected = pattern();
    expected[5 * 512..7 * 512].fill(7);
    assert_eq!(world.file(), expected);
    assert_eq!(world.ask(FLUSH, 0, &[], &[]), OK);
}

#[test]
fn the_driver_learns_the_name_and_how_much_was_written() {
    let mut world = World::new(through);
    assert_eq!(world.ask(GET_ID, 0, &[], &[(BODY, 20)]), OK);
    assert_eq!(world.driver.read(BODY, 20), b"byway-disk-0\0\0\0\0\0\0\0\0");
    world.header(IN, 0);
    world
        .driver
        .request(&[(HEADER, 16)], &[(BODY, 512), (STATUS, 1)]);
    assert_eq!(world.driver.used(), (0, 513));
    world.header(OUT, 0);
    world
        .driver
        .request(&[(HEADER, 16), (BODY, 512)], &[(STATUS, 1)]);
    assert_eq!(world.driver.used(), (0, 1));
}

#[test]
fn what_is_not_on_the_disk_or_no_request_fails() {
    let mut world = World::new(through);
    let sectors = BYTES / 512;
    for sector in [sectors, sectors - 1, u64::MAX, u64::MAX / 512, 1 << 55] {
        assert_eq!(world.ask(IN, sector, &[], &[(BODY, 1024)]), FAILED);
        assert_eq!(world.ask(OUT, sector, &[(BODY, 1024)], &[]), FAILED);
    }
    assert_eq!(world.ask(IN, 0, &[], &[(BODY, 511)]), FAILED);
    assert_eq!(world.ask(GET_ID, 0, &[], &[(BODY, 19)]), FAILED);
    assert_eq!(world.ask(99, 0, &[], &[]), UNSUPPORTED);
    assert_eq!(world.range(DISCARD, sectors, 1, 0), FAILED);
    assert_eq!(world.range(DISCARD, u64::MAX, 1, 0), FAILED);
    assert_eq!(world.range(DISCARD, 0, 1, 1), UNSUPPORTED);
    assert_eq!(world.range(ZEROES, 0, u32::MAX, 0), FAILED);
    assert_eq!(world.range(ZEROES, 0, 1, 2), UNSUPPORTED);
    assert_eq!(world.ask(ZEROES, 0, &[(BODY, 15)], &[]), FAILED);
    assert_eq!(world.ask(ZEROES, 0, &[], &[]), FAILED);
    assert_eq!(world.file(), pattern());
    // No room for a status, a header cut short, a part outside RAM, one of no length, writable before readable.
    for (out, into) in [
        (&[(HEADER, 16)][..], &[][..]),
        (&[(HEADER, 15)], &[(STATUS, 1)]),
        (&[(HEADER, 16)], &[(RAM - 1, 512)]),
        (&[(HEADER, 16)], &[(BODY, 0), (STATUS, 1)]),
    ] {
        world.header(IN, 0);
        world.driver.request(out, into);
        assert_eq!(world.driver.used().0, 0);
    }
    world
        .driver
        .describe(&[(BODY, 512, 1 | 2, 1), (HEADER, 16, 0, 0)]);
    world.driver.offer(0);
    assert_eq!(world.driver.used(), (0, 0));
    assert_eq!(world.read(0, 512), pattern()[..512]);
}

#[test]
fn a_read_only_disk_takes_no_writes() {
    let mut world = World::new(|_| DiskWrites::Refused);
    assert_ne!(world.device.features() & 1 << VIRTIO_BLK_F_RO, 0);
    assert_eq!(world.ask(OUT, 0, &[(BODY, 512)], &[]), FAILED);
    assert_eq!(world.range(DISCARD, 0, 8, 0), FAILED);
    assert_eq!(world.range(ZEROES, 0, 8, 0), FAILED);
    assert_eq!(world.ask(FLUSH, 0, &[], &[]), OK);
    assert_eq!(world.read(3, 512), pattern()[3 * 512..4 * 512]);
}

#[test]
fn zeros_are_written_and_room_is_given_back() {
    let mut world = World::new(through);
    assert_eq!(world.range(ZEROES, 8, 16, 0), OK);
    assert_eq!(world.range(ZEROES, 100, 1, 1), OK);
    let mut expected = pattern();
    expected[8 * 512..24 * 512].fill(0);
    expected[100 * 512..101 * 512].fill(0);
    assert_eq!(world.file(), expected);
    assert_eq!(world.range(DISCARD, 32, 8, 0), OK);
    assert_eq!(world.read(40, 512), expected[40 * 512..41 * 512]);
}

#[test]
fn an_overlay_leaves_the_base_alone_and_does_not_outlive_the_disk() {
    let mut world = World::new(overlay);
    world.driver.write(BODY, &[9; 1024]);
    assert_eq!(world.ask(OUT, 13, &[(BODY, 1024)], &[]), OK);
    assert_eq!(world.range(ZEROES, 127, 2, 1), OK);
    assert_eq!(world.file(), pattern());
    let mut expected = pattern();
    expected[13 * 512..15 * 512].fill(9);
    expected[127 * 512..].fill(0);
    assert_eq!(world.read(0, BYTES as u32), expected);
    let files = fs::read_dir(world.folder.path()).unwrap();
    assert_eq!(files.count(), 1, "the overlay has a name");
}

#[test]
fn a_kept_overlay_goes_on_over_the_same_disk_alone() {
    let kept = |path| DiskWrites::KeptOverlay(path);
    let mut world = World::new(kept);
    world.driver.write(BODY, &[9; 512]);
    assert_eq!(world.ask(OUT, 13, &[(BODY, 512)], &[]), OK);
    // Its owner has it alone.
    let settings = DiskSettings {
        path: world.folder.path().join("disk"),
        writes: kept(world.folder.path().join("overlay")),
    };
    assert!(matches!(Disk::open(&settings), Err(DiskError::InUse(_))));
    let World { folder, device, .. } = world;
    drop(device);
    let mut world = World::over(folder, kept);
    assert_eq!(world.read(13, 512), [9; 512]);
    assert_eq!(world.read(12, 512), pattern()[12 * 512..13 * 512]);
    let World { folder, device, .. } = world;
    drop(device);
    fs::write(folder.path().join("disk"), vec![1; BYTES as usize]).unwrap();
    let error = Disk::open(&settings).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("changed since"), "{cause}");
    fs::write(folder.path().join("overlay"), b"something else").unwrap();
    assert!(Disk::open(&settings).is_err());
}

#[test]
fn a_file_that_is_written_belongs_to_one() {
    let world = World::new(through);
    for writes in [
        DiskWrites::Through,
        DiskWrites::Refused,
        DiskWrites::Overlay,
    ] {
        let settings = DiskSettings {
            path: world.folder.path().join("disk"),
            writes,
        };
        assert!(matches!(Disk::open(&settings), Err(DiskError::InUse(_))));
    }
}

#[test]
fn a_disk_can_come_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    fs::write(&path, pattern()).unwrap();
    let mut world = World::with(folder, None);
    let sectors = |device: &BlockDevice| {
        let mut bytes = [0; 8];
        device.read_config(0, &mut bytes);
        u64::from_le_bytes(bytes)
    };
    assert_eq!(sectors(&world.device), 0);
    assert_eq!(world.ask(IN, 0, &[], &[(BODY, 512)]), FAILED);
    let settings = DiskSettings {
        path,
        writes: DiskWrites::Through,
    };
    let disk = Disk::open(&settings).unwrap();
    world.device.insert(Arc::new(Mutex::new(disk)));
    assert_eq!(sectors(&world.device), BYTES / 512);
    assert_eq!(world.read(1, 512), pattern()[512..1024]);
}

#[test]
fn a_broken_ring_is_left_alone_until_it_is_set_up_anew() {
    let mut world = World::new(through);
    world.driver.write_avail(SIZE + 5);
    assert_eq!(
        world
            .driver
            .used_within(std::time::Duration::from_millis(50)),
        None
    );
    world.device.stop_queue(0).unwrap();
    world.driver = Driver::new(&mut world.device, 0, &world.memory);
    assert_eq!(world.read(0, 512), pattern()[..512]);
}

#[test]
fn what_is_written_to_the_guest_is_logged() {
    let mut world = World::new(through);
    world.memory.set_log(true);
    world.read(0, 512);
    let pages = world.memory.take_log();
    assert!(pages.contains(&(BODY / 4096)), "data");
    assert!(pages.contains(&(STATUS / 4096)), "status");
    assert!(pages.contains(&3), "used ring");
    assert!(!pages.contains(&(HEADER / 4096)));
}

/// A write of a test of the overlay: from sector, sectors, value; a value of 0 writes zeros.
fn writes() -> impl Strategy<Value = Vec<(u64, u64, u8)>> {
    let sectors = BYTES / 512;
    let write = (0..sectors, 1..20u64, any::<u8>());
    prop::collection::vec(
        write.prop_map(move |(at, len, value)| (at, len.min(sectors - at), value)),
        1..12,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn an_overlay_reads_as_the_file_would(writes in writes()) {
        let mut world = World::new(overlay);
        let mut model = pattern();
        for (at, len, value) in writes {
            let range = (at * 512) as usize..((at + len) * 512) as usize;
            model[range].fill(value);
            let status = if value == 0 {
                world.range(ZEROES, at, len as u32, (at % 2) as u32)
            } else {
                world.driver.write(BODY, &vec![value; (len * 512) as usize]);
                world.ask(OUT, at, &[(BODY, len as u32 * 512)], &[])
            };
            prop_assert_eq!(status, OK);
        }
        prop_assert_eq!(world.read(0, BYTES as u32), model);
        prop_assert_eq!(world.file(), pattern());
    }

    #[test]
    fn no_chain_does_more_than_its_status_says(
        descriptors in hostile(),
        heads in prop::collection::vec(0..SIZE + 2, 1..8),
        kind in prop_oneof![0u32..16, any::<u32>()],
        sector in prop_oneof![0u64..200, any::<u64>()],
    ) {
        let mut world = World::new(overlay);
        world.header(kind, sector);
        world.driver.describe(&descriptors);
        for head in &heads {
            world.driver.offer(*head);
        }
        // Each comes back, unless one that is no descriptor's makes the ring senseless.
        let good = heads.iter().take_while(|head| **head < SIZE).count();
        for _ in 0..good {
            let (_, written) = world.driver.used();
            prop_assert!(u64::from(written) <= REQUEST_BYTES_MAX + 1);
        }
        world.device.stop_queue(0).unwrap();
        prop_assert_eq!(world.file(), pattern());
        // And it serves whoever comes next.
        world.driver = Driver::new(&mut world.device, 0, &world.memory);
        prop_assert_eq!(world.ask(FLUSH, 0, &[], &[]), OK);
    }
}
