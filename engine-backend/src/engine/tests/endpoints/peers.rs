//! Devices of other processes, through the whole engine: those that keep the rules, and those
//! that break each of them.

use super::peer_world::{
    Asked, DISK, IMPATIENT_MS, PATIENT_MS, Peer, Peers, Start, blk, nvme, try_attach,
};
use super::*;
use crate::testing::{Mischief, NvmeMischief};

/// Requests that a device carries out before it begins to break what it breaks.
const AFTER: u64 = 12;

#[test]
fn bytes_go_to_devices_of_other_processes_and_from_one_to_the_other() {
    let starts: [Start; 2] = [
        blk(Mischief::None, AFTER, DISK),
        nvme(NvmeMischief::None, AFTER, DISK),
    ];
    for start in starts {
        let mut world = Peers::new(&start);
        let [file, peer] = world.slots;
        let size = 3 << 19;
        let done = world.alice.run(&read(peer, 512, 3, size));
        assert_eq!(done.status(), Some(Status::Success), "{done:?}");
        assert_eq!(done.bytes_completed, size as u32);
        let expected = world.pattern.clone();
        assert!(world.alice.read(3, size) == expected[512..512 + size as usize]);
        world.alice.fill(5, size, 0x77);
        let done = world.alice.run(&write(peer, 256 << 10, 5, size));
        assert_eq!(done.status(), Some(Status::Success), "{done:?}");
        let flush = transfer(device_operation::FLUSH, (0, 0), (peer, 0), 0);
        assert_eq!(world.alice.run_for(&flush), Status::Success);
        let zeroes = transfer(device_operation::WRITE_ZEROES, (0, 0), (peer, 0), 256 << 10);
        assert_eq!(world.alice.run_for(&zeroes), Status::Success);
        let disk = world.peer().disk();
        let end = (256 << 10) + size as usize;
        assert!(disk[..256 << 10].iter().all(|&b| b == 0));
        assert!(disk[256 << 10..end].iter().all(|&b| b == 0x77));
        assert!(disk[end..] == expected[end..]);
        // From disk to disk.
        let clone = transfer(device_operation::COPY, (peer, 0), (file, 0), DISK as u64);
        let done = world.alice.run(&clone);
        assert_eq!(done.status(), Some(Status::Success), "{done:?}");
        assert!(world.file.bytes() == disk);
        assert_eq!(world.state(), (true, None));
    }
}

/// Pairs of transfers at a time: the ring holds 16.
const PAIRS: u64 = 7;
/// Bytes of one that is one request to the device, and of one that is three.
const PIECE: u64 = 64 << 10;
const PIECES: u64 = 320 << 10;

/// Rounds of transfers, half of them through the peer, until it is found out. Each is told how
/// far it came, to the byte, and nothing lands anywhere else.
fn until_found_out(world: &mut Peers, what: &str) {
    let [file, peer] = world.slots;
    for round in 0..5 {
        let mut gone = 0;
        let mut asked = Vec::new();
        for i in 0..PAIRS {
            let size = if i == 0 { PIECES } else { PIECE };
            let from = (round * PAIRS + i) * 4096;
            asked.push(world.ask_read(peer, from, size));
            asked.push(world.ask_read(file, from, size));
        }
        for Asked { slot, at, to, size } in asked {
            let done = world.alice.queue.wait();
            match done.status() {
                Some(Status::Success) => assert_eq!(u64::from(done.bytes_completed), size),
                Some(Status::DeviceGone) if slot == peer => {
                    gone += 1;
                    let end = at + u64::from(done.bytes_completed);
                    assert!(end < at + size, "{what}: {done:?}");
                    let told = (done.op0, done.op1, done.fault_addr);
                    assert_eq!(told, (0, end / 512, end), "{what}");
                }
                _ => panic!("{what}: {done:?}"),
            }
            world.expect(at, to, done.bytes_completed.into());
        }
        world.check_memory(what);
        if gone > 0 {
            return;
        }
    }
    panic!("{what}: it was not found out");
}

/// Has the peer break what it breaks, in the middle of many transfers, and attaches one that
/// keeps the rules in its place. It is found out for one of the reasons.
fn breaks(what: &str, start: &Start, sound: &Start, reasons: &[&str]) {
    let timeout_ms = if reasons == LATE {
        IMPATIENT_MS
    } else {
        PATIENT_MS
    };
    let mut world = Peers::with_timeout(start, timeout_ms);
    let [file, peer] = world.slots;
    until_found_out(&mut world, what);
    let (attached, reason) = world.state();
    let reason = reason.unwrap();
    let is_expected = reasons.iter().any(|expected| reason.contains(expected));
    assert!(!attached && is_expected, "{what}: {reason}");

    // The neighbour goes on; the peer's slot says what became of it, at once.
    let to = world.ask_read(file, 0, PIECE).to;
    assert_eq!(world.alice.queue.wait().status(), Some(Status::Success));
    world.expect(0, to, PIECE);
    let refused = world.ask_read(peer, 0, PIECE);
    let done = world.alice.queue.wait();
    assert_eq!(done.status(), Some(Status::DeviceGone), "{what}");
    assert_eq!(done.bytes_completed, 0, "{what}: {refused:?}");
    world.check_memory(what);

    // Another one, should the first have been without a core for as long as somebody impatient waits.
    let serves = (0..10).any(|_| {
        world.replace(sound);
        let to = world.ask_read(peer, 0, PIECE).to;
        let done = world.alice.queue.wait();
        if timeout_ms == IMPATIENT_MS && done.status() == Some(Status::DeviceGone) {
            println!("{what}: a sound one was late");
            return false;
        }
        assert_eq!(done.status(), Some(Status::Success), "{what}");
        world.expect(0, to, PIECE);
        true
    });
    assert!(serves, "{what}: its successors are all late");
    world.check_memory(what);
    assert_eq!(world.state(), (true, None), "{what}");
}

/// A device that is late is given up by its driver or by the engine, whoever looks first.
const LATE: [&str; 2] = ["it may take 300 ms", "not answered in its time"];

#[test]
fn vhost_user_devices_that_lie_end_only_what_goes_through_them() {
    let middle = "where no request under way begins";
    let many = "it says that it used";
    let cases: [(Mischief, &[&str]); 9] = [
        (Mischief::UnknownId, &[middle]),
        (Mischief::MiddleOfChain, &[middle]),
        (Mischief::Twice, &[middle, many]),
        (Mischief::TooLong, &["where there was room for"]),
        (Mischief::RunsAway, &[many]),
        (Mischief::NoStatus, &["without writing its status"]),
        (Mischief::Silent, &LATE),
        (Mischief::HangsUp, &["it hung up"]),
        (Mischief::BlocksKicks, &["it hung up"]),
    ];
    let sound = blk(Mischief::None, 0, DISK);
    for (mischief, reasons) in cases {
        let start = blk(mischief, AFTER, DISK);
        breaks(&format!("{mischief:?}"), &start, &sound, reasons);
    }
}

#[test]
fn nvme_controllers_that_lie_end_only_what_goes_through_them() {
    let unknown = "which is not under way";
    let cases: [(NvmeMischief, &[&str]); 7] = [
        (NvmeMischief::UnknownId, &[unknown]),
        (NvmeMischief::Twice, &[unknown]),
        (NvmeMischief::OtherQueue, &["of queue 2"]),
        (NvmeMischief::RunsAway, &["at 9999"]),
        (NvmeMischief::WrongPhase, &LATE),
        (NvmeMischief::Silent, &LATE),
        (NvmeMischief::HangsUp, &["it hung up"]),
    ];
    let sound = nvme(NvmeMischief::None, 0, DISK);
    for (mischief, reasons) in cases {
        let start = nvme(mischief, AFTER, DISK);
        breaks(&format!("{mischief:?}"), &start, &sound, reasons);
    }
}

#[test]
fn what_a_device_scribbles_stays_with_what_went_through_it() {
    let starts: [(&str, Start); 2] = [
        ("vhost-user", blk(Mischief::WritesBeyond, 0, DISK)),
        ("nvme", nvme(NvmeMischief::WritesBeyond, 0, DISK)),
    ];
    for (what, start) in starts {
        let mut world = Peers::new(&start);
        let [file, peer] = world.slots;
        let before = world.file.bytes();
        let mut asked = Vec::new();
        for i in 0..PAIRS {
            asked.push(world.ask_read(peer, i * 4096, PIECE));
            asked.push(world.ask_read(file, i * 4096, PIECE));
        }
        for Asked { slot, at, to, size } in asked {
            let done = world.alice.queue.wait();
            assert_eq!(done.status(), Some(Status::Success), "{what}: {done:?}");
            if slot == peer {
                // Its own are as it likes.
                let got = world.alice.read(to, size);
                world.expect_bytes(to, &got);
            } else {
                world.expect(at, to, size);
            }
        }
        world.check_memory(what);
        assert!(world.file.bytes() == before, "{what}");
        assert_eq!(world.state(), (true, None), "{what}: nobody can see that");
    }
}

#[test]
fn noise_from_a_device_ends_each_descriptor_once() {
    let mut found_out = 0;
    let rounds = 6;
    for seed in 0..rounds {
        let start = match seed % 2 {
            0 => blk(Mischief::Noise(seed), AFTER, DISK),
            _ => nvme(NvmeMischief::Noise(seed), AFTER, DISK),
        };
        let mut world = Peers::with_timeout(&start, IMPATIENT_MS);
        let [file, peer] = world.slots;
        for round in 0..3 {
            let mut asked = Vec::new();
            for i in 0..PAIRS {
                let from = (round * PAIRS + i) * 4096;
                asked.push(world.ask_read(peer, from, PIECE));
                asked.push(world.ask_read(file, from, PIECE));
            }
            for Asked { slot, at, to, size } in asked {
                let done = world.alice.queue.wait();
                let status = done.status().unwrap();
                if slot == file {
                    assert_eq!(status, Status::Success, "{seed}: {done:?}");
                    world.expect(at, to, size);
                    continue;
                }
                // What it says was done, or was not, may be a lie; that it lands where it was
                // asked to, and nowhere else, is not.
                let may_be = [Status::Success, Status::DeviceError, Status::DeviceGone];
                assert!(may_be.contains(&status), "{seed}: {done:?}");
                let claimed = u64::from(done.bytes_completed);
                assert!(claimed <= size, "{seed}: {done:?}");
                let got = world.alice.read(to, claimed);
                world.expect_bytes(to, &got);
            }
            world.check_memory(&format!("noise {seed}"));
        }
        let (attached, reason) = world.state();
        assert_eq!(attached, reason.is_none(), "{reason:?}");
        found_out += u64::from(!attached);
    }
    assert!(found_out > rounds / 2, "{found_out} of {rounds}");
}

#[test]
fn devices_that_cannot_be_are_refused_with_the_reason() {
    let (engine, _alice, _bob) = pair();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let starts: [(Start, u32, &str); 3] = [
        (
            blk(Mischief::LiesAboutSize, 0, DISK),
            PATIENT_MS,
            "blocks: expected",
        ),
        (
            nvme(NvmeMischief::LiesAboutSize, 0, DISK),
            PATIENT_MS,
            "blocks of 2^0",
        ),
        (
            blk(Mischief::Mute, 0, DISK),
            IMPATIENT_MS,
            "is the device's process running",
        ),
    ];
    for (start, timeout_ms, expected) in starts {
        let peer: Peer = start(&path);
        let error = try_attach(&engine, peer.kind(), &path, timeout_ms).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    for kind in [
        EndpointKind::VhostUserBlk,
        EndpointKind::Nvme,
        EndpointKind::NvmeModel,
    ] {
        let error =
            try_attach(&engine, kind, &folder.path().join("none"), IMPATIENT_MS).unwrap_err();
        assert!(error.contains("No such file"), "{error}");
    }
}
