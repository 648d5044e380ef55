//! Contexts of a domain: create, destroy.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use byway_protocols::ControlStatus;

use super::Domain;
use super::core::next_number;
use crate::capability::{Capability, Ending, Grave, Held};
use crate::context::Context;
use crate::port::Port;

/// An open context.
#[derive(Debug)]
pub(super) struct Open {
    context: Arc<Context>,
    /// What is derived from slot 0 hangs from here.
    root: Held,
    pasid: u32,
    /// Ports that it has created, some of which may be gone.
    ports: Vec<Weak<Port>>,
}

/// Open contexts by number.
#[derive(Debug, Default)]
pub(super) struct Contexts {
    by_id: BTreeMap<u32, Open>,
}

impl Contexts {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }
    pub(super) fn get(&self, id: u32) -> Option<Arc<Context>> {
        Some(Arc::clone(&self.by_id.get(&id)?.context))
    }
    pub(super) fn ids(&self) -> Vec<u32> {
        self.by_id.keys().copied().collect()
    }
    pub(super) fn roots(&self) -> impl Iterator<Item = &Capability> {
        self.by_id.values().map(|open| &*open.root)
    }
    /// Notes a port of a context's.
    pub(super) fn add_port(&mut self, id: u32, port: &Arc<Port>) {
        if let Some(open) = self.by_id.get_mut(&id) {
            open.ports.retain(|port| port.strong_count() > 0);
            open.ports.push(Arc::downgrade(port));
        }
    }
    /// What a slot means for deriving: the root for 0.
    pub(super) fn capability(&self, id: u32, slot: u32) -> Option<Arc<Capability>> {
        let open = self.by_id.get(&id)?;
        match slot {
            0 => Some(Arc::clone(open.root.capability())),
            slot => open.context.slots().peek(slot),
        }
    }
}

impl Domain {
    /// CONTEXT_CREATE with `slots` slots, in range; returns its number.
    ///
    /// # Errors
    /// As SPEC section 8.2 lists them.
    pub fn create_context(&self, pasid: u32, slots: u32) -> Result<u32, ControlStatus> {
        let mut tables = self.tables();
        let space = tables
            .spaces
            .get(pasid)
            .ok_or(ControlStatus::NoSuchObject)?;
        if tables.contexts.len() >= self.quotas.contexts as usize {
            return Err(ControlStatus::Quota);
        }
        let id = next_number(&self.next_context)?;
        let open = Open {
            root: Capability::root(&self.owner, Arc::clone(&space)),
            context: Arc::new(Context::new(id, self.id, space, slots)),
            pasid,
            ports: Vec::new(),
        };
        tables.spaces.enter(pasid);
        tables.contexts.by_id.insert(id, open);
        Ok(id)
    }

    /// The first part of CONTEXT_DESTROY, which may be all but endless: ends some of the
    /// context's queues, for `time` and one queue at most. True when there are more.
    pub fn begin_destroying_context(&self, id: u32, time: Duration) -> bool {
        self.destroy_some_queues_of(id, time)
    }

    /// CONTEXT_DESTROY: its queues end, its slots are emptied, and what was derived from
    /// its slot 0 is revoked. Returns after the last access.
    ///
    /// # Errors
    /// As SPEC section 8.2 lists them.
    pub fn destroy_context(&self, id: u32) -> Result<(), ControlStatus> {
        let grave = self.close_context(id)?;
        self.core.bury(grave, None);
        Ok(())
    }

    /// All of it but telling the holders of what was revoked.
    pub(super) fn close_context(&self, id: u32) -> Result<Grave, ControlStatus> {
        if self.tables().contexts.get(id).is_none() {
            return Err(ControlStatus::NoSuchObject);
        }
        self.destroy_queues_of(id);
        let open = {
            let mut tables = self.tables();
            let Some(open) = tables.contexts.by_id.remove(&id) else {
                return Err(ControlStatus::NoSuchObject);
            };
            tables.spaces.leave(open.pasid);
            open
        };
        drop(
            self.core
                .exchange()
                .withdraw_made(self.id, |(context, _)| context == id),
        );
        let grave = self.owner.revoke(&open.root, Ending::ContextDestroyed);
        self.core.epochs().synchronize();
        for port in open.ports.iter().filter_map(Weak::upgrade) {
            // Peers' descriptors that wait there find that the right to it has ended.
            port.wake();
        }
        open.context.slots().clear(self.core.epochs());
        self.outlast_all();
        Ok(grave)
    }

    pub(crate) fn context(&self, id: u32) -> Result<Arc<Context>, ControlStatus> {
        let tables = self.tables();
        tables.contexts.get(id).ok_or(ControlStatus::NoSuchObject)
    }
}
