//! The admin command set (section 5).

use super::data::{pieces, scatter};
use super::queues::{CompletionQueue, SubmissionQueue};
use super::{Answer, Controller, ENTRIES_MAX, EVENT_REQUESTS_MAX, IO_QUEUES_MAX, Shadow, VECTORS};
use crate::dma::Dma;
use crate::layout::registers::CC_ENTRY_SIZES;
use crate::layout::{Command, PAGE_BYTES, Status, admin};
use crate::medium::Medium;

/// Features that can be set and are returned as they were, by number (section 5.21).
const ARBITRATION: u8 = 0x01;
const POWER: u8 = 0x02;
const TEMPERATURE: u8 = 0x04;
const ERROR_RECOVERY: u8 = 0x05;
const WRITE_CACHE: u8 = 0x06;
const QUEUES: u8 = 0x07;
const COALESCING: u8 = 0x08;
const VECTOR: u8 = 0x09;
const ATOMICITY: u8 = 0x0a;
const EVENTS: u8 = 0x0b;

/// What features are set to.
#[derive(Debug)]
pub(super) struct Features {
    values: [u32; 16],
}

impl Default for Features {
    fn default() -> Self {
        let mut values = [0; 16];
        values[usize::from(WRITE_CACHE)] = 1;
        values[usize::from(TEMPERATURE)] = 0x157;
        Self { values }
    }
}

impl Features {
    /// Whether what was written may wait for a flush.
    pub(super) fn write_cache(&self) -> bool {
        self.values[usize::from(WRITE_CACHE)] & 1 != 0
    }

    fn get(&mut self, number: u8) -> Option<&mut u32> {
        let known = matches!(
            number,
            ARBITRATION
                | POWER
                | TEMPERATURE
                | ERROR_RECOVERY
                | WRITE_CACHE
                | QUEUES
                | COALESCING
                | VECTOR
                | ATOMICITY
                | EVENTS
        );
        known.then(|| &mut self.values[usize::from(number)])
    }
}

impl<M: Medium> Controller<M> {
    /// Carries out a command of the admin queue.
    pub(super) fn admin<D: Dma>(&mut self, dma: &D, command: &Command) -> Answer {
        if command.opcode() == admin::ASYNC_EVENT_REQUEST {
            return self.ask_for_event(command);
        }
        Answer::Done(self.admin_now(dma, command))
    }

    fn ask_for_event(&mut self, command: &Command) -> Answer {
        if self.event_requests.len() >= EVENT_REQUESTS_MAX {
            return Answer::Done(Err(Status::ASYNC_EVENT_LIMIT.do_not_retry()));
        }
        if self.event_requests.contains(&command.id()) {
            return Answer::Done(Err(Status::ID_CONFLICT.do_not_retry()));
        }
        self.event_requests.push(command.id());
        Answer::Later
    }

    fn admin_now<D: Dma>(&mut self, dma: &D, command: &Command) -> Result<u32, Status> {
        let invalid = Status::INVALID_FIELD.do_not_retry();
        if command.fuse() != 0 || command.psdt() != 0 {
            return Err(invalid);
        }
        match command.opcode() {
            admin::CREATE_CQ => self.create_completion(command),
            admin::CREATE_SQ => self.create_submission(command),
            admin::DELETE_SQ => self.delete_submission(command),
            admin::DELETE_CQ => self.delete_completion(command),
            admin::IDENTIFY => {
                let select = command.dword(10) as u8;
                let data = self.identify(select, command.namespace())?;
                let pieces = pieces(dma, command, data.len() as u64, true, false)?;
                scatter(dma, &pieces, &data)?;
                Ok(0)
            }
            admin::GET_LOG_PAGE => {
                let log = self.log(command.dword(10) as u8)?;
                let dwords = u64::from(command.dword(10) >> 16)
                    | u64::from(command.dword(11) & 0xffff) << 16;
                let offset = u64::from(command.dword(12)) | u64::from(command.dword(13)) << 32;
                let bytes = (dwords + 1) * 4;
                if !offset.is_multiple_of(4)
                    || offset > log.len() as u64
                    || bytes > self.transfer_bytes_max()
                {
                    return Err(invalid);
                }
                let pieces = pieces(dma, command, bytes, true, false)?;
                let mut data = log[offset as usize..].to_vec();
                data.resize(bytes as usize, 0);
                scatter(dma, &pieces, &data)?;
                Ok(0)
            }
            admin::SET_FEATURES => self.set_feature(command),
            admin::GET_FEATURES => self.get_feature(command),
            // Whatever could be aborted has ended: bit 0 says that nothing was.
            admin::ABORT => Ok(1),
            admin::DOORBELL_BUFFER_CONFIG if self.config.shadow_doorbells => {
                let [doorbells, events] = command.prp();
                let is_page = |at: u64| at != 0 && at.is_multiple_of(PAGE_BYTES);
                if !is_page(doorbells) || !is_page(events) {
                    return Err(invalid);
                }
                // Both are one page, and have to be there.
                let mut page = [0; PAGE_BYTES as usize];
                dma.read(doorbells, &mut page)?;
                dma.read(events, &mut page)?;
                self.shadow = Some(Shadow { doorbells, events });
                Ok(0)
            }
            _ => Err(Status::INVALID_OPCODE.do_not_retry()),
        }
    }

    /// Number and entries of a queue to be made.
    fn new_queue(command: &Command) -> Result<(u16, u32), Status> {
        let id = command.dword(10) as u16;
        let entries = (command.dword(10) >> 16) + 1;
        if id == 0 || id > IO_QUEUES_MAX {
            return Err(Status::QUEUE_ID_INVALID.do_not_retry());
        }
        if !(2..=ENTRIES_MAX).contains(&entries) {
            return Err(Status::QUEUE_SIZE_INVALID.do_not_retry());
        }
        let is_contiguous = command.dword(11) & 1 != 0;
        let [base, _] = command.prp();
        if !is_contiguous || base == 0 {
            return Err(Status::INVALID_FIELD.do_not_retry());
        }
        if !base.is_multiple_of(PAGE_BYTES) {
            return Err(Status::PRP_OFFSET_INVALID.do_not_retry());
        }
        Ok((id, entries))
    }

    fn create_completion(&mut self, command: &Command) -> Result<u32, Status> {
        let (id, entries) = Self::new_queue(command)?;
        if self.completion[usize::from(id)].is_some() {
            return Err(Status::QUEUE_ID_INVALID.do_not_retry());
        }
        let vector = (command.dword(11) >> 16) as u16;
        if vector >= VECTORS {
            return Err(Status::INTERRUPT_VECTOR_INVALID.do_not_retry());
        }
        if self.cc & 0xf << 20 != CC_ENTRY_SIZES & 0xf << 20 {
            return Err(Status::QUEUE_SIZE_INVALID.do_not_retry());
        }
        let has_interrupt = command.dword(11) & 2 != 0;
        let [base, _] = command.prp();
        let queue = CompletionQueue::new(base, entries, has_interrupt.then_some(vector));
        self.completion[usize::from(id)] = Some(queue);
        Ok(0)
    }

    fn create_submission(&mut self, command: &Command) -> Result<u32, Status> {
        let (id, entries) = Self::new_queue(command)?;
        let completion = (command.dword(11) >> 16) as u16;
        if self.submission[usize::from(id)].is_some() {
            return Err(Status::QUEUE_ID_INVALID.do_not_retry());
        }
        let known = self.completion.get(usize::from(completion));
        if completion == 0 || known.is_none_or(Option::is_none) {
            return Err(Status::COMPLETION_QUEUE_INVALID.do_not_retry());
        }
        if self.cc & 0xf << 16 != CC_ENTRY_SIZES & 0xf << 16 {
            return Err(Status::QUEUE_SIZE_INVALID.do_not_retry());
        }
        let [base, _] = command.prp();
        let queue = SubmissionQueue::new(base, entries, completion);
        self.submission[usize::from(id)] = Some(queue);
        Ok(0)
    }

    fn delete_submission(&mut self, command: &Command) -> Result<u32, Status> {
        let id = command.dword(10) as u16;
        let queue = self.submission.get_mut(usize::from(id)).filter(|_| id != 0);
        let deleted = queue.and_then(Option::take);
        // Its commands are carried out when they are fetched: none is left in the middle.
        deleted
            .map(|_| 0)
            .ok_or(Status::QUEUE_ID_INVALID.do_not_retry())
    }

    fn delete_completion(&mut self, command: &Command) -> Result<u32, Status> {
        let id = command.dword(10) as u16;
        let mut users = self.submission.iter().skip(1).flatten();
        if users.any(|queue| queue.completion == id) {
            return Err(Status::QUEUE_DELETION_INVALID.do_not_retry());
        }
        let queue = self.completion.get_mut(usize::from(id)).filter(|_| id != 0);
        let deleted = queue.and_then(Option::take);
        deleted
            .map(|_| 0)
            .ok_or(Status::QUEUE_ID_INVALID.do_not_retry())
    }

    fn set_feature(&mut self, command: &Command) -> Result<u32, Status> {
        if command.dword(10) >> 31 != 0 {
            return Err(Status::NOT_SAVEABLE.do_not_retry());
        }
        let number = command.dword(10) as u8;
        let value = command.dword(11);
        let invalid = Status::INVALID_FIELD.do_not_retry();
        let queues = u32::from(IO_QUEUES_MAX - 1);
        let feature = self.features.get(number).ok_or(invalid)?;
        match number {
            QUEUES => {
                if value & 0xffff == 0xffff || value >> 16 == 0xffff {
                    return Err(invalid);
                }
                *feature = (value & 0xffff).min(queues) | (value >> 16).min(queues) << 16;
                Ok(*feature)
            }
            POWER if value & 0x1f != 0 => Err(invalid),
            _ => {
                *feature = value;
                Ok(0)
            }
        }
    }

    fn get_feature(&mut self, command: &Command) -> Result<u32, Status> {
        let number = command.dword(10) as u8;
        let invalid = Status::INVALID_FIELD.do_not_retry();
        let select = command.dword(10) >> 8 & 7;
        let queues = u32::from(IO_QUEUES_MAX - 1);
        let now = *self.features.get(number).ok_or(invalid)?;
        match (select, number) {
            (0, QUEUES) if now == 0 => Ok(queues | queues << 16),
            (0, _) => Ok(now),
            (1 | 2, QUEUES) => Ok(queues | queues << 16),
            (1 | 2, _) => {
                let value = Features::default().get(number).copied();
                value.ok_or(invalid)
            }
            // Can be changed; is not saved; holds for the controller.
            (3, _) => Ok(0b100),
            _ => Err(invalid),
        }
    }
}
