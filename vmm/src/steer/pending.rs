//! Commands that take their time: given now, answered later, so that other guests can be steered meanwhile.

use anyhow::{Context as _, Result, anyhow};
use byway_agent::Process;
use byway_agent::commands::{self, RUN_TEMPLATE, Request};
use byway_agent::host::Ticket;
use byway_protocols::Descriptor;

use super::guest::Guest;

/// A command under way. The process takes no other one until it is over.
#[derive(Debug)]
#[must_use = "an answer that nobody waits for is overwritten by the next"]
pub struct Pending<R> {
    process: Process,
    ticket: Ticket<R>,
}

impl Guest {
    /// Has `process` begin `request`, waking the guest when it sleeps.
    ///
    /// # Errors
    /// When the guest does not wake up.
    pub fn start<R: Request>(&self, process: Process, request: R) -> Result<Pending<R>> {
        self.wake()?;
        self.mailbox().run(process);
        let mut channel = self.mailbox().channel(process);
        channel.stop(false);
        let ticket = channel.begin(request);
        Ok(Pending { process, ticket })
    }

    /// Whether it is answered, or never will be since the VM has ended.
    #[must_use]
    pub fn is_answered<R: Request>(&self, pending: &Pending<R>) -> bool {
        let channel = self.mailbox().channel(pending.process);
        channel.finish(&pending.ticket).is_some() || self.vm().outcome().is_some()
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// When the guest fails at the command or does not answer.
    pub fn finish<R: Request>(&self, pending: Pending<R>) -> Result<R::Reply> {
        let channel = self.mailbox().channel(pending.process);
        let outcome = self.wait_until(|| channel.finish(&pending.ticket), R::NAME)?;
        outcome
            .map_err(|error| anyhow!("{error}"))
            .with_context(|| format!("{}: {}", self.name(), R::NAME))
    }

    /// Begins to submit `descriptor` again and again, `depth` at once, whatever comes of it, until
    /// [`Self::stop_flood`].
    ///
    /// # Errors
    /// When the process has no queue, or the guest does not wake up.
    pub fn start_flood(
        &self,
        process: Process,
        descriptor: &Descriptor,
        depth: u64,
    ) -> Result<Pending<commands::Run>> {
        let queue = self.queue(process)?.queue;
        self.wake()?;
        self.mailbox()
            .channel(process)
            .bulk_write(RUN_TEMPLATE, &descriptor.to_bytes());
        self.start(
            process,
            commands::Run {
                queue,
                iterations: u64::MAX,
                depth,
                samples: 0,
                stride: 0,
                window: 0,
                flags: 0,
            },
        )
    }

    /// Has it end, and waits until every descriptor is completed.
    ///
    /// # Errors
    /// When the guest fails at it or does not answer.
    pub fn stop_flood(&self, flood: Pending<commands::Run>) -> Result<commands::Ran> {
        let process = flood.process;
        self.mailbox().channel(process).stop(true);
        let outcome = self.finish(flood);
        // Or the next command that polls would end early too.
        self.mailbox().channel(process).stop(false);
        outcome
    }
}
