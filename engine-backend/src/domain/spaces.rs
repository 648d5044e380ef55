//! Address spaces of a domain: bind, unbind, invalidate.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use byway_protocols::ControlStatus;
use byway_protocols::control::{PASID_PHYSICAL, features};

use super::Domain;
use crate::address_space::{AddressSpace, RootError, Tables as PageTables};
use crate::memory::GuestMemory;

/// A bound address space.
#[derive(Debug)]
struct Bound {
    space: Arc<AddressSpace>,
    /// Contexts that use it.
    contexts: u32,
}

/// Address spaces by PASID. [`PASID_PHYSICAL`] is always there.
#[derive(Debug)]
pub(super) struct Spaces {
    by_pasid: BTreeMap<u32, Bound>,
    /// PASID by the engine's number, for those with page tables.
    pasids: HashMap<u64, u32>,
}

impl Spaces {
    pub(super) fn new(memory: &Arc<GuestMemory>) -> Self {
        let physical = Bound {
            space: Arc::new(AddressSpace::physical(Arc::clone(memory))),
            contexts: 0,
        };
        Self {
            by_pasid: BTreeMap::from([(PASID_PHYSICAL, physical)]),
            pasids: HashMap::new(),
        }
    }
    pub(super) fn get(&self, pasid: u32) -> Option<Arc<AddressSpace>> {
        Some(Arc::clone(&self.by_pasid.get(&pasid)?.space))
    }
    /// PASID of the space with page tables that the engine calls `id`.
    pub(super) fn pasid_of(&self, id: u64) -> Option<u32> {
        self.pasids.get(&id).copied()
    }
    /// A context uses it from now on.
    pub(super) fn enter(&mut self, pasid: u32) {
        if let Some(bound) = self.by_pasid.get_mut(&pasid) {
            bound.contexts += 1;
        }
    }
    /// A context uses it no more.
    pub(super) fn leave(&mut self, pasid: u32) {
        if let Some(bound) = self.by_pasid.get_mut(&pasid) {
            bound.contexts -= 1;
        }
    }
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<AddressSpace>> {
        self.by_pasid.values().map(|b| &b.space)
    }
    /// How many are bound, the physical one not counted.
    fn bound(&self) -> usize {
        self.by_pasid.len() - 1
    }
}

impl Domain {
    /// BIND: a page-table root under a PASID that is not 0, with the guest-physical address
    /// of an invalidation page, a multiple of 4096, if the guest wants one.
    ///
    /// # Errors
    /// As SPEC section 8.2 lists them.
    pub fn bind(
        &self,
        pasid: u32,
        page: Option<u64>,
        tables: PageTables,
    ) -> Result<(), ControlStatus> {
        if page.is_some() {
            self.need_feature(features::INVALIDATION_PAGE)?;
        }
        {
            let known = self.tables();
            if known.spaces.get(pasid).is_some() {
                return Err(ControlStatus::InUse);
            }
            if known.spaces.bound() >= self.quotas.address_spaces as usize {
                return Err(ControlStatus::Quota);
            }
        }
        let workers = self.core.epochs().workers();
        let space = AddressSpace::tables(self.memory(), tables).and_then(|space| match page {
            Some(page) => space.with_invalidation_page(page, workers),
            None => Ok(space),
        });
        let space = space.map_err(|e| match e {
            RootError::OutsideRam(_) | RootError::PageOutsideRam(_) => {
                ControlStatus::RootOutsideRam
            }
            RootError::Levels(_) | RootError::MaxPhyAddr(_) => ControlStatus::BadArgument,
        })?;
        let bound = Bound {
            space: Arc::new(space),
            contexts: 0,
        };
        let mut tables = self.tables();
        tables.spaces.pasids.insert(bound.space.id(), pasid);
        tables.spaces.by_pasid.insert(pasid, bound);
        Ok(())
    }

    /// UNBIND. Returns after the last access.
    ///
    /// # Errors
    /// As SPEC section 8.2 lists them.
    pub fn unbind(&self, pasid: u32) -> Result<(), ControlStatus> {
        let bound = {
            let spaces = &mut self.tables().spaces;
            let bound = spaces.by_pasid.get(&pasid);
            let bound = bound.ok_or(ControlStatus::NoSuchObject)?;
            if bound.contexts != 0 {
                return Err(ControlStatus::Busy);
            }
            spaces.pasids.remove(&bound.space.id());
            spaces.by_pasid.remove(&pasid)
        };
        if let Some(bound) = bound {
            // Its capabilities went with its contexts; this stops what is under way.
            bound.space.kill();
            self.core.epochs().synchronize();
            self.outlast_memory();
        }
        Ok(())
    }

    /// INVALIDATE of everything. Returns after the last access by an old translation,
    /// and says how many chunks it waited for.
    pub fn invalidate_domain(&self) -> u32 {
        for space in self.tables().spaces.iter() {
            space.invalidate_all();
        }
        self.core.epochs().synchronize()
    }

    /// INVALIDATE of one address space.
    ///
    /// # Errors
    /// [`ControlStatus::NoSuchObject`].
    pub fn invalidate_space(&self, pasid: u32) -> Result<u32, ControlStatus> {
        self.space(pasid)?.invalidate_all();
        Ok(self.core.epochs().synchronize())
    }

    /// INVALIDATE of `pages` pages from `address` on.
    ///
    /// # Errors
    /// [`ControlStatus::NoSuchObject`].
    pub fn invalidate_range(
        &self,
        pasid: u32,
        address: u64,
        pages: u64,
    ) -> Result<u32, ControlStatus> {
        let space = self.space(pasid)?;
        self.core.invalidations().push(&space, address, pages);
        Ok(self.core.epochs().synchronize())
    }

    fn space(&self, pasid: u32) -> Result<Arc<AddressSpace>, ControlStatus> {
        let tables = self.tables();
        tables.spaces.get(pasid).ok_or(ControlStatus::NoSuchObject)
    }
}
