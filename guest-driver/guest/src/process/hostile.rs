//! [`Hostile`]: everything that a process and its kernel can do to the engine, at random and at full speed.
//!
//! Owns nothing. What it writes past the ring-3 library is memory that this process was given. Nearly right
//! descriptors get further than random ones, so most of them are.

use byway_agent::Failure;
use byway_agent::commands::{
    HOSTILE_BYTES, HOSTILE_ENTRIES, Hostile, HostileDone, Noise, PteGet, PteSet,
};
use byway_agent::guest::GuestChannel;
use byway_protocols::{Descriptor, Word0};

use super::call::kernel;
use super::dice::Dice;
use super::now;
use super::transfer::ring_doorbell;

const PAGE: u64 = 4096;
/// Descriptors between two changes that cost a trap.
const BURST: u32 = 256;
/// Control messages at once.
const MESSAGES: u64 = 4;
/// Highest operation code that is not plainly unknown.
const CODES: u64 = 0x80;

struct State<'r> {
    request: &'r Hostile,
    dice: Dice,
    /// Descriptors published, which tells slot and phase of the next.
    head: u64,
    done: HostileDone,
}

/// Goes on until its time is over.
pub fn run(channel: &GuestChannel, request: &Hostile) -> Result<HostileDone, Failure> {
    let mut state = State {
        request,
        dice: Dice::new(request.seed),
        head: 0,
        done: HostileDone {
            descriptors: 0,
            scribbles: 0,
            entries: 0,
            messages: 0,
        },
    };
    let start = now();
    while now() - start < request.ticks && !channel.should_stop() {
        for _ in 0..BURST {
            match state.dice.below(16) {
                0 => state.scribble(),
                1 => state.plant(),
                _ => state.publish(),
            }
        }
        match state.dice.below(4) {
            0 => ring_doorbell()?,
            1 => state.say_something()?,
            _ => state.ruin_an_entry()?,
        }
    }
    Ok(state.done)
}

/// One store to memory that the engine uses too.
fn store(address: u64, word: u64) {
    // SAFETY: called with aligned addresses in the queue's pages and in the arena, which are mapped for this process.
    unsafe { (address as *mut u64).write_volatile(word) };
}

fn store_descriptor(address: u64, descriptor: &Descriptor) {
    let bytes = descriptor.to_bytes();
    // The first word last, as whoever publishes does.
    for (index, word) in bytes.as_chunks::<8>().0.iter().enumerate().rev() {
        store(address + index as u64 * 8, u64::from_le_bytes(*word));
    }
}

impl State<'_> {
    /// The next descriptor in turn, whether there is room for it or not.
    fn publish(&mut self) {
        let mut descriptor = self.descriptor();
        let phase = (self.head / HOSTILE_ENTRIES).is_multiple_of(2);
        descriptor.word0 = Word0(descriptor.word0).with_phase(phase).0;
        let slot = self.head % HOSTILE_ENTRIES;
        store_descriptor(
            self.request.ring + slot * Descriptor::SIZE as u64,
            &descriptor,
        );
        self.head += 1;
        self.done.descriptors += 1;
    }

    /// A descriptor where a batch may find it.
    fn plant(&mut self) {
        let descriptor = self.descriptor();
        let slot = self.dice.below(HOSTILE_BYTES / Descriptor::SIZE as u64);
        store_descriptor(
            self.request.arena + slot * Descriptor::SIZE as u64,
            &descriptor,
        );
    }

    /// A word anywhere in the queue's pages: in descriptors under way, completions, the header.
    fn scribble(&mut self) {
        let at = self.dice.below(self.request.bytes / 8) * 8;
        let word = self.dice.roll();
        store(self.request.header + at, word);
        self.done.scribbles += 1;
    }

    fn descriptor(&mut self) -> Descriptor {
        let word = |dice: &mut Dice| dice.roll().to_le_bytes();
        if self.dice.below(16) == 0 {
            let mut bytes = [0; 64];
            for chunk in bytes.chunks_exact_mut(8) {
                chunk.copy_from_slice(&word(&mut self.dice));
            }
            return Descriptor::from_bytes(&bytes);
        }
        let (source, target) = (self.slot(), self.slot());
        let code = self.dice.below(CODES) as u32;
        // Mostly what has the most to lose: copies, fills and batches.
        let code = self.dice.pick(&[code, 3, 3, 3, 4, 4, 1]);
        let flags = self.dice.roll() as u32;
        let flags = self
            .dice
            .pick(&[0, 0, 0, 1, 2, 0x10, 0x4000, flags & 0xff_ffff]);
        Descriptor {
            word0: Word0::new(source, target, false).0,
            flags_opcode: flags | code << 24,
            src: self.address(source),
            dst: self.address(target),
            size: self.size(),
            ..Descriptor::default()
        }
    }

    fn slot(&mut self) -> u16 {
        let any = self.dice.roll() as u16;
        self.dice.pick(&[0, 0, 1, 2, 3, any])
    }

    fn size(&mut self) -> u32 {
        let any = self.dice.roll() as u32;
        let some = 1 + self.dice.below(1 << 12) as u32;
        let more = 1 + self.dice.below(1 << 17) as u32;
        self.dice.pick(&[some, some, some, more, more, 64, 0, any])
    }

    /// An address in the own address space, or an offset into a capability.
    fn address(&mut self, slot: u16) -> u64 {
        let near = self.dice.below(2 * 65_536);
        let any = self.dice.roll();
        if slot != 0 {
            // About the end of what was given, and where sums wrap.
            return self
                .dice
                .pick(&[0, near, near, 65_536, near.wrapping_neg(), any]);
        }
        let within = self.dice.below(HOSTILE_BYTES);
        let Hostile {
            ring,
            scratch,
            arena,
            ..
        } = *self.request;
        let in_ring = ring + self.dice.below(HOSTILE_ENTRIES * Descriptor::SIZE as u64);
        self.dice.pick(&[
            scratch + within,
            scratch + within,
            arena + within,
            arena + (within & !63),
            in_ring,
            // Not canonical, or the kernel's half.
            any | 1 << 47,
            any << 48,
        ])
    }

    /// Random bits in the page tables: any flags, but frames that may be lost, or none that exist.
    fn ruin_an_entry(&mut self) -> Result<(), Failure> {
        let va = self.request.scratch + self.dice.below(HOSTILE_BYTES / PAGE) * PAGE;
        let frame = self.request.gpa + self.dice.below(HOSTILE_BYTES / PAGE) * PAGE;
        // Above all RAM, below 2^52; or with reserved bits.
        let nowhere = self.dice.roll() & 0x000f_ffff_ffff_f000 | 1 << 45;
        let flags = self.dice.roll() & (0xfff | 0xfff << 52);
        // Present, writable, user, as often as not.
        let flags = self.dice.pick(&[flags, flags | 7, 7, 0x67]);
        let value = self.dice.pick(&[frame, frame, frame, nowhere]) | flags;
        let level = if self.dice.below(32) == 0 { 2 } else { 1 };
        if level == 2 {
            // The table in the arena, for a moment; then the old one again, or no level-1 entry could be ruined.
            let old = kernel(PteGet { va })?.level2;
            kernel(PteSet { va, level, value })?;
            self.publish();
            kernel(PteSet {
                va,
                level,
                value: old,
            })?;
        } else {
            kernel(PteSet { va, level, value })?;
        }
        self.done.entries += 1;
        Ok(())
    }

    /// Control messages.
    fn say_something(&mut self) -> Result<(), Failure> {
        kernel(Noise {
            count: MESSAGES,
            seed: self.dice.roll(),
            gpa: self.request.gpa,
            bytes: HOSTILE_BYTES,
        })?;
        self.done.messages += MESSAGES;
        Ok(())
    }
}
