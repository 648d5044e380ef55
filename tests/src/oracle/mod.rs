//! The CPU as oracle for the engine's page walk.
//!
//! Random page tables are put where a guest's CPU finds them; an instruction of ring 3 makes an access, and so does the
//! engine, over the same RAM in the same state, once by the walker and once by the IOTLB. Whether there is a fault and which,
//! the bytes, and the A and D bits left behind must agree; [`verdict`] says what exactly, and which differences are meant.
//!
//! One case runs like this:
//! 1. The guest itself writes the entries ([`case`], [`arena`]), and its kernel flushes the TLB.
//! 2. The guest makes the accesses; after each the host captures the arena.
//! 3. The host puts the arena back as it was, and the walker makes the same accesses, with the same captures; then again with the
//!    IOTLB.
//! 4. The guest overwrites every word that any of this changed.
//!
//! Cases follow from a seed ([`rng::SEED_VARIABLE`]), and so does each of them from its number alone.

pub mod arena;
pub mod case;
pub mod coverage;
pub mod engine;
pub mod generator;
pub mod kvm;
pub mod machine;
pub mod pte;
pub mod rng;
pub mod tcg;
pub mod trace;
mod trial;
pub mod verdict;

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};

use arena::Arena;
use case::Case;
use coverage::Coverage;
use engine::Engine;
use generator::Generator;
use machine::Machine;
use rng::Rng;
use trial::Trial;

/// Cases of one run.
pub const CASES: u64 = 2000;

/// Runs `cases` cases on a machine.
///
/// # Errors
/// With seed, number and all of the case on which CPU and engine disagree first; when the guest fails; and when
/// the cases left out something that they should reach.
pub fn run(machine: &Machine, seed: u64, cases: u64) -> Result<Coverage> {
    let arena = Arena::new(machine)?;
    let generator = Generator::new(&arena, machine.paging(), machine.cpu());
    let mut engine = Engine::new(machine)?;
    let mut coverage = Coverage::new(machine.paging(), machine.cpu().upper_half);
    for number in 0..cases {
        let mut rng = Rng::new(seed, number);
        let case = generator.draw(&mut rng);
        let mut trial = Trial {
            machine,
            arena: &arena,
            generator: &generator,
            engine: &mut engine,
            coverage: &mut coverage,
            case: &case,
        };
        trial.run(&mut rng).with_context(|| {
            format!(
                "case {number} of {}={seed:#x}:\n{}",
                rng::SEED_VARIABLE,
                describe(&generator, &case)
            )
        })?;
    }
    let missing = coverage.missing();
    ensure!(
        missing.is_empty(),
        "the cases never reached: {missing:?}; they reached\n{coverage}"
    );
    Ok(coverage)
}

/// A case for whoever has to find out why.
fn describe(generator: &Generator<'_>, case: &Case) -> String {
    let mut text = String::new();
    let image = generator.planted(case);
    for step in &case.steps {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {step:x?}");
        for (va, _) in step.parts() {
            let trace = generator.trace(&image, va);
            for cell in &trace.cells {
                let _ = writeln!(
                    text,
                    "    level {} at {:#x}: {:#018x}",
                    cell.level, cell.gpa, cell.value
                );
            }
            let _ = writeln!(text, "    ends in {:x?}", trace.end);
        }
    }
    text
}
