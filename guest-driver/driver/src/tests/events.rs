//! Events: every kind, gaps, buffers that come and go, and events that make no sense.

use super::fake::{attached, try_attach, world};
use crate::{
    Broken, CapSlot, ContextId, DomainId, DriverEvent, Error, OfferId, PageRequest, Pasid, QueueId,
    Rights, Status,
};
use byway_protocols::Event;

#[test]
fn each_kind_is_told_in_its_own_terms() {
    let (world, mut device) = attached();
    let full = Event {
        object: 3,
        context: 4,
        id: 5,
        label: 6,
        length: 7,
        rights: 3,
        address: 0x8000,
        request: 9,
        ..Event::default()
    };
    let expected = [
        DriverEvent::CapabilityOffered {
            domain: DomainId(3),
            offer: OfferId(5),
            label: 6,
            length: 7,
            rights: Rights::READ | Rights::WRITE,
        },
        DriverEvent::CapabilityRevoked(CapSlot::new(ContextId(4), 5)),
        DriverEvent::PageRequest(PageRequest {
            request: 9,
            pasid: Pasid(5),
            address: 0x8000,
            access: Rights::READ | Rights::WRITE,
        }),
        DriverEvent::Completion(QueueId(3)),
        DriverEvent::DomainGone(DomainId(3)),
        DriverEvent::QueueDead {
            queue: QueueId(3),
            status: Some(Status::PageFault),
        },
        DriverEvent::Lost { count: 7 },
        DriverEvent::Unknown { kind: 8 },
    ];
    for (index, expected) in expected.into_iter().enumerate() {
        let event = Event {
            kind: index as u16 + 1,
            sequence: index as u32,
            ..full
        };
        assert!(world.borrow_mut().send(event));
        assert_eq!(device.next_event(), Ok(Some(expected)));
        assert_eq!(device.next_event(), Ok(None));
    }
    let dead = Event {
        kind: 6,
        sequence: 8,
        rights: 0x5a,
        ..Event::default()
    };
    world.borrow_mut().send(dead);
    let expected = DriverEvent::QueueDead {
        queue: QueueId(0),
        status: Some(Status::RegionGone),
    };
    assert_eq!(device.next_event(), Ok(Some(expected)));
}

fn completion(sequence: u32) -> Event {
    Event {
        kind: 4,
        sequence,
        object: sequence,
        ..Event::default()
    }
}

#[test]
fn buffers_go_back_and_events_keep_their_order() {
    let (world, mut device) = attached();
    let mut sent = 0;
    let mut seen = 0;
    while seen < 100_000 {
        // Bursts of every size up to all buffers, then one too many.
        for _ in 0..sent % 33 + 1 {
            if !world.borrow_mut().send(completion(sent)) {
                break;
            }
            sent += 1;
        }
        while let Some(event) = device.next_event().unwrap() {
            assert_eq!(event, DriverEvent::Completion(QueueId(seen)));
            seen += 1;
        }
        assert_eq!(world.borrow().waiting(1), 32, "all buffers are back");
        world.borrow_mut().notifications.clear();
    }
}

#[test]
fn the_device_is_told_of_buffers_unless_it_does_not_care() {
    for no_notify in [false, true] {
        let world = world();
        world.borrow_mut().no_notify = no_notify;
        let mut device = try_attach(&world).unwrap();
        world.borrow_mut().notifications.clear();
        world.borrow_mut().send(completion(0));
        device.next_event().unwrap().unwrap();
        let expected: &[u16] = if no_notify { &[] } else { &[1] };
        assert_eq!(world.borrow().notifications, expected);
    }
}

#[test]
fn a_gap_is_reported_before_the_event_behind_it() {
    let (world, mut device) = attached();
    for sequence in [u32::MAX, 0, 3] {
        world.borrow_mut().send(completion(sequence));
    }
    let next = |device: &mut super::fake::FakeDevice| device.next_event().unwrap().unwrap();
    assert_eq!(
        next(&mut device),
        DriverEvent::Completion(QueueId(u32::MAX))
    );
    assert_eq!(next(&mut device), DriverEvent::Completion(QueueId(0)));
    assert_eq!(next(&mut device), DriverEvent::Lost { count: 2 });
    assert_eq!(next(&mut device), DriverEvent::Completion(QueueId(3)));
    assert_eq!(device.next_event(), Ok(None));
}

#[test]
fn losses_that_the_engine_reports_are_not_counted_twice() {
    let (world, mut device) = attached();
    world.borrow_mut().send(completion(10));
    world.borrow_mut().send(Event {
        kind: 7,
        sequence: 16,
        length: 5,
        ..Event::default()
    });
    world.borrow_mut().send(completion(17));
    assert_eq!(
        device.next_event(),
        Ok(Some(DriverEvent::Completion(QueueId(10))))
    );
    assert_eq!(
        device.next_event(),
        Ok(Some(DriverEvent::Lost { count: 5 }))
    );
    assert_eq!(
        device.next_event(),
        Ok(Some(DriverEvent::Completion(QueueId(17))))
    );
}

#[test]
fn a_reset_starts_the_count_anew() {
    let (world, mut device) = attached();
    world.borrow_mut().send(completion(10));
    device.next_event().unwrap().unwrap();
    // One is held back behind a gap, another was never looked at: both are of the past.
    world.borrow_mut().send(completion(20));
    assert_eq!(
        device.next_event(),
        Ok(Some(DriverEvent::Lost { count: 9 }))
    );
    world.borrow_mut().send(completion(21));
    device.reset().unwrap();
    assert_eq!(device.next_event(), Ok(None));
    world.borrow_mut().send(completion(0));
    assert_eq!(
        device.next_event(),
        Ok(Some(DriverEvent::Completion(QueueId(0))))
    );
}

#[test]
fn senseless_events_break_the_device() {
    for written in [0, 63, 65, u32::MAX] {
        let (world, mut device) = attached();
        world.borrow_mut().send_bytes(&[0xff; 64], written, None);
        let how = match written {
            0 | 63 => Broken::EventLength(written),
            _ => Broken::UsedElement,
        };
        assert_eq!(device.next_event(), Err(Error::Broken(how)));
        assert_eq!(device.broken(), Some(how));
    }
    for id in [32, 0xffff, 0x1_0000, u32::MAX] {
        let (world, mut device) = attached();
        world.borrow_mut().send_bytes(&[0; 64], 64, Some(id));
        assert_eq!(device.next_event(), Err(Error::Broken(Broken::UsedElement)));
    }
    // The same buffer twice.
    let (world, mut device) = attached();
    world
        .borrow_mut()
        .send_bytes(&completion(0).to_bytes(), 64, Some(1));
    world
        .borrow_mut()
        .send_bytes(&completion(1).to_bytes(), 64, Some(1));
    assert!(device.next_event().is_ok());
    assert!(device.next_event().is_ok(), "it was given again in between");

    // Bits that no right has are not taken over.
    let (world, mut device) = attached();
    world.borrow_mut().send(Event {
        kind: 1,
        rights: !0,
        ..Event::default()
    });
    match device.next_event() {
        Ok(Some(DriverEvent::CapabilityOffered { rights, .. })) => {
            assert_eq!(rights, Rights::KNOWN)
        }
        other => panic!("{other:?}"),
    }
}
