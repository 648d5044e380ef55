//! Frames that a process has lost to another: the other side of every page that moves or is discarded.
//!
//! Owns the frames that were given away, in a ring: each is mapped into the peer process and filled with
//! a canary at once; when its place is needed again it is taken back, checked, and free for anybody. So frames
//! are used again as fast as they are lost, and whoever writes one too late is found.

use byway_agent::canary;
use byway_agent::commands::GIVEN_FRAMES;

use super::frames::{Frames, direct};
use super::space::Space;
use super::tables::OutOfFrames;
use crate::layout::{GIVEN, PAGE};

const PLACES: usize = GIVEN_FRAMES as usize;

/// What was found damaged.
#[derive(Debug, Clone, Copy, Default)]
pub struct Damage {
    /// Frames.
    pub frames: u64,
    /// Guest-physical address of the first wrong word.
    pub at: u64,
    /// What stands there.
    pub found: u64,
}

impl Damage {
    /// Adds a frame with a wrong word.
    pub fn add(&mut self, gpa: u64, found: u64) {
        if self.frames == 0 {
            self.at = gpa;
            self.found = found;
        }
        self.frames += 1;
    }
}

/// The frames.
pub struct Strangers {
    /// Guest-physical address of each; 0 = never used.
    places: [u64; PLACES],
    next: usize,
    /// Frames ever given, modulo 2^32.
    generation: u32,
}

/// A frame as words.
fn words(gpa: u64) -> *mut [u64; canary::WORDS] {
    direct::<[u64; canary::WORDS]>(gpa)
}

impl Strangers {
    /// None yet.
    pub const fn new() -> Self {
        Self {
            places: [0; PLACES],
            next: 0,
            generation: 0,
        }
    }

    /// Frames that are with their new owner.
    pub fn count(&self) -> u64 {
        self.places.iter().filter(|gpa| **gpa != 0).count() as u64
    }

    /// Gives `gpa` to the process whose address space `owner` is. What is damaged in the frame that comes back
    /// for it is added to `damage`.
    pub fn give(
        &mut self,
        frames: &mut Frames,
        owner: &Space,
        gpa: u64,
        damage: &mut Damage,
    ) -> Result<(), OutOfFrames> {
        let place = self.next;
        let old = core::mem::replace(&mut self.places[place], gpa);
        self.next = (place + 1) % PLACES;
        if old != 0 {
            // SAFETY: a frame of this ring; nobody runs who has it mapped, but for the engine if it is at fault, whose
            // writes are what is looked for.
            if let Err(word) = canary::check(unsafe { &*words(old) }, place as u32) {
                let at = old + word as u64 * 8;
                // SAFETY: as above.
                damage.add(at, unsafe { direct::<u64>(at).read_volatile() });
            }
            frames.give_run(old, 1);
        }
        self.generation = self.generation.wrapping_add(1);
        let seed = canary::seed(place as u32, self.generation);
        // SAFETY: the caller's frame, which nobody else has mapped any more.
        canary::write(unsafe { &mut *words(gpa) }, seed);
        owner.map_window(frames, GIVEN + place as u64 * PAGE, gpa, 1)
    }
}
