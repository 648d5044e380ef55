//! [`Stepper`]: descriptors carried out chunk by chunk, with no ring and no worker thread.

use byway_protocols::Descriptor;

use super::Process;
use crate::backend::{Backend, Software};
use crate::epoch::Epochs;
use crate::iotlb::Iotlb;
use crate::memory::sigbus;
use crate::ops::chunk::Chunk;
use crate::ops::{
    Budget, Codecs, Execution, Jobs, Outcome, Staging, Stand, Step, Verdict, Windows, try_either,
};

/// A worker's tools without a worker. What it does depends on its arguments alone: its
/// chunks end by work done, never by the clock.
#[derive(Debug)]
pub struct Stepper {
    epochs: Epochs,
    iotlb: Iotlb,
    backend: Software,
    staging: Staging,
    codecs: Codecs,
}

impl Default for Stepper {
    fn default() -> Self {
        Self::new()
    }
}

impl Stepper {
    /// With an empty IOTLB.
    #[must_use]
    pub fn new() -> Self {
        Self {
            epochs: Epochs::new(1),
            iotlb: Iotlb::new(),
            backend: Software::new(),
            staging: Staging::new(),
            codecs: Codecs::new(Jobs::all()),
        }
    }

    /// What control threads wait on.
    #[must_use]
    pub fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    /// Carries a descriptor out in a process's context, `chunk_bytes` of work at a time.
    /// After each chunk but the last, `go_on` is told how many there were; when it
    /// answers false the descriptor is given up, as a queue that is destroyed does.
    pub fn run(
        &mut self,
        process: &Process,
        descriptor: &Descriptor,
        chunk_bytes: u64,
        mut go_on: impl FnMut(&Epochs, u32) -> bool,
    ) -> Outcome {
        let mut execution = None;
        let mut chunks = 0;
        loop {
            let guard = self.epochs.enter(0);
            let budget = Budget::new(chunk_bytes, u64::MAX, 0);
            let mut chunk = Chunk {
                guard: &guard,
                awaited: guard.awaited(),
                context: process.context(),
                iotlb: &mut self.iotlb,
                windows: Windows::new(),
                backend: &mut self.backend,
                staging: &mut self.staging,
                budget,
                regions_lost: sigbus::generation(),
                missing: None,
                stand: &mut Stand::default(),
                codecs: &mut self.codecs,
            };
            let step = match &mut execution {
                Some(running) => Execution::step(running, &mut chunk),
                None => match try_either(descriptor, &mut chunk) {
                    Some(outcome) => Step::Done(outcome),
                    None => match Execution::new(descriptor) {
                        Ok(new) => execution.insert(new).step(&mut chunk),
                        Err(status) => Step::refused(status),
                    },
                },
            };
            chunk.backend.finish();
            chunk.codecs.end_chunk();
            drop(chunk);
            drop(guard);
            match (step, &mut execution) {
                (Step::Done(outcome), _) => return outcome,
                // There is nobody to ask here.
                (Step::Blocked(_), Some(running)) => running.answer(Verdict::Later),
                _ => {}
            }
            chunks += 1;
            if let Some(running) = &execution
                && !go_on(&self.epochs, chunks)
            {
                return running.abort();
            }
        }
    }
}
