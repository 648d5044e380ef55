//! Loom models of a ring: the engine's code against a submitter written from SPEC
//! section 2, over loom's memory.

use super::cancels::{Ask, Wanted, Words};
use super::interrupt::Interrupt;
use super::ring::{EngineRing, RingMemory};
use byway_protocols::descriptor::Word0;
use byway_protocols::{Completion, Descriptor, Flags, Opcode, RingPosition, Status};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use loom::thread;

const ENTRIES: usize = 2;

/// A ring in loom's memory. Only the words that the models use are there.
#[derive(Default)]
struct Memory {
    words: [AtomicU64; ENTRIES],
    /// Stands for bytes 8-63.
    rest: [AtomicU64; ENTRIES],
    completions: [AtomicU64; ENTRIES],
    /// Stands for bytes 8-31.
    completions_rest: [AtomicU64; ENTRIES],
    need_kick: AtomicU64,
    /// Leaves the engine's fence out.
    unfenced: bool,
}

impl RingMemory for Arc<Memory> {
    fn load_word(&self, slot: u32) -> u64 {
        self.words[slot as usize].load(Ordering::Acquire)
    }
    fn load_rest(&self, slot: u32) -> [u64; 7] {
        let src = self.rest[slot as usize].load(Ordering::Relaxed);
        [0, src, 0, 0, 0, 0, 0]
    }
    fn store_rest(&self, slot: u32, words: [u64; 3]) {
        self.completions_rest[slot as usize].store(words[0], Ordering::Relaxed);
    }
    fn store_word(&self, slot: u32, word: u64) {
        self.completions[slot as usize].store(word, Ordering::Release);
    }
    fn store_need_kick(&self, need: bool) {
        self.need_kick.store(need.into(), Ordering::Relaxed);
    }
    fn fence(&self) {
        if !self.unfenced {
            fence(Ordering::SeqCst);
        }
    }
    fn prefetch_descriptor(&self, _slot: u32) {}
    fn prefetch_completion(&self, _slot: u32) {}
}

fn start() -> RingPosition {
    RingPosition::new(ENTRIES as u32).expect("a power of two")
}

fn submit(memory: &Memory, at: RingPosition, src: u64) {
    let slot = at.slot() as usize;
    memory.rest[slot].store(src, Ordering::Relaxed);
    let descriptor = Descriptor {
        word0: Word0::new(0, 0, at.phase()).0,
        ..Descriptor::new(Opcode::Nop, Flags::NONE)
    };
    memory.words[slot].store(descriptor.publish_word(), Ordering::Release);
}

/// The completion at `at`, with what its second part says.
fn completed(memory: &Memory, at: RingPosition) -> Option<u64> {
    let slot = at.slot() as usize;
    let word = memory.completions[slot].load(Ordering::Acquire);
    if (word & Completion::PUBLISH_PHASE != 0) != at.phase() {
        return None;
    }
    assert_eq!(word as u8, Status::Success as u8);
    Some(memory.completions_rest[slot].load(Ordering::Relaxed))
}

/// Takes `count` descriptors and answers each with what it said.
fn serve(memory: Arc<Memory>, count: usize) {
    let mut ring = EngineRing::new(memory, start());
    for _ in 0..count {
        let word = loop {
            match ring.poll() {
                Some(word) => break word,
                None => thread::yield_now(),
            }
        };
        let (ticket, descriptor) = ring.take(word);
        let completion = Completion {
            status: Status::Success as u8,
            fault_addr: descriptor.src + 1,
            ..Completion::default()
        };
        ring.complete(ticket, &completion);
    }
}

#[test]
fn loom_what_is_published_is_what_is_read_over_laps() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let memory = Arc::new(Memory::default());
        let engine = thread::spawn({
            let memory = memory.clone();
            move || serve(memory, 3)
        });
        let (mut next, mut oldest) = (start(), start());
        // A full ring, then one more in the slot that becomes free.
        for value in 0..3_u64 {
            if next.distance_from(oldest) == ENTRIES as u32 {
                loop {
                    if let Some(got) = completed(&memory, oldest) {
                        assert_eq!(got, u64::from(oldest.count()) * 10 + 1);
                        break;
                    }
                    thread::yield_now();
                }
                oldest.advance();
            }
            submit(&memory, next, value * 10);
            next.advance();
        }
        engine.join().unwrap();
        while oldest != next {
            let got = completed(&memory, oldest).expect("completed before the join");
            assert_eq!(got, u64::from(oldest.count()) * 10 + 1);
            oldest.advance();
        }
    });
}

/// The engine parks while the submitter publishes. Either the engine stays awake, or the
/// submitter kicks.
fn park_against_submit(unfenced: bool) {
    let memory = Arc::new(Memory {
        unfenced,
        ..Memory::default()
    });
    let kicked = Arc::new(AtomicBool::new(false));
    let submitter = thread::spawn({
        let (memory, kicked) = (memory.clone(), kicked.clone());
        move || {
            submit(&memory, start(), 7);
            fence(Ordering::SeqCst);
            if memory.need_kick.load(Ordering::Relaxed) == 1 {
                kicked.store(true, Ordering::Relaxed);
            }
        }
    });
    let ring = EngineRing::new(memory.clone(), start());
    let asleep = ring.park();
    submitter.join().unwrap();
    assert!(
        !asleep || kicked.load(Ordering::Relaxed),
        "asleep with a descriptor in the ring, and nobody kicks"
    );
    if !asleep {
        assert_eq!(memory.need_kick.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn loom_no_wake_up_is_lost() {
    loom::model(|| park_against_submit(false));
}

#[test]
#[should_panic(expected = "nobody kicks")]
fn loom_without_the_parking_fence_a_wake_up_is_lost() {
    loom::model(|| park_against_submit(true));
}

/// A guest arms, looks at its completions and sleeps; the worker completes and raises.
#[test]
fn loom_no_interrupt_is_lost() {
    loom::model(|| {
        let interrupt = Arc::new(Interrupt::default());
        // One was raised and consumed: not armed.
        assert!(interrupt.raise());
        let completion = Arc::new(AtomicBool::new(false));
        let worker = thread::spawn({
            let (interrupt, completion) = (interrupt.clone(), completion.clone());
            move || {
                completion.store(true, Ordering::Release);
                interrupt.raise()
            }
        });
        let raised_by_arm = interrupt.arm();
        let seen = completion.load(Ordering::Acquire);
        let raised_by_worker = worker.join().unwrap();
        assert!(
            seen || raised_by_arm || raised_by_worker,
            "asleep with a completion that nobody told of"
        );
        assert!(!(raised_by_arm && raised_by_worker), "told twice");
    });
}

/// Somebody asks to cancel something while the queue's server goes from waiting to `ends`. What came of
/// asking, and the words afterwards.
fn ask_against(ends: impl Fn(&Words) + Send + Sync + 'static) -> (Ask, Arc<Words>) {
    let words = Arc::new(Words::new());
    words.opens();
    let server = thread::spawn({
        let words = words.clone();
        move || ends(&words)
    });
    let asked = words.ask(Wanted::ALL);
    server.join().unwrap();
    (asked, words)
}

#[test]
fn loom_who_asks_is_answered_though_the_server_stops_to_look() {
    loom::model(|| {
        let (asked, words) = ask_against(Words::closes);
        match asked {
            Ask::Asked { .. } => assert_eq!(words.answer(), Some(0), "nobody will answer"),
            _ => assert_eq!(asked, Ask::Nothing),
        }
        assert_eq!(words.ask(Wanted::ALL), Ask::Nothing, "it is free again");
    });
}

#[test]
fn loom_who_asks_rings_or_is_heard() {
    loom::model(|| {
        let (asked, words) = ask_against(|words| {
            if !words.sleeps() {
                words.take().expect("it was heard");
                words.is_done(1);
            }
        });
        match words.answer() {
            Some(count) => assert_eq!(count, 1),
            None => assert_eq!(
                asked,
                Ask::Asked { sleeps: true },
                "asleep, and nobody rings"
            ),
        }
    });
}

#[test]
fn loom_what_was_ended_is_seen_with_the_answer() {
    loom::model(|| {
        let words = Arc::new(Words::new());
        let completion = Arc::new(AtomicBool::new(false));
        words.opens();
        let server = thread::spawn({
            let (words, completion) = (words.clone(), completion.clone());
            move || {
                if words.is_asked()
                    && let Some(wanted) = words.take()
                {
                    assert!(wanted.has(7) && !wanted.has(9), "what was asked for");
                    completion.store(true, Ordering::Relaxed);
                    words.is_done(1);
                }
            }
        });
        words.ask(Wanted::range(7, 2));
        if let Some(count) = words.answer() {
            assert_eq!(count, 1);
            assert!(completion.load(Ordering::Relaxed));
        }
        server.join().unwrap();
    });
}

#[test]
fn loom_who_leaves_leaves_it_free() {
    loom::model(|| {
        let words = Arc::new(Words::new());
        words.opens();
        let server = thread::spawn({
            let words = words.clone();
            move || {
                if words.take().is_some() {
                    words.is_done(3);
                }
            }
        });
        words.ask(Wanted::ALL);
        words.leave();
        server.join().unwrap();
        assert_eq!(words.answer(), None, "the answer was another's");
        assert_eq!(words.ask(Wanted::ALL), Ask::Asked { sleeps: false });
    });
}

/// Two at the same time: one of them asks, and each gets what it asked for.
#[test]
fn loom_one_asks_at_a_time() {
    loom::model(|| {
        let words = Arc::new(Words::new());
        let other = thread::spawn({
            let words = words.clone();
            move || words.ask(Wanted::ALL)
        });
        let one = words.ask(Wanted::ALL);
        let other = other.join().unwrap();
        for asked in [one, other] {
            assert!(matches!(asked, Ask::Nothing | Ask::Busy));
        }
        assert!(one == Ask::Nothing || other == Ask::Nothing);
        assert_eq!(words.ask(Wanted::ALL), Ask::Nothing);
    });
}
