//! One side of the pair: guests, processes and a worker's tools around a backend.

use std::sync::Arc;

use byway_protocols::codec::KeyAlgorithm;
use byway_protocols::{Completion, Descriptor, Opcode, Rights};

use crate::backend::Backend;
use crate::capability::Key;
use crate::epoch::Epochs;
use crate::iotlb::Iotlb;
use crate::memory::sigbus;
use crate::ops::budget::CHUNK_BYTES;
use crate::ops::chunk::Chunk;
use crate::ops::{Budget, Codecs, Execution, Jobs, Staging, Stand, Step, Windows, try_either};
use crate::testing::{Guest, PageSize, Process, pte};

/// Where processes have their data.
pub(super) const VA: u64 = 0x7000_0000_0000;
/// A page.
pub(super) const PAGE: u64 = 4096;
/// Pages of data: the first half next to each other, the second half scattered.
pub(super) const PAGES: u64 = 32;
/// Where alice has lists and records of batches: two pages each.
pub(super) const LIST: u64 = VA + (PAGES + 16) * PAGE;
pub(super) const RECORDS: u64 = LIST + 2 * PAGE;
/// Alice's slot for bob's data.
pub(super) const SLOT: u16 = 1;

/// Alice's slot for a key of XTS.
pub(super) const KEY: u16 = 2;

/// Two guests and a worker's tools.
pub(super) struct World<B> {
    pub(super) alice: Process,
    pub(super) bob: Process,
    epochs: Arc<Epochs>,
    iotlb: Iotlb,
    pub(super) backend: B,
    staging: Staging,
    codecs: Codecs,
}

impl<B: Backend> World<B> {
    pub(super) fn new(backend: B) -> Self {
        let guests = [1, 2].map(|id| Guest::new(id, 2 << 20));
        let [alice, bob] = guests.map(|guest| Process::new(&guest, 16));
        for process in [&alice, &bob] {
            process.map(VA, PAGES / 2 * PAGE, PageSize::Small);
            process.map_scattered(VA + PAGES / 2 * PAGE, PAGES / 2 * PAGE);
        }
        alice.map_scattered(LIST, 4 * PAGE);
        let slot = bob.give(&alice, VA, PAGES * PAGE, Rights::ALL);
        assert_eq!(slot, SLOT);
        let bytes = std::array::from_fn(|i| i as u8);
        let key = Key::new(KeyAlgorithm::AesXts256, &bytes).expect("a good key");
        assert_eq!(alice.give_key(&alice, key, Rights::KEY), KEY);
        Self {
            alice,
            bob,
            epochs: Arc::new(Epochs::new(1)),
            iotlb: Iotlb::new(),
            backend,
            staging: Staging::new(),
            codecs: Codecs::new(Jobs::all()),
        }
    }

    /// Makes the data this noise, and all pages good and untouched but those named: of alice
    /// (false) or bob (true), without these bits.
    pub(super) fn reset(&self, noise: &[u8], spoilt: &[(bool, u64, u64)]) {
        for process in [&self.alice, &self.bob] {
            let guest = process.guest();
            for (page, bytes) in (0..PAGES).zip(noise.chunks_exact(PAGE as usize)) {
                let entry = process.entry_of(VA + page * PAGE).expect("a mapped page");
                let frame = guest.read_u64(entry) & pte::FRAME;
                guest.write_u64(entry, frame | pte::USER);
                // SAFETY: a page of RAM, which nobody else accesses between two runs.
                unsafe {
                    guest
                        .host(frame, PAGE)
                        .copy_from(bytes.as_ptr(), bytes.len())
                };
            }
        }
        self.alice.write(LIST, &[0xee; 4 * PAGE as usize]);
        for &(of_bob, page, bits) in spoilt {
            let process = if of_bob { &self.bob } else { &self.alice };
            process.change_entry(VA + page * PAGE, |entry| entry & !bits);
        }
        for process in [&self.alice, &self.bob] {
            process.space().invalidate_all();
        }
    }

    /// Runs a descriptor to its end, as a worker would.
    pub(super) fn run(&mut self, descriptor: &Descriptor, chunk_bytes: u64) -> Completion {
        let mut execution: Option<Execution> = None;
        loop {
            let guard = self.epochs.enter(0);
            let budget = Budget::new(chunk_bytes, u64::MAX, 0);
            let mut chunk = Chunk {
                guard: &guard,
                awaited: guard.awaited(),
                context: self.alice.context(),
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
            if execution.is_none()
                && let Some(outcome) = try_either(descriptor, &mut chunk)
            {
                chunk.backend.finish();
                return outcome.completion;
            }
            let step = match &mut execution {
                None => match Execution::new(descriptor) {
                    Ok(new) => execution.insert(new).step(&mut chunk),
                    Err(status) => Step::refused(status),
                },
                Some(execution) => execution.step(&mut chunk),
            };
            if let Step::Done(outcome) = step {
                chunk.backend.finish();
                return outcome.completion;
            }
        }
    }

    /// The same in whole chunks.
    pub(super) fn complete(&mut self, descriptor: &Descriptor) -> Completion {
        self.run(descriptor, CHUNK_BYTES)
    }

    /// All data, lists and records included, and the entries of all pages.
    pub(super) fn state(&self) -> (Vec<u8>, Vec<u64>) {
        let mut entries = Vec::new();
        let mut bytes = Vec::new();
        for process in [&self.alice, &self.bob] {
            let guest = process.guest();
            for page in 0..PAGES {
                let entry = process.entry_of(VA + page * PAGE).expect("a mapped page");
                let entry = guest.read_u64(entry);
                entries.push(entry);
                let page = guest.host(entry & pte::FRAME, PAGE);
                // SAFETY: a page of RAM, which nobody else accesses between two runs.
                bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(page, PAGE as usize) });
            }
        }
        bytes.extend(self.alice.read(LIST, 4 * PAGE));
        (bytes, entries)
    }
}

/// A process's data for this seed.
pub(super) fn noise(seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..PAGES * PAGE / 8)
        .flat_map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x.to_le_bytes()
        })
        .collect()
}

/// A descriptor between two of alice's slots.
pub(super) fn descriptor(opcode: Opcode, slots: (u16, u16)) -> Descriptor {
    use byway_protocols::{Flags, Word0};
    Descriptor {
        word0: Word0::new(slots.0, slots.1, true).0,
        ..Descriptor::new(opcode, Flags::NONE)
    }
}
