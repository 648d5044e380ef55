//! Brings a controller up: reset, admin queue, identify, one I/O queue pair, shadow doorbells
//! (section 7.6.1 of the base specification).

use byway_nvme::layout::identify::{BYTES, CNS_CONTROLLER, CNS_NAMESPACE};
use byway_nvme::layout::registers::{
    ACQ, AQA, ASQ, CAP, CC_ENABLE, CC_ENTRY_SIZES, Capabilities, VS,
};
use byway_nvme::layout::{COMMAND_BYTES, COMPLETION_BYTES, Command, admin};

use super::identify::{self, Described};
use super::link::Link;
use super::queue::{Place, QueuePair, Shadow};
use super::{Options, QUEUE_IOVA};
use crate::endpoint::OpenError;
use crate::memory::HostSpan;

const PAGE: usize = 4096;
/// Entries of the admin queues: a page of commands.
const ADMIN_ENTRIES: u32 = 64;
/// The namespace that is used.
pub(super) const NAMESPACE: u32 = 1;
/// The I/O queues' number.
pub(super) const IO_QUEUE: u16 = 1;

/// Where everything is in the queues' memory, in bytes from its start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    admin: Place,
    io: Place,
    shadow: Shadow,
    /// A page for what identify returns.
    page: usize,
    /// 16 bytes a slot, for ranges of dataset management.
    pub(super) ranges: usize,
    /// A page a slot, for PRP entries.
    pub(super) lists: usize,
    pub(super) end: usize,
}

impl Layout {
    pub(super) fn new(depth: u16) -> Self {
        // One entry always stays empty.
        let entries = (u32::from(depth) + 1).next_power_of_two();
        let mut next = 0;
        let mut take = |bytes: usize| {
            let at = next;
            next += bytes.next_multiple_of(PAGE);
            at
        };
        let mut place = |id, entries: u32| Place {
            id,
            entries,
            submission: take(entries as usize * COMMAND_BYTES as usize),
            completion: take(entries as usize * COMPLETION_BYTES as usize),
        };
        let admin = place(0, ADMIN_ENTRIES);
        let io = place(IO_QUEUE, entries);
        let shadow = Shadow {
            doorbells: take(PAGE),
            events: take(PAGE),
        };
        Self {
            admin,
            io,
            shadow,
            page: take(PAGE),
            ranges: take(16 * usize::from(depth)),
            lists: take(PAGE * usize::from(depth)),
            end: next,
        }
    }
}

/// Runs commands of the admin queue, one at a time.
struct Admin<'a> {
    link: &'a Link,
    queue: QueuePair,
    next_id: u16,
}

impl Admin<'_> {
    /// Runs one to its end; `what` it is for, for people.
    fn run(&mut self, what: &str, command: Command) -> Result<(), OpenError> {
        self.next_id += 1;
        let id = self.next_id;
        let mut command = command;
        command.dwords[0] |= u32::from(id) << 16;
        self.queue.push(&command);
        self.queue.show(self.link);
        let queue = &mut self.queue;
        let before = queue.head();
        let completion = self.link.wait(what, |link| {
            if link.is_fatal() {
                return Err(link.not_usable(format!("{what}: it reports a fatal status")));
            }
            Ok(queue.take())
        })?;
        queue.give_back(self.link, before);
        if completion.id != id || completion.sq_id != 0 {
            return Err(self.link.not_usable(format!(
                "{what}: it completes command {} of queue {}: expected {id} of queue 0",
                completion.id, completion.sq_id
            )));
        }
        if !completion.status.is_success() {
            return Err(self.link.not_usable(format!(
                "{what}: refused with status {:#x}",
                completion.status.0
            )));
        }
        Ok(())
    }
}

/// Brings it up: what it is, and its I/O queues.
pub(super) fn start(
    link: &Link,
    span: &HostSpan,
    layout: &Layout,
    options: &Options,
) -> Result<(Described, QueuePair), OpenError> {
    let cap = u64::from(link.read(CAP)) | u64::from(link.read(CAP + 4)) << 32;
    let cap = Capabilities::unpack(cap);
    let entries = layout.io.entries.max(ADMIN_ENTRIES);
    // A shadow's last doorbell, and the register's, have to be in their page.
    let stride_max = 8;
    if !cap.nvm || cap.page_min != 0 || cap.entries_max < entries || cap.stride > stride_max {
        return Err(link.not_usable(format!(
            "capabilities {cap:?}, version {:#x}: expected the NVM command set, pages of 4 KiB, \
             queues of {entries} entries, a doorbell stride of at most {stride_max}",
            link.read(VS)
        )));
    }
    link.configure(0, 0)?;
    let address = |offset: usize| QUEUE_IOVA + offset as u64;
    link.write(AQA, (ADMIN_ENTRIES - 1) << 16 | (ADMIN_ENTRIES - 1));
    link.write_wide(ASQ, address(layout.admin.submission));
    link.write_wide(ACQ, address(layout.admin.completion));
    link.configure(CC_ENABLE | CC_ENTRY_SIZES, 1)?;

    let mut admin = Admin {
        link,
        queue: QueuePair::new(span.clone(), layout.admin, cap.stride, None),
        next_id: 0,
    };
    let mut identify = |what: &str, select: u8, namespace: u32| {
        let command = Command::new(admin::IDENTIFY, 0, namespace);
        let command = command.with_prp([address(layout.page), 0]);
        admin.run(what, command.with(10, select.into()))?;
        let mut page = [0; BYTES];
        span.read_bytes(layout.page, &mut page);
        Ok::<_, OpenError>(page)
    };
    let controller = identify("to identify the controller", CNS_CONTROLLER, 0)?;
    let namespace = identify("to identify namespace 1", CNS_NAMESPACE, NAMESPACE)?;
    let read = identify::read(&controller, &namespace, options);
    let what = read.map_err(|what| link.not_usable(what))?;

    let size = (layout.io.entries - 1) << 16 | u32::from(IO_QUEUE);
    // Contiguous, with interrupt 0.
    let completion = Command::new(admin::CREATE_CQ, 0, 0)
        .with_prp([address(layout.io.completion), 0])
        .with(10, size)
        .with(11, 0b11);
    admin.run("to make a completion queue", completion)?;
    let submission = Command::new(admin::CREATE_SQ, 0, 0)
        .with_prp([address(layout.io.submission), 0])
        .with(10, size)
        .with(11, 1 | u32::from(IO_QUEUE) << 16);
    admin.run("to make a submission queue", submission)?;
    let mut shadow = None;
    if what.shadow_doorbells {
        let Shadow { doorbells, events } = layout.shadow;
        let command = Command::new(admin::DOORBELL_BUFFER_CONFIG, 0, 0);
        let command = command.with_prp([address(doorbells), address(events)]);
        admin.run("to use shadow doorbells", command)?;
        shadow = Some(layout.shadow);
    }
    let io = QueuePair::new(span.clone(), layout.io, cap.stride, shadow);
    Ok((what, io))
}
