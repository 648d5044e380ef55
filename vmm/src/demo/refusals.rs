//! The refusals that the demo provokes on purpose: each must come with its own status, move nothing, and
//! leave the other side unharmed.

use anyhow::{Context as _, Result, bail, ensure};
use byway_agent::Process;
use byway_agent::commands::{PteGet, PteSet};
use byway_protocols::{
    Completion, ControlStatus, Descriptor, Flags, Opcode, Rights, Status, Word0,
};

use super::report::{RefusalRow, status_name};
use super::rings;
use crate::steer::{Control, PAGE_4K, Stage};

/// Bytes of the scratch buffer whose page tables are spoilt.
const SCRATCH_BYTES: u64 = 16 * 4096;
/// Bits of a page-table entry.
const PTE_WRITABLE: u64 = 1 << 1;
/// A physical address bit that no guest here has: reserved in every entry.
const PTE_RESERVED: u64 = 1 << 51;

/// A refusal by descriptor.
struct Case {
    what: &'static str,
    descriptor: Descriptor,
    expected: Status,
    write: bool,
}

/// Provokes all of them.
///
/// # Errors
/// When one does not come, comes with another status, moves a byte, or harms a transfer after it.
pub fn provoke(stage: &Stage) -> Result<Vec<RefusalRow>> {
    let mut rows = Vec::new();
    let before = stage
        .bob
        .checksum(Process::App, stage.bob_buffer, stage.buffer_bytes)?;
    stage.bob.sleep()?;

    let scratch = stage.alice.alloc(Process::App, SCRATCH_BYTES, PAGE_4K)?;
    let read_only = stage.alice.derive(
        Process::App,
        stage.slot,
        0,
        stage.buffer_bytes,
        Rights::READ,
    )?;
    for case in descriptor_cases(stage, scratch, read_only) {
        rows.push(refused(stage, &case).with_context(|| case.what)?);
    }
    rows.extend(page_table_cases(stage, scratch)?);
    rows.push(batch_in_batch(stage, scratch)?);
    rows.extend(control_cases(stage)?);

    let after = stage
        .bob
        .checksum(Process::App, stage.bob_buffer, stage.buffer_bytes)?;
    stage.bob.sleep()?;
    ensure!(before == after, "a refused transfer changed bob's memory");
    // Those in flight while the ring changes are good ones, which do change it.
    rows.extend(rings::provoke(stage)?);
    // And the same queue still serves.
    let good = put(stage, stage.slot, 0, scratch, 4096);
    expect(stage, &good, Status::Success, false).context("a good transfer after all refusals")?;
    Ok(rows)
}

fn put(stage: &Stage, slot: u16, offset: u64, from: u64, size: u32) -> Descriptor {
    debug_assert!(stage.slot != 0);
    Descriptor {
        word0: Word0::new(0, slot, false).0,
        src: from,
        dst: offset,
        size,
        ..Descriptor::new(Opcode::Memmove, Flags::NONE)
    }
}

fn descriptor_cases(stage: &Stage, scratch: u64, read_only: u16) -> Vec<Case> {
    let good = put(stage, stage.slot, 0, scratch, 4096);
    let case = |what, descriptor, expected| Case {
        what,
        descriptor,
        expected,
        write: false,
    };
    vec![
        case(
            "no capability in the slot",
            put(stage, 60, 0, scratch, 64),
            Status::NoCapability,
        ),
        case(
            "slot out of range",
            put(stage, Word0::SLOT_MAX, 0, scratch, 64),
            Status::NoCapability,
        ),
        case(
            "one byte past the end",
            put(stage, stage.slot, stage.buffer_bytes - 63, scratch, 64),
            Status::Bounds,
        ),
        case(
            "an offset that wraps",
            put(stage, stage.slot, u64::MAX - 31, scratch, 64),
            Status::Bounds,
        ),
        case(
            "a length above the limit",
            put(stage, stage.slot, 0, scratch, (1 << 31) + 1),
            Status::BadSize,
        ),
        case(
            "a length of 0",
            put(stage, stage.slot, 0, scratch, 0),
            Status::BadSize,
        ),
        case(
            "a write through a read-only capability",
            put(stage, read_only, 0, scratch, 64),
            Status::MissingRight,
        ),
        case(
            "a kernel address from a user queue",
            put(stage, stage.slot, 0, stage.alice.kernel_address(), 64),
            Status::Stage1Permission,
        ),
        case(
            "a non-canonical address",
            put(stage, stage.slot, 0, 0x8000_0000_0000_0000, 64),
            Status::NonCanonical,
        ),
        case(
            "a reserved bit in the descriptor",
            Descriptor {
                word0: good.word0 | Word0::RESERVED,
                ..good
            },
            Status::ReservedNotZero,
        ),
        case(
            "a field that the operation does not use",
            Descriptor { op2: 1, ..good },
            Status::ReservedNotZero,
        ),
        case(
            "a flag that the operation does not take",
            Descriptor {
                flags_opcode: good.flags_opcode | 1 << 23,
                ..good
            },
            Status::BadFlags,
        ),
        case(
            "an unknown opcode",
            Descriptor {
                flags_opcode: 0xff << 24,
                ..good
            },
            Status::BadOpcode,
        ),
        case(
            "an interrupt handle",
            Descriptor {
                int_handle: 1,
                ..good
            },
            Status::BadInterruptHandle,
        ),
    ]
}

/// Executes one descriptor and wants `status`.
fn expect(
    stage: &Stage,
    descriptor: &Descriptor,
    status: Status,
    write: bool,
) -> Result<Completion> {
    let completion = stage.alice.execute_one(Process::App, descriptor)?;
    let wanted = status as u8 | if write { Status::WRITE_FAULT } else { 0 };
    ensure!(
        completion.status == wanted,
        "expected {}, found {}",
        status_name(wanted),
        status_name(completion.status)
    );
    Ok(completion)
}

fn refused(stage: &Stage, case: &Case) -> Result<RefusalRow> {
    let completion = expect(stage, &case.descriptor, case.expected, case.write)?;
    ensure!(
        completion.bytes_completed == 0,
        "{} bytes were moved",
        completion.bytes_completed
    );
    Ok(RefusalRow {
        what: case.what.to_owned(),
        status: status_name(completion.status),
    })
}

/// Spoils the entry of one page at a time, in alice's own page tables, and mends it.
fn page_table_cases(stage: &Stage, scratch: u64) -> Result<Vec<RefusalRow>> {
    type Spoil = (&'static str, u64, fn(u64) -> u64, Status, bool);
    let spoil: [Spoil; 3] = [
        (
            "a page that is not present",
            4096,
            |_| 0,
            Status::Stage1NotPresent,
            false,
        ),
        (
            "a write to a read-only page",
            2 * 4096,
            |pte| pte & !PTE_WRITABLE,
            Status::Stage1Permission,
            true,
        ),
        (
            "a reserved bit in a page-table entry",
            3 * 4096,
            |pte| pte | PTE_RESERVED,
            Status::ReservedBit,
            false,
        ),
    ];
    let mut rows = Vec::new();
    for (what, offset, change, expected, write) in spoil {
        let va = scratch + offset;
        let good = stage.alice.call(Process::App, PteGet { va })?.level1;
        stage.alice.call(
            Process::App,
            PteSet {
                va,
                level: 1,
                value: change(good),
            },
        )?;
        stage.alice.invalidate(Process::App, va, 1)?;
        let descriptor = if write {
            Descriptor {
                word0: Word0::new(stage.slot, 0, false).0,
                src: 0,
                dst: va,
                size: 64,
                ..Descriptor::new(Opcode::Memmove, Flags::NONE)
            }
        } else {
            put(stage, stage.slot, 0, va, 64)
        };
        let row = refused(
            stage,
            &Case {
                what,
                descriptor,
                expected,
                write,
            },
        )
        .context(what);
        stage.alice.call(
            Process::App,
            PteSet {
                va,
                level: 1,
                value: good,
            },
        )?;
        stage.alice.invalidate(Process::App, va, 1)?;
        rows.push(row?);
    }
    Ok(rows)
}

/// A batch whose only element is a batch: the element is refused, the batch says so.
fn batch_in_batch(stage: &Stage, scratch: u64) -> Result<RefusalRow> {
    let (list, statuses) = (scratch + 4 * 4096, scratch + 5 * 4096);
    let batch = Descriptor {
        status_array: statuses,
        src: list,
        size: 1,
        ..Descriptor::new(Opcode::Batch, Flags::NONE)
    };
    stage.alice.write(Process::App, list, &batch.to_bytes())?;
    expect(stage, &batch, Status::BatchFailed, false).context("a batch within a batch")?;
    let mut bytes = [0; 32];
    stage.alice.read(Process::App, statuses, &mut bytes)?;
    let element = Completion::from_bytes(&bytes);
    ensure!(
        element.status() == Some(Status::BadOpcode),
        "the inner batch ended in {}",
        status_name(element.status)
    );
    Ok(RefusalRow {
        what: "a batch within a batch".to_owned(),
        status: status_name(element.status),
    })
}

/// What the control queue refuses.
fn control_cases(stage: &Stage) -> Result<Vec<RefusalRow>> {
    let mut rows = Vec::new();
    let mut control = |what: &str, outcome: Control, expected: ControlStatus| -> Result<()> {
        match outcome {
            Control::Refused(status) if status == expected => {
                rows.push(RefusalRow {
                    what: what.to_owned(),
                    status: format!("{:#04x} {}", status as u32, status.name()),
                });
                Ok(())
            }
            other => bail!("{what}: expected {}, found {other:?}", expected.name()),
        }
    };
    control(
        "a page-table root outside RAM",
        stage.alice.try_bind_root(0xf_ffff_f000)?,
        ControlStatus::RootOutsideRam,
    )?;
    control(
        "an offer to a domain without a link",
        stage
            .alice
            .try_offer(Process::App, stage.slot, "carol", Rights::READ, 1)?,
        ControlStatus::NoLink,
    )?;
    Ok(rows)
}
