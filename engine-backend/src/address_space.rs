//! Address spaces: what a descriptor's addresses mean.
//!
//! An [`AddressSpace`] is a page-table root of a guest, or guest-physical memory itself.
//! Workers use it without locks; control threads end it with [`AddressSpace::kill`] and
//! invalidate it, then wait for a grace period. It must never outlive its meaning: a
//! number is given once, so no cached translation of one space is ever taken for
//! another's.

pub mod walk;

#[cfg(test)]
mod tests;

pub use crate::stage2::Access;
pub use walk::{Fault, Translation};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::invalidation::SharedPage;
use crate::memory::GuestMemory;
use crate::stage1::Format;

/// Bits of CR3 that choose linear-address masking, not the root table.
const CR3_LAM: u64 = 0b11 << 61;

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
    /// The invalidation page is not in writable RAM.
    #[error("invalidation page {0:#x} is outside the domain's RAM")]
    PageOutsideRam(u64),
    /// Neither 4 nor 5 levels.
    #[error("{0} levels of page tables: expected 4 or 5")]
    Levels(u8),
    /// MAXPHYADDR out of range.
    #[error("MAXPHYADDR {0}: expected 32 to 52")]
    MaxPhyAddr(u8),
}

/// The root, ready for walks.
#[derive(Debug)]
enum Translator {
    Physical,
    Tables { format: Format, root: u64 },
}

/// One address space of one domain.
#[derive(Debug)]
pub struct AddressSpace {
    id: u64,
    memory: Arc<GuestMemory>,
    root: Root,
    translator: Translator,
    generation: AtomicU64,
    alive: AtomicBool,
    page: Option<SharedPage>,
}

/// Bit of a number that tells a space with an invalidation page, so that nobody has to look
/// further for one without.
const HAS_PAGE: u64 = 1;

/// 64 bits, since a guest can bind and unbind for as long as it likes: 32 bits could be
/// used up within a day, and then either the number is used twice or the engine stops.
static NEXT_ID: AtomicU64 = AtomicU64::new(2);
/// Leaves room for [`HAS_PAGE`].
const ID_STEP: u64 = 2;

impl AddressSpace {
    fn new(memory: Arc<GuestMemory>, root: Root, translator: Translator) -> Self {
        Self {
            id: NEXT_ID.fetch_add(ID_STEP, Ordering::Relaxed),
            memory,
            root,
            translator,
            generation: AtomicU64::new(0),
            alive: AtomicBool::new(true),
            page: None,
        }
    }

    /// Guest-physical addressing.
    #[must_use]
    pub fn physical(memory: Arc<GuestMemory>) -> Self {
        Self::new(memory, Root::Physical, Translator::Physical)
    }

    /// Addressing by a guest's page tables. That the root lies in RAM is checked here for
    /// the driver's sake; should the RAM go later, walks end in status 42.
    ///
    /// # Errors
    /// See [`RootError`].
    pub fn tables(memory: Arc<GuestMemory>, tables: Tables) -> Result<Self, RootError> {
        if !matches!(tables.levels, 4 | 5) {
            return Err(RootError::Levels(tables.levels));
        }
        let format = Format::new(
            tables.levels,
            tables.maxphyaddr,
            tables.nxe,
            tables.pages_1g,
            tables.no_ad,
        )
        .ok_or(RootError::MaxPhyAddr(tables.maxphyaddr))?;
        let root = tables.gpa & !CR3_LAM & !0xfff;
        if root >> tables.maxphyaddr != 0 || memory.contiguous(root, 4096).is_none() {
            return Err(RootError::OutsideRam(root));
        }
        Ok(Self::new(
            memory,
            Root::Tables(tables),
            Translator::Tables { format, root },
        ))
    }

    /// The same with an invalidation page at the guest-physical address `gpa`, a multiple of
    /// 4096, for `workers` workers. As for the root, that it lies in RAM is checked for the
    /// driver's sake.
    ///
    /// # Errors
    /// [`RootError::PageOutsideRam`].
    pub fn with_invalidation_page(self, gpa: u64, workers: usize) -> Result<Self, RootError> {
        if self.memory.contiguous(gpa, 4096).is_none() {
            return Err(RootError::PageOutsideRam(gpa));
        }
        Ok(Self {
            id: self.id | HAS_PAGE,
            page: Some(SharedPage::new(gpa, workers)),
            ..self
        })
    }

    /// Whether it has an invalidation page.
    #[inline(always)]
    pub(crate) fn has_page(&self) -> bool {
        self.id & HAS_PAGE != 0
    }
    /// Its invalidation page.
    pub(crate) fn page(&self) -> Option<&SharedPage> {
        self.page.as_ref()
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
    /// What it translates by, as given.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }
    /// Whether it translates by a guest's page tables.
    #[must_use]
    #[inline]
    pub fn has_tables(&self) -> bool {
        matches!(self.translator, Translator::Tables { .. })
    }
    /// Whether it may be used.
    #[must_use]
    #[inline]
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }
    /// Ends it: every later translation is refused. A grace period later no access
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
    /// How often [`Self::invalidate_all`] was called.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
    /// Changes whenever every cached translation of this space is to be dropped: the
    /// stage-1 generation plus the stage-2 epoch. Both only grow, so a sum that is the
    /// same as before means that both are.
    #[must_use]
    #[inline]
    pub fn version(&self) -> u64 {
        self.generation
            .load(Ordering::Acquire)
            .wrapping_add(self.memory.stage2().epoch())
    }
}
