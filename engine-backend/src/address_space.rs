//! Address spaces: what a descriptor's addresses mean.
//!
//! An [`AddressSpace`] is a page-table root of a guest, or guest-physical memory itself.
//! Workers use it without locks; control threads end it with [`AddressSpace::kill`] and
//! invalidate it, then wait for a grace period.

pub mod walk;

pub use crate::stage2::Access;
pub use walk::{Fault, Translation};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::memory::GuestMemory;

/// A root table and how the guest's CPU would read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tables {
    /// Guest-physical address of the root table; CR3's low 12 bits and its LAM bits
    /// (61, 62) are ignored.
    pub gpa: u64,
    /// 4 or 5.
    pub levels: u8,
    /// MAXPHYADDR of the guest's CPU, 32 to 52.
    pub maxphyaddr: u8,
    /// EFER.NXE is set: bit 63 of an entry is NX, else it is reserved.
    pub nxe: bool,
    /// The CPU has 1 GiB pages, else PS in a PDPTE is reserved.
    pub pages_1g: bool,
    /// Never write an entry: A = 0, or D = 0 on a write, is a fault.
    pub no_ad: bool,
}

/// What an address space translates by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// Addresses are guest-physical: stage 2 only.
    Physical,
    /// Both stages.
    Tables(Tables),
}

/// Why a root cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// The root table is not in writable RAM.
    #[error("page-table root {0:#x} is outside the domain's RAM")]
    OutsideRam(u64),
    /// Neither 4 nor 5 levels.
    #[error("{0} levels of page tables: expected 4 or 5")]
    Levels(u8),
    /// MAXPHYADDR out of range.
    #[error("MAXPHYADDR {0}: expected 32 to 52")]
    MaxPhyAddr(u8),
}

/// One address space of one domain.
#[derive(Debug)]
pub struct AddressSpace {
    id: u64,
    memory: Arc<GuestMemory>,
    root: Root,
    generation: AtomicU64,
    alive: AtomicBool,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl AddressSpace {
    fn new(memory: Arc<GuestMemory>, root: Root) -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            memory,
            root,
            generation: AtomicU64::new(0),
            alive: AtomicBool::new(true),
        }
    }
    /// Guest-physical addressing.
    #[must_use]
    pub fn physical(memory: Arc<GuestMemory>) -> Self {
        Self::new(memory, Root::Physical)
    }
    /// Addressing by a guest's page tables.
    ///
    /// # Errors
    /// See [`RootError`].
    pub fn tables(memory: Arc<GuestMemory>, tables: Tables) -> Result<Self, RootError> {
        Ok(Self::new(memory, Root::Tables(tables)))
    }
    /// Number of this address space: unique in the process, never used twice.
    #[must_use]
    #[inline]
    pub fn id(&self) -> u64 {
        self.id
    }
    /// The domain's RAM.
    #[must_use]
    #[inline]
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }
    /// What it translates by.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }
    /// Whether it may be used.
    #[must_use]
    #[inline]
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }
    /// Ends it: later translations are refused. A grace period later no access
    /// through it is in flight.
    pub fn kill(&self) {
        self.alive.store(false, Ordering::SeqCst);
        self.invalidate_all();
    }
    /// Drops every cached translation of it. A grace period later no access by
    /// an old one is in flight.
    pub fn invalidate_all(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }
    /// Changes whenever every cached translation of this space is to be dropped: the
    /// stage-1 generation plus the stage-2 epoch. Both only grow, so an equal sum means
    /// that both are equal.
    #[must_use]
    #[inline]
    pub fn version(&self) -> u64 {
        self.generation
            .load(Ordering::Acquire)
            .wrapping_add(self.memory.stage2().epoch())
    }
}
