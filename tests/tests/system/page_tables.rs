//! Page tables that change under the copies: once an invalidation is acknowledged, no byte is read from the page that
//! was mapped before, whoever submits.

use anyhow::{Result, ensure};
use byway_agent::commands::{PteGet, PteSet};
use byway_engine::{Engine, EngineConfig};
use byway_protocols::{Descriptor, Status};
use byway_vmm::steer::PAGE_4K;

use super::world::{
    APP, Frames, MIB, PAGE, Party, RW, collect, compare, domain_info, engine, memmove, submit, turn,
};

/// Bytes of the source.
const SOURCE: u64 = MIB;
const PAGES: u64 = SOURCE / PAGE;
/// Copies of it, each to a place of its own, so that no evidence is overwritten.
const COPIES: u64 = 32;
/// Changes under running copies that the test wants to see.
const CHANGES: u32 = 16;
/// What a page holds once it has been taken away.
const POISON: u64 = 0xdead_dead_dead_dead;
/// Frame of a page-table entry.
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// A source whose pages are swapped for others.
struct Source<'p> {
    owner: &'p Party,
    base: u64,
    /// Entries of the pages in use, and of those in reserve.
    mapped: Vec<u64>,
    reserve: Vec<u64>,
    changes: u64,
}

impl<'p> Source<'p> {
    fn new(owner: &'p Party) -> Result<Self> {
        let entries = |base: u64, pages: u64| -> Result<Vec<u64>> {
            let entry = |page| {
                let va = base + page * PAGE;
                Ok(owner.call(APP, PteGet { va })?.level1)
            };
            (0..pages).map(entry).collect()
        };
        let base = owner.alloc(APP, SOURCE, PAGE_4K)?;
        let spare = owner.alloc(APP, 8 * PAGE, PAGE_4K)?;
        let source = Self {
            owner,
            base,
            mapped: entries(base, PAGES)?,
            reserve: entries(spare, 8)?,
            changes: 0,
        };
        for entry in &source.mapped {
            source.write(*entry, 1)?;
        }
        Ok(source)
    }

    /// Fills a frame with one word, by the host: what its next owner would do.
    fn write(&self, entry: u64, word: u64) -> Result<()> {
        use vm_memory::{Bytes, GuestAddress};
        let bytes = word.to_le_bytes().repeat((PAGE / 8) as usize);
        let memory = self.owner.vm().ram().memory();
        memory.write_slice(&bytes, GuestAddress(entry & FRAME))?;
        Ok(())
    }

    fn set(&self, page: u64, value: u64) -> Result<()> {
        let va = self.base + page * PAGE;
        let level = 1;
        self.owner.call(APP, PteSet { va, level, value })?;
        self.owner.invalidate(APP, va, 1)
    }

    /// Gives one page another frame, in one step or by way of none at all, and poisons the old one as soon as the engine
    /// has acknowledged.
    fn change(&mut self) -> Result<()> {
        self.changes += 1;
        let page = self.changes * 37 % PAGES;
        let fresh = self.reserve.remove(0);
        self.write(fresh, 1 + self.changes)?;
        let old = std::mem::replace(&mut self.mapped[page as usize], fresh);
        if self.changes.is_multiple_of(3) {
            self.set(page, 0)?;
            self.write(old, POISON)?;
        }
        self.set(page, fresh)?;
        self.write(old, POISON)?;
        self.reserve.push(old);
        Ok(())
    }
}

/// Copies from the source while it changes, until that has happened often enough.
fn play(engine: &Engine, submitter: &Party, source: &mut Source<'_>, slot: u16) -> Result<()> {
    let from = if slot == 0 { source.base } else { 0 };
    // Between two copies the engine is kept busy for a while, so that changes fall between them, and into them.
    let all = (0, submitter.buffer);
    let busy = compare(all, all, COPIES * SOURCE);
    let copies: Vec<Descriptor> = (0..COPIES)
        .flat_map(|copy| {
            let to = submitter.buffer + copy * SOURCE;
            [memmove((slot, from), (0, to), SOURCE), busy]
        })
        .collect();
    let gone = if slot == 0 {
        Status::Stage1NotPresent
    } else {
        Status::RemoteFault
    };
    let done = || Ok::<_, anyhow::Error>(domain_info(engine, submitter.name())?.descriptors);

    let mut under_way = 0;
    for _ in 0..100 {
        let before = done()?;
        submit(submitter, APP, &copies)?;
        // Its copies need it no more, and the owner needs its core.
        if submitter.name() != source.owner.name() {
            submitter.sleep()?;
        }
        loop {
            source.change()?;
            if done()? - before == 2 * COPIES {
                break;
            }
            under_way += 1;
        }
        for completion in collect(submitter, APP, copies.len())? {
            let status = completion.status();
            assert!(
                status == Some(Status::Success) || status == Some(gone),
                "{completion:?}"
            );
        }
        let seen = submitter.see(0, COPIES * SOURCE)?;
        let known = 1..=1 + source.changes;
        let wrong = seen
            .as_chunks::<8>()
            .0
            .iter()
            .map(|word| u64::from_le_bytes(*word))
            .position(|word| word != 0 && !known.contains(&word));
        assert_eq!(wrong, None, "a word from a page that was taken away");
        if under_way >= CHANGES {
            return Ok(());
        }
    }
    ensure!(false, "only {under_way} changes fell into a copy");
    Ok(())
}

#[test]
fn a_peers_pages_change_under_the_copies() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = engine(EngineConfig::default(), &["alice", "bob"])?;
    let alice = Party::boot(&engine, "alice", COPIES * SOURCE)?;
    let bob = Party::boot(&engine, "bob", 2 * MIB)?;
    let mut source = Source::new(&bob)?;
    let own = bob.derive(APP, 0, source.base, SOURCE, RW)?;
    let slot = bob.pass_on(&alice, own, RW)?;
    play(&engine, &alice, &mut source, slot)
}

#[test]
fn the_submitters_own_pages_change_under_its_copies() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = engine(EngineConfig::default(), &["alice"])?;
    let alice = Party::boot(&engine, "alice", COPIES * SOURCE)?;
    let mut source = Source::new(&alice)?;
    play(&engine, &alice, &mut source, 0)?;
    // And the page tables are what they were said to be.
    let frames = Frames::of(&alice, APP, source.base, SOURCE)?;
    for (page, entry) in source.mapped.iter().enumerate() {
        assert_eq!(frames.page(page), entry & FRAME);
    }
    Ok(())
}
