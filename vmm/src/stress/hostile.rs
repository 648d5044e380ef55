//! `hostile`: one VM writes random bytes into its rings, page tables and control messages as fast as it can, while
//! two others exchange memory. Their transfers stay right, what was not given to it stays as it was, and none
//! of it is found in its memory.

use std::time::Duration;

use anyhow::{Context as _, Result};
use byway_agent::commands::{
    ALLOC_ZERO, Alloc, DestroyQueue, DeviceReset, HOSTILE_BYTES, HOSTILE_ENTRIES, Hostile,
    QueueCreated,
};
use byway_protocols::{Descriptor, Flags, Opcode, Rights, Status};
use vm_memory::{Bytes, GuestAddress};

use super::cast::{ALL, APP, Cast, accept, fill, give, memmove, mismatch, offer, status_of};
use super::plan::{Clock, Dice, Plan};
use super::report::CaseRow;
use crate::steer::{Guest, PAGE_2M, PAGE_4K};

/// Bytes of alice's buffer, and of the part of bob's that is hers to write.
const BUFFER: u64 = 2 << 20;
/// Bytes of an exchange.
const SHARE: u64 = 256 << 10;
/// Bytes of the parts of bob's buffer that mallory is given.
const GIVEN: u64 = 64 << 10;
/// Where the one that she may write begins; around it, bob's secret.
const WRITABLE: u64 = BUFFER + (1 << 20);
/// Where the one that she may read begins.
const READABLE: u64 = BUFFER + (3 << 20);
/// Bytes of bob's buffer.
const BOB: u64 = BUFFER + (4 << 20);
/// What bob's secret consists of, again and again.
const SECRET: u64 = 0x5ec2_e75e_c2e7_0b0b;
/// How long mallory is left alone, in nanoseconds.
const SLICE_NS: u64 = 150_000_000;
/// Entries of the others' queues.
const ENTRIES: u64 = 128;
/// Short enough that queues park, so that doorbells matter.
const POLLED: Duration = Duration::from_micros(200);

/// Runs the case.
///
/// # Errors
/// When the VMs cannot be made ready.
pub fn run(plan: &Plan<'_>) -> Result<CaseRow> {
    let cast = Cast::new(&["alice", "bob", "mallory"], POLLED, plan.stop)?;
    let victims = Victims::boot(&cast)?;
    let mut dice = Dice::new(plan.seed);
    let mut row = CaseRow {
        changes: Some(0),
        killed: Some(0),
        ..CaseRow::new("hostile")
    };
    let mut mallory = None;
    let clock = plan.start();
    while !clock.is_over() {
        let attacker = match mallory.take() {
            Some(attacker) => attacker,
            None => Attacker::boot(&cast)?,
        };
        match round(&victims, &attacker, clock, &mut dice, &mut row) {
            Ok(true) => mallory = Some(attacker),
            // She has ruined herself, which is her right. Another one takes her place.
            Ok(false) => *row.killed.get_or_insert(0) += 1,
            Err(error) => {
                row.error(&error);
                break;
            }
        }
    }
    row.seconds = clock.seconds();
    if let Some(attacker) = mallory
        && let Some(gpa) = attacker.find(SECRET)?
    {
        row.violation(format!("mallory has bob's secret at {gpa:#x}"));
    }
    Ok(row)
}

/// Arms mallory, lets her go, exchanges meanwhile, and looks at what she was not given. False when she does not
/// answer any more.
fn round(
    victims: &Victims,
    attacker: &Attacker,
    clock: Clock<'_>,
    dice: &mut Dice,
    row: &mut CaseRow,
) -> Result<bool> {
    let Ok(queue) = attacker.arm() else {
        return Ok(false);
    };
    let mut given = Vec::new();
    let outcome = attack(victims, attacker, &queue, clock, dice, &mut given, row);
    for slot in given {
        victims.bob.revoke(APP, slot)?;
        victims.bob.drop_capability(APP, slot)?;
    }
    victims.bob.sleep()?;
    outcome
}

/// The attack itself; what bob gives for it is in `given`, however it ends.
fn attack(
    victims: &Victims,
    attacker: &Attacker,
    queue: &QueueCreated,
    clock: Clock<'_>,
    dice: &mut Dice,
    given: &mut Vec<u16>,
    row: &mut CaseRow,
) -> Result<bool> {
    for (offset, rights) in [(WRITABLE, Rights::WRITE), (READABLE, Rights::READ)] {
        let va = victims.bob_buffer + offset;
        let slot = offer(&victims.bob, attacker.guest.name(), va, GIVEN, rights)?;
        given.push(slot);
        if accept(&attacker.guest).is_err() {
            return Ok(false);
        }
    }
    let request = Hostile {
        ring: queue.ring,
        header: queue.header,
        bytes: queue.bytes,
        scratch: attacker.scratch,
        arena: attacker.arena,
        gpa: attacker.gpa,
        ticks: attacker.guest.ns_to_ticks(SLICE_NS),
        seed: dice.roll(),
    };
    let Ok(attack) = attacker.guest.start(APP, request) else {
        return Ok(false);
    };
    while !attacker.guest.is_answered(&attack) && !clock.is_over() {
        victims.exchange(dice.roll(), row)?;
    }
    // A process that ran into its own page tables has attacked all the same.
    let answered = attacker.guest.finish(attack);
    if let Ok(done) = &answered {
        *row.changes.get_or_insert(0) +=
            done.descriptors + done.scribbles + done.entries + done.messages;
    }
    victims.look(row)?;
    Ok(answered.is_ok() || attacker.guest.settle().is_ok())
}

/// Alice and bob.
struct Victims {
    alice: Guest,
    bob: Guest,
    alice_buffer: u64,
    bob_buffer: u64,
    slot: u16,
    /// Checksum of what nobody may change.
    kept: u64,
}

impl Victims {
    fn boot(cast: &Cast) -> Result<Self> {
        let alice = cast.boot("alice", BUFFER, ENTRIES)?;
        let bob = cast.boot("bob", BOB, ENTRIES)?;
        let alice_buffer = alice.alloc(APP, BUFFER, PAGE_2M)?;
        let bob_buffer = bob.alloc(APP, BOB, PAGE_2M)?;
        let (_, slot) = give(&bob, &alice, bob_buffer, BUFFER, ALL)?;
        let secret = Descriptor {
            src: SECRET,
            dst: bob_buffer + BUFFER,
            size: u32::try_from(BOB - BUFFER)?,
            ..Descriptor::new(Opcode::Fill, Flags::NONE)
        };
        let done = bob.execute_one(APP, &secret)?;
        anyhow::ensure!(
            done.status() == Some(Status::Success),
            "filling ended with {}",
            status_of(&done)
        );
        // What may be read is no secret.
        fill(&bob, bob_buffer + READABLE, GIVEN, 1)?;
        let mut victims = Self {
            alice,
            bob,
            alice_buffer,
            bob_buffer,
            slot,
            kept: 0,
        };
        victims.kept = victims.checksum()?;
        victims.bob.sleep()?;
        Ok(victims)
    }

    /// Of all of bob's buffer that mallory may not write and alice does not.
    fn checksum(&self) -> Result<u64> {
        let part = |start, end| {
            let va = self.bob_buffer + start;
            self.bob.checksum(APP, va, end - start)
        };
        // Rotated, so that two parts which change alike do not cancel out.
        Ok(part(BUFFER, WRITABLE)? ^ part(WRITABLE + GIVEN, BOB)?.rotate_left(1))
    }

    /// A pattern there and back.
    fn exchange(&self, seed: u64, row: &mut CaseRow) -> Result<()> {
        fill(&self.alice, self.alice_buffer, SHARE, seed)?;
        let there = memmove((0, self.alice_buffer), (self.slot, 0), SHARE);
        let back = memmove((self.slot, 0), (0, self.alice_buffer + SHARE), SHARE);
        for descriptor in [there, back] {
            let done = self.alice.execute_one(APP, &descriptor)?;
            match done.status() {
                Some(Status::Success) => row.transfers += 1,
                _ => row.violation(format!(
                    "a victim's transfer ended with {}",
                    status_of(&done)
                )),
            }
        }
        if let Some(offset) = mismatch(&self.alice, self.alice_buffer + SHARE, SHARE, seed)? {
            row.violation(format!("a victim's byte is wrong at {offset:#x}"));
        }
        Ok(())
    }

    fn look(&self, row: &mut CaseRow) -> Result<()> {
        if self.checksum()? != self.kept {
            row.violation("mallory has changed what she was not given");
        }
        Ok(())
    }
}

/// Mallory.
struct Attacker {
    guest: Guest,
    scratch: u64,
    arena: u64,
    gpa: u64,
}

impl Attacker {
    fn boot(cast: &Cast) -> Result<Self> {
        let guest = cast.boot("mallory", 2 * HOSTILE_BYTES, HOSTILE_ENTRIES)?;
        let scratch = guest.alloc(APP, HOSTILE_BYTES, PAGE_4K)?;
        let arena = guest.call(
            APP,
            Alloc {
                bytes: HOSTILE_BYTES,
                page_size: PAGE_2M,
                flags: ALLOC_ZERO,
            },
        )?;
        Ok(Self {
            guest,
            scratch,
            arena: arena.va,
            gpa: arena.gpa,
        })
    }

    /// Begins anew: whatever the last attack has left is gone with a reset of the device.
    fn arm(&self) -> Result<QueueCreated> {
        let old = self.guest.queue(APP)?.queue;
        self.guest.call(APP, DeviceReset {})?;
        self.guest.call(APP, DestroyQueue { queue: old })?;
        self.guest.open_context(APP)?;
        self.guest.create_queue(APP, HOSTILE_ENTRIES, 0)?;
        self.guest.queue(APP)
    }

    /// Where in the VM's RAM `word` stands twice in a row, at any alignment.
    fn find(&self, word: u64) -> Result<Option<u64>> {
        const PIECE: usize = 1 << 20;
        let twice: Vec<u8> = [word.to_le_bytes(); 3].concat();
        let size = self.guest.vm().ram().size();
        let mut piece = vec![0; PIECE];
        for start in (0..size).step_by(PIECE) {
            let memory = self.guest.vm().ram().memory();
            memory
                .read_slice(&mut piece, GuestAddress(start))
                .context("mallory's RAM")?;
            // Eight rotations of the secret's bytes, each at eight-byte steps, find it wherever it begins.
            for turn in 0..8 {
                let wanted = &twice[turn..turn + 16];
                let found = piece.chunks_exact(16).position(|chunk| chunk == wanted);
                if let Some(index) = found {
                    return Ok(Some(start + index as u64 * 16));
                }
            }
        }
        Ok(None)
    }
}
