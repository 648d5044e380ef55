//! The driver against the model, sound and not.

mod hostile;

use std::path::Path;
use std::time::Duration;

use byway_nvme::controller::Config;
use byway_nvme::layout::Status;
use proptest::prelude::*;

use super::{Disk, Model, Options, Pointers};
use crate::endpoint::OpenError;
use crate::endpoint::device::{BlockDevice, Outcome, Refused, Request, Token};
use crate::endpoint::test_bench::{self, STAGING_BYTES, pattern, staging};
use crate::testing::{NvmePeer, NvmePlan};

type Bench = test_bench::Bench<Disk>;

fn open(path: &Path, options: &Options) -> Result<Bench, OpenError> {
    Bench::open(|staging| Disk::open(path, options, staging))
}

/// A folder, a controller in it, and a disk.
fn world(plan: NvmePlan, options: &Options) -> (tempfile::TempDir, NvmePeer, Bench) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvme");
    let peer = NvmePeer::start(&path, plan);
    let bench = test_bench::until_it_answers(|| open(&path, options));
    (folder, peer, bench)
}

/// Every way to name data and to ring.
fn ways() -> Vec<(NvmePlan, Options)> {
    let plan = |sgl, shadow_doorbells| NvmePlan {
        config: Config {
            sgl,
            shadow_doorbells,
            block_bytes: 4096,
            ..Config::default()
        },
        ..NvmePlan::default()
    };
    let prp = Options {
        pointers: Pointers::Prp,
        ..Options::default()
    };
    vec![
        (plan(true, true), Options::default()),
        (plan(true, true), prp),
        (plan(false, false), Options::default()),
    ]
}

#[test]
fn every_request_does_what_it_says() {
    for (plan, options) in ways() {
        let (_folder, peer, mut bench) = world(plan, &options);
        let geometry = *bench.disk.geometry();
        assert_eq!((geometry.block_bytes, geometry.blocks), (4096, 2048));
        assert!(geometry.flush && geometry.discard && geometry.write_zeroes && geometry.compare);

        let data = pattern(1, 65536);
        // Not at a page's start: a list of PRP entries begins in the middle of one.
        let (here, there) = (staging(4, 65536), staging(131_072, 65536));
        bench.fill(here, &data);
        let (lba, blocks) = (3, 16);
        let write = Request::Write {
            lba,
            blocks,
            at: here,
        };
        assert_eq!(bench.one(write), Outcome::Done);
        assert_eq!(peer.disk()[3 * 4096..19 * 4096], data[..]);
        let read = Request::Read {
            lba,
            blocks,
            at: there,
        };
        assert_eq!(bench.one(read), Outcome::Done);
        assert_eq!(bench.read(there), data);
        let compare = |lba| Request::Compare {
            lba,
            blocks,
            at: there,
        };
        assert_eq!(bench.one(compare(3)), Outcome::Done);
        let differs = Outcome::Failed {
            device_status: Status::COMPARE_FAILURE.0,
            bytes_done: 0,
        };
        assert_eq!(bench.one(compare(4)), differs);
        assert_eq!(bench.one(Request::Flush), Outcome::Done);
        let discard = Request::Discard { lba: 4, blocks: 10 };
        assert_eq!(bench.one(discard), Outcome::Done);
        let zero = Request::WriteZeroes { lba: 16, blocks: 2 };
        assert_eq!(bench.one(zero), Outcome::Done);
        let mut expected = data;
        expected[4096..11 * 4096].fill(0);
        expected[13 * 4096..15 * 4096].fill(0);
        assert_eq!(peer.disk()[3 * 4096..19 * 4096], expected[..]);
        assert_eq!(bench.disk.gone(), None);
    }
}

#[test]
fn zeroes_beyond_what_a_command_takes_go_in_pieces() {
    let plan = NvmePlan {
        bytes: 70_000 * 512,
        ..NvmePlan::default()
    };
    let (_folder, peer, mut bench) = world(plan, &Options::default());
    peer.disk().fill(7);
    let zero = Request::WriteZeroes {
        lba: 1,
        blocks: 69_000,
    };
    assert_eq!(bench.one(zero), Outcome::Done);
    let disk = peer.disk();
    assert!(
        disk[..512]
            .iter()
            .chain(&disk[69_001 * 512..])
            .all(|&b| b == 7)
    );
    assert!(disk[512..69_001 * 512].iter().all(|&b| b == 0));
}

#[test]
fn a_full_queue_says_so_and_a_batch_costs_one_call_at_most() {
    let options = Options {
        depth: 4,
        ..Options::default()
    };
    let (_folder, _peer, mut bench) = world(NvmePlan::default(), &options);
    let request = |n: u32| Request::Read {
        lba: n.into(),
        blocks: 1,
        at: staging(4096 * n, 512),
    };
    let before = bench.disk.system_calls();
    for rounds in 1..200 {
        for n in 0..4 {
            bench.disk.submit(Token(n), &request(n)).unwrap();
        }
        let full = bench.disk.submit(Token(4), &request(4));
        assert_eq!(full, Err(Refused::Full));
        bench.disk.flush_submissions();
        let mut ended = bench.wait(4);
        ended.sort_by_key(|(token, _)| token.0);
        let expected: Vec<_> = (0..4).map(|n| (Token(n), Outcome::Done)).collect();
        assert_eq!(ended, expected);
        // It may fall asleep on a busy host, and is called once then; and once at the start.
        let calls = bench.disk.system_calls() - before;
        assert!(
            calls <= rounds + 1,
            "{calls} system calls in {rounds} rounds"
        );
    }
}

#[test]
fn a_controller_that_is_awake_is_driven_without_a_system_call() {
    let plan = NvmePlan {
        spin: Duration::from_secs(60),
        ..NvmePlan::default()
    };
    // Room for several batches: with less, one goes once around the queue, and past an event index that is a
    // moment old.
    let options = Options {
        depth: 64,
        ..Options::default()
    };
    let (_folder, peer, mut bench) = world(plan, &options);
    let data = pattern(3, 8 << 20);
    peer.disk().copy_from_slice(&data);
    let mut round = |round: u32| {
        // Queues of 65 entries wrap at other commands each time.
        let lba = |n: u32| (round * 8 + n) * 37 % 16_000;
        for n in 0..8 {
            let request = Request::Read {
                lba: lba(n).into(),
                blocks: 1,
                at: staging(4096 * n, 512),
            };
            bench.disk.submit(Token(n), &request).unwrap();
        }
        bench.disk.flush_submissions();
        assert_eq!(bench.wait(8).len(), 8);
        for n in 0..8 {
            let at = 512 * lba(n) as usize;
            assert_eq!(bench.read(staging(4096 * n, 512)), data[at..at + 512]);
        }
        bench.disk.system_calls()
    };
    // It slept when it was attached, and may say that it is awake after its first answers only: by the second ones it has.
    round(0);
    let before = round(1);
    let mut after = before;
    for n in 2..500 {
        after = round(n);
    }
    // None, but for a thread that lost its core between storing a tail and looking at the event index: the controller has
    // caught up with the tail by then, and its index, one behind that, reads like a wish to be called. That is
    // harmless, and rare; a controller that never said that it is awake would be called 498 times.
    let calls = after - before;
    assert!(calls < 10, "{calls} system calls for 3984 commands");
}

#[test]
fn who_sleeps_is_woken() {
    for (plan, options) in ways() {
        let (_folder, _peer, mut bench) = world(plan, &options);
        for round in 0..20 {
            let request = Request::Read {
                lba: 0,
                blocks: 1,
                at: staging(0, 4096),
            };
            bench.disk.submit(Token(3), &request).unwrap();
            assert!(!bench.disk.arm());
            if round % 2 == 0 {
                // Time to fall asleep, for the controller.
                std::thread::sleep(Duration::from_millis(1));
            }
            bench.disk.flush_submissions();
            bench.sleep();
            assert_eq!(bench.wait(1), [(Token(3), Outcome::Done)]);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_before_the_controller_sees_it() {
    let (_folder, _peer, mut bench) = world(NvmePlan::default(), &Options::default());
    let blocks = bench.disk.geometry().blocks;
    let before = bench.disk.system_calls();
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
        read(0, 1, 2, 512),
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
    ] {
        let refused = bench.disk.submit(Token(0), &request);
        assert_eq!(refused, Err(Refused::NotSupported), "{request:?}");
    }
    bench.disk.flush_submissions();
    assert_eq!(bench.disk.system_calls(), before);
}

#[test]
fn an_image_is_what_the_built_in_model_shows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let mut image = pattern(8, 1 << 20);
    std::fs::write(&path, &image).unwrap();
    let model = Model {
        block_bytes: 4096,
        ..Model::default()
    };
    let options = Options::default();
    let open = |model: Model| Bench::open(|s| Disk::open_model(&path, &model, &options, s));
    let mut bench = open(model).unwrap();
    let at = staging(0, 8192);
    let (lba, blocks) = (5, 2);
    assert_eq!(bench.one(Request::Read { lba, blocks, at }), Outcome::Done);
    assert_eq!(bench.read(at), image[5 * 4096..7 * 4096]);
    let data = pattern(9, 8192);
    bench.fill(at, &data);
    assert_eq!(
        bench.one(Request::Write { lba: 9, blocks, at }),
        Outcome::Done
    );
    assert_eq!(
        bench.one(Request::Discard { lba: 20, blocks: 3 }),
        Outcome::Done
    );
    assert_eq!(bench.one(Request::Flush), Outcome::Done);
    image[9 * 4096..11 * 4096].copy_from_slice(&data);
    image[20 * 4096..23 * 4096].fill(0);
    assert!(std::fs::read(&path).unwrap() == image);
    drop(bench);

    let read_only = open(Model {
        read_only: true,
        ..model
    });
    let mut bench = read_only.unwrap();
    assert!(bench.disk.geometry().read_only);
    let write = bench
        .disk
        .submit(Token(0), &Request::Write { lba, blocks, at });
    assert_eq!(write, Err(Refused::NotSupported));
    for (path, model, expected) in [
        (folder.path().join("nobody"), model, "No such file"),
        (
            path.clone(),
            Model {
                block_bytes: 100,
                ..model
            },
            "power of two",
        ),
    ] {
        let opened = Bench::open(|s| Disk::open_model(&path, &model, &options, s));
        let error = opened.err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    /// The driver, by PRP and by SGL, with a queue full of requests at a time, against a plain
    /// array.
    #[test]
    fn a_disk_is_an_array(
        requests in prop::collection::vec((0_u8..5, 0_u64..500, 1_u32..60, 0_u32..64), 1..120),
        by_prp in any::<bool>(),
        depth in 1_u16..9,
        seed in any::<u64>(),
    ) {
        let options = Options {
            depth,
            pointers: if by_prp { Pointers::Prp } else { Pointers::Any },
            ..Options::default()
        };
        let plan = NvmePlan { bytes: 600 * 512, ..NvmePlan::default() };
        let (_folder, peer, mut bench) = world(plan, &options);
        let mut array = pattern(seed, 600 * 512);
        peer.disk().copy_from_slice(&array);
        // Requests of one batch touch what they touch in any order: only the model's own order,
        // which is theirs, makes the outcome certain.
        for batch in requests.chunks(depth.into()) {
            let mut expected = Vec::new();
            for (n, &(kind, lba, blocks, shift)) in batch.iter().enumerate() {
                let length = blocks * 512;
                let at = staging(n as u32 * 65536 + 4 * shift, length);
                let range = lba as usize * 512..(lba as usize + blocks as usize) * 512;
                let data = pattern(seed ^ lba ^ u64::from(shift), length as usize);
                let request = match kind {
                    0 => {
                        expected.push((at, array[range].to_vec()));
                        Request::Read { lba, blocks, at }
                    }
                    1 => {
                        array[range].copy_from_slice(&data);
                        bench.fill(at, &data);
                        Request::Write { lba, blocks, at }
                    }
                    2 => {
                        bench.fill(at, &array[range]);
                        Request::Compare { lba, blocks, at }
                    }
                    3 => {
                        array[range].fill(0);
                        Request::Discard { lba, blocks }
                    }
                    _ => {
                        array[range].fill(0);
                        Request::WriteZeroes { lba, blocks }
                    }
                };
                bench.disk.submit(Token(n as u32), &request).unwrap();
            }
            bench.disk.flush_submissions();
            for (token, outcome) in bench.wait(batch.len()) {
                prop_assert_eq!(outcome, Outcome::Done, "{:?} {:?}", token, batch);
            }
            for (at, bytes) in expected {
                prop_assert!(bench.read(at) == bytes);
            }
        }
        prop_assert!(*peer.disk() == array);
    }
}
