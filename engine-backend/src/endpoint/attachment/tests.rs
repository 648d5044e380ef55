use std::collections::VecDeque;

use super::*;

/// What a device of a test was asked, and what it answers next.
#[derive(Default)]
struct Script {
    asked: Vec<(Token, Request)>,
    answers: VecDeque<(Token, Outcome)>,
    told: u64,
    gone: Option<String>,
    closed: bool,
}

struct Fake {
    geometry: Geometry,
    script: Arc<Mutex<Script>>,
    reason: Option<String>,
}

impl BlockDevice for Fake {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }
    fn submit(&mut self, token: Token, request: &Request) -> Result<(), Refused> {
        self.script.lock().unwrap().asked.push((token, *request));
        Ok(())
    }
    fn flush_submissions(&mut self) {
        self.script.lock().unwrap().told += 1;
    }
    fn poll(&mut self, ended: &mut dyn FnMut(Token, Outcome)) {
        let mut script = self.script.lock().unwrap();
        while let Some((token, outcome)) = script.answers.pop_front() {
            ended(token, outcome);
        }
        self.reason.clone_from(&script.gone);
    }
    fn system_calls(&self) -> u64 {
        self.script.lock().unwrap().told
    }
    fn gone(&self) -> Option<&str> {
        self.reason.as_deref()
    }
    fn close(&mut self, _patience: Duration) {
        self.script.lock().unwrap().closed = true;
    }
}

struct World {
    script: Arc<Mutex<Script>>,
    news: Arc<News>,
    attachment: Attachment,
}

impl World {
    fn new(depth: u16) -> Self {
        let script = Arc::new(Mutex::new(Script::default()));
        let geometry = Geometry {
            block_bytes: 512,
            blocks: 1 << 20,
            transfer_bytes_max: 65536,
            depth,
            read_only: false,
            flush: true,
            discard: false,
            write_zeroes: true,
            compare: false,
        };
        let device = Box::new(Fake {
            geometry,
            script: Arc::clone(&script),
            reason: None,
        });
        let staging = Arc::new(StagingMemory::new(staging_bytes()).unwrap());
        let news = Arc::new(News::default());
        let attachment = Attachment::new(device, staging, Arc::clone(&news), Arc::default(), 3);
        Self {
            script,
            news,
            attachment,
        }
    }
    fn read(&self, slot: u8) -> Request {
        Request::Read {
            lba: 8,
            blocks: 1,
            at: self.attachment.range(slot, 512),
        }
    }
    fn answer(&self, slot: u8, outcome: Outcome) {
        let answer = (Token(slot.into()), outcome);
        self.script.lock().unwrap().answers.push_back(answer);
        self.attachment.drive();
    }
    fn byte(&self, slot: u8) -> u8 {
        let at = self.attachment.host(slot).0 as usize;
        // SAFETY: within the staging, which the attachment keeps mapped.
        unsafe { std::ptr::with_exposed_provenance::<u8>(at).read_volatile() }
    }
    fn write_byte(&self, slot: u8, byte: u8) {
        let at = self.attachment.host(slot).0 as usize;
        // SAFETY: as above.
        unsafe { std::ptr::with_exposed_provenance_mut::<u8>(at).write_volatile(byte) };
    }
}

const ALICE: u32 = 1;
const BOB: u32 = 2;

#[test]
fn a_request_goes_out_once_and_its_end_is_found_in_its_slot() {
    let w = World::new(4);
    let a = &w.attachment;
    let slot = a.take(ALICE).unwrap();
    assert_eq!(a.submit(slot, &w.read(slot)), Ok(()));
    assert_eq!((w.news.busy(), a.ended(slot)), (1 << 3, None));
    assert_eq!(
        w.script.lock().unwrap().told,
        0,
        "not told before it is driven"
    );
    a.drive();
    a.drive();
    assert_eq!(w.script.lock().unwrap().told, 1);
    let before = w.news.changes();
    w.answer(slot, Outcome::Done);
    assert_eq!(a.ended(slot), Some(Outcome::Done));
    assert_ne!(w.news.changes(), before);
    assert_eq!(w.news.busy(), 0);
    a.give_back(slot);
    assert_eq!(a.ended(slot), None);
}

#[test]
fn a_domain_leaves_half_of_the_slots_to_others() {
    let w = World::new(8);
    let a = &w.attachment;
    let hers: Vec<u8> = (0..4).map(|_| a.take(ALICE).unwrap()).collect();
    assert_eq!(a.take(ALICE), None);
    let his: Vec<u8> = (0..4).map(|_| a.take(BOB).unwrap()).collect();
    assert_eq!(a.take(BOB), None);
    hers.into_iter().for_each(|slot| a.give_back(slot));
    // What she once had does not count.
    assert!(a.take(ALICE).is_some());
    his.into_iter().for_each(|slot| a.give_back(slot));
}

#[test]
fn nobody_finds_another_domain_s_bytes() {
    let w = World::new(1);
    let a = &w.attachment;
    let slot = a.take(ALICE).unwrap();
    a.prepare(slot, ALICE);
    w.write_byte(slot, 0x5e);
    a.give_back(slot);
    let slot = a.take(ALICE).unwrap();
    a.prepare(slot, ALICE);
    assert_eq!(w.byte(slot), 0x5e, "her own are left alone");
    a.give_back(slot);
    let slot = a.take(BOB).unwrap();
    a.prepare(slot, BOB);
    assert_eq!(w.byte(slot), 0);
}

#[test]
fn an_orphan_is_nobody_s_until_the_device_answers() {
    let w = World::new(2);
    let a = &w.attachment;
    let slot = a.take(ALICE).unwrap();
    let write = Request::WriteZeroes { lba: 8, blocks: 8 };
    a.submit(slot, &write).unwrap();
    a.give_back(slot);
    let other = a.take(BOB).unwrap();
    assert_eq!(a.take(BOB), None, "the orphan is not free");
    assert_eq!(a.submit(other, &w.read(other)), Err(Refusal::Later));
    let elsewhere = Request::WriteZeroes { lba: 16, blocks: 8 };
    assert_eq!(a.submit(other, &elsewhere), Ok(()));
    w.answer(slot, Outcome::Done);
    w.answer(other, Outcome::Done);
    a.give_back(other);
    let again = a.take(BOB).unwrap();
    assert_eq!(a.submit(again, &w.read(again)), Ok(()));
}

#[test]
fn what_was_asked_by_a_right_that_ended_comes_first() {
    let w = World::new(4);
    let a = &w.attachment;
    let slot = a.take(ALICE).unwrap();
    a.submit(slot, &Request::WriteZeroes { lba: 8, blocks: 8 })
        .unwrap();
    let other = a.take(ALICE).unwrap();
    assert_eq!(
        a.submit(other, &w.read(other)),
        Ok(()),
        "no order by itself"
    );
    w.answer(other, Outcome::Done);
    a.fence();
    a.give_back(other);
    let other = a.take(ALICE).unwrap();
    assert_eq!(a.submit(other, &w.read(other)), Err(Refusal::Later));
    w.answer(slot, Outcome::Done);
    assert_eq!(a.submit(other, &w.read(other)), Ok(()));
}

#[test]
fn a_device_that_ends_what_it_was_not_given_is_gone() {
    for token in [2, 63, 64, u32::MAX] {
        let w = World::new(4);
        let a = &w.attachment;
        let slot = a.take(ALICE).unwrap();
        a.submit(slot, &w.read(slot)).unwrap();
        let lie = (Token(token), Outcome::Done);
        w.script.lock().unwrap().answers.push_back(lie);
        a.drive();
        assert!(a.is_gone(), "{token}");
        assert!(a.reason().unwrap().contains("had not been given"));
        assert_eq!(a.ended(slot), Some(Outcome::Gone));
        let other = a.take(ALICE).unwrap();
        assert_eq!(a.submit(other, &w.read(other)), Err(Refusal::Gone));
        a.look_after(u64::MAX);
        assert!(w.script.lock().unwrap().closed);
    }
}

#[test]
fn a_device_that_says_that_it_is_gone_or_says_nothing_is_gone() {
    let w = World::new(4);
    let a = &w.attachment;
    let slot = a.take(ALICE).unwrap();
    a.submit(slot, &w.read(slot)).unwrap();
    a.look_after(u64::MAX);
    assert!(!a.is_gone());
    a.look_after(0);
    assert!(a.is_gone());
    assert_eq!(a.ended(slot), Some(Outcome::Gone));
    assert!(a.reason().unwrap().contains("not answered"));

    let w = World::new(4);
    w.script.lock().unwrap().gone = Some("it hung up".to_owned());
    w.attachment.drive();
    assert_eq!(w.attachment.reason().as_deref(), Some("it hung up"));
}

#[test]
fn an_answer_that_no_worker_saw_counts() {
    let w = World::new(4);
    let a = &w.attachment;
    let slot = a.take(ALICE).unwrap();
    a.submit(slot, &w.read(slot)).unwrap();
    a.give_back(slot);
    // Its queue has gone, and all workers sleep.
    let answer = (Token(slot.into()), Outcome::Done);
    w.script.lock().unwrap().answers.push_back(answer);
    a.look_after(0);
    assert!(!a.is_gone() && !a.is_busy(), "{:?}", a.reason());
}
