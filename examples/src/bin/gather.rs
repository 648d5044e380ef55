//! Gather records that lie scattered in another VM's memory: one descriptor, a BATCH of 64 copies by virtual address,
//! one completion to poll for, and a status for every record.
//!
//!     cargo run --release -p byway-examples --bin gather
//!
//! The guests here are the built-in image, steered from this program; an application in a guest of its own makes the
//! same descriptors with `byway-ring` (see `guest-driver/ring/README.md`).

use std::process::ExitCode;

use anyhow::{Result, ensure};
use byway_agent::Process;
use byway_agent::commands::{ComparePattern, FillPattern, NO_MISMATCH};
use byway_examples::on_two_vms;
use byway_protocols::{Completion, Descriptor, Flags, Opcode, Status, Word0};
use byway_vmm::steer::{PAGE_4K, Stage};

const RECORDS: u64 = 64;
const RECORD_BYTES: u64 = 4096;

fn main() -> ExitCode {
    on_two_vms(gather)
}

fn gather(stage: &mut Stage) -> Result<()> {
    // Bob's table: record i at a place of its own, with a pattern of its own.
    let place = |i: u64| (i * 37 % 1024) * RECORD_BYTES;
    for i in 0..RECORDS {
        let va = stage.bob_buffer + place(i);
        stage.bob.call(
            Process::App,
            FillPattern {
                va,
                len: RECORD_BYTES,
                seed: i,
            },
        )?;
    }
    stage.bob.sleep()?;

    // Alice's side: the list of descriptors, room for their statuses, room for the records.
    let list = stage
        .alice
        .alloc(Process::App, RECORDS * Descriptor::SIZE as u64, PAGE_4K)?;
    let statuses = stage
        .alice
        .alloc(Process::App, RECORDS * Completion::SIZE as u64, PAGE_4K)?;
    let elements: Vec<u8> = (0..RECORDS)
        .flat_map(|i| {
            Descriptor {
                word0: Word0::new(stage.slot, 0, false).0,
                src: place(i),
                dst: stage.alice_buffer + i * RECORD_BYTES,
                size: RECORD_BYTES as u32,
                ..Descriptor::new(Opcode::Memmove, Flags::NONE)
            }
            .to_bytes()
        })
        .collect();
    stage.alice.write(Process::App, list, &elements)?;

    let batch = Descriptor {
        status_array: statuses,
        src: list,
        size: RECORDS as u32,
        ..Descriptor::new(Opcode::Batch, Flags::NONE)
    };
    let completion = stage.alice.execute_one(Process::App, &batch)?;
    ensure!(
        completion.status() == Some(Status::Success),
        "the batch ended in {:#04x}",
        completion.status
    );
    println!(
        "{} of {RECORDS} records copied by one descriptor",
        completion.bytes_completed
    );

    for i in 0..RECORDS {
        let mut record = [0; Completion::SIZE];
        stage.alice.read(
            Process::App,
            statuses + i * Completion::SIZE as u64,
            &mut record,
        )?;
        let status = Completion::from_bytes(&record).status();
        ensure!(
            status == Some(Status::Success),
            "record {i} ended in {status:?}"
        );
        let va = stage.alice_buffer + i * RECORD_BYTES;
        let found = stage.alice.call(
            Process::App,
            ComparePattern {
                va,
                len: RECORD_BYTES,
                seed: i,
            },
        )?;
        ensure!(
            found.mismatch == NO_MISMATCH,
            "record {i} differs at byte {}",
            found.mismatch
        );
    }
    println!("every record is the one asked for");
    Ok(())
}
