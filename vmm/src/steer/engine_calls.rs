//! [`Guest`]'s commands that reach the engine: control requests by way of the guest kernel, descriptors by the
//! process's own ring.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use byway_agent::Process;
use byway_agent::commands::{
    self, COMPLETION_RECORD_BYTES, PASID_OWN, RUN_SAMPLES, RUN_STOP_ON_FAILURE, RUN_TEMPLATE,
    Request, Status as AgentStatus, capability, capability_slot,
};
use byway_protocols::codec::KeyAlgorithm;
use byway_protocols::{Completion, ControlStatus, Descriptor, Rights, Status};

use super::guest::Guest;
use super::run::{RunDone, RunSpec, Running};

/// Slots of a context that [`Guest::open_context`] opens.
const SLOTS: u64 = 64;
/// An address that only the guest's ring 0 may touch: the trap stubs, with which its image begins
/// (`guest-driver/guest/image.ld`).
const RING0_START: u64 = 0x20_0000;
/// Longer than a revocation usually takes.
const REVOKE_EXPECTED: Duration = Duration::from_micros(1500);

/// Context and queue of one process.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Opened {
    context: Option<u64>,
    queue: Option<commands::QueueCreated>,
}

/// What a control request that may be refused came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Carried out.
    Done,
    /// Refused by the engine.
    Refused(ControlStatus),
}

/// A capability that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Slot that holds it.
    pub slot: u16,
    /// Bytes that it spans.
    pub length: u64,
    /// Its rights.
    pub rights: Rights,
}

/// A capability to blocks of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// Slot that holds it.
    pub slot: u16,
    /// Bytes that it spans.
    pub length: u64,
    /// Bytes of a block.
    pub block_bytes: u64,
}

fn slot_of(capability: u64) -> Result<u16> {
    u16::try_from(capability_slot(capability)).context("the guest named a slot above 65535")
}

impl Guest {
    fn opened(&self, process: Process) -> Opened {
        self.opened[process as usize].get()
    }

    /// The process's context.
    ///
    /// # Errors
    /// When it has opened none.
    pub fn context(&self, process: Process) -> Result<u64> {
        self.opened(process)
            .context
            .with_context(|| format!("{process:?} of {} has no context", self.name()))
    }

    /// The process's queue.
    ///
    /// # Errors
    /// When it has created none.
    pub fn queue(&self, process: Process) -> Result<commands::QueueCreated> {
        self.opened(process)
            .queue
            .with_context(|| format!("{process:?} of {} has no queue", self.name()))
    }

    /// Opens a context over the process's own address space.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn open_context(&self, process: Process) -> Result<()> {
        let request = commands::OpenContext {
            pasid: PASID_OWN,
            slots: SLOTS,
            maxphyaddr: 0,
            flags: 0,
        };
        let opened = self.call(process, request)?;
        self.opened[process as usize].set(Opened {
            context: Some(opened.context),
            queue: None,
        });
        Ok(())
    }

    /// Closes it, with its queue.
    ///
    /// # Errors
    /// When there is none, or the engine refuses.
    pub fn close_context(&self, process: Process) -> Result<()> {
        self.call(
            process,
            commands::CloseContext {
                context: self.context(process)?,
            },
        )?;
        self.opened[process as usize].set(Opened::default());
        Ok(())
    }

    /// Creates the process's work queue.
    ///
    /// # Errors
    /// When there is no context, or the engine refuses.
    pub fn create_queue(&self, process: Process, entries: u64, flags: u64) -> Result<()> {
        let context = self.context(process)?;
        let queue = self.call(
            process,
            commands::CreateQueue {
                context,
                entries,
                flags,
            },
        )?;
        self.opened[process as usize].set(Opened {
            context: Some(context),
            queue: Some(queue),
        });
        Ok(())
    }

    /// Derives a capability into the lowest empty slot of the same context.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn derive(
        &self,
        process: Process,
        slot: u16,
        base: u64,
        length: u64,
        rights: Rights,
    ) -> Result<u16> {
        let context = self.context(process)?;
        let derived = self.call(
            process,
            commands::Derive {
                parent: capability(context, u64::from(slot)),
                target: capability(context, 0),
                base,
                length,
                rights: u64::from(rights.0),
                badge: 0,
                lifetime_ns: 0,
                byte_quota: 0,
            },
        )?;
        slot_of(derived.capability)
    }

    /// Creates a port for `depth` messages of up to `bytes` bytes; returns its slot.
    ///
    /// # Errors
    /// When the guest refuses or does not answer.
    pub fn create_port(&self, process: Process, depth: u64, bytes: u64) -> Result<u16> {
        let created = self.call(
            process,
            commands::CreatePort {
                target: capability(self.context(process)?, 0),
                depth,
                bytes,
                badge: 0,
            },
        )?;
        slot_of(created.capability)
    }

    /// Opens what the operator granted of an endpoint into the lowest empty slot of the process's
    /// context.
    ///
    /// # Errors
    /// When the guest refuses or does not answer.
    pub fn open_endpoint(&self, process: Process, name: &str) -> Result<Blocks> {
        let target = capability(self.context(process)?, 0);
        self.wake()?;
        self.mailbox()
            .channel(process)
            .bulk_write(0, name.as_bytes());
        let opened = self.call(
            process,
            commands::OpenEndpoint {
                target,
                name_len: name.len() as u64,
                badge: 0,
            },
        )?;
        Ok(Blocks {
            slot: slot_of(opened.capability)?,
            length: opened.length,
            block_bytes: opened.block_bytes,
        })
    }

    /// Loads a key into the lowest empty slot of the process's context; which.
    ///
    /// # Errors
    /// When the guest refuses or does not answer.
    pub fn load_key(
        &self,
        process: Process,
        algorithm: KeyAlgorithm,
        key: &[u8],
        rights: Rights,
    ) -> Result<u16> {
        let target = capability(self.context(process)?, 0);
        self.wake()?;
        self.mailbox().channel(process).bulk_write(0, key);
        let loaded = self.call(
            process,
            commands::LoadKey {
                target,
                algorithm: algorithm as u64,
                length: key.len() as u64,
                rights: u64::from(rights.0),
                badge: 0,
            },
        )?;
        slot_of(loaded.capability)
    }

    /// Looks `peer` up and offers it the capability in `slot`.
    ///
    /// # Errors
    /// When the guest does not answer; what the engine refuses is in the result.
    pub fn try_offer(
        &self,
        process: Process,
        slot: u16,
        peer: &str,
        rights: Rights,
        label: u64,
    ) -> Result<Control> {
        self.mailbox()
            .channel(process)
            .bulk_write(0, peer.as_bytes());
        let found = match self.control(
            process,
            commands::Lookup {
                name_len: peer.len() as u64,
            },
        )? {
            Ok(found) => found,
            Err(refused) => return Ok(Control::Refused(refused)),
        };
        let offer = commands::Offer {
            capability: capability(self.context(process)?, u64::from(slot)),
            domain: found.domain,
            rights: u64::from(rights.0),
            label,
        };
        Ok(match self.control(process, offer)? {
            Ok(_) => Control::Done,
            Err(refused) => Control::Refused(refused),
        })
    }

    /// As [`Self::try_offer`].
    ///
    /// # Errors
    /// When the engine refuses, too.
    pub fn offer(
        &self,
        process: Process,
        slot: u16,
        peer: &str,
        rights: Rights,
        label: u64,
    ) -> Result<()> {
        match self.try_offer(process, slot, peer, rights, label)? {
            Control::Done => Ok(()),
            Control::Refused(status) => bail!("offering to {peer}: {status}"),
        }
    }

    /// Waits for an offer with `label` and accepts it into the lowest empty slot.
    ///
    /// # Errors
    /// When none comes within two seconds, or the engine refuses.
    pub fn accept(&self, process: Process, label: u64) -> Result<Accepted> {
        let ticks = self.ns_to_ticks(2_000_000_000);
        let offer = self
            .call(process, commands::AwaitOffer { label, ticks })?
            .offer;
        let target = capability(self.context(process)?, 0);
        let accepted = self.call(process, commands::Accept { offer, target })?;
        Ok(Accepted {
            slot: slot_of(accepted.capability)?,
            length: accepted.length,
            rights: Rights(accepted.rights as u32),
        })
    }

    /// Revokes the capability in `slot`, with all that was derived from it. Returns how long the guest kernel waited, in
    /// nanoseconds.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn revoke(&self, process: Process, slot: u16) -> Result<u64> {
        let capability = capability(self.context(process)?, u64::from(slot));
        // A look at the guest may take the core from the thread that revokes, and its wait is timed.
        let revoked = self.call_undisturbed(
            process,
            commands::Revoke {
                capability,
                descendants_only: 0,
            },
            REVOKE_EXPECTED,
        )?;
        Ok(self.ticks_to_ns(revoked.ticks))
    }

    /// Empties a slot.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn drop_capability(&self, process: Process, slot: u16) -> Result<()> {
        let capability = capability(self.context(process)?, u64::from(slot));
        self.call(process, commands::DropCapability { capability })?;
        Ok(())
    }

    /// Drops the engine's cached translations of `pages` pages of 4096 bytes from `va` on.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn invalidate(&self, process: Process, va: u64, pages: u64) -> Result<()> {
        let range = u64::from(byway_protocols::control::invalidate_scope::RANGE);
        let request = commands::Invalidate {
            scope: range,
            pasid: PASID_OWN,
            address: va & !0xfff,
            pages,
        };
        self.call(process, request)?;
        Ok(())
    }

    /// Tries to bind a page-table root.
    ///
    /// # Errors
    /// When the guest does not answer; what the engine refuses is in the result.
    pub fn try_bind_root(&self, root: u64) -> Result<Control> {
        let request = commands::BindRoot {
            root,
            pasid: 0x100,
            levels: 4,
            maxphyaddr: 46,
            flags: u64::from(byway_protocols::control::bind_flags::NXE),
            invalidation_page: 0,
        };
        Ok(match self.control(Process::App, request)? {
            Ok(_) => Control::Done,
            Err(refused) => Control::Refused(refused),
        })
    }

    /// A page of the process that only ring 0 may touch.
    #[must_use]
    pub fn kernel_address(&self) -> u64 {
        RING0_START
    }

    /// Submits descriptors and waits for all of their completions, in the order of submission.
    ///
    /// # Errors
    /// When the queue does not take them, or a completion does not come within five seconds.
    pub fn execute(&self, process: Process, descriptors: &[Descriptor]) -> Result<Vec<Completion>> {
        let first = self.submit(process, descriptors)?;
        self.collect(process, first, descriptors.len())
    }

    /// Publishes descriptors and does not wait: the number of the first. They must fit into the queue, and the process's bulk
    /// area.
    ///
    /// # Errors
    /// When the queue does not take them.
    pub fn submit(&self, process: Process, descriptors: &[Descriptor]) -> Result<u32> {
        let queue = self.queue(process)?.queue;
        let bytes: Vec<u8> = descriptors.iter().flat_map(Descriptor::to_bytes).collect();
        let count = descriptors.len() as u64;
        self.wake()?;
        self.mailbox().channel(process).bulk_write(0, &bytes);
        let submitted = self.call(process, commands::Submit { queue, count })?;
        ensure!(
            submitted.count == count,
            "the queue took {} of {count} descriptors",
            submitted.count
        );
        Ok(submitted.first as u32)
    }

    /// Waits for the completions of `count` descriptors from number `first` on, in the order of submission.
    ///
    /// # Errors
    /// When one does not come within five seconds.
    pub fn collect(&self, process: Process, first: u32, count: usize) -> Result<Vec<Completion>> {
        let queue = self.queue(process)?.queue;
        let polled = self.call(
            process,
            commands::Poll {
                queue,
                max: count as u64,
                ticks: self.ns_to_ticks(5_000_000_000),
            },
        )?;
        ensure!(
            polled.count == count as u64,
            "{} of {count} completions came within five seconds",
            polled.count
        );
        let mut completions = vec![None; count];
        for index in 0..count {
            let mut record = [0; COMPLETION_RECORD_BYTES];
            self.mailbox()
                .channel(process)
                .bulk_read(index * COMPLETION_RECORD_BYTES, &mut record);
            let (number, rest) = record.split_first_chunk::<8>().context("record")?;
            let number = (u64::from_le_bytes(*number) as u32).wrapping_sub(first) as usize;
            let completion = rest.last_chunk::<32>().map(Completion::from_bytes);
            *completions
                .get_mut(number)
                .context("a completion of another descriptor")? = completion;
        }
        completions
            .into_iter()
            .collect::<Option<_>>()
            .context("two completions of one descriptor")
    }

    /// As [`Self::execute`] with one.
    ///
    /// # Errors
    /// See there.
    pub fn execute_one(&self, process: Process, descriptor: &Descriptor) -> Result<Completion> {
        self.execute(process, std::slice::from_ref(descriptor))?
            .pop()
            .context("no completion")
    }

    /// Starts the measuring loop and returns at once.
    ///
    /// # Errors
    /// When the process has no queue, or the guest does not wake up.
    pub fn start_run(&self, process: Process, spec: &RunSpec) -> Result<Running> {
        let queue = self.queue(process)?.queue;
        self.wake()?;
        self.mailbox().run(process);
        let mut channel = self.mailbox().channel(process);
        channel.stop(false);
        channel.bulk_write(RUN_TEMPLATE, &spec.descriptor.to_bytes());
        let ticket = channel.begin(commands::Run {
            queue,
            iterations: spec.iterations,
            depth: spec.depth,
            samples: spec.samples,
            stride: spec.stride,
            window: 0,
            flags: RUN_STOP_ON_FAILURE,
        });
        Ok(Running { process, ticket })
    }

    /// Waits for the end of a measuring loop.
    ///
    /// # Errors
    /// When the guest fails at it or does not answer.
    pub fn finish_run(&self, running: Running) -> Result<RunDone> {
        self.finish_run_undisturbed(running, Duration::ZERO)
    }

    /// As [`Self::finish_run`], with the host looking after the time `expected` only.
    fn finish_run_undisturbed(&self, running: Running, expected: Duration) -> Result<RunDone> {
        let channel = self.mailbox().channel(running.process);
        let outcome = self.wait_undisturbed(|| channel.finish(&running.ticket), "run", expected)?;
        let ran = outcome
            .map_err(|error| anyhow!("{error}"))
            .with_context(|| format!("{}: Run", self.name()))?;
        let mut raw = vec![0; 4 * usize::try_from(ran.samples.min(commands::RUN_SAMPLES_MAX))?];
        channel.bulk_read(RUN_SAMPLES, &mut raw);
        Ok(RunDone {
            ns: self.ticks_to_ns(ran.ticks),
            completed: ran.completed,
            failed: ran.failures,
            first_bad_status: ran.first_failure as u8,
            kicks: ran.kicks,
            samples_ns: raw
                .as_chunks::<4>()
                .0
                .iter()
                .map(|ticks| self.ticks_to_ns(u64::from(u32::from_le_bytes(*ticks))))
                .collect(),
        })
    }

    /// Runs the measuring loop to its end.
    ///
    /// # Errors
    /// See [`Self::start_run`] and [`Self::finish_run`].
    pub fn run(&self, process: Process, spec: &RunSpec) -> Result<RunDone> {
        self.finish_run(self.start_run(process, spec)?)
    }

    /// As [`Self::run`], for a loop that is expected to take the time `expected`: the host does not look before.
    ///
    /// # Errors
    /// See [`Self::run`].
    pub fn run_undisturbed(
        &self,
        process: Process,
        spec: &RunSpec,
        expected: Duration,
    ) -> Result<RunDone> {
        self.finish_run_undisturbed(self.start_run(process, spec)?, expected)
    }

    /// A request that the engine may refuse.
    fn control<R: Request>(
        &self,
        process: Process,
        request: R,
    ) -> Result<Result<R::Reply, ControlStatus>> {
        match self.try_call(process, request)? {
            Ok(reply) => Ok(Ok(reply)),
            Err(failure) if failure.status == AgentStatus::Refused => {
                u32::try_from(failure.details[0])
                    .ok()
                    .and_then(ControlStatus::from_code)
                    .map(Err)
                    .with_context(|| format!("unknown control status {:#x}", failure.details[0]))
            }
            Err(failure) => Err(anyhow!("{failure}")).context(R::NAME),
        }
    }
}

/// Whether a completion is a plain success.
#[must_use]
pub fn is_success(completion: &Completion) -> bool {
    completion.status == Status::Success as u8
}
