//! The front end against peers: an honest one of the tests' own, ones that lie, and QEMU's.

mod hostile;
mod qemu;

use std::path::Path;

use super::{Disk, Options};
use crate::endpoint::OpenError;
use crate::endpoint::device::{BlockDevice, Outcome, Refused, Request, Token};
use crate::endpoint::test_bench::{self, STAGING_BYTES, pattern, staging};
use crate::testing::{BlkPeer, BlkPlan};

type Bench = test_bench::Bench<Disk>;

fn open(path: &Path, options: &Options) -> Result<Bench, OpenError> {
    Bench::open(|staging| Disk::open(path, options, staging))
}

/// A folder, a peer in it, and a disk.
fn world(plan: BlkPlan, options: &Options) -> (tempfile::TempDir, BlkPeer, Bench) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blk");
    let peer = BlkPeer::start(&path, plan);
    let bench = test_bench::until_it_answers(|| open(&path, options));
    (folder, peer, bench)
}

#[test]
fn every_request_does_what_it_says() {
    for event_idx in [true, false] {
        let plan = BlkPlan {
            event_idx,
            block_bytes: 4096,
            ..BlkPlan::default()
        };
        let (_folder, peer, mut bench) = world(plan, &Options::default());
        let geometry = *bench.disk.geometry();
        assert_eq!((geometry.block_bytes, geometry.blocks), (4096, 2048));
        assert!(geometry.flush && geometry.discard && geometry.write_zeroes);
        assert!(!geometry.compare && !geometry.read_only);

        let data = pattern(1, 65536);
        let (here, there) = (staging(0, 65536), staging(65536, 65536));
        bench.fill(here, &data);
        let write = Request::Write {
            lba: 3,
            blocks: 16,
            at: here,
        };
        assert_eq!(bench.one(write), Outcome::Done);
        assert_eq!(peer.disk()[3 * 4096..19 * 4096], data[..]);
        let read = Request::Read {
            lba: 3,
            blocks: 16,
            at: there,
        };
        assert_eq!(bench.one(read), Outcome::Done);
        assert_eq!(bench.read(there), data);
        assert_eq!(bench.one(Request::Flush), Outcome::Done);
        // 64 sectors are 8 blocks: it takes two pieces.
        assert_eq!(
            bench.one(Request::Discard { lba: 4, blocks: 10 }),
            Outcome::Done
        );
        assert_eq!(
            bench.one(Request::WriteZeroes { lba: 16, blocks: 2 }),
            Outcome::Done
        );
        let mut expected = data.clone();
        expected[4096..11 * 4096].fill(0);
        expected[13 * 4096..15 * 4096].fill(0);
        assert_eq!(peer.disk()[3 * 4096..19 * 4096], expected[..]);
        assert_eq!(peer.served(), 6, "two pieces of one of five");
    }
}

#[test]
fn a_full_queue_says_so_and_goes_on() {
    let options = Options {
        depth: 4,
        ..Options::default()
    };
    let (_folder, peer, mut bench) = world(BlkPlan::default(), &options);
    let request = |n: u32| Request::Read {
        lba: n.into(),
        blocks: 1,
        at: staging(4096 * n, 512),
    };
    for round in 0..100 {
        for n in 0..4 {
            bench.disk.submit(Token(n), &request(n)).unwrap();
        }
        assert_eq!(bench.disk.submit(Token(4), &request(4)), Err(Refused::Full));
        assert_eq!(peer.served(), 4 * round, "nothing before it is told");
        bench.disk.flush_submissions();
        let mut ended = bench.wait(4);
        ended.sort_by_key(|(token, _)| token.0);
        let expected: Vec<_> = (0..4).map(|n| (Token(n), Outcome::Done)).collect();
        assert_eq!(ended, expected);
    }
    assert!(
        bench.disk.system_calls() <= 100,
        "one kick for four requests"
    );
    assert!(
        peer.calls() <= 1,
        "the device stays silent: {}",
        peer.calls()
    );
}

#[test]
fn who_sleeps_is_woken() {
    for event_idx in [true, false] {
        let plan = BlkPlan {
            event_idx,
            ..BlkPlan::default()
        };
        let (_folder, _peer, mut bench) = world(plan, &Options::default());
        for _ in 0..20 {
            let request = Request::Read {
                lba: 0,
                blocks: 1,
                at: staging(0, 512),
            };
            bench.disk.submit(Token(3), &request).unwrap();
            if !bench.disk.arm() {
                bench.disk.flush_submissions();
                bench.sleep();
            }
            assert_eq!(bench.wait(1), [(Token(3), Outcome::Done)]);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_before_the_device_sees_it() {
    let (_folder, peer, mut bench) = world(BlkPlan::default(), &Options::default());
    let blocks = bench.disk.geometry().blocks;
    let read = |lba, blocks, offset, length| Request::Read {
        lba,
        blocks,
        at: staging(offset, length),
    };
    for request in [
        read(blocks, 1, 0, 512),
        read(u64::MAX, 1, 0, 512),
        read(0, 0, 0, 0),
        read(0, 2, 0, 512),
        read(0, 1, STAGING_BYTES, 512),
        read(0, 1, u32::MAX - 511, 512),
        read(0, 4096, 0, 4096 * 512),
        Request::Discard {
            lba: blocks,
            blocks: 1,
        },
        Request::Discard { lba: 0, blocks: 0 },
        Request::WriteZeroes {
            lba: 1,
            blocks: u32::MAX,
        },
        Request::Compare {
            lba: 0,
            blocks: 1,
            at: staging(0, 512),
        },
    ] {
        assert_eq!(
            bench.disk.submit(Token(0), &request),
            Err(Refused::NotSupported),
            "{request:?}"
        );
    }
    bench.disk.flush_submissions();
    assert_eq!((bench.disk.system_calls(), peer.served()), (0, 0));
}

#[test]
fn a_read_only_disk_takes_no_writes() {
    let by_device = BlkPlan {
        read_only: true,
        ..BlkPlan::default()
    };
    let by_operator = Options {
        read_only: true,
        ..Options::default()
    };
    for (plan, options) in [
        (by_device, Options::default()),
        (BlkPlan::default(), by_operator),
    ] {
        let (_folder, _peer, mut bench) = world(plan, &options);
        for request in [
            Request::Write {
                lba: 0,
                blocks: 1,
                at: staging(0, 512),
            },
            Request::Discard { lba: 0, blocks: 1 },
            Request::WriteZeroes { lba: 0, blocks: 1 },
        ] {
            assert_eq!(
                bench.disk.submit(Token(0), &request),
                Err(Refused::NotSupported)
            );
        }
        let read = Request::Read {
            lba: 0,
            blocks: 1,
            at: staging(0, 512),
        };
        assert_eq!(bench.one(read), Outcome::Done);
    }
}

#[test]
fn nobody_there_is_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        depth: 0,
        ..Options::default()
    };
    for (options, expected) in [
        (Options::default(), "is the device's process running"),
        (options, "expected 1 to"),
    ] {
        let Err(error) = open(&folder.path().join("nobody"), &options) else {
            panic!("opened what is not there");
        };
        assert!(error.to_string().contains(expected), "{error}");
    }
}
