//! Devices that break the rules: each is found out, with a reason, and harms only itself.

use std::time::Duration;

use super::*;
use crate::endpoint::vhost_user_blk::SHORT_READ;
use crate::testing::Mischief;

/// For a device that is to be late. One that is to answer may be without a core for longer than that.
fn impatient() -> Options {
    Options {
        timeout: Duration::from_millis(300),
        ..Options::default()
    }
}

fn plan(mischief: Mischief) -> BlkPlan {
    BlkPlan {
        mischief,
        after: 8,
        ..BlkPlan::default()
    }
}

fn read(n: u32) -> Request {
    Request::Read {
        lba: n.into(),
        blocks: 2,
        at: staging(4096 * n, 1024),
    }
}

#[test]
fn who_lies_is_gone_with_the_reason_and_can_be_attached_again() {
    let cases = [
        (Mischief::UnknownId, "where no request under way begins"),
        (Mischief::MiddleOfChain, "where no request under way begins"),
        (Mischief::Twice, "of the"),
        (Mischief::TooLong, "where there was room for 1025"),
        (Mischief::RunsAway, "of the"),
        (Mischief::NoStatus, "without writing its status"),
        (Mischief::Silent, "it may take 300 ms"),
        (Mischief::HangsUp, "it hung up"),
        (Mischief::BlocksKicks, "it hung up"),
    ];
    for (mischief, expected) in cases {
        let options = match mischief {
            Mischief::Silent => impatient(),
            _ => Options::default(),
        };
        let (folder, _peer, mut bench) = world(plan(mischief), &options);
        // A neighbour that keeps the rules, and does not notice.
        let (_other_folder, _other_peer, mut neighbour) =
            world(BlkPlan::default(), &Options::default());
        // One after the other, since a device that lies once ends all that it has.
        let mut outcomes = Vec::new();
        for n in 0..16 {
            if bench.disk.submit(Token(n), &read(n)).is_err() {
                break;
            }
            bench.disk.flush_submissions();
            outcomes.extend(bench.wait(1));
            assert_eq!(neighbour.one(read(n)), Outcome::Done);
        }
        let (last, good) = outcomes.split_last().unwrap();
        assert!(
            good.iter().all(|(_, outcome)| *outcome == Outcome::Done),
            "{mischief:?}"
        );
        // What ended twice ended well the first time.
        if mischief != Mischief::Twice {
            assert_eq!(last.1, Outcome::Gone, "{mischief:?}");
        }
        let reason = bench.disk.gone().unwrap();
        assert!(reason.contains(expected), "{mischief:?}: {reason}");
        assert_eq!(bench.disk.submit(Token(0), &read(0)), Err(Refused::Gone));
        assert_eq!(neighbour.disk.gone(), None);

        // The same device, now honest, with memory that is new.
        drop(bench);
        drop(_peer);
        let path = folder.path().join("blk");
        let _peer = BlkPeer::start(&path, BlkPlan::default());
        let mut again = open(&path, &Options::default()).unwrap();
        assert_eq!(again.one(read(0)), Outcome::Done, "{mischief:?}");
    }
}

#[test]
fn all_that_a_dead_device_had_is_told_once() {
    let (_folder, _peer, mut bench) = world(
        BlkPlan {
            mischief: Mischief::HangsUp,
            after: 3,
            ..BlkPlan::default()
        },
        &Options::default(),
    );
    for n in 0..10 {
        bench.disk.submit(Token(n), &read(n)).unwrap();
    }
    bench.disk.flush_submissions();
    let mut ended = bench.wait(10);
    bench.disk.poll(&mut |token, _| panic!("{token:?} again"));
    ended.sort_by_key(|(token, _)| token.0);
    let tokens: Vec<_> = ended.iter().map(|(token, _)| token.0).collect();
    assert_eq!(tokens, (0..10).collect::<Vec<_>>());
    let gone = ended
        .iter()
        .filter(|(_, outcome)| *outcome == Outcome::Gone);
    assert_eq!(gone.count(), 7, "three were done");
}

#[test]
fn a_failure_is_told_as_the_device_tells_it() {
    for status in [1, 2, 3, 200] {
        let (_folder, _peer, mut bench) = world(plan(Mischief::Fails(status)), &Options::default());
        for n in 0..8 {
            assert_eq!(bench.one(read(n)), Outcome::Done);
        }
        let failed = Outcome::Failed {
            device_status: status.into(),
            bytes_done: 0,
        };
        assert_eq!(bench.one(read(9)), failed);
        assert_eq!(bench.disk.gone(), None, "a failure is no lie");
    }
}

#[test]
fn a_short_read_is_no_success() {
    let (_folder, _peer, mut bench) = world(plan(Mischief::ShortRead), &Options::default());
    for n in 0..8 {
        assert_eq!(bench.one(read(n)), Outcome::Done);
    }
    let failed = Outcome::Failed {
        device_status: SHORT_READ,
        bytes_done: 512,
    };
    assert_eq!(bench.one(read(9)), failed);
}

#[test]
fn a_device_reaches_its_own_staging_and_no_other() {
    let (_folder, _peer, mut bench) = world(plan(Mischief::WritesBeyond), &Options::default());
    let (_other_folder, _other_peer, neighbour) = world(BlkPlan::default(), &Options::default());
    let ours = pattern(5, 4096);
    neighbour.fill(staging(0, 4096), &ours);
    for n in 0..9 {
        assert_eq!(bench.one(read(n)), Outcome::Done);
    }
    assert_eq!(
        bench.read(staging(65536, 8)),
        [0x5a; 8],
        "it did write all over"
    );
    assert_eq!(neighbour.read(staging(0, 4096)), ours);
}

#[test]
fn a_device_that_cannot_be_is_not_opened() {
    for (mischief, options, expected) in [
        (
            Mischief::LiesAboutSize,
            Options::default(),
            "blocks: expected 1 to",
        ),
        (
            Mischief::Mute,
            impatient(),
            "is the device's process running",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blk");
        let _peer = BlkPeer::start(&path, plan(mischief));
        let Err(error) = open(&path, &options) else {
            panic!("{mischief:?} was opened");
        };
        assert!(
            error.to_string().contains(expected),
            "{mischief:?}: {error}"
        );
    }
}

#[test]
fn noise_ends_each_request_once() {
    let mut gone = 0;
    for seed in 0..24 {
        let (_folder, _peer, mut bench) = world(plan(Mischief::Noise(seed)), &impatient());
        let mut counts = [0; 16];
        for n in 0..16 {
            if bench.disk.submit(Token(n), &read(n)).is_err() {
                break;
            }
            counts[n as usize] = 1;
            if n % 3 == 0 {
                bench.disk.flush_submissions();
            }
            bench
                .disk
                .poll(&mut |token, _| counts[token.0 as usize] -= 1);
        }
        bench.disk.flush_submissions();
        let left = counts.iter().sum::<i32>();
        for (token, _) in bench.wait(left as usize) {
            counts[token.0 as usize] -= 1;
        }
        assert_eq!(counts, [0; 16], "seed {seed}");
        bench
            .disk
            .poll(&mut |token, _| panic!("{token:?} again, seed {seed}"));
        gone += usize::from(bench.disk.gone().is_some());
    }
    assert!(gone > 12, "{gone} of 24 devices were found out");
}
