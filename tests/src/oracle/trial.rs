//! One case: the CPU's turn, the walker's, the IOTLB's, and the comparison.

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use byway_agent::commands::{ACCESS_EXCHANGE, ACCESS_READ, ACCESS_WRITE, Access};

use super::arena::{Arena, Image};
use super::case::{Case, Kind, Step};
use super::coverage::Coverage;
use super::engine::{self, Engine, Translator};
use super::generator::Generator;
use super::machine::Machine;
use super::rng::Rng;
use super::trace::{End, Trace};
use super::verdict::{self, CpuFault, Leniency};

/// One access as the CPU made it.
struct Seen {
    outcome: std::result::Result<u64, CpuFault>,
    after: Image,
}

/// One case on its way.
pub struct Trial<'a> {
    /// The guest.
    pub machine: &'a Machine,
    /// Its arena.
    pub arena: &'a Arena,
    /// Who made the case.
    pub generator: &'a Generator<'a>,
    /// The engine over the same RAM.
    pub engine: &'a mut Engine,
    /// What was reached so far.
    pub coverage: &'a mut Coverage,
    /// The case.
    pub case: &'a Case,
}

impl Trial<'_> {
    /// Runs it.
    ///
    /// # Errors
    /// When the guest fails, or CPU and engine disagree.
    pub fn run(&mut self, rng: &mut Rng) -> Result<()> {
        // The root table last, since that is what flushes the TLB.
        for &(gpa, value) in self.case.entries.iter().rev() {
            self.arena.plant(self.machine, gpa, value)?;
        }
        let before = self.arena.capture();
        if let Some((at, bits)) = before
            .differences(&self.generator.planted(self.case))
            .next()
        {
            bail!(
                "word {:#x} is not what was planted: bits {bits:#x}",
                self.arena.gpa_of(at)
            );
        }
        let seen: Vec<Seen> = self
            .case
            .steps
            .iter()
            .map(|step| self.ask_cpu(step))
            .collect::<Result<_>>()?;
        let mut outcome = Ok(());
        for translator in [Translator::Walker, Translator::Iotlb] {
            self.arena.restore(&before);
            self.engine.invalidate(rng, self.case);
            outcome = outcome.and_then(|()| self.ask_engine(translator, &before, &seen));
        }
        self.arena.restore(&before);
        self.clean(&before, &seen)?;
        outcome
    }

    fn ask_cpu(&self, step: &Step) -> Result<Seen> {
        let kind = match step.kind {
            Kind::Read => ACCESS_READ,
            Kind::Write => ACCESS_WRITE,
            Kind::Exchange => ACCESS_EXCHANGE,
        };
        let Step {
            va, width, value, ..
        } = *step;
        let said = self.machine.call(Access {
            va,
            kind,
            width,
            value,
        })?;
        let outcome = verdict::from_cpu(self.machine.cpu(), step, &said)
            .with_context(|| format!("{step:x?}: {said:x?}"))?;
        Ok(Seen {
            outcome,
            after: self.arena.capture(),
        })
    }

    fn ask_engine(&mut self, translator: Translator, before: &Image, seen: &[Seen]) -> Result<()> {
        let mut lenient = Leniency::new(self.machine.cpu());
        let mut state = before.clone();
        for (number, (step, seen)) in self.case.steps.iter().zip(seen).enumerate() {
            let traces: Vec<Trace> = step
                .parts()
                .iter()
                .map(|(va, _)| self.generator.trace(&state, *va))
                .collect();
            if self.is_torn(step, &traces, &state, seen) {
                // Difference 7; from here on the two have different data.
                return Ok(());
            }
            self.compare(translator, step, &traces, &state, seen, &mut lenient)
                .with_context(|| format!("access {}, {translator:?}", number + 1))?;
            if translator == Translator::Walker {
                self.coverage.note(step, &traces, seen.outcome.is_ok());
            }
            state = self.arena.capture();
        }
        Ok(())
    }

    /// Whether the CPU stored the first part of a store across pages, just that, and then refused the second.
    fn is_torn(&self, step: &Step, traces: &[Trace], state: &Image, seen: &Seen) -> bool {
        let refused = seen.outcome.is_err() && step.writes() && traces.len() == 2;
        let End::Page { gpa, .. } = traces[0].end else {
            return false;
        };
        if !(self.machine.cpu().torn_stores && refused) {
            return false;
        }
        let (_, bytes) = step.parts()[0];
        let stored = step.value.to_le_bytes();
        (0..bytes)
            .all(|at| seen.after.byte(self.arena, gpa + at) == stored.get(at as usize).copied())
            && (0..bytes)
                .any(|at| seen.after.byte(self.arena, gpa + at) != state.byte(self.arena, gpa + at))
    }

    fn compare(
        &mut self,
        translator: Translator,
        step: &Step,
        traces: &[Trace],
        state: &Image,
        seen: &Seen,
        lenient: &mut Leniency,
    ) -> Result<()> {
        let answer = self.engine.perform(translator, self.arena, step)?;
        let after = self.arena.capture();
        match (seen.outcome, answer) {
            (Ok(cpu), Ok(engine)) => {
                ensure!(
                    cpu == engine,
                    "the CPU reads {cpu:#x}, the engine {engine:#x}"
                );
                lenient.settle(traces, step.writes());
            }
            (Err(cpu), Err(engine)) => {
                self.compare_faults(translator, step, traces, cpu, engine)?;
                if traces.len() == 1 {
                    ensure!(
                        after == *state,
                        "the engine changed memory and then refused"
                    );
                }
                lenient.forgive(traces, step.writes());
            }
            (cpu, engine) => bail!("the CPU says {cpu:x?}, the engine {engine:x?}"),
        }
        for (index, bits) in after.differences(&seen.after) {
            let gpa = self.arena.gpa_of(index);
            ensure!(
                bits & !lenient.at(gpa) == 0,
                "word {gpa:#x} was {:#x}; the CPU leaves {:#x}, the engine {:#x}",
                state.word(index),
                seen.after.word(index),
                after.word(index)
            );
        }
        Ok(())
    }

    fn compare_faults(
        &mut self,
        translator: Translator,
        step: &Step,
        traces: &[Trace],
        cpu: CpuFault,
        engine: engine::Fault,
    ) -> Result<()> {
        let parts = step.parts();
        // Difference 3: of two pages either may be at fault.
        let mut part = parts
            .iter()
            .position(|(va, _)| *va == engine.va)
            .unwrap_or(0);
        let mut engine = engine;
        let named = verdict::part_at_fault(step, cpu).or_else(|| {
            traces
                .iter()
                .position(|trace| trace.end == End::NonCanonical)
        });
        if let Some(named) = named
            && named != part
        {
            part = named;
            let va = parts[part].0;
            let other = self
                .engine
                .translate(translator, self.arena, va, step.writes())?;
            engine = other
                .err()
                .ok_or_else(|| anyhow!("the CPU faults at {va:#x}, where the engine does not"))?;
        }
        verdict::compare_faults(self.machine.cpu(), step, cpu, engine, &traces[part])
    }

    /// Has the guest overwrite what the case planted and what accesses changed in any way.
    fn clean(&self, before: &Image, seen: &[Seen]) -> Result<()> {
        let planted = self.case.entries.iter().map(|(gpa, _)| *gpa);
        let changed = seen
            .iter()
            .flat_map(|seen| before.differences(&seen.after))
            .map(|(index, _)| self.arena.gpa_of(index));
        let mut words: Vec<u64> = planted.chain(changed).collect();
        words.sort_unstable();
        words.dedup();
        for gpa in words {
            let value = self
                .generator
                .base(gpa)
                .context("a word outside the arena")?;
            self.arena.plant(self.machine, gpa, value)?;
        }
        Ok(())
    }
}
