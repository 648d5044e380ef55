//! `regions`: the host takes guest memory away under transfers, gives it back, or lets it be read only. When the
//! engine has answered, it does not touch what it lost.
//!
//! The region is one that the engine knows and KVM does not, so that the VM itself has no part in it; bob's
//! process maps it and gives it to alice, and the host looks at its file. Then pages of bob's own RAM go, as a
//! balloon takes them: the host finds them empty for as long as they are gone.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use byway_agent::commands::{ALLOC_EMPTY, Alloc, MapPages, Ran};
use byway_engine::interface::MemoryRegion;
use byway_protocols::Status;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

use super::cast::{ALL, APP, Cast, fill, give, memmove, status_of};
use super::plan::{Dice, Plan};
use super::report::CaseRow;
use crate::demo::report::status_name;
use crate::memory::sealed_memfd;
use crate::steer::{Guest, PAGE_2M, PAGE_4K};

/// Where the region is, far above the VM's RAM.
const REGION: u64 = 4 << 30;
const REGION_BYTES: u64 = 4 << 20;
/// Bytes of alice's buffer.
const BUFFER: u64 = 2 << 20;
/// Longest copy.
const COPY_MAX: u64 = 512 << 10;
/// Copies in flight.
const DEPTH: u64 = 8;
/// Entries of the queues.
const ENTRIES: u64 = 128;
/// Changes of the region under one run of copies.
const CHANGES: u32 = 40;
/// How long an idle queue is polled.
const POLLED: Duration = Duration::from_millis(2);
/// Present, writable, user.
const LEAF: u64 = 7;

/// Runs the case.
///
/// # Errors
/// When the VMs cannot be made ready.
pub fn run(plan: &Plan<'_>) -> Result<CaseRow> {
    let cast = Cast::new(&["alice", "bob"], POLLED, plan.stop)?;
    let alice = cast.boot("alice", BUFFER, ENTRIES)?;
    let bob = cast.boot("bob", PAGE_2M, ENTRIES)?;
    let mut stage = Stage::set(alice, bob, plan)?;
    let mut row = CaseRow {
        changes: Some(0),
        refused: Some(0),
        ..CaseRow::new("regions")
    };
    let clock = plan.start();
    while !clock.is_over() {
        if let Err(error) = stage.round(&mut row) {
            row.error(&error);
            break;
        }
    }
    row.seconds = clock.seconds();
    Ok(row)
}

/// What the engine has of the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Gone,
    ReadOnly,
    Writable,
}

struct Stage {
    alice: Guest,
    bob: Guest,
    buffer: u64,
    slot: u16,
    /// Guest-physical address of a page of 2 MiB in bob's RAM, and alice's slot for it.
    balloon: (u64, u16),
    file: Arc<File>,
    /// The host's own view of the file.
    memory: GuestMemoryMmap,
    state: State,
    dice: Dice,
}

impl Stage {
    fn set(alice: Guest, bob: Guest, plan: &Plan<'_>) -> Result<Self> {
        let mut dice = Dice::new(plan.seed);
        let buffer = alice.alloc(APP, BUFFER, PAGE_2M)?;
        let file = Arc::new(sealed_memfd(REGION_BYTES, false).context("cannot make a memfd")?);
        let backing = FileOffset::from_arc(Arc::clone(&file), 0);
        let range = (GuestAddress(REGION), REGION_BYTES as usize, Some(backing));
        let memory = GuestMemoryMmap::from_ranges_with_files([range])?;
        let page_size = [PAGE_4K, PAGE_2M][dice.below(2) as usize];
        let va = bob
            .call(
                APP,
                Alloc {
                    bytes: REGION_BYTES,
                    page_size,
                    flags: ALLOC_EMPTY,
                },
            )?
            .va;
        bob.call(
            APP,
            MapPages {
                va,
                gpa: REGION,
                bytes: REGION_BYTES,
                page_size,
                bits: LEAF,
            },
        )?;
        let (_, slot) = give(&bob, &alice, va, REGION_BYTES, ALL)?;
        let page = bob.call(
            APP,
            Alloc {
                bytes: PAGE_2M,
                page_size: PAGE_2M,
                flags: 0,
            },
        )?;
        let (_, page_slot) = give(&bob, &alice, page.va, PAGE_2M, ALL)?;
        Ok(Self {
            balloon: (page.gpa, page_slot),
            alice,
            bob,
            buffer,
            slot,
            file,
            memory,
            state: State::Gone,
            dice,
        })
    }

    /// Changes what the engine has of the region.
    fn change(&mut self, to: State) -> Result<()> {
        let add = |writable| MemoryRegion {
            guest_addr: REGION,
            size: REGION_BYTES,
            file: Arc::clone(&self.file),
            file_offset: 0,
            writable,
            populate: false,
        };
        let vm = self.bob.vm();
        if self.state != State::Gone {
            vm.with_domain(|domain| domain.remove_region(REGION, REGION_BYTES))
                .context("the VM has no device")??;
        }
        if to != State::Gone {
            let region = add(to == State::Writable);
            vm.with_domain(|domain| domain.add_region(region))
                .context("the VM has no device")??;
        }
        self.state = to;
        Ok(())
    }

    /// Puts the same byte everywhere, as the host.
    fn mark(&self, byte: u8) -> Result<()> {
        let marks = vec![byte; REGION_BYTES as usize];
        Ok(self.memory.write_slice(&marks, GuestAddress(REGION))?)
    }

    /// Offset of the first byte that is another one.
    fn first_not(&self, byte: u8) -> Result<Option<usize>> {
        let mut bytes = vec![0; REGION_BYTES as usize];
        self.memory.read_slice(&mut bytes, GuestAddress(REGION))?;
        Ok(bytes.iter().position(|found| *found != byte))
    }

    fn round(&mut self, row: &mut CaseRow) -> Result<()> {
        self.change(State::Writable)?;
        let bytes = (COPY_MAX >> self.dice.below(12)).max(64);
        let at = self.dice.below(REGION_BYTES - bytes + 1);
        fill(&self.alice, self.buffer, BUFFER, self.dice.roll())?;
        self.bob.sleep()?;
        let put = memmove((0, self.buffer), (self.slot, at), bytes);
        let flood = self.alice.start_flood(APP, &put, DEPTH)?;
        for _ in 0..CHANGES {
            self.one_change(row)?;
        }
        let ran = self.alice.stop_flood(flood).context("alice's copies")?;
        self.judge(row, &ran);

        // With the region back all is as before.
        self.change(State::Writable)?;
        let done = self.alice.execute_one(APP, &put)?;
        if done.status() != Some(Status::Success) {
            row.violation(format!(
                "a put to memory that is back ended with {}",
                status_of(&done)
            ));
        }
        let mut sent = vec![0; 64];
        self.alice.read(APP, self.buffer, &mut sent)?;
        let mut arrived = vec![0; 64];
        self.memory
            .read_slice(&mut arrived, GuestAddress(REGION + at))?;
        if sent != arrived {
            row.violation("a put to memory that is back did not arrive there");
        }
        self.balloon(row)
    }

    /// Pages of bob's RAM go and come back.
    fn balloon(&mut self, row: &mut CaseRow) -> Result<()> {
        let (page, slot) = self.balloon;
        let put = memmove((0, self.buffer), (slot, 0), PAGE_2M.min(BUFFER));
        let flood = self.alice.start_flood(APP, &put, DEPTH)?;
        for _ in 0..CHANGES {
            let pages = 1 + self.dice.below(PAGE_2M / PAGE_4K);
            let taken = pages * PAGE_4K;
            let at = page + self.dice.below((PAGE_2M - taken) / PAGE_4K + 1) * PAGE_4K;
            self.bob.vm_mut().inflate_balloon(at, taken)?;
            std::thread::sleep(Duration::from_micros(self.dice.below(500)));
            let mut found = vec![0; taken as usize];
            let memory = self.bob.vm().ram().memory();
            memory.read_slice(&mut found, GuestAddress(at))?;
            if let Some(offset) = found.iter().position(|byte| *byte != 0) {
                row.violation(format!(
                    "the engine wrote at {:#x} of bob's RAM while the balloon had it",
                    at + offset as u64
                ));
            }
            self.bob.vm_mut().deflate_balloon(at, taken)?;
            *row.changes.get_or_insert(0) += 2;
        }
        let ran = self.alice.stop_flood(flood).context("alice's copies")?;
        self.judge(row, &ran);
        let done = self.alice.execute_one(APP, &put)?;
        if done.status() != Some(Status::Success) {
            row.violation(format!(
                "a put to RAM that the balloon gave back ended with {}",
                status_of(&done)
            ));
        }
        Ok(())
    }

    /// Counts copies; those that failed must have met memory that was gone, and their submitter must not be told how
    /// it went.
    fn judge(&self, row: &mut CaseRow, ran: &Ran) {
        let first = ran.first_failure as u8 & !Status::WRITE_FAULT;
        if ran.failures != 0 && first != Status::RemoteFault as u8 {
            row.violation(format!(
                "a copy to a peer's memory that was gone ended with {}",
                status_name(ran.first_failure as u8)
            ));
        }
        row.transfers += ran.completed - ran.failures;
        *row.refused.get_or_insert(0) += ran.failures;
    }

    /// One change, and a look at what the engine does to memory that it may not write.
    fn one_change(&mut self, row: &mut CaseRow) -> Result<()> {
        let to = [State::Gone, State::ReadOnly, State::Writable][self.dice.below(3) as usize];
        self.change(to)?;
        *row.changes.get_or_insert(0) += 1;
        let nap = Duration::from_micros(self.dice.below(500));
        if to == State::Writable {
            std::thread::sleep(nap);
            return Ok(());
        }
        let byte = self.dice.roll() as u8;
        self.mark(byte)?;
        std::thread::sleep(nap);
        if let Some(offset) = self.first_not(byte)? {
            row.violation(format!(
                "the engine wrote at {offset:#x} of a region that was {to:?}"
            ));
        }
        Ok(())
    }
}
