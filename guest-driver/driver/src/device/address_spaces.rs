//! Address spaces and contexts: BIND, UNBIND, CONTEXT_CREATE, CONTEXT_DESTROY, INVALIDATE
//! (SPEC section 8).

use super::Device;
use crate::Error;
use crate::hal::Hal;
use crate::handle::{ContextId, Pasid};
use crate::message;
use crate::transport::Transport;
use byway_protocols::control::{
    BindRequest, ContextCreateRequest, ContextDestroyRequest, InvalidateRequest, UnbindRequest,
    bind_flags, invalidate_scope,
};

/// A page-table root and how the guest's CPU walks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind {
    /// PASID to bind, 1 to 2^20 - 1.
    pub pasid: Pasid,
    /// Guest-physical address of the root table; CR3's low 12 bits are ignored.
    pub root: u64,
    /// Levels: 4 or 5.
    pub levels: u8,
    /// MAXPHYADDR of the CPU, 32 to 52 bits.
    pub maxphyaddr: u8,
    /// EFER.NXE is set.
    pub nxe: bool,
    /// The CPU has 1 GiB pages.
    pub pages_1g: bool,
    /// The engine must not write page-table entries.
    pub no_ad: bool,
    /// Guest-physical address of an invalidation page (SPEC section 10); 0 = none.
    pub invalidation_page: u64,
}

/// Which cached translations to drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalidation {
    /// Of every address space of this domain.
    Domain,
    /// Of one address space.
    Pasid(Pasid),
    /// Of a range of one address space.
    Range {
        /// The address space.
        pasid: Pasid,
        /// First address, a multiple of 4096.
        address: u64,
        /// Pages of 4096 bytes, not 0.
        pages: u64,
    },
}

impl<T: Transport, H: Hal> Device<T, H> {
    /// BIND (SPEC section 8.2): makes a page-table root an address space.
    ///
    /// # Errors
    /// The engine refuses a PASID in use, a root outside RAM, and modes that it cannot walk.
    pub fn bind(&mut self, bind: &Bind) -> Result<(), Error> {
        let flag = |set: bool, bit: u16| if set { bit } else { 0 };
        self.call(&message::Bind(BindRequest {
            root: bind.root,
            pasid: bind.pasid.0,
            levels: bind.levels,
            maxphyaddr: bind.maxphyaddr,
            flags: flag(bind.nxe, bind_flags::NXE)
                | flag(bind.pages_1g, bind_flags::PAGES_1G)
                | flag(bind.no_ad, bind_flags::NO_AD),
            invalidation_page: bind.invalidation_page,
            ..BindRequest::default()
        }))
    }

    /// UNBIND (SPEC section 8.2): takes the address space back. After this returns the engine walks
    /// its tables no more, and they may be freed.
    ///
    /// # Errors
    /// The engine refuses while a context uses it.
    pub fn unbind(&mut self, pasid: Pasid) -> Result<(), Error> {
        self.call(&message::Unbind(UnbindRequest {
            pasid: pasid.0,
            ..UnbindRequest::default()
        }))
    }

    /// CONTEXT_CREATE (SPEC section 8.2): opens a context over an address space, or over
    /// guest-physical addresses with [`Pasid::PHYSICAL`]. `slots` counts slot 0.
    ///
    /// # Errors
    /// The engine refuses a PASID that is not bound, and what exceeds a quota.
    pub fn create_context(&mut self, pasid: Pasid, slots: u32) -> Result<ContextId, Error> {
        let request = ContextCreateRequest {
            pasid: pasid.0,
            slots,
        };
        Ok(ContextId(
            self.call(&message::ContextCreate(request))?.context,
        ))
    }

    /// CONTEXT_DESTROY (SPEC section 8.2): closes a context with its queues and slots; what was
    /// derived from its own address space is revoked. Pages of its queues may be freed afterwards.
    ///
    /// # Errors
    /// The engine refuses an unknown context.
    pub fn destroy_context(&mut self, context: ContextId) -> Result<(), Error> {
        let request = ContextDestroyRequest {
            context: context.0,
            ..ContextDestroyRequest::default()
        };
        self.call(&message::ContextDestroy(request))
    }

    /// INVALIDATE (SPEC section 8.2): drops cached translations. After this returns no access by an
    /// old one is in flight or can start. Returns the chunks in flight that were waited for. May
    /// sleep; from atomic context use the invalidation page (SPEC section 10).
    ///
    /// # Errors
    /// The engine refuses an unknown PASID and a malformed range.
    pub fn invalidate(&mut self, what: Invalidation) -> Result<u32, Error> {
        let request = match what {
            Invalidation::Domain => InvalidateRequest {
                scope: invalidate_scope::DOMAIN,
                ..Default::default()
            },
            Invalidation::Pasid(pasid) => InvalidateRequest {
                scope: invalidate_scope::PASID,
                pasid: pasid.0,
                ..Default::default()
            },
            Invalidation::Range {
                pasid,
                address,
                pages,
            } => InvalidateRequest {
                scope: invalidate_scope::RANGE,
                pasid: pasid.0,
                address,
                pages,
                ..Default::default()
            },
        };
        Ok(self.call(&message::Invalidate(request))?.waited_chunks)
    }
}
