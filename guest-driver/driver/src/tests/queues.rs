//! Queues whose pages the driver allocates: layout, and never a page freed too early.

use super::fake::{FakeDevice, Fault, Shared, answer, attached, last_request};
use crate::{Broken, ContextId, ControlStatus, Error, OwnedQueue, QueueId, RingLayout};
use byway_protocols::control::{QueueCreateReply, QueueCreateRequest, RequestKind};
use byway_protocols::ring::QueueState;
use byway_protocols::{Completion, Descriptor, QueueHeader};
use std::mem::offset_of;
use std::vec::Vec;

const CONTEXT: ContextId = ContextId(2);

fn accept_all(world: &Shared) {
    answer(world, |kind, _| match kind {
        RequestKind::QueueCreate => (
            0,
            QueueCreateReply {
                queue: 8,
                ..QueueCreateReply::default()
            }
            .to_bytes()
            .to_vec(),
        ),
        _ => (0, Vec::new()),
    });
}

fn with_queue() -> (Shared, FakeDevice, OwnedQueue) {
    let (world, mut device) = attached();
    accept_all(&world);
    let queue = device.create_owned_queue(CONTEXT, 64, false).unwrap();
    (world, device, queue)
}

#[test]
fn areas_are_aligned_and_apart_whatever_the_size() {
    for log in 1..=15 {
        let layout = RingLayout::new(1 << log).unwrap();
        let entries = u64::from(layout.entries());
        let mut areas = [
            (layout.header(), QueueHeader::SIZE as u64),
            (layout.ring(), entries * Descriptor::SIZE as u64),
            (layout.completions(), entries * Completion::SIZE as u64),
            ((layout.pages() * 4096) as u64, 0),
        ];
        areas.sort_unstable();
        for pair in areas.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{layout:?}");
            assert!(pair[0].0.is_multiple_of(64));
        }
        let used = areas[2].0 + areas[2].1;
        assert!(
            ((layout.pages() * 4096) as u64) < used + 4096,
            "no page too many"
        );
    }
    for bad in [0, 1, 3, 100, 65536, u32::MAX] {
        assert_eq!(RingLayout::new(bad), None);
    }
}

#[test]
fn the_engine_gets_the_pages_that_are_to_be_mapped() {
    let (world, mut device, queue) = with_queue();
    let (_, body) = last_request(&world);
    let request = QueueCreateRequest::from_bytes(body.as_slice().try_into().unwrap());
    let gpa = queue.pages().gpa;
    assert_eq!(
        (request.context, request.entries, request.flags),
        (2, 64, 0)
    );
    assert_eq!(request.header, gpa + queue.layout().header());
    assert_eq!(request.ring, gpa + queue.layout().ring());
    assert_eq!(request.completions, gpa + queue.layout().completions());
    assert_eq!((queue.id(), queue.pages().pages), (QueueId(8), 2));
    assert_eq!(world.borrow().pages_out(), 4);

    device.destroy_owned_queue(queue).unwrap();
    assert_eq!(last_request(&world).0, RequestKind::QueueDestroy);
    assert_eq!(world.borrow().pages_out(), 2);
}

#[test]
fn a_refused_queue_costs_nothing() {
    let (world, mut device) = attached();
    for code in [ControlStatus::Quota as u32, 1000] {
        answer(&world, move |_, _| (code, Vec::new()));
        assert!(device.create_owned_queue(CONTEXT, 64, false).is_err());
        assert_eq!(world.borrow().pages_out(), 2);
    }
    let asked = world.borrow().requests.len();
    let bad = device.create_owned_queue(CONTEXT, 63, false);
    assert_eq!(bad.unwrap_err(), Error::Entries(63));
    world.borrow_mut().pages_left = 1;
    let none = device.create_owned_queue(CONTEXT, 64, false);
    assert_eq!(none.unwrap_err(), Error::NoMemory);
    assert_eq!(world.borrow().requests.len(), asked);
}

#[test]
fn pages_that_the_engine_may_have_taken_are_not_reused() {
    let (world, mut device) = attached();
    accept_all(&world);
    world.borrow_mut().fault = Fault::Silent;
    assert!(device.create_owned_queue(CONTEXT, 64, false).is_err());
    assert_eq!(world.borrow().pages_out(), 4);
}

#[test]
fn a_queue_outlives_a_device_that_breaks_and_is_freed_after_a_reset() {
    let (world, mut device, queue) = with_queue();
    world.borrow_mut().fault = Fault::Silent;
    let failed = device.destroy_owned_queue(queue).unwrap_err();
    assert_eq!(failed.error, Error::Broken(Broken::TimedOut));
    assert_eq!(world.borrow().pages_out(), 4);

    world.borrow_mut().fault = Fault::None;
    device.reset().unwrap();
    let asked = world.borrow().requests.len();
    device.destroy_owned_queue(failed.queue).unwrap();
    assert_eq!(
        world.borrow().requests.len(),
        asked,
        "its number means nothing any more"
    );
    assert_eq!(world.borrow().pages_out(), 2);
}

#[test]
fn a_queue_that_is_gone_already_is_freed() {
    let (world, mut device, queue) = with_queue();
    answer(&world, |_, _| {
        (ControlStatus::NoSuchObject as u32, Vec::new())
    });
    device.destroy_owned_queue(queue).unwrap();
    assert_eq!(world.borrow().pages_out(), 2);

    let (world, mut device, queue) = with_queue();
    answer(&world, |_, _| {
        (ControlStatus::HostFailure as u32, Vec::new())
    });
    assert!(device.destroy_owned_queue(queue).is_err());
    assert_eq!(world.borrow().pages_out(), 4);
}

#[test]
fn a_queue_is_marked_dead_where_the_engine_cannot() {
    let (world, _device, queue) = with_queue();
    let state = queue.pages().gpa + queue.layout().header() + offset_of!(QueueHeader, state) as u64;
    assert_eq!(u32::from_le_bytes(world.borrow().read(state)), 0);
    queue.mark_dead();
    assert_eq!(
        u32::from_le_bytes(world.borrow().read(state)),
        QueueState::Dead as u32
    );
}
