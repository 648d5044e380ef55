//! The bare-metal image boots under QEMU's emulated CPU and does what the mailbox says.
//!
//! Needs `qemu-system-x86_64`; without it each test says so and passes. The same image under
//! Byway's own VMM is the business of the whole-system tests.

mod qemu;

use byway_agent::commands::*;
use byway_agent::host::CallError;
use byway_agent::{Failure, GuestState, Process, Status, checksum, pattern};
use qemu::Guest;
use std::sync::atomic::Ordering;

const LARGE: u64 = 0x20_0000;
const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const USER: u64 = 4;
const DIRTY: u64 = 1 << 6;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

fn failure<T: std::fmt::Debug>(outcome: Result<T, CallError>) -> Failure {
    match outcome {
        Err(CallError::Failed(failure)) => failure,
        other => panic!("expected a failure, got {other:?}"),
    }
}

#[test]
fn both_processes_answer_and_are_apart() {
    let Some(guest) = Guest::boot() else { return };
    let pong = guest.call(Process::App, Ping { token: 7 }).unwrap();
    assert_eq!(pong.token, 7);
    assert_eq!(guest.mailbox().running(), Some(Process::App));
    assert_eq!(
        guest.call(Process::Peer, Ping { token: 8 }).unwrap().token,
        8
    );
    assert_eq!(guest.mailbox().running(), Some(Process::Peer));

    // The same virtual address is other memory in the other process.
    let request = Alloc {
        bytes: 4096,
        page_size: 4096,
        flags: 0,
    };
    let ours = guest.call(Process::App, request).unwrap();
    let theirs = guest.call(Process::Peer, request).unwrap();
    assert_eq!(ours.va, theirs.va);
    assert_ne!(ours.gpa, theirs.gpa);
    guest
        .call(
            Process::App,
            FillPattern {
                va: ours.va,
                len: 4096,
                seed: 1,
            },
        )
        .unwrap();
    guest
        .call(
            Process::Peer,
            FillPattern {
                va: ours.va,
                len: 4096,
                seed: 2,
            },
        )
        .unwrap();
    let check = ComparePattern {
        va: ours.va,
        len: 4096,
        seed: 1,
    };
    assert_eq!(
        guest.call(Process::App, check).unwrap().mismatch,
        NO_MISMATCH
    );
    assert_eq!(guest.call(Process::Peer, check).unwrap().mismatch, 0);
}

#[test]
fn the_image_is_shared_and_its_data_is_not() {
    let Some(guest) = Guest::boot() else { return };
    let leaf = |process, va| {
        let got = guest.call(process, PteGet { va }).unwrap();
        if got.lowest == 1 { got.level1 } else { 0 }
    };
    let (mut shared, mut private, mut ring0) = (0, 0, 0);
    for va in (0x20_0000..0x40_0000).step_by(4096) {
        let (ours, theirs) = (leaf(Process::App, va), leaf(Process::Peer, va));
        assert_eq!(ours & PRESENT, theirs & PRESENT, "{va:#x}");
        if ours & PRESENT == 0 {
            continue;
        }
        if ours & USER == 0 {
            ring0 += 1;
        } else if ours & WRITABLE == 0 {
            assert_eq!(ours & ADDRESS, theirs & ADDRESS, "{va:#x}");
            shared += 1;
        } else {
            assert_ne!(ours & ADDRESS, theirs & ADDRESS, "{va:#x}");
            assert_ne!(ours & ADDRESS, va, "{va:#x}: the kernel process's own");
            assert_ne!(ours & NO_EXECUTE, 0, "{va:#x}");
            private += 1;
        }
        assert!(
            ours & WRITABLE == 0 || ours & NO_EXECUTE != 0,
            "{va:#x}: writable code"
        );
    }
    assert!(shared > 0 && private > 0 && ring0 > 0);
}

#[test]
fn memory_holds_what_the_host_computes_too() {
    let Some(guest) = Guest::boot() else { return };
    for page_size in [4096, LARGE] {
        let len = 4 * LARGE + 12345;
        let memory = guest
            .call(
                Process::App,
                Alloc {
                    bytes: len,
                    page_size,
                    flags: ALLOC_ZERO,
                },
            )
            .unwrap();
        let zeros = vec![0; len as usize];
        let summed = guest
            .call(Process::App, Checksum { va: memory.va, len })
            .unwrap();
        assert_eq!(summed.checksum, checksum::checksum(&zeros));

        guest
            .call(
                Process::App,
                FillPattern {
                    va: memory.va,
                    len,
                    seed: 99,
                },
            )
            .unwrap();
        let mut expected = zeros;
        pattern::fill(&mut expected, 99);
        let summed = guest
            .call(Process::App, Checksum { va: memory.va, len })
            .unwrap();
        assert_eq!(summed.checksum, checksum::checksum(&expected));

        // Through the bulk area, across a page boundary.
        let mut channel = guest.mailbox().channel(Process::App);
        guest
            .call(
                Process::App,
                Read {
                    va: memory.va + 4000,
                    len: 200,
                    bulk: 10,
                },
            )
            .unwrap();
        let mut bytes = [0; 200];
        channel.bulk_read(10, &mut bytes);
        assert_eq!(bytes, expected[4000..4200]);
        channel.bulk_write(0, b"hello");
        guest
            .call(
                Process::App,
                Write {
                    va: memory.va + 4094,
                    len: 5,
                    bulk: 0,
                },
            )
            .unwrap();
        let check = ComparePattern {
            va: memory.va,
            len,
            seed: 99,
        };
        assert_eq!(guest.call(Process::App, check).unwrap().mismatch, 4094);
        guest.call(Process::App, Free { va: memory.va }).unwrap();
    }
    let outside = Read {
        va: 0x20_0000,
        len: 16,
        bulk: byway_agent::layout::BULK_BYTES as u64 - 15,
    };
    assert_eq!(
        failure(guest.call(Process::App, outside)).status,
        Status::BadArgument
    );
}

#[test]
fn memory_comes_back_when_it_is_freed() {
    let Some(guest) = Guest::boot() else { return };
    // Far more in all than the guest has.
    for round in 0..40 {
        let page_size = if round % 2 == 0 { 4096 } else { LARGE };
        let a = Alloc {
            bytes: 48 << 20,
            page_size,
            flags: 0,
        };
        let b = Alloc {
            bytes: 10 << 20,
            page_size: 4096,
            flags: ALLOC_EMPTY,
        };
        let a = guest.call(Process::App, a).unwrap();
        let b = guest.call(Process::App, b).unwrap();
        assert!(b.va > a.va);
        guest.call(Process::App, Free { va: a.va }).unwrap();
        guest.call(Process::App, Free { va: b.va }).unwrap();
        assert_eq!(
            failure(guest.call(Process::App, Free { va: b.va })).status,
            Status::BadArgument
        );
    }
    let whole = Alloc {
        bytes: 1 << 30,
        page_size: 4096,
        flags: 0,
    };
    assert_eq!(
        failure(guest.call(Process::App, whole)).status,
        Status::NoMemory
    );
}

#[test]
fn a_fault_is_reported_and_the_process_lives_on() {
    let Some(guest) = Guest::boot() else { return };
    let fault = failure(guest.call(
        Process::App,
        Checksum {
            va: 0x1234_5000,
            len: 8,
        },
    ));
    assert_eq!(fault.status, Status::Fault);
    // Page fault, read from ring 3 of what is not present, at that address.
    assert_eq!(fault.details[..3], [14, 4, 0x1234_5000]);
    assert_eq!(
        guest.call(Process::App, Ping { token: 1 }).unwrap().token,
        1
    );

    // The kernel's own structures are out of reach.
    let trap_area = FillPattern {
        va: 0x20_1000,
        len: 8,
        seed: 0,
    };
    assert_eq!(
        failure(guest.call(Process::Peer, trap_area)).details[..3],
        [14, 7, 0x20_1000]
    );
    assert_eq!(
        guest.call(Process::Peer, Ping { token: 2 }).unwrap().token,
        2
    );
    assert_eq!(
        guest.call(Process::App, Ping { token: 3 }).unwrap().token,
        3
    );
    assert_eq!(guest.mailbox().state(), Some(GuestState::Ready));

    let channel = &mut guest.mailbox().channel(Process::App);
    let ticket = channel.begin_raw(0x7fff, [0; 8]);
    let unknown = guest.wait(|| channel.finish_raw(ticket));
    assert_eq!(failure(unknown).status, Status::Unknown);
}

#[test]
fn the_cpu_says_what_page_tables_mean() {
    let Some(guest) = Guest::boot() else { return };
    let app = Process::App;
    let memory = guest
        .call(
            app,
            Alloc {
                bytes: 8192,
                page_size: 4096,
                flags: ALLOC_ZERO,
            },
        )
        .unwrap();
    let va = memory.va;
    let read = |va, width| {
        guest
            .call(
                app,
                Access {
                    va,
                    kind: ACCESS_READ,
                    width,
                    value: 0,
                },
            )
            .unwrap()
    };
    let write = |va, value| {
        guest
            .call(
                app,
                Access {
                    va,
                    kind: ACCESS_WRITE,
                    width: 8,
                    value,
                },
            )
            .unwrap()
    };
    let good = Accessed {
        faulted: 0,
        value: 0,
        vector: 0,
        error: 0,
        cr2: 0,
    };

    assert_eq!(write(va + 8, 0x1122_3344_5566_7788), good);
    for (width, value) in [
        (1, 0x88),
        (2, 0x7788),
        (4, 0x5566_7788),
        (8, 0x1122_3344_5566_7788),
    ] {
        assert_eq!(read(va + 8, width), Accessed { value, ..good });
    }
    let exchange = Access {
        va,
        kind: ACCESS_EXCHANGE,
        width: 4,
        value: 5,
    };
    assert_eq!(guest.call(app, exchange).unwrap(), good);
    assert_eq!(read(va, 8).value, 5);
    let fault = |error, cr2| Accessed {
        faulted: 1,
        vector: 14,
        error,
        cr2,
        ..good
    };
    // Behind the region, and not canonical.
    assert_eq!(read(va + 8192, 1), fault(4, va + 8192));
    assert_eq!(
        read(1 << 63, 8),
        Accessed {
            faulted: 1,
            vector: 13,
            ..good
        }
    );

    // Read-only, with the dirty bit left alone.
    let protect = ProtectPages {
        va,
        bytes: 4096,
        set: 0,
        clear: WRITABLE | DIRTY,
    };
    assert_eq!(guest.call(app, protect).unwrap().entries, 1);
    assert_eq!(read(va, 8).value, 5);
    assert_eq!(write(va, 1), fault(7, va));
    let got = guest.call(app, PteGet { va }).unwrap();
    assert_eq!(got.lowest, 1);
    assert_eq!(got.level1 & DIRTY, 0);
    assert_eq!(got.level1 & ADDRESS, memory.gpa);
    assert!(got.level2 & got.level3 & got.level4 & PRESENT != 0 && got.level5 == 0);

    // A reserved bit, then back again.
    let old = guest
        .call(
            app,
            PteSet {
                va,
                level: 1,
                value: got.level1 | 1 << 51,
            },
        )
        .unwrap();
    assert_eq!(old.value, got.level1);
    // QEMU leaves out bit 0, which a CPU sets with bit 3.
    assert_ne!(read(va, 1).error & 8, 0, "reserved-bit fault");
    guest
        .call(
            app,
            PteSet {
                va,
                level: 1,
                value: got.level1 | WRITABLE,
            },
        )
        .unwrap();
    assert_eq!(write(va, 6), good);
    let after = guest.call(app, PteGet { va }).unwrap();
    assert_ne!(after.level1 & DIRTY, 0, "the CPU marks what it writes");

    // Its own page table, mapped as memory.
    let table = got.level2 & ADDRESS;
    let window = guest
        .call(
            app,
            Alloc {
                bytes: LARGE,
                page_size: 4096,
                flags: ALLOC_EMPTY,
            },
        )
        .unwrap();
    assert_eq!(read(window.va, 1), fault(4, window.va));
    let map = MapPages {
        va: window.va,
        gpa: table,
        bytes: 4096,
        page_size: 4096,
        bits: 7,
    };
    guest.call(app, map).unwrap();
    assert_eq!(read(window.va, 8).value & !0x60, after.level1 & !0x60);
    let unmap = UnmapPages {
        va: window.va,
        bytes: LARGE,
    };
    assert_eq!(guest.call(app, unmap).unwrap().entries, 1);
    assert_eq!(read(window.va, 1), fault(4, window.va));
    guest.call(app, Free { va: window.va }).unwrap();
}

#[test]
fn page_tables_have_five_levels_when_asked() {
    let Some(guest) = Guest::boot_with("la57") else {
        return;
    };
    let header = guest.mailbox().header();
    assert_eq!(header.levels.load(Ordering::Relaxed), 5);
    for process in Process::ALL {
        let request = Alloc {
            bytes: 4096,
            page_size: 4096,
            flags: ALLOC_ZERO,
        };
        let va = guest.call(process, request).unwrap().va;
        let got = guest.call(process, PteGet { va }).unwrap();
        assert_ne!(got.level5 & PRESENT, 0);
        // The first address that four levels could not reach is another page, not the same again.
        let read = |va| {
            let access = Access {
                va,
                kind: ACCESS_READ,
                width: 1,
                value: 0,
            };
            guest.call(process, access).unwrap()
        };
        let beyond = va + (1 << 48);
        assert_eq!(read(va).faulted, 0);
        assert_eq!((read(beyond).vector, read(beyond).cr2), (14, beyond));
    }
}

#[test]
fn a_cache_line_bounces() {
    let Some(guest) = Guest::boot() else { return };
    let channel = &mut guest.mailbox().channel(Process::App);
    channel.reset_pings();
    let ticket = channel.begin(PingPong { iterations: 1000 });
    assert!(channel.answer_pings(1000, || true));
    let done = guest.wait(|| channel.finish(&ticket)).unwrap();
    assert_eq!(done.iterations, 1000);
    assert!(done.ticks > 0);

    // Without anybody to answer it ends when told.
    channel.reset_pings();
    let ticket = channel.begin(PingPong { iterations: 5 });
    channel.stop(true);
    let done = guest.wait(|| channel.finish(&ticket)).unwrap();
    assert_eq!(done.iterations, 0);
    channel.stop(false);

    let spun = guest.call(Process::App, Spin { ticks: 100_000 }).unwrap();
    assert!(spun.ticks >= 100_000);
    guest
        .call(Process::App, ExitOnPurpose { count: 3 })
        .unwrap();
    let none = failure(guest.call(Process::App, MmioOnPurpose { count: 1 }));
    assert_eq!(none.status, Status::NoDevice);
}

#[test]
fn power_off_ends_the_machine() {
    let Some(mut guest) = Guest::boot() else {
        return;
    };
    let channel = &mut guest.mailbox().channel(Process::App);
    let _ = channel.begin(PowerOff {});
    assert!(
        guest.ended(),
        "the reset request ends QEMU, started with -no-reboot"
    );
}
