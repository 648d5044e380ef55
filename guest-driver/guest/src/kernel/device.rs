//! The Byway device: the driver with what this kernel gives it, and what the kernel must remember
//! about its processes' contexts, queues and offers.
//!
//! Owns the device and its interrupt. It never looks into a process's memory; where
//! queues are mapped is the address space's matter ([`super::space`]).

use core::arch::x86_64::_rdtsc;
use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

use byway_agent::layout::{CHANNELS, Process};
use byway_agent::{Failure, Status};
use byway_driver::{
    ContextId, Device, DmaPages, DriverEvent, Error, Hal, MmioTransport, Options, PageRequest,
    Pasid, QueueId,
};

use byway_protocols::QueueHeader;
use byway_protocols::ring::QueueState;

use super::boot_info::MmioDevice;
use super::frames::{Frames, direct};
use crate::layout::{MMIO_MAP, PAGE};
use crate::serial::log;

/// Work queues of all processes together.
pub const MAX_QUEUES: usize = 64;
/// Contexts of all processes together.
pub const MAX_CONTEXTS: usize = 64;
/// Events kept for the host program; older ones are forgotten.
const MAX_EVENTS: usize = 64;
/// Pages that the driver takes for itself: one for each virtqueue.
const DRIVER_PAGES: usize = 2;
/// Longest wait for an answer, in nanoseconds. Generous: the engine's thread may wait for a
/// core that others use.
const TIMEOUT_NS: u64 = 10_000_000_000;
/// Ticks of the time-stamp counter in a nanosecond. Higher than on any CPU, so that time-outs
/// come late rather than early.
const TICKS_PER_NS: u64 = 5;

/// Time-stamp counter, in ticks.
pub fn ticks() -> u64 {
    // SAFETY: every CPU in long mode has it.
    unsafe { _rdtsc() }
}

/// The driver's view of this kernel: its own pages, set aside beforehand, and the clock.
#[derive(Debug)]
pub struct KernelHal {
    pages: [Option<u64>; DRIVER_PAGES],
}

// SAFETY: `new` takes the frames from the allocator; each is handed out once and comes back before
// it is handed out again, and all RAM stays mapped.
unsafe impl Hal for KernelHal {
    fn allocate(&mut self, pages: usize) -> Option<DmaPages> {
        if pages != 1 {
            return None;
        }
        let gpa = self.pages.iter_mut().find_map(Option::take)?;
        let ptr = NonNull::new(direct::<u8>(gpa))?;
        // SAFETY: a whole frame that belongs to this value.
        unsafe { ptr.as_ptr().write_bytes(0, PAGE as usize) };
        Some(DmaPages { gpa, ptr, pages })
    }

    unsafe fn free(&mut self, pages: DmaPages) {
        if let Some(slot) = self.pages.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some(pages.gpa);
        }
    }

    fn now_ns(&mut self) -> u64 {
        ticks() / TICKS_PER_NS
    }
}

/// The same for drivers of other devices, which keep their memory for good: straight from the allocator.
pub struct FrameHal<'f>(pub &'f mut Frames);

// SAFETY: frames come from the allocator, zeroed, and stay whoever's took them; all RAM is mapped.
unsafe impl Hal for FrameHal<'_> {
    fn allocate(&mut self, pages: usize) -> Option<DmaPages> {
        let gpa = self.0.take_run(pages)?;
        let ptr = NonNull::new(direct::<u8>(gpa))?;
        // SAFETY: whole frames that were just taken.
        unsafe { ptr.as_ptr().write_bytes(0, pages * PAGE as usize) };
        Some(DmaPages { gpa, ptr, pages })
    }

    unsafe fn free(&mut self, pages: DmaPages) {
        self.0.give_run(pages.gpa, pages.pages);
    }

    fn now_ns(&mut self) -> u64 {
        ticks() / TICKS_PER_NS
    }
}

/// A work queue that was mapped into a process.
#[derive(Debug, Clone, Copy)]
pub struct QueueRecord {
    /// Its number.
    pub queue: u32,
    /// Context that owns it.
    pub context: u32,
    /// Process that has it mapped.
    pub process: Process,
    /// Place in the process's window for queues.
    pub place: usize,
    /// Guest-physical address of its pages.
    pub gpa: u64,
    /// Their number.
    pub pages: usize,
    /// [`Device::generation`] under which it was created: after a reset the engine does not know
    /// it.
    pub generation: u32,
}

/// A context that a process opened over its own page tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnContext {
    /// Its number.
    pub context: u32,
    /// The process.
    pub process: Process,
}

/// The latest events, oldest first.
#[derive(Debug)]
struct Events {
    ring: [Option<DriverEvent>; MAX_EVENTS],
    next: usize,
}

/// The device and what goes with it.
pub struct Byway {
    device: Device<MmioTransport, KernelHal>,
    /// Global system interrupt.
    pub irq: u32,
    /// Queues that are mapped somewhere.
    pub queues: [Option<QueueRecord>; MAX_QUEUES],
    /// Contexts over processes' own page tables.
    pub contexts: [Option<OwnContext>; MAX_CONTEXTS],
    /// Whether each process's page tables are bound.
    pub bound: [bool; CHANNELS],
    events: Events,
}

/// PASID of a process's own page tables.
pub const fn own_pasid(process: Process) -> Pasid {
    Pasid(1 + process as u32)
}

/// What the driver says, in the mailbox's terms.
pub fn failure(error: Error) -> Failure {
    match error {
        Error::Refused(status) => Failure::new(Status::Refused, status as u64),
        Error::RefusedUnknown(code) => Failure::new(Status::Refused, u64::from(code)),
        Error::NoMemory => Failure::new(Status::NoMemory, PAGE),
        Error::Name => Failure::argument(0, 0),
        Error::Entries(entries) => Failure::argument(1, u64::from(entries)),
        other => {
            log!("byway guest: {}", other);
            Failure::new(Status::NoDevice, 0)
        }
    }
}

impl Byway {
    /// Attaches the first Byway device among those of the command line.
    pub fn attach(devices: &[MmioDevice], frames: &mut Frames) -> Option<Self> {
        let mut hal = KernelHal {
            pages: [frames.take_run(1), frames.take_run(1)],
        };
        for found in devices {
            let base = NonNull::new((MMIO_MAP + found.registers.start) as *mut u8)?;
            // SAFETY: the kernel process mapped the page, uncached, for good, and nothing else
            // drives the device.
            let transport = unsafe { MmioTransport::new(base) };
            let options = Options {
                timeout_ns: TIMEOUT_NS,
                ..Options::default()
            };
            match Device::attach(transport, hal, options) {
                Ok(device) => {
                    return Some(Self {
                        device,
                        irq: found.irq,
                        queues: [None; MAX_QUEUES],
                        contexts: [None; MAX_CONTEXTS],
                        bound: [false; CHANNELS],
                        events: Events {
                            ring: [None; MAX_EVENTS],
                            next: 0,
                        },
                    });
                }
                Err(failed) => {
                    log!(
                        "byway guest: device at {:#x}: {}",
                        found.registers.start,
                        failed.error
                    );
                    hal = failed.hal;
                }
            }
        }
        for page in hal.pages.into_iter().flatten() {
            frames.give_run(page, 1);
        }
        None
    }

    /// The driver.
    pub fn device(&mut self) -> &mut Device<MmioTransport, KernelHal> {
        &mut self.device
    }

    /// Forgets what a reset ended. Mapped queues stay on record, for their pages; their headers say
    /// that they are dead, by the engine's hand or, where it did not live to do so, by this
    /// kernel's.
    pub fn forget_all(&mut self) {
        for record in self.queues.iter().flatten() {
            let state = direct::<u8>(record.gpa).wrapping_add(offset_of!(QueueHeader, state));
            // SAFETY: the header stands at the beginning of the queue's pages; the process reads it
            // by atomics.
            let state = unsafe { AtomicU32::from_ptr(state.cast()) };
            state.store(QueueState::Dead as u32, Ordering::Release);
        }
        self.contexts = [None; MAX_CONTEXTS];
        self.bound = [false; CHANNELS];
        self.events = Events {
            ring: [None; MAX_EVENTS],
            next: 0,
        };
    }

    /// Whether a queue is still the engine's.
    pub fn is_current(&self, record: &QueueRecord) -> bool {
        record.generation == self.device.generation()
    }

    /// Takes every event that the engine has sent, up to the first page request, which is the
    /// kernel's to answer.
    pub fn next_page_request(&mut self) -> Option<PageRequest> {
        // Bounded: the engine cannot send more than it has buffers for before they are stocked
        // again, but a broken one might try.
        for _ in 0..1024 {
            match self.device.next_event() {
                Ok(Some(DriverEvent::PageRequest(request))) => return Some(request),
                Ok(Some(event)) => self.events.push(event),
                Ok(None) => return None,
                Err(error) => {
                    // Said once: afterwards the device is broken, and calls say so.
                    log!("byway guest: events: {}", error);
                    return None;
                }
            }
        }
        None
    }

    /// Takes the oldest event among those that came.
    pub fn take_event(&mut self) -> Option<DriverEvent> {
        self.events.take(|_| true)
    }

    /// Takes the oldest offer with this label among those that came.
    pub fn take_offer(&mut self, label: u64) -> Option<DriverEvent> {
        self.events.take(|event| {
            matches!(event, DriverEvent::CapabilityOffered { label: found, .. } if *found == label)
        })
    }

    /// Record of queue `queue` of `process`; the youngest, where an older one of the same number
    /// outlived a reset.
    pub fn queue_of(&mut self, process: Process, queue: u64) -> Option<&mut Option<QueueRecord>> {
        let mine = |slot: &Option<QueueRecord>| {
            slot.is_some_and(|r| r.process == process && u64::from(r.queue) == queue)
        };
        let youngest = (0..MAX_QUEUES)
            .filter(|index| mine(&self.queues[*index]))
            .max_by_key(|index| self.queues[*index].map(|r| r.generation))?;
        Some(&mut self.queues[youngest])
    }

    /// A free record, and the lowest place in the process's window that no record uses.
    pub fn free_place(&mut self, process: Process) -> Option<(usize, usize)> {
        let index = self.queues.iter().position(Option::is_none)?;
        let place = (0..MAX_QUEUES).find(|place| {
            !self
                .queues
                .iter()
                .flatten()
                .any(|r| r.process == process && r.place == *place)
        })?;
        Some((index, place))
    }

    /// Numbers of queue and context as the driver wants them.
    pub fn queue_id(queue: u64) -> Result<QueueId, Failure> {
        u32::try_from(queue)
            .map(QueueId)
            .map_err(|_| Failure::argument(0, queue))
    }

    /// As [`Self::queue_id`].
    pub fn context_id(context: u64) -> Result<ContextId, Failure> {
        u32::try_from(context)
            .map(ContextId)
            .map_err(|_| Failure::argument(0, context))
    }
}

impl Events {
    fn push(&mut self, event: DriverEvent) {
        self.ring[self.next % MAX_EVENTS] = Some(event);
        self.next = (self.next + 1) % MAX_EVENTS;
    }

    /// Takes the oldest event that `wanted` wants.
    fn take(&mut self, wanted: impl Fn(&DriverEvent) -> bool) -> Option<DriverEvent> {
        for step in 0..MAX_EVENTS {
            let slot = &mut self.ring[(self.next + step) % MAX_EVENTS];
            if slot.as_ref().is_some_and(&wanted) {
                return slot.take();
            }
        }
        None
    }
}
