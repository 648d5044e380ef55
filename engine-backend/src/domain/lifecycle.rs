//! Reset and detach of a domain, and what the operator does to links.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use byway_protocols::Event;
use byway_protocols::event::EventKind;

use super::spaces::Spaces;
use super::{Core, Domain};
use crate::capability::{Ending, Grave, Link};

impl Domain {
    /// Back to the state after creation, RAM kept. When it returns nothing that
    /// the domain asked for is in flight but what devices have of pinned memory, nobody holds a usable capability over its memory,
    /// and its peers have been told. Numbers are not used again.
    pub fn reset(&self) {
        let was_ready = self.ready.swap(false, Ordering::SeqCst);
        self.features.store(0, Ordering::Relaxed);
        self.waiting.enable(false);

        // First the rights, so that peers stop as well while the queues are being ended
        // one by one.
        let graves = self.revoke_roots();
        for id in self.queue_ids() {
            // Gone meanwhile is as good.
            let _ = self.destroy_queue(id);
        }
        drop(self.core.exchange().withdraw_all(self.id));
        for id in self.context_ids() {
            // Its root is revoked already: it leaves no grave of its own.
            if let Ok(grave) = self.close_context(id) {
                self.core.reap_all(grave);
            }
        }
        self.core.epochs().synchronize();
        // Nobody uses them any more.
        let memory = self.memory();
        let spaces = {
            let mut tables = self.tables();
            std::mem::replace(&mut tables.spaces, Spaces::new(&memory))
        };
        spaces.iter().for_each(|space| space.kill());
        // Peers' descriptors that wait for its pages find that the right to them has ended.
        self.refuse_page_requests();
        for grave in graves {
            self.core.reap_all(grave);
        }
        self.outlast_all();

        self.instance
            .store(self.core.next_instance(), Ordering::Relaxed);
        self.events.clear();
        if was_ready {
            for peer in self.core.peers().linked(self.id) {
                if peer.is_ready() {
                    peer.events().push(Event {
                        kind: EventKind::DomainGone as u16,
                        object: self.id,
                        ..Event::default()
                    });
                }
            }
        }
    }

    fn revoke_roots(&self) -> Vec<Grave> {
        let tables = self.tables();
        tables
            .contexts
            .roots()
            .map(|root| self.owner.revoke(root, Ending::OwnerReset))
            .collect()
    }
    fn queue_ids(&self) -> Vec<u32> {
        self.tables().queues.ids()
    }
    fn context_ids(&self) -> Vec<u32> {
        self.tables().contexts.ids()
    }
}

impl Core {
    /// Ends links, and revokes what was given along them. Returns after the last access, for which it may wait as long as
    /// devices take that are in pinned memory: for the operator's threads.
    pub fn end_links(&self, links: &[Arc<Link>]) {
        if links.is_empty() {
            return;
        }
        for link in links {
            link.end();
        }
        // What was given along a link may be over anybody's memory.
        let graves: Vec<_> = self
            .peers()
            .all()
            .iter()
            .map(|domain| domain.owner.bury_ended())
            .collect();
        self.epochs().synchronize();
        // Descriptors that wait at ports find that the right to them has ended.
        self.workers().wake_all();
        let endpoints = self.workers().endpoints();
        endpoints.fence();
        for grave in graves {
            self.bury(grave, None);
        }
        // Whatever it is: what goes along which link is not known to devices.
        self.wait_for(endpoints.reaching(|_| true), "the operator's");
    }
}
