//! The image's engine commands on Byway's own VMM: two VMs exchange memory as the mailbox tells
//! them.
//!
//! Needs /dev/kvm; without it each test says so and passes.

mod guest;

use byway_agent::commands::*;
use byway_agent::{Failure, Process, Status};
use byway_protocols::{Completion, ControlStatus, Descriptor, Flags, Opcode, Rights, Word0};
use guest::Guest;

const APP: Process = Process::App;
const PEER: Process = Process::Peer;
const READ: u64 = 1;
const WRITE: u64 = 2;
const GRANT: u64 = 4;
const SUCCESS: u8 = 1;
const NO_PARK: u64 = 1;

fn memmove(src: (u16, u64), dst: (u16, u64), size: u32) -> Descriptor {
    Descriptor {
        word0: Word0::new(src.0, dst.0, false).0,
        src: src.1,
        dst: dst.1,
        size,
        ..Descriptor::new(Opcode::Memmove, Flags::NONE)
    }
}

fn statuses(completions: &[Completion]) -> Vec<u8> {
    completions
        .iter()
        .map(|completion| completion.status)
        .collect()
}

/// Waits until a run of the guest's is going on: more has been carried out than is outstanding at a time.
fn goes_on(engine: &byway_engine::Engine, guest: &Guest) {
    let done = || {
        engine
            .stats()
            .workers
            .iter()
            .map(|w| w.descriptors)
            .sum::<u64>()
    };
    let before = done();
    guest.wait(|| (done() > before + 100).then_some(()));
}

fn refusal(status: ControlStatus) -> Failure {
    Failure::new(Status::Refused, status as u64)
}

#[test]
fn two_processes_of_one_vm_move_their_own_and_each_others_memory() {
    let Some(engine) = guest::engine() else {
        return;
    };
    let vm = Guest::boot(&engine, "alice");
    let engine_is = vm.call(APP, QueryEngine {});
    assert_eq!(engine_is.version, 1);

    let len = 3 << 20;
    let memory = |process, page_size| {
        vm.call(
            process,
            Alloc {
                bytes: len,
                page_size,
                flags: ALLOC_ZERO,
            },
        )
        .va
    };
    let (ours, theirs) = (memory(APP, 4096), memory(PEER, 0x20_0000));
    let (context, queue) = vm.open(APP, 0);
    let (their_context, their_queue) = vm.open(PEER, NO_PARK);
    assert_ne!(context, their_context);

    // Within one process.
    vm.call(
        APP,
        FillPattern {
            va: ours,
            len,
            seed: 5,
        },
    );
    let half = len / 2;
    let moved = vm.transfer(
        APP,
        queue.queue,
        &[memmove((0, ours), (0, ours + half), half as u32)],
    );
    assert_eq!(statuses(&moved), [SUCCESS]);
    let mut expected = vec![0; half as usize];
    byway_agent::pattern::fill(&mut expected, 5);
    let checksum = byway_agent::checksum::checksum(&expected);
    assert_eq!(
        vm.call(
            APP,
            Checksum {
                va: ours + half,
                len: half
            }
        )
        .checksum,
        checksum
    );

    // From one process to the other, by a capability.
    let derived = vm.call(
        PEER,
        Derive {
            parent: capability(their_context, 0),
            target: capability(context, 0),
            base: theirs,
            length: len,
            rights: READ | WRITE,
            badge: 9,
            lifetime_ns: 0,
            byte_quota: 0,
        },
    );
    let slot = capability_slot(derived.capability) as u16;
    let put = memmove((0, ours), (slot, 0), half as u32);
    let past_the_end = memmove((0, ours), (slot, len - 7), 8);
    let done = vm.transfer(APP, queue.queue, &[put, past_the_end]);
    assert_eq!(
        statuses(&done),
        [SUCCESS, byway_protocols::Status::Bounds as u8]
    );
    assert_eq!(
        vm.call(
            PEER,
            Checksum {
                va: theirs,
                len: half
            }
        )
        .checksum,
        checksum
    );
    let info = vm.call(
        APP,
        QueryCapability {
            capability: derived.capability,
        },
    );
    assert_eq!(
        (info.state, info.rights, info.length, info.badge),
        (1, 3, len, 9)
    );

    // A fault in one's own memory names the address; after INVALIDATE the new entry counts.
    let page = PteGet { va: ours };
    let entry = vm.call(APP, page).level1;
    vm.call(
        APP,
        PteSet {
            va: ours,
            level: 1,
            value: 0,
        },
    );
    let range = Invalidate {
        scope: 2,
        pasid: PASID_OWN,
        address: ours,
        pages: 1,
    };
    vm.call(APP, range);
    let faulted = vm.transfer(
        APP,
        queue.queue,
        &[memmove((0, ours), (0, ours + half), 64)],
    );
    assert_eq!(
        statuses(&faulted),
        [byway_protocols::Status::Stage1NotPresent as u8]
    );
    assert_eq!(faulted[0].fault_addr, ours);
    vm.call(
        APP,
        PteSet {
            va: ours,
            level: 1,
            value: entry & !0x60,
        },
    );
    let again = vm.transfer(
        APP,
        queue.queue,
        &[memmove((0, ours), (0, ours + half), 64)],
    );
    assert_eq!(statuses(&again), [SUCCESS]);
    assert_eq!(
        vm.call(APP, page).level1 & 0x60,
        0x20,
        "read: accessed, not dirty"
    );

    // What is closed is gone, and can be opened again.
    assert_eq!(
        vm.call(
            PEER,
            QueueState {
                queue: their_queue.queue
            }
        )
        .alive,
        1
    );
    vm.call(
        PEER,
        CloseContext {
            context: their_context,
        },
    );
    let gone = vm.transfer(APP, queue.queue, &[put]);
    assert_eq!(statuses(&gone), [byway_protocols::Status::Revoked as u8]);
    let no_such = refusal(ControlStatus::NoSuchObject);
    assert_eq!(
        vm.try_call(
            PEER,
            CloseContext {
                context: their_context
            }
        ),
        Err(no_such)
    );
    vm.open(PEER, 0);
    vm.call(APP, DestroyQueue { queue: queue.queue });
    assert_eq!(
        vm.try_call(APP, DestroyQueue { queue: queue.queue }),
        Err(no_such)
    );
}

#[test]
fn two_vms_exchange_memory_until_it_is_revoked() {
    let Some(engine) = guest::engine() else {
        return;
    };
    let (alice, bob) = (Guest::boot(&engine, "alice"), Guest::boot(&engine, "bob"));
    let len = 1 << 20;
    let buffer = Alloc {
        bytes: len,
        page_size: 0x20_0000,
        flags: ALLOC_ZERO,
    };
    let (ours, theirs) = (alice.call(APP, buffer).va, bob.call(APP, buffer).va);
    let (context, queue) = alice.open(APP, 0);
    let (their_context, _) = bob.open(APP, 0);

    let peer = bob.lookup(APP, "alice").unwrap();
    assert_eq!(peer.domain, alice.call(APP, QueryEngine {}).domain);
    // Those to ports follow from them.
    let every = u64::from((Rights::ALL | Rights::KEY).0);
    assert_eq!((peer.rights_in, peer.rights_out), (every, every));
    assert_eq!(
        bob.lookup(APP, "carol").unwrap_err(),
        refusal(ControlStatus::NoLink)
    );

    let derive = Derive {
        parent: capability(their_context, 0),
        target: capability(their_context, 0),
        base: theirs,
        length: len,
        rights: READ | WRITE | GRANT,
        badge: 1,
        lifetime_ns: 0,
        byte_quota: 0,
    };
    let shared = bob.call(APP, derive).capability;
    let offer = Offer {
        capability: shared,
        domain: peer.domain,
        rights: READ | WRITE,
        label: 77,
    };
    let offered = bob.call(APP, offer).offer;

    let none = alice.try_call(
        APP,
        AwaitOffer {
            label: 78,
            ticks: 1000,
        },
    );
    assert_eq!(none.unwrap_err().status, Status::TimedOut);
    let came = alice.call(
        APP,
        AwaitOffer {
            label: 77,
            ticks: 20_000_000_000,
        },
    );
    assert_eq!(
        (came.offer, came.length, came.rights),
        (offered, len, READ | WRITE)
    );
    let target = capability(context, 5);
    let accepted = alice.call(
        APP,
        Accept {
            offer: came.offer,
            target,
        },
    );
    assert_eq!((accepted.capability, accepted.length), (target, len));

    // Put by the measuring loop, checked by bob himself.
    alice.call(
        APP,
        FillPattern {
            va: ours,
            len,
            seed: 11,
        },
    );
    let put = memmove((0, ours), (5, 0), 4096);
    alice
        .mailbox
        .channel(APP)
        .bulk_write(RUN_TEMPLATE, &put.to_bytes());
    for (depth, samples) in [(1, 100), (16, 0)] {
        let ran = alice.call(
            APP,
            Run {
                queue: queue.queue,
                iterations: 1000,
                depth,
                samples,
                stride: 4096,
                window: len,
                flags: RUN_STOP_ON_FAILURE,
            },
        );
        assert_eq!(
            (ran.completed, ran.failures, ran.samples, ran.abandoned),
            (1000, 0, samples, 0)
        );
        let check = ComparePattern {
            va: theirs,
            len,
            seed: 11,
        };
        assert_eq!(bob.call(APP, check).mismatch, NO_MISMATCH);
        bob.call(
            APP,
            FillPattern {
                va: theirs,
                len,
                seed: 12,
            },
        );
    }
    let get = memmove((5, 0), (0, ours), len as u32);
    assert_eq!(
        statuses(&alice.transfer(APP, queue.queue, &[get])),
        [SUCCESS]
    );
    let check = ComparePattern {
        va: ours,
        len,
        seed: 12,
    };
    assert_eq!(alice.call(APP, check).mismatch, NO_MISMATCH);

    // By interrupt, asleep.
    let mut waking = get;
    waking.flags_opcode |= Flags::REQUEST_INTERRUPT.0;
    alice.mailbox.channel(APP).bulk_write(0, &waking.to_bytes());
    let submitted = alice.call(
        APP,
        Submit {
            queue: queue.queue,
            count: 1,
        },
    );
    let woken = alice.call(APP, WaitSleeping { queue: queue.queue });
    assert_eq!(
        (woken.number, woken.word0 as u8),
        (submitted.first, SUCCESS)
    );

    // A run that is going on ends with the right, not with the guest.
    alice
        .mailbox
        .channel(APP)
        .bulk_write(RUN_TEMPLATE, &put.to_bytes());
    let mut channel = alice.mailbox.channel(APP);
    let run = channel.begin(Run {
        queue: queue.queue,
        iterations: u64::MAX,
        depth: 8,
        samples: 0,
        stride: 0,
        window: 0,
        flags: RUN_STOP_ON_FAILURE,
    });
    goes_on(&engine, &alice);
    bob.call(
        APP,
        Revoke {
            capability: shared,
            descendants_only: 0,
        },
    );
    let ran = alice.wait(|| channel.finish(&run)).unwrap();
    assert!(ran.failures >= 1 && ran.completed > 0);
    assert_eq!(
        ran.first_failure as u8,
        byway_protocols::Status::Revoked as u8
    );
    let event = alice.wait(|| {
        let event = alice.call(APP, NextEvent {});
        (event.kind != 0 && event.kind != 4).then_some(event)
    });
    assert_eq!((event.kind, event.id), (2, target));
    assert_eq!(
        alice
            .call(APP, QueryCapability { capability: target })
            .state,
        2
    );
    alice.call(APP, DropCapability { capability: target });

    // A run that nothing ends but the host's word.
    let own = memmove((0, ours), (0, ours + 8192), 64);
    alice
        .mailbox
        .channel(APP)
        .bulk_write(RUN_TEMPLATE, &own.to_bytes());
    let endless = Run {
        queue: queue.queue,
        iterations: u64::MAX,
        depth: 1,
        samples: 0,
        stride: 0,
        window: 0,
        flags: 0,
    };
    let run = channel.begin(endless);
    goes_on(&engine, &alice);
    channel.stop(true);
    let ran = alice.wait(|| channel.finish(&run)).unwrap();
    channel.stop(false);
    assert!(ran.completed > 0 && ran.failures == 0 && ran.abandoned == 0);
}

#[test]
fn a_reset_ends_everything_and_all_begins_anew() {
    let Some(engine) = guest::engine() else {
        return;
    };
    let vm = Guest::boot(&engine, "alice");
    for round in 0..5 {
        let (context, queue) = vm.open(APP, 0);
        let (_, theirs) = vm.open(PEER, 0);
        let nop = Descriptor::new(Opcode::Nop, Flags::NONE);
        assert_eq!(
            statuses(&vm.transfer(APP, queue.queue, &[nop; 3])),
            [SUCCESS; 3],
            "{round}"
        );
        vm.call(APP, DeviceReset {});
        assert_eq!(
            vm.call(
                PEER,
                QueueState {
                    queue: theirs.queue
                }
            )
            .alive,
            0
        );
        // Nobody looks at a dead ring; the library says so in the engine's place, and then takes no
        // more.
        let aborted = vm.transfer(APP, queue.queue, &[nop]);
        assert_eq!(statuses(&aborted), [byway_protocols::Status::Aborted as u8]);
        let submit = Submit {
            queue: queue.queue,
            count: 1,
        };
        let dead = vm.try_call(APP, submit);
        assert_eq!(dead.unwrap_err().status, Status::QueueDead);
        // Their pages come back.
        vm.call(APP, DestroyQueue { queue: queue.queue });
        vm.call(
            PEER,
            DestroyQueue {
                queue: theirs.queue,
            },
        );
        let no_such = refusal(ControlStatus::NoSuchObject);
        assert_eq!(vm.try_call(APP, CloseContext { context }), Err(no_such));
    }
}

#[test]
fn the_engine_refuses_what_the_kernel_passes_on_unchecked() {
    let Some(engine) = guest::engine() else {
        return;
    };
    let vm = Guest::boot(&engine, "alice");
    let bind = |root, pasid, levels| {
        vm.try_call(
            APP,
            BindRoot {
                root,
                pasid,
                levels,
                maxphyaddr: 46,
                flags: 1,
                invalidation_page: 0,
            },
        )
    };
    assert_eq!(
        bind(1 << 40, 9, 4),
        Err(refusal(ControlStatus::RootOutsideRam))
    );
    assert_eq!(
        bind(0x40_0000, 9, 3),
        Err(refusal(ControlStatus::BadArgument))
    );
    bind(0x40_0000, 9, 4).unwrap();
    assert_eq!(bind(0x40_0000, 9, 4), Err(refusal(ControlStatus::InUse)));
    vm.call(APP, Unbind { pasid: 9 });

    let (context, _) = vm.open(APP, 0);
    let rings = CreateQueueAt {
        context,
        entries: 64,
        ring: 1 << 40,
        completions: 0x40_0000,
        header: 0x41_0000,
        flags: 0,
    };
    assert_eq!(
        vm.try_call(APP, rings),
        Err(refusal(ControlStatus::RingOutsideRam))
    );
    let derive = Derive {
        parent: capability(context, 40),
        target: capability(context, 0),
        base: 0,
        length: 1,
        rights: READ,
        badge: 0,
        lifetime_ns: 0,
        byte_quota: 0,
    };
    assert!(matches!(
        vm.try_call(APP, derive),
        Err(Failure {
            status: Status::Refused,
            ..
        })
    ));
    let odd = CreateQueue {
        context,
        entries: 3,
        flags: 0,
    };
    assert_eq!(vm.try_call(APP, odd), Err(Failure::argument(1, 3)));
}
