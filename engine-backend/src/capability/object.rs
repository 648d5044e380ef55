//! [`Object`]: what a capability is to when it is not to memory.

use std::sync::{Arc, Weak};

use super::Key;
use crate::endpoint::Endpoint;
use crate::port::Port;

/// An object of the engine. Entries of the tree alone keep it, so that it goes with the last
/// capability to it.
#[derive(Debug, Clone)]
pub(super) enum Object {
    /// A key.
    Key(Arc<Key>),
    /// A port.
    Port(Arc<Port>),
    /// Blocks of an endpoint; which ones is the capability's matter.
    Block(Arc<Endpoint>),
}

impl Object {
    pub(super) fn downgrade(&self) -> WeakObject {
        match self {
            Self::Key(key) => WeakObject::Key(Arc::downgrade(key)),
            Self::Port(port) => WeakObject::Port(Arc::downgrade(port)),
            Self::Block(endpoint) => WeakObject::Block(Arc::downgrade(endpoint)),
        }
    }
}

/// An object as a capability knows it.
#[derive(Debug)]
pub(super) enum WeakObject {
    /// A key.
    Key(Weak<Key>),
    /// A port.
    Port(Weak<Port>),
    /// Blocks of an endpoint.
    Block(Weak<Endpoint>),
}

impl WeakObject {
    /// It, unless it is gone.
    pub(super) fn upgrade(&self) -> Option<Object> {
        match self {
            Self::Key(key) => key.upgrade().map(Object::Key),
            Self::Port(port) => port.upgrade().map(Object::Port),
            Self::Block(endpoint) => endpoint.upgrade().map(Object::Block),
        }
    }
}
