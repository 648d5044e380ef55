//! [`Disk`]: requests into commands, completions into outcomes (section 6 of the base
//! specification).

use std::fs::OpenOptions;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use byway_nvme::attach::serve;
use byway_nvme::controller::{Config, Controller};
use byway_nvme::layout::registers::CC;
use byway_nvme::layout::{Command, Completion, nvm};
use byway_nvme::medium::Image;

use super::link::Link;
use super::pointers::{self, List};
use super::queue::QueuePair;
use super::start::{IO_QUEUE, Layout, NAMESPACE, start};
use super::{DEPTH_MAX, Model, Options, QUEUE_IOVA, STAGING_IOVA};
use crate::endpoint::OpenError;
use crate::endpoint::device::{
    BlockDevice, Geometry, Outcome, Refused, Request, StagingRange, Token,
};
use crate::endpoint::in_flight::{InFlight, Work};
use crate::endpoint::limits::Limits;
use crate::endpoint::peer_memory::PeerMemory;
use crate::endpoint::staging::StagingMemory;
use crate::endpoint::watch::{Watch, connect};
use crate::threads::{ThreadKind, begins};

/// Blocks that one command can zero.
const ZERO_BLOCKS_MAX: u32 = 1 << 16;
/// A command's number: its slot, and above it how often the slot was used.
const SLOT_BITS: u32 = 8;
const _: () = assert!(DEPTH_MAX < 1 << SLOT_BITS);

/// A namespace of an NVMe controller, attached.
///
/// After its death another is opened, with staging memory that is new: the former controller
/// may have kept the old one.
#[derive(Debug)]
pub struct Disk {
    limits: Limits,
    /// Data is named by SGLs.
    sgl: bool,
    options: Options,
    queue: QueuePair,
    layout: Layout,
    memory: PeerMemory,
    /// Kept while the controller may use it.
    _staging: Arc<StagingMemory>,
    requests: InFlight,
    /// How often each slot was used.
    uses: Box<[u8]>,
    link: Link,
    is_armed: bool,
    system_calls: u64,
    gone: Option<String>,
}

impl Disk {
    /// Attaches to the controller whose socket is at `path`, and gives it `staging`, queues and
    /// nothing else. May block for as long as its time-out, for each of a few answers.
    ///
    /// # Errors
    /// See [`OpenError`]. The controller may have been given the staging memory even then.
    pub fn open(
        path: &Path,
        options: &Options,
        staging: Arc<StagingMemory>,
    ) -> Result<Self, OpenError> {
        let (socket, watch) = connect(path, options.timeout)?;
        Self::attach(&socket, watch, path, options, staging)
    }

    /// The same with the built-in model over the image at `image`, on a thread of this process,
    /// which ends with the disk.
    ///
    /// # Errors
    /// As for [`Self::open`]; or when the image cannot be opened.
    pub fn open_model(
        image: &Path,
        model: &Model,
        options: &Options,
        staging: Arc<StagingMemory>,
    ) -> Result<Self, OpenError> {
        if !model.block_bytes.is_power_of_two() || !(512..=4096).contains(&model.block_bytes) {
            return Err(OpenError::BadOption(format!(
                "blocks of {} bytes: expected a power of two from 512 to 4096",
                model.block_bytes
            )));
        }
        let no_image = |source: std::io::Error| OpenError::NoAnswer {
            path: image.display().to_string(),
            what: source.to_string(),
        };
        let host = |source| OpenError::Host {
            what: "cannot start a model of an NVMe controller",
            source,
        };
        let mut how = OpenOptions::new();
        let file = how.read(true).write(!model.read_only).open(image);
        let medium = file.and_then(|file| Image::new(file, model.read_only));
        let config = Config {
            block_bytes: model.block_bytes,
            ..Config::default()
        };
        let mut controller = Controller::new(config, medium.map_err(no_image)?);
        let (ours, theirs) = UnixStream::pair().map_err(host)?;
        std::thread::Builder::new()
            .name("byway-nvme-model".to_owned())
            .stack_size(crate::STACK_BYTES)
            .spawn(move || {
                begins(ThreadKind::Model);
                // It ends when the engine hangs up.
                let never = AtomicBool::new(false);
                if let Err(error) = serve(&theirs, &mut controller, &never) {
                    tracing::warn!("model of an NVMe controller: {error}");
                }
            })
            .map_err(host)?;
        let watch = Watch::new(ours.try_clone().map_err(host)?).map_err(host)?;
        Self::attach(&ours, watch, image, options, staging)
    }

    fn attach(
        socket: &UnixStream,
        watch: Watch,
        path: &Path,
        options: &Options,
        staging: Arc<StagingMemory>,
    ) -> Result<Self, OpenError> {
        if options.depth == 0 || options.depth > DEPTH_MAX {
            return Err(OpenError::BadOption(format!(
                "{} requests at a time: expected 1 to {DEPTH_MAX}",
                options.depth
            )));
        }
        let layout = Layout::new(options.depth);
        let memory = PeerMemory::new(c"byway-nvme-queues", layout.end as u64)?;
        let name = path.display().to_string();
        let link = Link::new(socket, watch, name, options.timeout, &staging, &memory)?;
        let (what, queue) = start(&link, memory.span(), &layout, options)?;
        let limits = Limits {
            geometry: what.geometry,
            // A range has 32 bits for its blocks.
            discard_blocks_max: u32::MAX,
            zero_blocks_max: ZERO_BLOCKS_MAX,
            staging_bytes: staging.bytes(),
        };
        Ok(Self {
            limits,
            sgl: what.sgl,
            options: *options,
            queue,
            layout,
            memory,
            _staging: staging,
            requests: InFlight::new(options.depth),
            uses: vec![0; options.depth.into()].into(),
            link,
            is_armed: false,
            system_calls: 0,
            gone: None,
        })
    }

    /// Makes the command of a slot's piece and pushes it.
    fn issue(&mut self, slot: u16, work: &Work) {
        let uses = &mut self.uses[usize::from(slot)];
        *uses = uses.wrapping_add(1);
        let id = u16::from(*uses) << SLOT_BITS | slot;
        let (lba, blocks) = (work.lba(), work.piece);
        let command = |opcode| Command::new(opcode, id, NAMESPACE);
        let command = match work.request {
            Request::Read { at, .. } => {
                let command = command(nvm::READ).with_blocks(lba, blocks);
                self.with_data(command, slot, at)
            }
            Request::Write { at, .. } => {
                let command = command(nvm::WRITE).with_blocks(lba, blocks);
                self.with_data(command, slot, at)
            }
            Request::Compare { at, .. } => {
                let command = command(nvm::COMPARE).with_blocks(lba, blocks);
                self.with_data(command, slot, at)
            }
            Request::Flush => command(nvm::FLUSH),
            Request::WriteZeroes { .. } => command(nvm::WRITE_ZEROES).with_blocks(lba, blocks),
            Request::Discard { .. } => {
                let at = self.layout.ranges + 16 * usize::from(slot);
                let span = self.memory.span();
                // Attributes 0, blocks, first block.
                span.store_u64(at, (u64::from(blocks) << 32).to_le());
                span.store_u64(at + 8, lba.to_le());
                command(nvm::DATASET_MANAGEMENT)
                    .with_prp([QUEUE_IOVA + at as u64, 0])
                    .with(11, nvm::DEALLOCATE)
            }
        };
        self.queue.push(&command);
    }

    fn with_data(&self, command: Command, slot: u16, at: StagingRange) -> Command {
        let address = STAGING_IOVA + u64::from(at.offset);
        if self.sgl {
            return pointers::by_sgl(command, address, at.length);
        }
        let offset = self.layout.lists + 4096 * usize::from(slot);
        let list = List {
            span: self.memory.span(),
            offset,
            address: QUEUE_IOVA + offset as u64,
        };
        pointers::by_prp(command, address, at.length, list)
    }

    /// Makes something of a completion. `Err`: the controller made it up.
    fn end(
        &mut self,
        completion: &Completion,
        ended: &mut dyn FnMut(Token, Outcome),
    ) -> Result<(), String> {
        let slot = completion.id & ((1 << SLOT_BITS) - 1);
        let uses = (completion.id >> SLOT_BITS) as u8;
        let known = self.uses.get(usize::from(slot)).is_some_and(|&u| u == uses);
        let work = self.requests.get_mut(slot.into()).filter(|_| known);
        let work = work.ok_or_else(|| {
            format!(
                "it completes command {:#x}, which is not under way",
                completion.id
            )
        })?;
        let entries = self.queue.place().entries;
        if completion.sq_id != IO_QUEUE || u32::from(completion.sq_head) >= entries {
            return Err(format!(
                "it completes a command of queue {} at {}: expected queue {IO_QUEUE}, of \
                 {entries} entries",
                completion.sq_id, completion.sq_head
            ));
        }
        let outcome = if !completion.status.is_success() {
            work.failed(completion.status.0, self.limits.geometry.block_bytes, 0)
        } else {
            if work.next(ZERO_BLOCKS_MAX) {
                let work = *work;
                self.issue(slot, &work);
                return Ok(());
            }
            Outcome::Done
        };
        let token = work.token;
        self.requests.remove(slot);
        ended(token, outcome);
        Ok(())
    }

    /// Takes completions, no more than there can be commands.
    fn take_all(&mut self, ended: &mut dyn FnMut(Token, Outcome)) -> Result<usize, String> {
        let before = self.queue.head();
        let mut taken = 0;
        while taken < usize::from(self.options.depth)
            && let Some(completion) = self.queue.take()
        {
            self.end(&completion, ended)?;
            taken += 1;
        }
        if taken != 0 {
            self.system_calls += u64::from(self.queue.give_back(&self.link, before));
            self.flush_submissions();
        }
        Ok(taken)
    }

    /// Why the controller has to be given up, if nothing came from it.
    fn trouble(&self) -> Option<String> {
        if self.link.is_fatal() {
            return Some("it reports a fatal status".to_owned());
        }
        self.requests.overdue(self.options.timeout)
    }

    fn give_up(&mut self, reason: String) {
        if self.gone.is_none() {
            tracing::warn!("NVMe controller {}: gone: {reason}", self.link.name());
            self.gone = Some(reason);
        }
        self.link.watch().cut();
    }
}

impl BlockDevice for Disk {
    fn geometry(&self) -> &Geometry {
        &self.limits.geometry
    }

    fn submit(&mut self, token: Token, request: &Request) -> Result<(), Refused> {
        if self.gone.is_some() {
            return Err(Refused::Gone);
        }
        let max = self
            .limits
            .piece_max(request)
            .ok_or(Refused::NotSupported)?;
        let inserted = self.requests.insert(token, request, max, Instant::now());
        let (slot, work) = inserted.ok_or(Refused::Full)?;
        self.issue(slot, &work);
        Ok(())
    }

    fn flush_submissions(&mut self) {
        if self.gone.is_none() {
            self.system_calls += u64::from(self.queue.show(&self.link));
        }
    }

    fn poll(&mut self, ended: &mut dyn FnMut(Token, Outcome)) {
        if std::mem::take(&mut self.is_armed) {
            self.link.want_wake(false);
            self.system_calls += 1;
            self.link.watch().hush();
        }
        if self.gone.is_none() {
            // First: what it did before it hung up was done.
            let is_lost = self.link.watch().is_lost();
            match self.take_all(ended) {
                Err(reason) => self.give_up(reason),
                Ok(_) if is_lost => self.give_up("it hung up".to_owned()),
                Ok(0) => {
                    if let Some(reason) = self.trouble() {
                        self.give_up(reason);
                    }
                }
                Ok(_) => {}
            }
        }
        if self.gone.is_some() {
            self.requests.give_up(ended);
        }
    }

    fn system_calls(&self) -> u64 {
        self.system_calls
    }

    fn arm(&mut self) -> bool {
        self.is_armed = true;
        self.link.want_wake(true);
        self.queue.is_waiting() || self.gone.is_some() || self.link.watch().is_lost()
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.link.watch().wake_fd())
    }

    fn gone(&self) -> Option<&str> {
        self.gone.as_deref()
    }

    fn close(&mut self, _patience: Duration) {
        if self.gone.is_none() {
            self.gone = Some("closed".to_owned());
            // A controller that keeps its word stops; one that does not loses its memory.
            self.link.write(CC, 0);
            self.link.watch().kick();
        }
        self.link.watch().cut();
    }
}
