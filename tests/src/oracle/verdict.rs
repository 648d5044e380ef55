//! What must agree, and the few differences that are meant.
//!
//! Compared are: whether there is a fault, of which kind, at which page; the bytes read; and, word by word, all of the
//! arena and the root table after each access, so A and D of every level and what was stored where.
//!
//! Differences that are meant, each as narrow as it can be said:
//!
//! 1. **U/S = 0 ends the engine's walk** with status 41, whatever stands below; the CPU first walks on, and reports an absent
//!    entry or a reserved bit further down if there is one. Only then may the kinds differ, and the CPU must report just what
//!    stands below.
//! 2. **A bits of upper entries after a fault** are "don't care": QEMU sets them on its way down, KVM's walker and the engine
//!    do not. Never the leaf's, never D.
//! 3. **Of an access across two pages, either page's fault may be reported**, and the bits of the page that is not at fault may
//!    have been set or not: CPUs differ, and the engine goes from page to page.
//! 4. **QEMU leaves bit 0 of the error code clear** in faults for reserved bits
//!    ([`super::machine::Cpu::reserved_without_present`]).
//! 5. **QEMU sets A in a large leaf that it then refuses** ([`super::machine::Cpu::large_leaf_accessed_early`]).
//! 6. **An access that straddles the end of the canonical addresses** may be a page fault just beyond it
//!    ([`super::machine::Cpu::page_fault_beyond_canonical`]).
//! 7. **A refused store across two pages** may have stored its first part
//!    ([`super::machine::Cpu::torn_stores`]).
//!
//! What no case contains, since there is nothing to compare: bit 8 of upper entries where the CPU reserves it
//! ([`super::machine::Cpu::bit8_reserved`]), and the upper half of the address space where the hypervisor lives there
//! ([`super::machine::Cpu::upper_half`]).
//!
//! Protection keys take no part on either side: the guest leaves CR4.PKE clear, and the engine ignores bits 62:59 (a
//! thread's PKRU is not the engine's to know). Nor does EFER.NXE = 0, which the guest never sets.

use std::collections::HashMap;

use anyhow::{Result, bail, ensure};
use byway_agent::commands::Accessed;
use byway_protocols::Status;

use super::case::Step;
use super::engine::Fault;
use super::machine::Cpu;
use super::pte::{ACCESSED, DIRTY, LARGE, PAGE, PRESENT};
use super::trace::{End, Trace};

/// Kinds of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An entry is not present.
    NotPresent,
    /// An entry forbids ring 3, or writing.
    Permission,
    /// A reserved bit is set.
    Reserved,
    /// The address is not canonical.
    NonCanonical,
}

/// What the CPU says of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuFault {
    /// Its kind.
    pub kind: Kind,
    /// The address, if the CPU says one.
    pub va: Option<u64>,
}

const GENERAL_PROTECTION: u64 = 13;
const PAGE_FAULT: u64 = 14;
const ERROR_PRESENT: u64 = 1 << 0;
const ERROR_WRITE: u64 = 1 << 1;
const ERROR_USER: u64 = 1 << 2;
const ERROR_RESERVED: u64 = 1 << 3;

/// What the CPU said: the value read (0 for a write), or the fault.
///
/// # Errors
/// When that is nothing an access of ring 3 can lead to.
pub fn from_cpu(
    cpu: Cpu,
    step: &Step,
    said: &Accessed,
) -> Result<std::result::Result<u64, CpuFault>> {
    if said.faulted == 0 {
        return Ok(Ok(said.value));
    }
    match said.vector {
        GENERAL_PROTECTION => {
            ensure!(said.error == 0, "#GP with error code {:#x}", said.error);
            return Ok(Err(CpuFault {
                kind: Kind::NonCanonical,
                va: None,
            }));
        }
        PAGE_FAULT => {}
        vector => bail!("exception {vector}, error code {:#x}", said.error),
    }
    let write = if step.writes() { ERROR_WRITE } else { 0 };
    let rest = said.error & !(ERROR_PRESENT | ERROR_RESERVED);
    ensure!(
        rest == ERROR_USER | write,
        "page fault with error code {:#x} where {:#x} was expected beside bits 0 and 3",
        said.error,
        ERROR_USER | write
    );
    let kind = match (
        said.error & ERROR_RESERVED != 0,
        said.error & ERROR_PRESENT != 0,
    ) {
        (true, present) => {
            ensure!(
                present != cpu.reserved_without_present,
                "error code {:#x}",
                said.error
            );
            Kind::Reserved
        }
        (false, true) => Kind::Permission,
        (false, false) => Kind::NotPresent,
    };
    Ok(Err(CpuFault {
        kind,
        va: Some(said.cr2),
    }))
}

/// The kind that a status stands for.
///
/// # Errors
/// When a walk inside RAM cannot end so.
pub fn from_status(status: Status) -> Result<Kind> {
    Ok(match status {
        Status::Stage1NotPresent => Kind::NotPresent,
        Status::Stage1Permission => Kind::Permission,
        Status::ReservedBit => Kind::Reserved,
        Status::NonCanonical => Kind::NonCanonical,
        other => bail!("the engine answers with {other}"),
    })
}

/// Whether the fault that the CPU `said` and the engine's are the same, `trace` being the walk of the faulting address.
///
/// # Errors
/// When they are not.
pub fn compare_faults(
    cpu: Cpu,
    step: &Step,
    said: CpuFault,
    engine: Fault,
    trace: &Trace,
) -> Result<()> {
    if let Some(va) = said.va {
        ensure!(
            va == engine.va,
            "the CPU reports address {va:#x}, the engine {:#x}",
            engine.va
        );
    }
    let kind = from_status(engine.status)?;
    if said.kind == kind {
        return Ok(());
    }
    // Difference 6.
    let beyond = step.va != engine.va && kind == Kind::NonCanonical;
    if cpu.page_fault_beyond_canonical && beyond && said.kind == Kind::NotPresent {
        return Ok(());
    }
    // Difference 1.
    let below = match trace.end {
        End::NotPresent => Some(Kind::NotPresent),
        End::Reserved => Some(Kind::Reserved),
        _ => None,
    };
    let stopped = kind == Kind::Permission && trace.first_supervisor().is_some();
    ensure!(
        stopped && below == Some(said.kind),
        "the CPU faults with {:?}, the engine with {kind:?}",
        said.kind
    );
    Ok(())
}

/// The page part of `step` that the CPU found at fault, given what the engine found: its index, or `None` when the CPU does
/// not say.
#[must_use]
pub fn part_at_fault(step: &Step, cpu: CpuFault) -> Option<usize> {
    let va = cpu.va?;
    step.parts()
        .iter()
        .position(|(start, _)| start & !(PAGE - 1) == va & !(PAGE - 1))
}

/// Bits of entries in which CPU and engine may differ, by guest-physical address of the entry.
#[derive(Debug)]
pub struct Leniency {
    cpu: Cpu,
    bits: HashMap<u64, u64>,
}

impl Leniency {
    /// None yet.
    #[must_use]
    pub fn new(cpu: Cpu) -> Self {
        Self {
            cpu,
            bits: HashMap::new(),
        }
    }

    fn allow(&mut self, gpa: u64, bits: u64) {
        *self.bits.entry(gpa).or_default() |= bits;
    }

    /// Bits of the entry at `gpa` that may differ.
    #[must_use]
    pub fn at(&self, gpa: u64) -> u64 {
        self.bits.get(&gpa).copied().unwrap_or(0)
    }

    /// An access succeeded on both sides, by these walks: what it had to set is set.
    pub fn settle(&mut self, traces: &[Trace], writes: bool) {
        for trace in traces {
            for cell in &trace.cells {
                *self.bits.entry(cell.gpa).or_default() &= !ACCESSED;
            }
            if let (true, Some(leaf)) = (writes, trace.cells.last()) {
                *self.bits.entry(leaf.gpa).or_default() &= !DIRTY;
            }
        }
    }

    /// An access of one or two pages failed: differences 2, 3 and 5.
    pub fn forgive(&mut self, traces: &[Trace], writes: bool) {
        for trace in traces {
            for cell in trace.upper() {
                self.allow(cell.gpa, ACCESSED);
            }
            if let Some(last) = trace.cells.last()
                && self.cpu.large_leaf_accessed_early
                && matches!(last.level, 2 | 3)
                && last.value & (PRESENT | LARGE) == PRESENT | LARGE
            {
                self.allow(last.gpa, ACCESSED);
            }
        }
        if traces.len() < 2 {
            return;
        }
        for leaf in traces.iter().filter_map(|trace| trace.cells.last()) {
            self.allow(leaf.gpa, ACCESSED | if writes { DIRTY } else { 0 });
        }
    }
}
