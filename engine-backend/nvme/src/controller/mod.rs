//! [`Controller`]: a model of an NVMe controller with one namespace.
//!
//! Its host writes registers by [`Controller::mmio_write`], reads them by
//! [`Controller::mmio_read`], and calls [`Controller::process`], which fetches commands, carries
//! them out and posts completions, until it is told that nothing is left. It has no thread and knows no clock:
//! commands are carried out in order, within one call. So it can stand behind a PCI BAR of a
//! VMM as well as behind shared memory ([`crate::attach`]).
//!
//! What it does not have it says that it does not have: fused commands, metadata, protection
//! information, more than one namespace, firmware, namespaces that are managed, and weighted
//! arbitration.

mod admin;
mod data;
mod identify;
mod io;
mod logs;
mod queues;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use crate::dma::Dma;
use crate::layout::registers::{
    ACQ, AQA, ASQ, CAP, CC, CC_ENABLE, CSTS_FATAL, CSTS_READY, CSTS_SHUT_DOWN, Capabilities,
    DOORBELLS, INTMC, INTMS, VS_1_4, head_doorbell, tail_doorbell,
};
use crate::layout::{COMMAND_BYTES, Command, Completion, PAGE_BYTES, Status};
use crate::medium::Medium;
use queues::{CompletionQueue, SubmissionQueue};

/// Most I/O queues of a kind.
pub const IO_QUEUES_MAX: u16 = 16;
/// Interrupt vectors, that of the admin queues included.
pub const VECTORS: u16 = IO_QUEUES_MAX + 1;
/// Most entries of a queue.
const ENTRIES_MAX: u32 = 1024;
/// Commands that are carried out of one queue before the others get their turn.
const BURST: usize = 16;
/// Requests for events that can wait at a time.
const EVENT_REQUESTS_MAX: usize = 4;
/// Events that can wait for a request.
const EVENTS_MAX: usize = 16;
/// The namespace.
const NAMESPACE: u32 = 1;

/// What a controller is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Bytes of a block: 512 or 4096.
    pub block_bytes: u32,
    /// Largest transfer: pages of 4096 bytes, as a power of two, 1 to 8.
    pub transfer_pages_log2: u8,
    /// Whether data may be named by SGLs.
    pub sgl: bool,
    /// Whether shadow doorbells are offered (section 5.7).
    pub shadow_doorbells: bool,
    /// Serial number, up to 20 characters of ASCII.
    pub serial: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            block_bytes: 512,
            transfer_pages_log2: 8,
            sgl: true,
            shadow_doorbells: true,
            serial: "BYWAY0001".to_owned(),
        }
    }
}

/// Where shadow doorbells and event indices are.
#[derive(Debug, Clone, Copy)]
struct Shadow {
    doorbells: u64,
    events: u64,
}

/// The controller.
#[derive(Debug)]
pub struct Controller<M> {
    config: Config,
    medium: M,
    cc: u32,
    csts: u32,
    aqa: u32,
    asq: u64,
    acq: u64,
    mask: u32,
    /// By number; 0 is the admin queue.
    submission: Vec<Option<SubmissionQueue>>,
    completion: Vec<Option<CompletionQueue>>,
    shadow: Option<Shadow>,
    /// Commands that ask for events.
    event_requests: Vec<u16>,
    events: VecDeque<u32>,
    features: admin::Features,
    counts: logs::Counts,
    /// Data of the command at hand.
    buffer: Vec<u8>,
}

/// What a command comes to.
enum Answer {
    /// A completion, with dword 0.
    Done(Result<u32, Status>),
    /// None yet.
    Later,
}

impl<M: Medium> Controller<M> {
    /// A controller that was just powered on. Bytes of the medium behind its last whole block
    /// are not used.
    #[must_use]
    pub fn new(config: Config, medium: M) -> Self {
        let queues = usize::from(IO_QUEUES_MAX) + 1;
        Self {
            config,
            medium,
            cc: 0,
            csts: 0,
            aqa: 0,
            asq: 0,
            acq: 0,
            mask: 0,
            submission: (0..queues).map(|_| None).collect(),
            completion: (0..queues).map(|_| None).collect(),
            shadow: None,
            event_requests: Vec::new(),
            events: VecDeque::new(),
            features: admin::Features::default(),
            counts: logs::Counts::default(),
            buffer: Vec::new(),
        }
    }

    /// The medium.
    pub fn medium(&mut self) -> &mut M {
        &mut self.medium
    }

    fn capabilities() -> Capabilities {
        Capabilities {
            entries_max: ENTRIES_MAX,
            contiguous: true,
            timeout: 20,
            stride: 0,
            nvm: true,
            page_min: 0,
            page_max: 0,
        }
    }

    /// Reads a register: 4 bytes, or 8 of those that have them, at a multiple of their size.
    /// What is not there reads as 0.
    #[must_use]
    pub fn mmio_read(&self, offset: u64, bytes: usize) -> u64 {
        let word = match offset & !7 {
            CAP => Self::capabilities().pack(),
            // VS and INTMS share a word, and so on.
            0x08 => u64::from(VS_1_4) | u64::from(self.mask) << 32,
            0x10 => u64::from(self.mask) | u64::from(self.cc) << 32,
            0x18 => u64::from(self.csts) << 32,
            0x20 => u64::from(self.aqa) << 32,
            ASQ => self.asq,
            ACQ => self.acq,
            _ => 0,
        };
        match (bytes, offset % 8) {
            (8, 0) => word,
            (4, 0) => u64::from(word as u32),
            (4, 4) => word >> 32,
            _ => 0,
        }
    }

    /// Writes a register or a doorbell: as for [`Self::mmio_read`]. What cannot be written
    /// stays as it is.
    pub fn mmio_write(&mut self, offset: u64, value: u64, bytes: usize) {
        if !matches!(bytes, 4 | 8) || !offset.is_multiple_of(bytes as u64) {
            return;
        }
        if offset >= DOORBELLS {
            if bytes == 4 {
                self.doorbell(offset - DOORBELLS, value as u32);
            }
            return;
        }
        if bytes == 8 && !matches!(offset, ASQ | ACQ) {
            return;
        }
        let low = value as u32;
        let half = |old: u64| {
            if bytes == 8 {
                value
            } else if offset.is_multiple_of(8) {
                old & !0xffff_ffff | u64::from(low)
            } else {
                old & 0xffff_ffff | u64::from(low) << 32
            }
        };
        match offset {
            INTMS => self.mask |= low,
            INTMC => self.mask &= !low,
            CC => self.configure(low),
            AQA => self.aqa = low & 0x0fff_0fff,
            _ if offset & !7 == ASQ => self.asq = half(self.asq) & !0xfff,
            _ if offset & !7 == ACQ => self.acq = half(self.acq) & !0xfff,
            _ => {}
        }
    }

    /// Whether it can be given commands.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.csts & (CSTS_READY | CSTS_FATAL) == CSTS_READY
    }

    fn configure(&mut self, cc: u32) {
        let was = std::mem::replace(&mut self.cc, cc);
        if cc & CC_ENABLE == 0 {
            if was & CC_ENABLE != 0 {
                self.reset();
            }
            self.csts &= CSTS_SHUT_DOWN;
        } else if was & CC_ENABLE == 0 {
            self.csts = self.enable();
        }
        self.csts &= !CSTS_SHUT_DOWN;
        if cc >> 14 & 3 != 0 {
            // Everything that ended was carried out: only its durability is left.
            let _ = self.medium.flush();
            self.csts |= CSTS_SHUT_DOWN;
        }
    }

    /// Status after being enabled (section 7.6.1).
    fn enable(&mut self) -> u32 {
        let entries = |field: u32| (field & 0xfff) + 1;
        let (submissions, completions) = (entries(self.aqa), entries(self.aqa >> 16));
        let page = self.cc >> 7 & 0xf;
        let command_set = self.cc >> 4 & 7;
        let arbitration = self.cc >> 11 & 7;
        let usable = submissions >= 2 && completions >= 2 && self.asq != 0 && self.acq != 0;
        if !usable || page != 0 || command_set != 0 || arbitration != 0 {
            tracing::debug!(cc = self.cc, aqa = self.aqa, "cannot be enabled like this");
            return CSTS_FATAL;
        }
        self.submission[0] = Some(SubmissionQueue::new(self.asq, submissions, 0));
        self.completion[0] = Some(CompletionQueue::new(self.acq, completions, Some(0)));
        CSTS_READY
    }

    /// Forgets all but the admin queues' registers (section 7.3.2).
    fn reset(&mut self) {
        self.submission.fill_with(|| None);
        self.completion.fill_with(|| None);
        self.shadow = None;
        self.event_requests.clear();
        self.events.clear();
        self.features = admin::Features::default();
        self.mask = 0;
    }

    fn doorbell(&mut self, offset: u64, value: u32) {
        if !self.is_ready() || !offset.is_multiple_of(4) {
            return;
        }
        let queue = (offset / 8) as usize;
        let is_tail = offset.is_multiple_of(8);
        let known = if is_tail {
            let queue = self.submission.get_mut(queue).and_then(Option::as_mut);
            queue.map(|queue| queue.set_tail(value))
        } else {
            let queue = self.completion.get_mut(queue).and_then(Option::as_mut);
            queue.map(|queue| queue.set_head(value))
        };
        match known {
            Some(true) => {}
            // Error events: invalid doorbell value, or register (figure 147).
            Some(false) => self.event(0x0001_0100),
            None => self.event(0x0001_0000),
        }
    }

    /// Notes an event, of the kind and with what dword 0 of its completion tells.
    fn event(&mut self, result: u32) {
        if self.events.len() < EVENTS_MAX && !self.events.contains(&result) {
            self.events.push_back(result);
        }
    }

    /// Carries out what is in the queues, a bounded part of it, and calls `interrupt` for the
    /// vectors to be raised. Tells how many commands that were; 0: there is nothing to do
    /// until the host does something.
    pub fn process<D: Dma>(&mut self, dma: &D, interrupt: &mut dyn FnMut(u16)) -> usize {
        if !self.is_ready() {
            return 0;
        }
        let mut raised = 0_u32;
        let mut fetched = 0;
        for id in 0..self.submission.len() as u16 {
            self.read_shadows(dma, id);
            for _ in 0..BURST {
                if !self.one(dma, id, &mut raised) {
                    break;
                }
                fetched += 1;
            }
            self.hush(dma, id);
            if !self.is_ready() {
                break;
            }
        }
        self.tell_events(dma, &mut raised);
        for vector in 0..VECTORS {
            if raised >> vector & 1 != 0 && self.mask >> vector & 1 == 0 {
                interrupt(vector);
            }
        }
        fetched
    }

    /// Fetches and carries out a queue's next command, if it has one and its completion has
    /// room.
    fn one<D: Dma>(&mut self, dma: &D, id: u16, raised: &mut u32) -> bool {
        let Some(queue) = self.submission[usize::from(id)].as_ref() else {
            return false;
        };
        let Some(completions) = self.completion[usize::from(queue.completion)].as_ref() else {
            return false;
        };
        let Some(at) = queue.next().filter(|_| completions.has_room()) else {
            return false;
        };
        let mut bytes = [0; COMMAND_BYTES as usize];
        if dma.read(at, &mut bytes).is_err() {
            // It cannot even be told whose command it was.
            self.csts |= CSTS_FATAL;
            return false;
        }
        if let Some(queue) = self.submission[usize::from(id)].as_mut() {
            queue.advance();
        }
        let command = Command::unpack(&bytes);
        let answer = if id == 0 {
            self.admin(dma, &command)
        } else {
            Answer::Done(self.io(dma, &command).map(|()| 0))
        };
        if let Answer::Done(result) = answer {
            self.post(dma, id, command.id(), result, raised);
        }
        true
    }

    fn post<D: Dma>(
        &mut self,
        dma: &D,
        submission: u16,
        id: u16,
        result: Result<u32, Status>,
        raised: &mut u32,
    ) {
        // Its queue may have been deleted by the very command.
        let Some(queue) = self.submission[usize::from(submission)].as_ref() else {
            return;
        };
        let (sq_head, completion) = (queue.head() as u16, queue.completion);
        let Some(queue) = self.completion[usize::from(completion)].as_mut() else {
            return;
        };
        let entry = Completion {
            result: result.unwrap_or(0),
            sq_head,
            sq_id: submission,
            id,
            status: result.err().unwrap_or(Status::SUCCESS),
            phase: queue.phase(),
        };
        if dma.publish(queue.place(), entry.pack()).is_err() {
            self.csts |= CSTS_FATAL;
            return;
        }
        queue.advance();
        if let Some(vector) = queue.vector {
            *raised |= 1 << vector;
        }
    }

    /// Answers requests for events while there are events.
    fn tell_events<D: Dma>(&mut self, dma: &D, raised: &mut u32) {
        while !self.events.is_empty() && !self.event_requests.is_empty() {
            let has_room = self.completion[0].as_ref().is_some_and(|q| q.has_room());
            if !has_room {
                return;
            }
            let id = self.event_requests.remove(0);
            let result = self.events.pop_front().unwrap_or(0);
            self.post(dma, 0, id, Ok(result), raised);
        }
    }

    /// Takes a queue's shadow doorbells over.
    fn read_shadows<D: Dma>(&mut self, dma: &D, id: u16) {
        let Some(shadow) = self.shadow.filter(|_| id != 0) else {
            return;
        };
        let mut bad = false;
        if let Some(queue) = self.submission[usize::from(id)].as_mut()
            && let Ok(tail) = dma.load(shadow.doorbells + tail_doorbell(id, 0))
        {
            bad |= !queue.set_tail(tail);
        }
        if let Some(queue) = self.completion[usize::from(id)].as_mut()
            && let Ok(head) = dma.load(shadow.doorbells + head_doorbell(id, 0))
        {
            bad |= !queue.set_head(head);
        }
        if bad {
            self.event(0x0001_0100);
        }
    }

    /// Has the host not write doorbells while its shadows are looked at anyway: no step goes
    /// past what is one behind.
    fn hush<D: Dma>(&mut self, dma: &D, id: u16) {
        let Some(shadow) = self.shadow.filter(|_| id != 0) else {
            return;
        };
        if let Some(queue) = self.submission[usize::from(id)].as_mut()
            && let Some(event) = queue.new_event()
        {
            let _ = dma.store(shadow.events + tail_doorbell(id, 0), event);
        }
        if let Some(queue) = self.completion[usize::from(id)].as_mut()
            && let Some(event) = queue.new_event()
        {
            let _ = dma.store(shadow.events + head_doorbell(id, 0), event);
        }
    }

    /// Asks the host to write doorbells again, before nobody looks at their shadows. True:
    /// something has come already.
    pub fn arm<D: Dma>(&mut self, dma: &D) -> bool {
        // One that has broken off takes nothing, whatever its queues hold.
        let Some(shadow) = self.shadow.filter(|_| self.is_ready()) else {
            return false;
        };
        for id in 1..self.submission.len() as u16 {
            if let Some(queue) = self.submission[usize::from(id)].as_mut() {
                let event = queue.armed_event();
                let _ = dma.store(shadow.events + tail_doorbell(id, 0), event);
            }
            // A head is news only where there is no room.
            if let Some(queue) = self.completion[usize::from(id)].as_mut()
                && !queue.has_room()
            {
                let event = queue.armed_event();
                let _ = dma.store(shadow.events + head_doorbell(id, 0), event);
            }
        }
        // The host stores a shadow and looks at the event; here the other way round.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        (1..self.submission.len() as u16).any(|id| {
            self.read_shadows(dma, id);
            let queue = self.submission[usize::from(id)].as_ref();
            queue.is_some_and(|queue| {
                let completions = self.completion[usize::from(queue.completion)].as_ref();
                queue.next().is_some() && completions.is_some_and(CompletionQueue::has_room)
            })
        })
    }

    fn transfer_bytes_max(&self) -> u64 {
        PAGE_BYTES << self.config.transfer_pages_log2
    }

    fn blocks(&self) -> u64 {
        self.medium.bytes() / u64::from(self.config.block_bytes)
    }
}
