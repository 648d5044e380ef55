//! Makes random cases: a few page-table entries, mostly sound with one or two things wrong, and a few accesses through
//! them.
//!
//! A case stays inside the arena: a walk may pass the arena's pages and the root table (as a table of any level), and may
//! end in them, but nothing is ever written outside the arena. What would go elsewhere is thrown away and drawn again.

use super::arena::{Arena, DATA, Image, TABLES};
use super::case::{Case, Kind, Step};
use super::machine::Cpu;
use super::pte::{
    ACCESSED, DIRTY, FRAME, GLOBAL, IGNORED, LARGE, NO_EXECUTE, PAGE, PRESENT, USER, WRITABLE,
    index, level_bytes,
};
use super::rng::Rng;
use super::trace::{Cell, End, Paging, Trace};

/// Slots of the root table that cases use: none of them is the process's own. The first and last of either half of the
/// address space that are free, and two that follow each other.
const LOWER_SLOTS: [u64; 5] = [1, 100, 101, 254, 255];
const UPPER_SLOTS: [u64; 4] = [256, 300, 301, 511];
/// Draws that may be thrown away for one case; far more than ever are.
const DRAWS: u32 = 10_000;

/// Makes cases.
#[derive(Debug)]
pub struct Generator<'a> {
    arena: &'a Arena,
    paging: Paging,
    cpu: Cpu,
    slots: Vec<u64>,
    /// The arena without a case's entries.
    base: Image,
}

impl<'a> Generator<'a> {
    /// For this arena, as it is now.
    #[must_use]
    pub fn new(arena: &'a Arena, paging: Paging, cpu: Cpu) -> Self {
        let mut slots = LOWER_SLOTS.to_vec();
        if cpu.upper_half {
            slots.extend(UPPER_SLOTS);
        }
        Self {
            arena,
            paging,
            cpu,
            slots,
            base: arena.capture(),
        }
    }

    /// The next case.
    ///
    /// # Panics
    /// When none can be found, which would be a mistake here.
    pub fn draw(&self, rng: &mut Rng) -> Case {
        for _ in 0..DRAWS {
            let case = self.candidate(rng);
            if self.is_safe(&case) {
                return case;
            }
        }
        panic!("{DRAWS} cases in a row would leave the arena");
    }

    fn candidate(&self, rng: &mut Rng) -> Case {
        let mut plan = Plan {
            entries: Vec::new(),
        };
        let page = if rng.chance(40) {
            // One of few that many cases use: what the IOTLB remembers of an earlier one must be gone.
            self.page(&mut Rng::new(0, rng.below(8)))
        } else {
            self.page(rng)
        };
        let crosses = rng.chance(12);
        let wrong = rng.pick(&[0, 0, 0, 0, 1, 1, 1, 1, 2, 3]);
        self.lay(rng, &mut plan, page);
        let next = page.wrapping_add(PAGE);
        if crosses && self.paging.is_canonical(next) {
            self.lay(rng, &mut plan, next);
        }
        for _ in 0..wrong {
            let at = rng.below(plan.entries.len() as u64) as usize;
            let cell = &mut plan.entries[at];
            cell.value = self.spoil(rng, *cell);
        }
        let count = rng.pick(&[1, 1, 1, 1, 1, 2, 2, 2, 3, 3]);
        let mut steps: Vec<Step> = (0..count).map(|_| step(rng, page, crosses)).collect();
        if rng.chance(7) {
            for step in &mut steps {
                step.va = self.awry(rng, *step);
                step.align();
            }
        }
        let entries = plan
            .entries
            .iter()
            .map(|cell| (cell.gpa, cell.value))
            .collect();
        Case { entries, steps }
    }

    /// A canonical page address whose indices make tables meet.
    fn page(&self, rng: &mut Rng) -> u64 {
        let slot = rng.pick(&self.slots);
        let mut va = slot * level_bytes(self.paging.levels);
        for level in (4..self.paging.levels).rev() {
            va |= rng.pick(&[0, slot, 511]) * level_bytes(level);
        }
        va |= rng.pick(&[0, 3, slot, 511]) * level_bytes(3);
        // The arena's own index, so that a leaf of 1 GiB at address 0 reaches it.
        let arena = index(self.arena.page(0), 2);
        va |= rng.pick(&[arena, arena, 0, slot, 511]) * level_bytes(2);
        // Below 16 a leaf of 2 MiB reaches the arena's pages.
        let inside = rng.below(TABLES + DATA);
        va |= rng.pick(&[inside, 8, 13, slot, 511]) * PAGE;
        // Copies the topmost bit that is translated upwards.
        let unused = 64 - (12 + 9 * u32::from(self.paging.levels));
        ((va << unused) as i64 >> unused) as u64
    }

    /// Plans the entries on the way to `va` that are not planned yet.
    fn lay(&self, rng: &mut Rng, plan: &mut Plan, va: u64) {
        let mut table = self.paging.root;
        for level in (1..=self.paging.levels).rev() {
            let gpa = table + index(va, level) * 8;
            let value = plan.value(gpa).unwrap_or_else(|| {
                let value = self.entry(rng, table, level);
                plan.entries.push(Cell { gpa, value, level });
                value
            });
            if level > 1 && value & LARGE != 0 {
                return;
            }
            table = value & FRAME;
            // The rest is what is there.
            if !self.arena.contains(table) {
                return;
            }
        }
    }

    /// An entry that allows everything, of the table `table`.
    fn entry(&self, rng: &mut Rng, table: u64, level: u8) -> u64 {
        let arena = self.arena;
        let small = |rng: &mut Rng| match rng.below(100) {
            0..3 => self.paging.root,
            3..8 => arena.page(rng.below(TABLES)),
            _ => arena.page(TABLES + rng.below(DATA)),
        };
        let further = |rng: &mut Rng| match rng.below(100) {
            0..4 => self.paging.root,
            4..9 => table,
            9..12 => arena.page(TABLES + rng.below(DATA)),
            _ => arena.page(rng.below(TABLES)),
        };
        let target = match level {
            1 => small(rng),
            2 if rng.chance(20) => arena.page(0) | LARGE,
            3 if rng.chance(12) => LARGE,
            _ => further(rng),
        };
        let mut value = target | PRESENT | WRITABLE | USER;
        for bit in [ACCESSED, DIRTY] {
            if rng.chance(40) {
                value |= bit;
            }
        }
        if rng.chance(30) {
            value |= NO_EXECUTE;
        }
        if rng.chance(25) {
            value |= IGNORED & rng.bits();
        }
        value
    }

    /// The entry with something wrong, or at least unusual, about it.
    fn spoil(&self, rng: &mut Rng, cell: Cell) -> u64 {
        let Cell { value, level, .. } = cell;
        match rng.below(16) {
            0 | 1 => value & !PRESENT,
            // Whatever else an absent entry says, reserved bits included, means nothing.
            2 => rng.bits() & !PRESENT,
            3..6 => value & !WRITABLE,
            6..9 => value & !USER,
            9..11 => value | self.bit_beyond(rng),
            11 => value ^ LARGE,
            12 => {
                // A large leaf's address bits that are reserved, or PAT.
                let top = level_bytes(level.clamp(2, 3)).ilog2();
                value | LARGE | 1 << rng.pick(&[12, 13, 14, top - 1, top - 2])
            }
            13 => value ^ (rng.bits() & 0xfff),
            14 => value ^ NO_EXECUTE,
            _ => rng.bits(),
        }
    }

    /// An address bit that the CPU has not; 0 where it has them all.
    fn bit_beyond(&self, rng: &mut Rng) -> u64 {
        let first = u64::from(self.paging.maxphyaddr);
        if first < 52 {
            1 << (first + rng.below(52 - first))
        } else {
            0
        }
    }

    /// An address that is not canonical, or just is.
    fn awry(&self, rng: &mut Rng, step: Step) -> u64 {
        let top = 11 + 9 * u32::from(self.paging.levels);
        match rng.below(4) {
            // One of the bits that should all be alike.
            0 => step.va ^ 1 << (u64::from(top) + rng.below(64 - u64::from(top))),
            // Around the end of the lower half and the beginning of the upper.
            1 => (1 << top) - rng.below(9),
            2 => (!0 << top) - rng.below(9),
            // Where the other number of levels would end.
            _ => (1u64 << if top == 47 { 56 } else { 47 }) - rng.below(9),
        }
    }

    /// The arena as `case` finds it.
    #[must_use]
    pub fn planted(&self, case: &Case) -> Image {
        let mut image = self.base.clone();
        for &(gpa, value) in &case.entries {
            if let Some(index) = self.arena.index(gpa) {
                image.set(index, value);
            }
        }
        image
    }

    /// What word `gpa` holds without a case's entries.
    #[must_use]
    pub fn base(&self, gpa: u64) -> Option<u64> {
        Some(self.base.word(self.arena.index(gpa)?))
    }

    /// Follows `va` in an image.
    #[must_use]
    pub fn trace(&self, image: &Image, va: u64) -> Trace {
        self.paging
            .trace(va, |gpa| Some(image.word(self.arena.index(gpa)?)))
    }

    /// Whether the CPU reserves a bit here that the engine ignores, knowingly ([`Cpu::bit8_reserved`]).
    fn differs(&self, cell: &Cell) -> bool {
        self.cpu.bit8_reserved
            && cell.value & (PRESENT | GLOBAL) == PRESENT | GLOBAL
            && matches!(cell.level, 3 | 4)
            && !self.paging.is_leaf(cell.value, cell.level)
    }

    fn is_safe(&self, case: &Case) -> bool {
        let is_out_of_reach =
            |va: u64| !self.cpu.upper_half && va >> 63 != 0 && self.paging.is_canonical(va);
        let mut addresses = case.steps.iter().flat_map(Step::parts);
        if addresses.any(|(va, _)| is_out_of_reach(va)) {
            return false;
        }
        // The process's own entries stay.
        let is_free = |gpa: u64| !self.arena.in_root(gpa) || self.slots.contains(&(gpa % PAGE / 8));
        if !case.entries.iter().all(|&(gpa, _)| is_free(gpa)) {
            return false;
        }
        let image = self.planted(case);
        let traces: Vec<(&Step, Trace)> = case
            .steps
            .iter()
            .flat_map(|step| step.parts().into_iter().map(move |part| (step, part.0)))
            .map(|(step, va)| (step, self.trace(&image, va)))
            .collect();
        let tables: Vec<u64> = traces
            .iter()
            .flat_map(|(_, trace)| &trace.cells)
            .map(|cell| cell.gpa & !(PAGE - 1))
            .collect();
        if traces
            .iter()
            .flat_map(|(_, trace)| &trace.cells)
            .any(|cell| self.differs(cell))
        {
            return false;
        }
        traces.iter().all(|(step, trace)| match trace.end {
            End::Elsewhere => false,
            End::Page { gpa, .. } => {
                let lands = self.arena.contains(gpa) || self.arena.in_root(gpa) && !step.writes();
                // After a change of the very tables the CPU may go on by the old ones or by the new ones; and what A
                // bits a fault left is nobody's business.
                let alone = case.steps.len() == 1 && step.parts().len() == 1;
                lands && (alone || !tables.contains(&(gpa & !(PAGE - 1))))
            }
            _ => true,
        })
    }
}

/// Entries that were drawn so far.
struct Plan {
    entries: Vec<Cell>,
}

impl Plan {
    fn value(&self, gpa: u64) -> Option<u64> {
        self.entries
            .iter()
            .find(|cell| cell.gpa == gpa)
            .map(|cell| cell.value)
    }
}

/// An access in `page`, or across its end.
fn step(rng: &mut Rng, page: u64, crosses: bool) -> Step {
    let width = rng.pick(&[1, 2, 4, 8]);
    let mut kind = rng.pick(&[
        Kind::Read,
        Kind::Read,
        Kind::Read,
        Kind::Write,
        Kind::Write,
        Kind::Exchange,
    ]);
    let mut offset = rng.below(PAGE - width + 1);
    if crosses && width > 1 {
        offset = PAGE - 1 - rng.below(width - 1);
        if kind == Kind::Exchange {
            kind = Kind::Write;
        }
    }
    let mut step = Step {
        va: page.wrapping_add(offset),
        kind,
        width,
        value: rng.bits(),
    };
    step.align();
    step
}
