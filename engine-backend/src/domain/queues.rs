//! Work queues of a domain: create, destroy, arm, and the loss of their memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use byway_protocols::{Completion, ControlStatus, Descriptor, QueueHeader, RingPosition, Status};

use super::core::next_number;
use super::pages::Waiting;
use super::{Domain, Events, add_stats};
use crate::capability::Charge;
use crate::memory::HostSpan;
use crate::queue::{CompletionSink, PageNeed, QueueParts, QueueStats, WorkQueue};

/// What QUEUE_CREATE asks for, its arguments in range.
#[derive(Debug, Clone, Copy)]
pub struct QueueArguments {
    /// Context that is to own the queue.
    pub context: u32,
    /// Start of a ring with the wanted number of entries.
    pub entries: RingPosition,
    /// Guest-physical address of the descriptors.
    pub ring: u64,
    /// Guest-physical address of the completions.
    pub completions: u64,
    /// Guest-physical address of the header.
    pub header: u64,
    /// Never to be parked.
    pub no_park: bool,
}

/// A piece of guest-physical memory: start and length in bytes.
type Area = (u64, u64);

#[derive(Debug)]
struct Entry {
    context: u32,
    areas: [Area; 3],
    /// `None` when its memory went away; the driver still has to destroy it.
    queue: Option<Arc<WorkQueue>>,
    _unparked: Option<Charge>,
}

/// Queues by number.
#[derive(Debug, Default)]
pub(super) struct Queues {
    by_id: BTreeMap<u32, Entry>,
}

impl Queues {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }
    pub(super) fn stats(&self) -> impl Iterator<Item = QueueStats> {
        self.by_id
            .values()
            .filter_map(|e| Some(e.queue.as_ref()?.stats()))
    }
    pub(super) fn ids(&self) -> Vec<u32> {
        self.by_id.keys().copied().collect()
    }
    fn first_of(&self, context: u32) -> Option<u32> {
        let mut all = self.by_id.iter();
        all.find(|(_, e)| e.context == context).map(|(&id, _)| id)
    }
    fn ids_of(&self, context: u32) -> Vec<u32> {
        let of = self.by_id.iter().filter(|(_, e)| e.context == context);
        of.map(|(&id, _)| id).collect()
    }
}

/// Tells the driver of a queue by the number that it knows.
struct Sink {
    events: Arc<Events>,
    waiting: Arc<Waiting>,
    queue: u32,
}

impl CompletionSink for Sink {
    fn completed(&self, _key: u32) {
        self.events.completion(self.queue);
    }
    fn dead(&self, _key: u32, status: Status) {
        self.events.queue_dead(self.queue, status);
    }
    fn page_needed(&self, key: u32, need: &PageNeed) -> Option<u64> {
        let wait = self.waiting.note(key, need)?;
        // The control thread takes over from here.
        self.events.poke();
        Some(wait)
    }
}

/// Whether two areas share a byte. Neither wraps: they were resolved in RAM.
fn overlap(a: Area, b: Area) -> bool {
    a.0 < b.0 + b.1 && b.0 < a.0 + a.1
}

impl Domain {
    /// QUEUE_CREATE; returns its number. It is served from now on.
    ///
    /// # Errors
    /// As SPEC section 8.2 lists them.
    pub fn create_queue(&self, wanted: &QueueArguments) -> Result<u32, ControlStatus> {
        let context = self.context(wanted.context)?;
        let entries = u64::from(wanted.entries.entries());
        let areas = [
            (wanted.ring, entries * Descriptor::SIZE as u64),
            (wanted.completions, entries * Completion::SIZE as u64),
            (wanted.header, QueueHeader::SIZE as u64),
        ];
        let [ring, completions, header] = self.resolve_areas(areas)?;

        if self.tables().queues.len() >= self.quotas.queues as usize {
            return Err(ControlStatus::Quota);
        }
        let unparked = match wanted.no_park {
            true => Some(self.unparked.charge().ok_or(ControlStatus::Quota)?),
            false => None,
        };
        let id = next_number(&self.next_queue)?;
        let sink = Sink {
            events: Arc::clone(&self.events),
            waiting: Arc::clone(&self.waiting),
            queue: id,
        };
        let queue = Arc::new(WorkQueue::new(QueueParts {
            id: self.core.take_queue_key(),
            domain: self.id,
            account: Arc::clone(&self.account),
            context,
            entries: wanted.entries,
            ring,
            completions,
            header,
            no_park: wanted.no_park,
            instance: self.instance(),
            sink: Arc::new(sink),
        }));
        let entry = Entry {
            context: wanted.context,
            areas,
            queue: Some(Arc::clone(&queue)),
            _unparked: unparked,
        };
        queue.context().add_queue(id, queue.cancels());
        self.tables().queues.by_id.insert(id, entry);
        self.core.workers().attach(queue);
        Ok(id)
    }

    fn resolve_areas(&self, areas: [Area; 3]) -> Result<[HostSpan; 3], ControlStatus> {
        let memory = self.memory();
        let resolve = |(gpa, len)| {
            memory
                .contiguous(gpa, len)
                .ok_or(ControlStatus::RingOutsideRam)
        };
        let spans = [resolve(areas[0])?, resolve(areas[1])?, resolve(areas[2])?];
        if overlap(areas[0], areas[1]) || overlap(areas[0], areas[2]) || overlap(areas[1], areas[2])
        {
            return Err(ControlStatus::RingOutsideRam);
        }
        Ok(spans)
    }

    /// QUEUE_DESTROY. Returns after the last access.
    ///
    /// # Errors
    /// As SPEC section 8.2 lists them.
    pub fn destroy_queue(&self, id: u32) -> Result<(), ControlStatus> {
        let removed = self.tables().queues.by_id.remove(&id);
        let entry = removed.ok_or(ControlStatus::NoSuchObject)?;
        self.stop(id, entry.queue);
        Ok(())
    }

    /// QUEUE_ARM.
    ///
    /// # Errors
    /// As SPEC section 8.2 lists them.
    pub fn arm_queue(&self, id: u32) -> Result<(), ControlStatus> {
        let queue = {
            let tables = self.tables();
            let entry = tables.queues.by_id.get(&id);
            entry.ok_or(ControlStatus::NoSuchObject)?.queue.clone()
        };
        if let Some(queue) = queue {
            queue.arm();
        }
        Ok(())
    }

    /// Ends queues of a context until there are none, or for `time` at most but one in any
    /// case; true when there are more.
    pub(super) fn destroy_some_queues_of(&self, context: u32, time: Duration) -> bool {
        let started = Instant::now();
        loop {
            let first = self.tables().queues.first_of(context);
            let Some(id) = first else { return false };
            // Gone meanwhile is as good.
            let _ = self.destroy_queue(id);
            if started.elapsed() >= time {
                return self.tables().queues.first_of(context).is_some();
            }
        }
    }

    pub(super) fn destroy_queues_of(&self, context: u32) {
        let ids = self.tables().queues.ids_of(context);
        for id in ids {
            // Gone meanwhile is as good.
            let _ = self.destroy_queue(id);
        }
    }

    /// The driver may have been reset and has not said so yet: the rings that it knew are not written to
    /// any more ([`WorkQueue::abandon`]). The domain must be paused.
    pub fn abandon_queues(&self) {
        let tables = self.tables();
        let queues = tables.queues.by_id.values();
        queues
            .filter_map(|entry| entry.queue.as_ref())
            .for_each(|queue| queue.abandon());
    }

    /// Ends the queues that have a byte in memory that was taken away, and says so to the
    /// driver. Returns after the last access to their rings; `silently`: there is none any more
    /// ([`WorkQueue::abandon`]).
    pub fn stop_queues_in(&self, gpa: u64, size: u64, silently: bool) {
        let stopped: Vec<_> = self
            .tables()
            .queues
            .by_id
            .iter_mut()
            .filter(|(_, e)| e.areas.iter().any(|&a| overlap(a, (gpa, size))))
            .filter_map(|(&id, e)| Some((id, e.queue.take()?)))
            .collect();
        for (id, queue) in stopped {
            if silently {
                queue.abandon();
            }
            self.stop(id, Some(queue));
            self.events.queue_dead(id, Status::RegionGone);
        }
    }

    fn stop(&self, id: u32, queue: Option<Arc<WorkQueue>>) {
        let Some(queue) = queue else { return };
        queue.context().remove_queue(id);
        self.core.workers().detach(queue.id());
        self.outlast_all();
        self.forget_waiting(queue.id());
        self.core.return_queue_key(queue.id());
        add_stats(&mut self.tables().totals, queue.stats());
    }
}

#[cfg(test)]
mod tests {
    use super::overlap;

    #[test]
    fn areas_that_touch_do_not_overlap() {
        assert!(!overlap((0, 64), (64, 64)));
        assert!(!overlap((64, 64), (0, 64)));
        assert!(overlap((0, 65), (64, 64)));
        assert!(overlap((64, 64), (0, 1024)));
        assert!(overlap((5, 1), (5, 1)));
    }
}
