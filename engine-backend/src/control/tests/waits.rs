//! What takes a right away is acknowledged after each chunk that may still use it, and
//! not before; what gives one waits for nobody.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use byway_protocols::control::{
    BindRequest, ContextCreateReply, ContextCreateRequest, ContextDestroyRequest, InvalidateReply,
    InvalidateRequest, RequestKind, UnbindRequest, invalidate_scope, revoke_flags,
};
use byway_protocols::{ControlStatus, Rights};

use super::{World, within};
use crate::device::tests::driver::PATIENCE;
use crate::epoch::Epochs;

/// Runs `operation` while the worker is in a chunk, which lasts until somebody waits for its end or `operation` is
/// over, whichever comes first. True: it waited, and was not over before the chunk was.
pub(crate) fn is_waiting(epochs: &Epochs, operation: impl FnOnce() + Send) -> bool {
    // The real worker has no queue, so it enters none itself.
    let chunk = epochs.enter(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            operation();
            done.store(true, Ordering::Relaxed);
        });
        // On a busy machine it may take long until the thread gets a turn. One that panics never waits.
        let deadline = Instant::now() + PATIENCE;
        while !chunk.is_awaited() && !thread.is_finished() {
            assert!(Instant::now() < deadline, "it neither waits nor ends");
            std::thread::sleep(Duration::from_millis(1));
        }
        if chunk.is_awaited() {
            // Long enough for it to have been over too early.
            std::thread::sleep(Duration::from_millis(30));
        }
        let was_waiting = !done.load(Ordering::Relaxed);
        drop(chunk);
        thread.join().unwrap();
        was_waiting
    })
}

#[test]
fn nothing_is_taken_away_before_the_last_chunk_has_ended() {
    let w = World::new();
    w.link_all();
    let (a, b) = (w.alice.context(), w.bob.context());
    let bind = BindRequest {
        root: w.alice.guest.ram().0,
        pasid: 3,
        levels: 4,
        maxphyaddr: 46,
        ..BindRequest::default()
    };
    w.alice.do_it(RequestKind::Bind, &bind).unwrap();
    let assert_waits = |what: &str, operation: &(dyn Fn() -> Result<(), ControlStatus> + Sync)| {
        let waits = is_waiting(w.core.epochs(), || operation().unwrap());
        assert!(waits, "{what} did not wait");
    };

    let slot = w.alice.own(a, 64, Rights::ALL);
    w.alice.give(a, slot, &w.bob, b, Rights::READ);
    assert_waits("revoking what is below", &|| {
        let spare = revoke_flags::DESCENDANTS_ONLY;
        w.alice.slot_request(RequestKind::CapRevoke, a, slot, spare)
    });
    assert_waits("revoking", &|| w.alice.revoke(a, slot));
    assert_waits("dropping", &|| w.alice.drop_slot(a, slot));

    let slot = w.alice.own(a, 64, Rights::ALL);
    w.alice.give(a, slot, &w.bob, b, Rights::READ);
    assert_waits("narrowing a link", &|| {
        w.link(&w.alice, &w.bob, Rights::READ, 4096);
        Ok(())
    });
    assert_waits("ending a link", &|| {
        w.unlink(&w.alice, &w.bob);
        Ok(())
    });
    let invalidate = |scope, pasid, pages| {
        let q = InvalidateRequest {
            scope,
            pasid,
            pages,
            ..InvalidateRequest::default()
        };
        let reply: InvalidateReply = w.alice.ask(RequestKind::Invalidate, &q)?;
        assert_eq!(reply.waited_chunks, 1);
        Ok(())
    };
    assert_waits("invalidating all", &|| {
        invalidate(invalidate_scope::DOMAIN, 0, 0)
    });
    assert_waits("invalidating a space", &|| {
        invalidate(invalidate_scope::PASID, 3, 0)
    });
    assert_waits("invalidating a range", &|| {
        invalidate(invalidate_scope::RANGE, 3, 1)
    });
    assert_waits("unbinding", &|| {
        let q = UnbindRequest {
            pasid: 3,
            reserved4: 0,
        };
        w.alice.do_it(RequestKind::Unbind, &q)
    });
    assert_waits("destroying a context", &|| {
        let q = ContextDestroyRequest {
            context: a,
            reserved4: 0,
        };
        w.alice.do_it(RequestKind::ContextDestroy, &q)
    });
    assert_waits("a reset", &|| {
        w.bob.domain.reset();
        Ok(())
    });
}

#[test]
fn what_gives_waits_for_nobody() {
    let w = World::new();
    w.link_all();
    let (a, b) = (w.alice.context(), w.bob.context());
    let waits = is_waiting(w.core.epochs(), || {
        let slot = w.alice.own(a, 64, Rights::ALL);
        w.alice.derive(&within(a, slot)).unwrap();
        w.alice.give(a, slot, &w.bob, b, Rights::READ);
        w.alice.look(a, slot).unwrap();
        let q = ContextCreateRequest { pasid: 0, slots: 4 };
        let reply: ContextCreateReply = w.alice.ask(RequestKind::ContextCreate, &q).unwrap();
        assert!(reply.context > a);
    });
    assert!(!waits);
}
