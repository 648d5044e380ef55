//! Invalidation from atomic context: the test is the guest kernel, which never sleeps.

use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

use byway_protocols::control::{RequestKind, UnbindRequest, features};
use byway_protocols::{Completion, ControlStatus, Descriptor, Flags, Opcode, Status};

use super::world::{BUFFER, LONG, LONG_BYTES, PAGE_BYTES, Vm, copy, pair};
use crate::device::tests::driver::PATIENCE;
use crate::testing::{Guest, pte};

/// Restarts the VM's driver with an invalidation page; returns where it is.
fn with_page(vm: &mut Vm) -> u64 {
    vm.device.reset();
    vm.driver.start(&mut *vm.device);
    vm.invalidation_page = vm.guest.alloc(4096, 4096);
    vm.open();
    vm.invalidation_page
}

/// SPEC section 10, the guest kernel's part. Returns how many workers it waited for.
fn invalidate(guest: &Guest, page: u64, addr: u64, pages: u64) -> u32 {
    let generation = guest.read_u64(page);
    let at = page + 1024 + 16 * (generation % 128);
    guest.write_u64(at, addr);
    guest.write_u64(at + 8, pages);
    guest.write_u64(page, generation + 1);
    fence(Ordering::SeqCst);
    let deadline = Instant::now() + PATIENCE;
    let mut waited = 0;
    for busy in (page + 64..page + 64 + 64 * 8).step_by(8) {
        let noted = guest.read_u64(busy);
        waited += u32::from(noted != 0);
        while noted != 0 && guest.read_u64(busy) == noted {
            assert!(Instant::now() < deadline, "the engine stands still");
            std::hint::spin_loop();
        }
    }
    waited
}

/// Fills that are queued: they outlast whatever the host does with the test's own thread meanwhile.
const FILLS: u32 = 250;

/// Writes over and over to the one page behind the long range.
fn long_fill() -> Descriptor {
    Descriptor {
        src: 0x1111_1111_1111_1111,
        dst: LONG,
        size: LONG_BYTES as u32,
        ..Descriptor::new(Opcode::Fill, Flags::NONE)
    }
}

#[test]
fn nothing_is_written_once_the_kernel_has_waited() {
    let (_engine, mut alice, _bob) = pair();
    let page = with_page(&mut alice);
    let mut fills = alice.another_queue(alice.context, FILLS.next_power_of_two());
    for _ in 0..FILLS {
        alice.submit_on(&mut fills, &long_fill());
    }
    // The engine has met every page by then, so that the next ones may not ask for the entries.
    assert_eq!(fills.wait().status(), Some(Status::Success));
    let mut entries = Vec::new();
    for at in (LONG..LONG + LONG_BYTES).step_by(PAGE_BYTES as usize) {
        let entry = alice.process.entry_of(at).unwrap();
        entries.push((entry, alice.guest.read_u64(entry)));
        alice.guest.write_u64(entry, 0);
    }
    invalidate(&alice.guest, page, 0, 0);
    alice.assert_untouched();
    let ends: Vec<_> = (1..FILLS).map(|_| fills.wait()).collect();
    let is_whole = |c: &Completion| c.status() == Some(Status::Success);
    let cut = ends.iter().position(|c| !is_whole(c));
    let (cut, behind) = ends[cut.expect("some were under way")..]
        .split_first()
        .unwrap();
    assert_eq!(cut.status(), Some(Status::Stage1NotPresent));
    for c in behind {
        let ended = (c.status(), c.bytes_completed);
        assert_eq!(ended, (Some(Status::Stage1NotPresent), 0));
    }
    // The engine is idle: nobody to wait for, and the range is met all the same.
    assert_eq!(invalidate(&alice.guest, page, LONG, 1), 0);
    for (entry, value) in entries {
        alice.guest.write_u64(entry, value);
    }
    assert_eq!(
        alice.run_for(&copy((0, LONG), (0, BUFFER), 64)),
        Status::Success
    );
}

/// A page moves from frame to frame under a flood of small writes, as in compaction: what
/// the kernel has taken back is never written again.
#[test]
fn a_page_that_moves_is_written_where_it_is() {
    const MOVES: u64 = 2000;
    let (_engine, mut alice, _bob) = pair();
    let page = with_page(&mut alice);
    let entry = alice.process.entry_of(BUFFER).unwrap();
    let guest = alice.guest.clone();
    let frames = [alice.buffer, guest.alloc(4096, 4096)];
    let put = copy((0, BUFFER + 4096), (0, BUFFER), 4096);
    alice.fill(4096, 4096, 0x22);
    let mut outstanding = 0;
    for n in 0..MOVES {
        while outstanding < 8 {
            alice.submit(&put);
            outstanding += 1;
        }
        let (old, new) = (frames[(n % 2) as usize], frames[(n + 1) as usize % 2]);
        guest.write_u64(entry, new | pte::USER);
        invalidate(&guest, page, BUFFER, 1);
        // From here on the old frame is somebody else's.
        guest.write(old, &[0x5a; 4096]);
        while alice.queue.poll().is_some_and(|c| {
            assert_eq!(c.status(), Some(Status::Success));
            true
        }) {
            outstanding -= 1;
        }
        assert!(guest.read(old, 4096).iter().all(|&b| b == 0x5a), "move {n}");
    }
}

#[test]
fn a_page_needs_its_feature_and_writable_ram() {
    let (_engine, mut alice, _bob) = pair();
    assert_ne!(
        alice.driver.query().features & features::INVALIDATION_PAGE,
        0
    );
    alice.invalidation_page = 1 << 45;
    let context = alice.context;
    alice.destroy_context(context).unwrap();
    let unbind = UnbindRequest {
        pasid: super::world::PASID,
        reserved4: 0,
    };
    alice
        .ask::<0>(RequestKind::Unbind, &unbind.to_bytes())
        .unwrap();
    assert_eq!(alice.bind(), Err(ControlStatus::RootOutsideRam));
}
