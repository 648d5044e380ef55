//! The engine's side: the same access by the walker, and by the IOTLB.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use byway_engine::address_space::{AddressSpace, Tables, walk};
use byway_engine::iotlb::Iotlb;
use byway_engine::stage2::{Access, HostAddr};
use byway_protocols::Status;

use super::arena::Arena;
use super::case::{Case, Kind, Step};
use super::machine::Machine;
use super::pte::PAGE;
use super::rng::Rng;

/// Which translator is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Translator {
    /// The walker.
    Walker,
    /// The IOTLB, which remembers.
    Iotlb,
}

/// A refusal: address of the first byte in the page that is refused, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The address.
    pub va: u64,
    /// The status with which a descriptor would end.
    pub status: Status,
}

/// Translators of the guest's process.
pub struct Engine {
    space: AddressSpace,
    iotlb: Iotlb,
}

impl Engine {
    /// Over the guest's RAM and the process's page tables.
    ///
    /// # Errors
    /// When the engine refuses them.
    pub fn new(machine: &Machine) -> Result<Self> {
        let paging = machine.paging();
        let tables = Tables {
            gpa: paging.root,
            levels: paging.levels,
            maxphyaddr: paging.maxphyaddr,
            nxe: true,
            pages_1g: paging.pages_1g,
            no_ad: false,
        };
        let space = AddressSpace::tables(Arc::clone(machine.memory()), tables)?;
        Ok(Self {
            space,
            iotlb: Iotlb::new(),
        })
    }

    /// Tells the IOTLB that what `case` uses has changed, in one of the ways there are.
    pub fn invalidate(&mut self, rng: &mut Rng, case: &Case) {
        if rng.chance(50) {
            self.space.invalidate_all();
            return;
        }
        for (va, _) in case.steps.iter().flat_map(Step::parts) {
            self.iotlb.drop_range(self.space.id(), va & !(PAGE - 1), 1);
        }
    }

    /// Where `va` lies: its guest-physical address.
    ///
    /// # Errors
    /// The outer one for answers that contradict themselves, the inner one for refusals.
    pub fn translate(
        &mut self,
        translator: Translator,
        arena: &Arena,
        va: u64,
        writes: bool,
    ) -> Result<std::result::Result<u64, Fault>> {
        let access = if writes { Access::Write } else { Access::Read };
        let check = |gpa, host: HostAddr| {
            let expected = arena.host(gpa);
            ensure!(
                expected == Some(host),
                "{gpa:#x} is at {host:x?}, where RAM has it at {expected:x?}"
            );
            Ok(gpa)
        };
        let outcome = match translator {
            Translator::Walker => {
                walk::translate(&self.space, va, access).map(|hit| (hit.gpa, hit.host))
            }
            Translator::Iotlb => {
                let outcome = self.iotlb.translate(&self.space, va, access);
                if let Ok(span) = outcome {
                    let hits = self.iotlb.stats().hits;
                    let again = self.iotlb.translate(&self.space, va, access);
                    ensure!(
                        again == outcome,
                        "the IOTLB first said {outcome:x?}, then {again:x?}"
                    );
                    ensure!(
                        self.iotlb.stats().hits == hits + 1,
                        "the IOTLB forgot {va:#x} at once"
                    );
                    let in_page = (PAGE - va % PAGE).min(span.bytes);
                    let last = in_page - 1;
                    check(span.gpa + last, HostAddr(span.host.0 + last))
                        .context("at the end of the span")?;
                }
                outcome.map(|span| (span.gpa, span.host))
            }
        };
        Ok(match outcome {
            Ok((gpa, host)) => Ok(check(gpa, host)?),
            Err(fault) => {
                ensure!(
                    fault.addr == va && fault.write == writes,
                    "the engine reports another access: {fault:x?}"
                );
                Err(Fault {
                    va,
                    status: fault.status,
                })
            }
        })
    }

    /// Makes the access: what was read (0 for a write), or the refusal.
    ///
    /// # Errors
    /// As [`Self::translate`].
    pub fn perform(
        &mut self,
        translator: Translator,
        arena: &Arena,
        step: &Step,
    ) -> Result<std::result::Result<u64, Fault>> {
        let mut places = Vec::new();
        for (va, bytes) in step.parts() {
            match self.translate(translator, arena, va, step.writes())? {
                Ok(gpa) => places.push((gpa, bytes as usize)),
                Err(fault) => return Ok(Err(fault)),
            }
        }
        let mut value = step.value.to_le_bytes();
        let mut at = 0;
        for (gpa, bytes) in places {
            let piece = &mut value[at..at + bytes];
            if step.kind == Kind::Read {
                arena.read(gpa, piece);
            } else {
                arena.write(gpa, piece);
            }
            at += bytes;
        }
        Ok(Ok(if step.kind == Kind::Read {
            u64::from_le_bytes(value) & (!0 >> (64 - 8 * step.width))
        } else {
            0
        }))
    }
}
