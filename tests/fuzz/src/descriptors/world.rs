//! [`World`]: alice with her rights, bob with his secrets, and what must not change.

use std::sync::Arc;

use byway_engine::testing::{Guest, PageSize, Process, Stepper, pte};
use byway_protocols::{Completion, Descriptor, Rights};

/// Where both processes have their pages.
pub(crate) const VA: u64 = 0x7000_0000_0000;
/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;
/// Pages of each process.
pub(crate) const PAGES: usize = 8;
/// Slots that a descriptor can name with some hope, slot 0 included.
pub(crate) const SLOTS: usize = 8;

const READ_ONLY: u64 = pte::P | pte::US;
const MISSING: u64 = pte::RW | pte::US;
const KERNEL: u64 = pte::P | pte::RW;
/// Alice's pages.
const ALICE: [u64; PAGES] = [
    pte::USER,
    pte::USER,
    READ_ONLY,
    pte::USER,
    MISSING,
    pte::USER,
    KERNEL,
    pte::USER,
];
/// Bob's.
const BOB: [u64; PAGES] = [
    pte::USER,
    pte::USER,
    READ_ONLY,
    pte::USER,
    MISSING,
    pte::USER,
    pte::USER,
    pte::USER,
];

/// What bob gives: slots 1 to 6. The last slot stays empty.
const GIVEN: [(u64, u64, Rights); 6] = [
    (0x800, 0x1c00, Rights(3)),
    (0x3000, 0x1000, Rights::READ),
    // May be written and not read.
    (0x5000, 0x1000, Rights::WRITE),
    // Over the read-only and the missing page.
    (0x1000, 0x4000, Rights(3)),
    (0x7000, 0x200, Rights::READ),
    (0x7100, 0x100, Rights::ALL),
];

/// Two processes of two guests.
#[derive(Debug)]
pub(super) struct World {
    alice: Side,
    bob: Side,
    stepper: Stepper,
    /// What bob's bytes are that alice may not read.
    secret: u8,
    /// Bytes of alice's pages that her own CPU wrote.
    by_cpu: Vec<bool>,
}

/// A process, its pages, and how its RAM began.
#[derive(Debug)]
struct Side {
    process: Process,
    /// Guest-physical address of the first page; they follow each other.
    pages: u64,
    kinds: [u64; PAGES],
    /// All RAM that is used, page tables included.
    initial: Vec<u8>,
    /// Bytes of the pages that alice may write.
    writable: Vec<bool>,
}

impl Side {
    fn new(guest: &Arc<Guest>, kinds: [u64; PAGES]) -> Self {
        let process = Process::new(guest, SLOTS as u32);
        let pages = guest.alloc(PAGES as u64 * PAGE, PAGE);
        let side = Self {
            process,
            pages,
            kinds,
            initial: Vec::new(),
            writable: Vec::new(),
        };
        side.map();
        side
    }
    fn guest(&self) -> &Guest {
        self.process.guest()
    }
    fn map(&self) {
        for (i, bits) in (0..).zip(self.kinds) {
            self.process
                .map_page(VA + i * PAGE, self.pages + i * PAGE, PageSize::Small, bits);
        }
        self.process.space().invalidate_all();
    }
    /// Back to the beginning, with these bytes in its pages.
    fn reset(&mut self, bytes: &[u8], writable: Vec<bool>) {
        self.map();
        self.guest().write(self.pages, bytes);
        self.initial = self.ram();
        self.writable = writable;
    }
    /// RAM from its start to the end of the pages: root, pages and page tables.
    fn ram(&self) -> Vec<u8> {
        let (start, _) = self.guest().ram();
        // The three tables below the root come after the pages.
        let end = self.pages + (PAGES as u64 + 3) * PAGE;
        self.guest().read(start, end - start)
    }
    fn is_dirty(&self, page: usize) -> bool {
        let at = self.process.entry_of(VA + page as u64 * PAGE);
        at.is_some_and(|at| self.guest().read_u64(at) & pte::D != 0)
    }
    /// No byte has changed that must not, and what has is marked dirty.
    fn check(&self, who: &str, by_cpu: &[bool]) {
        let (start, _) = self.guest().ram();
        let first = (self.pages - start) as usize;
        for (at, (&was, is)) in self.initial.iter().zip(self.ram()).enumerate() {
            if was == is {
                continue;
            }
            match at.checked_sub(first).filter(|o| *o < PAGES * PAGE as usize) {
                Some(offset) => {
                    assert!(
                        self.writable[offset],
                        "{who}'s byte {offset:#x} has changed"
                    );
                    let marked = self.is_dirty(offset / PAGE as usize) || by_cpu[offset];
                    assert!(marked, "{who}'s byte {offset:#x} is not marked dirty");
                }
                // In a table: accessed and dirty bits of an entry that had them clear.
                None => {
                    let gained = is & !was;
                    assert_eq!(was & !is, 0, "{who}'s tables have lost bits at {at:#x}");
                    let allowed = if at % 8 == 0 { 0x60 } else { 0 };
                    assert_eq!(gained & !allowed, 0, "{who}'s tables at {at:#x}");
                }
            }
        }
    }
}

impl World {
    pub(super) fn new(secret: u8) -> Self {
        let guests = [1, 2].map(|id| Guest::new(id, 2 << 20));
        let [alice, bob] = &guests;
        Self {
            alice: Side::new(alice, ALICE),
            bob: Side::new(bob, BOB),
            stepper: Stepper::new(),
            secret,
            by_cpu: Vec::new(),
        }
    }

    /// Rights, memory and page tables as they were in the beginning.
    pub(super) fn reset(&mut self) {
        let slots = self.alice.process.context().slots();
        slots.clear(self.stepper.epochs());
        for (base, length, rights) in GIVEN {
            let bob = &self.bob.process;
            bob.give(&self.alice.process, VA + base, length, rights);
        }
        let bytes = PAGES * PAGE as usize;
        let plain = |i: usize| (i * 7 + i / 256) as u8;
        let own: Vec<u8> = (0..bytes).map(plain).collect();
        let own_writable = (0..bytes).map(|i| is_writable(&ALICE, i)).collect();
        self.alice.reset(&own, own_writable);
        let theirs: Vec<u8> = (0..bytes)
            .map(|i| {
                if is_given(i, Rights::READ) && BOB[i / PAGE as usize] != MISSING {
                    plain(i)
                } else {
                    self.secret
                }
            })
            .collect();
        let theirs_writable = (0..bytes)
            .map(|i| is_writable(&BOB, i) && is_given(i, Rights::WRITE))
            .collect();
        self.bob.reset(&theirs, theirs_writable);
        self.by_cpu = vec![false; bytes];
    }

    /// Carries out a descriptor of alice's; `revoke` names a slot of hers and after how
    /// many chunks bob takes back what it holds.
    pub(super) fn submit(
        &mut self,
        d: &Descriptor,
        chunk_bytes: u64,
        chunks_max: u32,
        revoke: Option<(u16, u32)>,
    ) -> Completion {
        let Self {
            alice,
            bob,
            stepper,
            ..
        } = self;
        let outcome = stepper.run(&alice.process, d, chunk_bytes, |epochs, chunks| {
            if let Some((slot, _)) = revoke.filter(|(_, after)| *after == chunks) {
                take_back(&bob.process, &alice.process, slot);
                epochs.synchronize();
            }
            chunks < chunks_max
        });
        outcome.completion
    }

    /// Bob takes back what a slot of alice's holds.
    pub(super) fn revoke(&mut self, slot: u16) {
        take_back(&self.bob.process, &self.alice.process, slot);
        self.stepper.epochs().synchronize();
    }

    /// Alice writes from the start of her pages on.
    pub(super) fn write_own(&mut self, offset: u64, bytes: &[u8]) {
        self.alice.guest().write(self.alice.pages + offset, bytes);
        let from = offset as usize;
        self.by_cpu[from..from + bytes.len()].fill(true);
    }
    /// What alice sees in her pages.
    pub(super) fn own_bytes(&self) -> Vec<u8> {
        self.alice
            .guest()
            .read(self.alice.pages, PAGES as u64 * PAGE)
    }

    /// Nobody's memory was touched where it must not be.
    pub(super) fn check(&self) {
        self.alice.check("alice", &self.by_cpu);
        self.bob.check("bob", &vec![false; PAGES * PAGE as usize]);
    }
}

/// Nothing where nothing was given, or where it has been taken back already.
fn take_back(owner: &Process, holder: &Process, slot: u16) {
    let held = holder.context().slots().peek(u32::from(slot));
    if slot != 0 && held.is_some_and(|capability| capability.is_valid()) {
        owner.revoke(holder, slot);
    }
}

fn is_writable(kinds: &[u64; PAGES], offset: usize) -> bool {
    kinds[offset / PAGE as usize] == pte::USER
}

fn is_given(offset: usize, right: Rights) -> bool {
    GIVEN.iter().any(|(base, length, rights)| {
        rights.contains(right) && (*base..base + length).contains(&(offset as u64))
    })
}
