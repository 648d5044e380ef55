//! Controllers that break the rules: each is found out, with a reason, and harms only itself.

use std::time::Duration;

use super::*;
use crate::testing::NvmeMischief as Mischief;

/// For a device that is to be late. One that is to answer may be without a core for longer than that.
fn impatient() -> Options {
    Options {
        timeout: Duration::from_millis(300),
        ..Options::default()
    }
}

fn plan(mischief: Mischief) -> NvmePlan {
    NvmePlan {
        mischief,
        after: 8,
        ..NvmePlan::default()
    }
}

fn read(n: u32) -> Request {
    Request::Read {
        lba: n.into(),
        blocks: 2,
        at: staging(4096 * n, 1024),
    }
}

/// What an impatient driver says of a controller that does not answer.
const LATE: &str = "it may take 300 ms";

#[test]
fn who_lies_is_gone_with_the_reason_and_can_be_attached_again() {
    let cases = [
        (Mischief::UnknownId, "which is not under way"),
        (Mischief::Twice, "which is not under way"),
        (Mischief::OtherQueue, "of queue 2"),
        (Mischief::RunsAway, "at 9999"),
        (Mischief::WrongPhase, LATE),
        (Mischief::Silent, LATE),
        (Mischief::HangsUp, "it hung up"),
    ];
    for (mischief, expected) in cases {
        let is_late = expected == LATE;
        let options = if is_late {
            impatient()
        } else {
            Options::default()
        };
        let (folder, peer, mut bench) = world(plan(mischief), &options);
        // A neighbour that keeps the rules, and does not notice.
        let (_other_folder, _other_peer, mut neighbour) =
            world(NvmePlan::default(), &Options::default());
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
        assert_eq!(last.1, Outcome::Gone, "{mischief:?}");
        // One without a core is late as well, before it means to be.
        let good = good.len();
        assert!(
            good == 8 || is_late && good < 8,
            "{mischief:?} after {good}"
        );
        let reason = bench.disk.gone().unwrap();
        assert!(reason.contains(expected), "{mischief:?}: {reason}");
        assert_eq!(bench.disk.submit(Token(0), &read(0)), Err(Refused::Gone));
        assert_eq!(neighbour.disk.gone(), None);

        // Another controller there, with memory that is new.
        drop(bench);
        drop(peer);
        let path = folder.path().join("nvme");
        let _peer = NvmePeer::start(&path, NvmePlan::default());
        let mut again = open(&path, &Options::default()).unwrap();
        assert_eq!(again.one(read(0)), Outcome::Done, "{mischief:?}");
    }
}

#[test]
fn a_failure_is_told_as_the_controller_tells_it() {
    // More, and Do Not Retry, come through with type and code.
    for status in [Status::UNRECOVERED_READ.0, 0x4281, 0x2080, 0x7fff] {
        let (_folder, _peer, mut bench) = world(plan(Mischief::Fails(status)), &Options::default());
        for n in 0..8 {
            assert_eq!(bench.one(read(n)), Outcome::Done);
        }
        let failed = Outcome::Failed {
            device_status: status,
            bytes_done: 0,
        };
        assert_eq!(bench.one(read(9)), failed);
        assert_eq!(bench.disk.gone(), None, "a failure is no lie");
    }
}

#[test]
fn a_controller_reaches_its_own_staging_and_no_other() {
    let (_folder, _peer, mut bench) = world(plan(Mischief::WritesBeyond), &Options::default());
    let (_other_folder, _other_peer, neighbour) = world(NvmePlan::default(), &Options::default());
    let ours = pattern(5, 4096);
    neighbour.fill(staging(0, 4096), &ours);
    for n in 0..9 {
        assert_eq!(bench.one(read(n)), Outcome::Done);
    }
    let found = bench.read(staging(65536, 8));
    assert_eq!(found, [0x5a; 8], "it did write all over");
    assert_eq!(neighbour.read(staging(0, 4096)), ours);
}

#[test]
fn a_controller_that_cannot_be_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nvme");
    let _peer = NvmePeer::start(&path, plan(Mischief::LiesAboutSize));
    let error = open(&path, &Options::default());
    let error = error.err().unwrap().to_string();
    assert!(error.contains("blocks of 2^0 bytes"), "{error}");

    // Somebody who accepts and says nothing.
    let path = folder.path().join("mute");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let error = open(&path, &impatient()).err().unwrap().to_string();
    assert!(error.contains("process running"), "{error}");
    let error = open(&folder.path().join("nobody"), &impatient());
    let error = error.err().unwrap().to_string();
    assert!(error.contains("process running"), "{error}");
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
