//! The same memory as loom sees it: one payload word for each descriptor and completion
//! beside the word that publishes it, which is all that the protocol's order is about.

use super::{QueueMemory, completion_of};
use byway_protocols::{Completion, Descriptor, RingPosition};
use core::sync::atomic::Ordering;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, AtomicU64};
use std::vec::Vec;

pub(crate) use loom::sync::atomic::fence;

/// What both sides reach.
#[derive(Debug)]
pub(crate) struct Lines {
    /// Bytes 0-7 and `src` of each descriptor.
    pub(crate) ring: Vec<[AtomicU64; 2]>,
    /// Bytes 0-7 and `fault_addr` of each completion.
    pub(crate) completions: Vec<[AtomicU64; 2]>,
    pub(crate) need_kick: AtomicU32,
    pub(crate) state: AtomicU32,
    pub(crate) instance: AtomicU32,
}

/// The submitter's access.
#[derive(Debug)]
pub(crate) struct Shared(Arc<Lines>);

impl Shared {
    /// Never called: loom has no raw memory.
    ///
    /// # Safety
    /// None is possible.
    pub(crate) unsafe fn new(_: &QueueMemory) -> Self {
        unreachable!("models build their queues over `Shared::model`")
    }

    /// Zeroed memory of `entries` entries, and the submitter's access to it.
    pub(crate) fn model(entries: usize) -> (Self, Arc<Lines>) {
        let zeroed = || {
            (0..entries)
                .map(|_| [AtomicU64::new(0), AtomicU64::new(0)])
                .collect()
        };
        let lines = Arc::new(Lines {
            ring: zeroed(),
            completions: zeroed(),
            need_kick: AtomicU32::new(0),
            state: AtomicU32::new(0),
            instance: AtomicU32::new(0),
        });
        (Self(lines.clone()), lines)
    }

    pub(crate) fn publish(&self, at: RingPosition, descriptor: &Descriptor) {
        let [word, payload] = &self.0.ring[at.slot() as usize];
        payload.store(descriptor.src, Ordering::Relaxed);
        word.store(descriptor.publish_word(), Ordering::Release);
    }

    pub(crate) fn completion(&self, at: RingPosition) -> Option<Completion> {
        let [word, payload] = &self.0.completions[at.slot() as usize];
        let first = word.load(Ordering::Acquire);
        if (first & Completion::PUBLISH_PHASE != 0) != at.phase() {
            return None;
        }
        Some(completion_of([
            first,
            payload.load(Ordering::Relaxed),
            0,
            0,
        ]))
    }

    pub(crate) fn need_kick(&self) -> bool {
        self.0.need_kick.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn state_and_instance(&self) -> (u32, u32) {
        let state = self.0.state.load(Ordering::Acquire);
        (state, self.0.instance.load(Ordering::Relaxed))
    }
}
