//! The guest whose CPU is asked, whatever runs it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use byway_agent::commands::Request;
use byway_agent::host::CallError;
use byway_agent::layout::MAILBOX_BYTES;
use byway_agent::{GuestState, HostMailbox, Process};
use byway_engine::interface::MemoryRegion;
use byway_engine::memory::GuestMemory;

use super::trace::Paging;

/// Longest that the guest may take to boot, or for any one command.
const PATIENCE: Duration = Duration::from_secs(30);
/// Looks for an answer before sleeping: enough for all but commands that take traps.
const SPINS: u32 = 2000;
/// Sleep between later looks.
const NAP: Duration = Duration::from_micros(20);

/// In what a CPU differs from the manual, or from what the engine may be given.
#[derive(Debug, Clone, Copy)]
pub struct Cpu {
    /// Physical address bits.
    pub maxphyaddr: u8,
    /// Whether it has pages of 1 GiB.
    pub pages_1g: bool,
    /// Whether a page fault for a reserved bit leaves bit 0 (present) of the error code clear. QEMU's does up to 7.2 at
    /// least; the manual has it set.
    pub reserved_without_present: bool,
    /// Whether a faulting walk may leave A set in a large leaf. QEMU sets it before it looks at the leaf's alignment and at
    /// rights; the manual has it set by an access only.
    pub large_leaf_accessed_early: bool,
    /// Whether an access that begins canonical and ends beyond may be a page fault, of an absent entry at the first address
    /// beyond, in place of #GP. AMD's CPUs do that.
    pub page_fault_beyond_canonical: bool,
    /// Whether a store across two pages may have stored its first part before its second is refused: so where the hypervisor
    /// shadows page tables and emulates stores to pages that it takes for tables.
    pub torn_stores: bool,
    /// Whether bit 8 is reserved in PML4Es, and in PDPTEs that are no leaf: so on AMD's CPUs, while on Intel's, which the
    /// engine follows, it is ignored. (An engine is not told the vendor; a guest kernel of either leaves the bit clear.)
    pub bit8_reserved: bool,
    /// Whether ring 3 of the guest can use addresses whose top bit is set. Not where the hypervisor itself lives there,
    /// beside a guest that it runs in ring 3 of the host: faults there have whatever error code its own entries lead to.
    pub upper_half: bool,
}

/// What runs a guest: ends it when dropped.
pub trait Host {
    /// What there is to say when the guest does not answer: how it ended, its console.
    fn trouble(&self) -> String;
    /// Whether the guest has ended.
    fn has_ended(&mut self) -> bool;
}

/// A guest whose process `app` answers.
pub struct Machine {
    mailbox: HostMailbox<'static>,
    memory: Arc<GuestMemory>,
    cpu: Cpu,
    paging: Paging,
    host: std::cell::RefCell<Box<dyn Host>>,
}

impl Machine {
    /// Waits until the guest in `regions` is up.
    ///
    /// # Errors
    /// When it does not come up, or its memory cannot be mapped.
    pub fn new(
        mut host: Box<dyn Host>,
        regions: Vec<MemoryRegion>,
        mailbox: u64,
        cpu: Cpu,
    ) -> Result<Self> {
        let memory = GuestMemory::new();
        for region in regions {
            memory.add_region(region)?;
        }
        let span = memory.contiguous(mailbox, MAILBOX_BYTES as u64);
        let span = span.context("the mailbox is not in RAM")?;
        let base = std::ptr::with_exposed_provenance_mut(span.host().0 as usize);
        let base = std::ptr::NonNull::new(base).context("RAM at address 0")?;
        // SAFETY: page-aligned RAM of the right size, mapped as long as `memory`, which this value owns beside the
        // mailbox; nothing in this process refers to it but by atomics.
        let mailbox = unsafe { HostMailbox::new(base) };
        let deadline = Instant::now() + PATIENCE;
        while !(mailbox.is_set_up() && mailbox.state() == Some(GuestState::Ready)) {
            if Instant::now() > deadline || host.has_ended() {
                bail!("the guest does not come up; {}", host.trouble());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let header = mailbox.header();
        let levels = header.levels.load(Relaxed);
        let paging = Paging {
            root: header.roots[Process::App as usize].load(Relaxed),
            levels: u8::try_from(levels).with_context(|| format!("{levels} levels"))?,
            maxphyaddr: cpu.maxphyaddr,
            pages_1g: cpu.pages_1g,
        };
        ensure!(
            matches!(paging.levels, 4 | 5),
            "{levels} levels of page tables"
        );
        Ok(Self {
            mailbox,
            memory: Arc::new(memory),
            cpu,
            paging,
            host: std::cell::RefCell::new(host),
        })
    }

    /// What the CPU can do.
    #[must_use]
    pub const fn cpu(&self) -> Cpu {
        self.cpu
    }

    /// How it reads page tables.
    #[must_use]
    pub const fn paging(&self) -> Paging {
        self.paging
    }

    /// Its RAM, as an engine has it.
    #[must_use]
    pub const fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Has the process carry out a command.
    ///
    /// # Errors
    /// When it fails or does not answer.
    pub fn call<R: Request>(&self, request: R) -> Result<R::Reply> {
        let deadline = Instant::now() + PATIENCE;
        let mut turns = 0u32;
        let patience = || {
            turns = turns.wrapping_add(1);
            if turns < SPINS {
                std::hint::spin_loop();
                return true;
            }
            // The guest may want this very core.
            std::thread::sleep(NAP);
            !turns.is_multiple_of(64)
                || Instant::now() < deadline && !self.host.borrow_mut().has_ended()
        };
        let outcome = self.mailbox.call(Process::App, request, patience);
        outcome.map_err(|error| match error {
            CallError::Failed(failure) => anyhow!("{}: {failure}", R::NAME),
            other => anyhow!(
                "{other}; crash: {:x?}; {}",
                self.mailbox.crash(),
                self.host.borrow().trouble()
            ),
        })
    }
}
