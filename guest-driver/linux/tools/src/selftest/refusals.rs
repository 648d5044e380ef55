//! Descriptors that have to be refused, and with what status (SPEC section 6).

use std::time::Duration;

use byway_linux::{Rights, Status, Terms};
use byway_protocols::{Completion, Descriptor, Flags, Opcode};

use super::Check;
use super::lab::{
    Lab, PAGE, Pages, Problem, copy, ensure, expect_bytes, expect_pattern, expect_refusal, get,
    put, slot, with,
};

pub const CHECKS: &[Check] = &[
    Check {
        name: "no-capability-in-the-slot",
        run: no_capability,
    },
    Check {
        name: "slot-out-of-range",
        run: slot_out_of_range,
    },
    Check {
        name: "one-byte-past-the-end",
        run: past_the_end,
    },
    Check {
        name: "read-only-capability-written",
        run: read_only_capability,
    },
    Check {
        name: "write-only-capability-read",
        run: write_only_capability,
    },
    Check {
        name: "offset-that-wraps",
        run: wrapping,
    },
    Check {
        name: "size-out-of-range",
        run: sizes,
    },
    Check {
        name: "kernel-address",
        run: kernel_address,
    },
    Check {
        name: "non-canonical-address",
        run: non_canonical,
    },
    Check {
        name: "page-not-present",
        run: not_present,
    },
    Check {
        name: "read-only-page-written",
        run: read_only_page,
    },
    Check {
        name: "shared-zero-page-written",
        run: zero_page,
    },
    Check {
        name: "reserved-bits-and-fields",
        run: reserved,
    },
    Check {
        name: "unknown-opcode",
        run: unknown_opcode,
    },
    Check {
        name: "batch-within-a-batch",
        run: nested_batch,
    },
    Check {
        name: "revoked-capability",
        run: revoked,
    },
    Check {
        name: "derived-from-a-revoked-capability",
        run: derived_from_revoked,
    },
    Check {
        name: "expired-capability",
        run: expired,
    },
    Check {
        name: "byte-quota-used-up",
        run: byte_quota,
    },
    Check {
        name: "widening-refused",
        run: widening,
    },
    Check {
        name: "derivation-too-deep",
        run: too_deep,
    },
    Check {
        name: "slots-used-up",
        run: slots_used_up,
    },
];

const RW: Rights = Rights(3);
const RWG: Rights = Rights(7);

/// Kernel text on every x86-64 Linux: its upper page-table entries are there, and not for user mode.
const KERNEL_TEXT: u64 = 0xffff_ffff_8100_0000;
/// Non-canonical with four levels of page tables and with five.
const NON_CANONICAL: u64 = 0x0200_0000_0000_0000;

fn no_capability(lab: &mut Lab) -> Result<(), Problem> {
    let own = lab.buffer(PAGE, 1)?;
    lab.expect(get(own.region().address(), 5, 0, 8), Status::NoCapability)?;
    expect_pattern(own.region(), 1, 0)
}

fn slot_out_of_range(lab: &mut Lab) -> Result<(), Problem> {
    let own = lab.buffer(PAGE, 1)?;
    lab.expect(
        get(own.region().address(), 32_767, 0, 8),
        Status::NoCapability,
    )?;
    expect_pattern(own.region(), 1, 0)
}

fn past_the_end(lab: &mut Lab) -> Result<(), Problem> {
    let share = lab.context.share(lab.buffer(2 * PAGE, 2)?, 0..PAGE, RW)?;
    let own = lab.buffer(PAGE, 1)?;
    let (at, slot) = (own.region().address(), slot(&share));
    lab.expect(get(at, slot, PAGE as u64 - 8, 8), Status::Success)?;
    own.region().fill(0);
    lab.expect(get(at, slot, PAGE as u64 - 7, 8), Status::Bounds)?;
    lab.expect(get(at, slot, PAGE as u64, 1), Status::Bounds)?;
    lab.expect(put(slot, PAGE as u64 - 7, at, 8), Status::Bounds)?;
    expect_bytes(own.region(), 0)?;
    expect_pattern(share.region(), 2, 0)
}

fn read_only_capability(lab: &mut Lab) -> Result<(), Problem> {
    let share = lab.share(PAGE, 2, Rights::READ)?;
    let own = lab.buffer(PAGE, 1)?;
    lab.expect(
        put(slot(&share), 0, own.region().address(), 8),
        Status::MissingRight,
    )?;
    expect_pattern(share.region(), 2, 0)
}

fn write_only_capability(lab: &mut Lab) -> Result<(), Problem> {
    let share = lab.share(PAGE, 2, Rights::WRITE)?;
    let own = lab.buffer(PAGE, 1)?;
    lab.expect(
        get(own.region().address(), slot(&share), 0, 8),
        Status::MissingRight,
    )?;
    expect_pattern(own.region(), 1, 0)
}

fn wrapping(lab: &mut Lab) -> Result<(), Problem> {
    let share = lab.share(PAGE, 2, RW)?;
    let own = lab.buffer(PAGE, 1)?;
    let at = own.region().address();
    lab.expect(get(at, slot(&share), u64::MAX - 3, 8), Status::Bounds)?;
    let wraps = lab.execute(copy(at, u64::MAX - 3, 8))?;
    ensure(
        !wraps.is_success(),
        "a copy from an address that wraps was carried out",
    )?;
    expect_pattern(own.region(), 1, 0)
}

fn sizes(lab: &mut Lab) -> Result<(), Problem> {
    let own = lab.buffer(PAGE, 1)?;
    let at = own.region().address();
    lab.expect(copy(at, at, 0), Status::BadSize)?;
    lab.expect(copy(at, at, (2 << 30) + 1), Status::BadSize)?;
    Ok(())
}

fn kernel_address(lab: &mut Lab) -> Result<(), Problem> {
    let own = lab.buffer(PAGE, 1)?;
    let at = own.region().address();
    lab.expect(copy(at, KERNEL_TEXT, 8), Status::Stage1Permission)?;
    lab.expect(copy(KERNEL_TEXT, at, 8), Status::Stage1Permission)?;
    expect_pattern(own.region(), 1, 0)
}

fn non_canonical(lab: &mut Lab) -> Result<(), Problem> {
    let own = lab.buffer(PAGE, 1)?;
    let at = own.region().address();
    lab.expect(copy(at, NON_CANONICAL, 8), Status::NonCanonical)?;
    lab.expect(copy(NON_CANONICAL, at, 8), Status::NonCanonical)?;
    Ok(())
}

fn faulted(completion: &Completion, address: u64, write: bool) -> Result<(), Problem> {
    let wrote = completion.status & Status::WRITE_FAULT != 0;
    ensure(
        completion.fault_addr == address,
        &format!(
            "the fault is told at {:#x}; expected {address:#x}",
            completion.fault_addr
        ),
    )?;
    ensure(wrote == write, "the fault tells the wrong access")
}

fn not_present(lab: &mut Lab) -> Result<(), Problem> {
    let pages = Pages::writable(2)?;
    let own = lab.buffer(2 * PAGE, 1)?;
    let at = own.region().address();
    let completion = lab.expect(copy(at, pages.address(), 8), Status::Stage1NotPresent)?;
    faulted(&completion, pages.address(), false)?;
    // The first page is there, the second is not: what could be moved was.
    pages.region().write(0, &[7; PAGE])?;
    let completion = lab.expect(
        copy(at, pages.address(), 2 * PAGE as u32),
        Status::Stage1NotPresent,
    )?;
    faulted(&completion, pages.address() + PAGE as u64, false)?;
    ensure(
        completion.bytes_completed == PAGE as u32,
        "the bytes before the missing page are not told as done",
    )?;
    expect_bytes(own.region().slice(0..PAGE)?, 7)
}

fn read_only_page(lab: &mut Lab) -> Result<(), Problem> {
    let pages = Pages::writable(1)?;
    pages.region().fill(3);
    pages.protect(libc::PROT_READ)?;
    let own = lab.buffer(PAGE, 1)?;
    let at = own.region().address();
    let completion = lab.expect(copy(pages.address(), at, 8), Status::Stage1Permission)?;
    faulted(&completion, pages.address(), true)?;
    expect_bytes(pages.region(), 3)
}

fn zero_page(lab: &mut Lab) -> Result<(), Problem> {
    let (target, other) = (Pages::writable(1)?, Pages::writable(1)?);
    // By a read, each gets the one page of zeros that all processes share.
    target.touch()?;
    other.touch()?;
    let own = lab.buffer(PAGE, 1)?;
    let write = copy(target.address(), own.region().address(), PAGE as u32);
    lab.expect(write, Status::Stage1Permission)?;
    expect_bytes(other.region(), 0)?;
    // The library writes to the page first, which makes it the process's own.
    lab.queue.copy(target.region(), own.region())?;
    expect_pattern(target.region(), 1, 0)?;
    expect_bytes(other.region(), 0)?;
    if lab.needs_page_requests().is_ok() {
        // Asked, the kernel does so (SPEC section 8.4).
        let asked = copy(other.address(), own.region().address(), PAGE as u32);
        lab.expect(with(asked, Flags::BLOCK_ON_FAULT), Status::Success)?;
        expect_pattern(other.region(), 1, 0)?;
    }
    let fresh = Pages::writable(1)?;
    expect_bytes(fresh.region(), 0)
}

fn reserved(lab: &mut Lab) -> Result<(), Problem> {
    let own = lab.buffer(PAGE, 1)?;
    let at = own.region().address();
    let good = copy(at, at + 64, 8);
    lab.expect(good, Status::Success)?;
    let word0 = 1 << 30;
    lab.expect(Descriptor { word0, ..good }, Status::ReservedNotZero)?;
    lab.expect(Descriptor { op2: 1, ..good }, Status::ReservedNotZero)?;
    let reserved38 = 1;
    lab.expect(Descriptor { reserved38, ..good }, Status::ReservedNotZero)?;
    let int_handle = 1;
    lab.expect(
        Descriptor { int_handle, ..good },
        Status::BadInterruptHandle,
    )?;
    lab.expect(with(good, Flags::CHECK_RESULT), Status::BadFlags)?;
    Ok(())
}

fn unknown_opcode(lab: &mut Lab) -> Result<(), Problem> {
    let flags_opcode = 0x7f << 24;
    lab.expect(
        Descriptor {
            flags_opcode,
            ..Descriptor::default()
        },
        Status::BadOpcode,
    )?;
    Ok(())
}

fn nested_batch(lab: &mut Lab) -> Result<(), Problem> {
    let memory = lab.buffer(PAGE, 0)?;
    let (list, statuses) = (memory.region().address(), memory.region().address() + 2048);
    let inner = Descriptor {
        src: list,
        status_array: statuses + 64,
        size: 1,
        ..Descriptor::new(Opcode::Batch, Flags::NONE)
    };
    memory.region().write(0, &inner.to_bytes())?;
    memory.region().slice(2048..PAGE)?.fill(0);
    let outer = Descriptor {
        status_array: statuses,
        ..inner
    };
    lab.expect(outer, Status::BatchFailed)?;
    let mut bytes = [0; Completion::SIZE];
    memory.region().read(2048, &mut bytes)?;
    let element = Completion::from_bytes(&bytes);
    ensure(
        element.status() == Some(Status::BadOpcode),
        &format!(
            "the element's status is {:#04x}; expected 0x10",
            element.status
        ),
    )
}

fn revoked(lab: &mut Lab) -> Result<(), Problem> {
    let share = lab.share(PAGE, 2, RW)?;
    let own = lab.buffer(PAGE, 1)?;
    let (at, slot) = (own.region().address(), slot(&share));
    lab.expect(put(slot, 0, at, 8), Status::Success)?;
    share.revoke()?;
    lab.expect(put(slot, 0, at, 8), Status::Revoked)?;
    lab.expect(get(at, slot, 0, 8), Status::Revoked)?;
    ensure(
        share.query()?.state == byway_linux::State::Revoked,
        "a query does not tell that it was revoked",
    )
}

fn derived_from_revoked(lab: &mut Lab) -> Result<(), Problem> {
    let share = lab.share(PAGE, 2, RWG)?;
    let child = share.derive(&Terms::new(0, 100, RWG))?;
    let grandchild = child.derive(&Terms::new(0, 50, RW))?;
    let own = lab.buffer(PAGE, 1)?;
    let at = own.region().address();
    lab.expect(get(at, slot(&grandchild), 0, 8), Status::Success)?;
    share.revoke_descendants()?;
    for ended in [&child, &grandchild] {
        lab.expect(get(at, slot(ended), 0, 8), Status::Revoked)?;
    }
    lab.expect(get(at, slot(&share), 0, 8), Status::Success)?;
    Ok(())
}

fn expired(lab: &mut Lab) -> Result<(), Problem> {
    let buffer = lab.buffer(PAGE, 2)?;
    let terms = Terms {
        lifetime_ns: 50_000_000,
        ..Terms::new(buffer.region().address(), PAGE as u64, RW)
    };
    let share = lab.context.share_on(buffer, &terms)?;
    let own = lab.buffer(PAGE, 1)?;
    std::thread::sleep(Duration::from_millis(200));
    lab.expect(
        get(own.region().address(), slot(&share), 0, 8),
        Status::Revoked,
    )?;
    Ok(())
}

fn byte_quota(lab: &mut Lab) -> Result<(), Problem> {
    let buffer = lab.buffer(PAGE, 2)?;
    let terms = Terms {
        byte_quota: 100,
        ..Terms::new(buffer.region().address(), PAGE as u64, RW)
    };
    let share = lab.context.share_on(buffer, &terms)?;
    let own = lab.buffer(PAGE, 1)?;
    let (at, slot) = (own.region().address(), slot(&share));
    lab.expect(get(at, slot, 0, 100), Status::Success)?;
    lab.expect(get(at, slot, 0, 1), Status::Revoked)?;
    Ok(())
}

fn widening(lab: &mut Lab) -> Result<(), Problem> {
    let share = lab.share(PAGE, 2, Rights::READ | Rights::GRANT)?;
    let (page, read) = (PAGE as u64, Rights::READ);
    expect_refusal(share.derive(&Terms::new(0, page, RW)), libc::EACCES)?;
    expect_refusal(share.derive(&Terms::new(1, page, read)), libc::ERANGE)?;
    let wraps = Terms::new(u64::MAX, 2, read);
    expect_refusal(share.derive(&wraps), libc::ERANGE)?;
    share.revoke()?;
    expect_refusal(share.derive(&Terms::new(0, 1, read)), libc::EKEYREVOKED)
}

fn too_deep(lab: &mut Lab) -> Result<(), Problem> {
    let share = lab.share(PAGE, 2, RWG)?;
    let terms = Terms::new(0, PAGE as u64, RWG);
    let mut chain = vec![share.derive(&terms)?];
    // Depth 1 is the share's, 16 the deepest.
    for _ in 3..=16 {
        let deeper = chain[chain.len() - 1].derive(&terms)?;
        chain.push(deeper);
    }
    expect_refusal(chain[chain.len() - 1].derive(&terms), libc::ELOOP)
}

fn slots_used_up(lab: &mut Lab) -> Result<(), Problem> {
    let share = lab.share(PAGE, 2, RWG)?;
    let terms = Terms::new(0, 1, RW);
    let mut held = Vec::new();
    // More than the context has slots.
    for _ in 0..64 {
        match share.derive(&terms) {
            Ok(capability) => held.push(capability),
            refused => {
                expect_refusal(refused, libc::ENOSPC)?;
                // One that is given back can be had again.
                held.pop();
                share.derive(&terms)?;
                return Ok(());
            }
        }
    }
    super::lab::fail("64 capabilities fit into a context of 32 slots")
}
