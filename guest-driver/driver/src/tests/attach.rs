//! Attaching, resetting, detaching, and everything that can be wrong about a device by then.

use super::fake::{
    FakeHal, FakeTransport, Fault, answer, attached, last_request, try_attach, world,
};
use crate::transport::{F_VERSION_1, status};
use crate::{Broken, ControlStatus, Device, Error, Options, Pasid};
use byway_protocols::control::{QueryRequest, RequestKind, features};
use std::vec::Vec;

/// Makes the world unfit in one way.
type Spoil = fn(&mut super::fake::World);

#[test]
fn attach_goes_through_the_steps_in_order_and_learns_who_is_there() {
    let (world, device) = attached();
    let steps = [
        0,
        status::ACKNOWLEDGE,
        status::ACKNOWLEDGE | status::DRIVER,
        status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK,
        status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK,
    ];
    assert_eq!(world.borrow().statuses, steps);
    assert_eq!(world.borrow().driver_features, F_VERSION_1);
    assert_eq!(world.borrow().waiting(1), 32, "the event queue is stocked");

    let engine = device.engine();
    assert_eq!(
        (engine.version, engine.instance, engine.domain.0),
        (1, 1, 3)
    );
    assert_eq!(
        (engine.name.as_str(), engine.workers, engine.slots_max),
        ("alice", 2, 64)
    );
    assert_eq!((engine.features, engine.park_us), (features::EXPIRY, 50));
    assert!(engine.supports(0) && engine.supports(6) && !engine.supports(7));
    assert!(!engine.supports(255));

    let (kind, body) = last_request(&world);
    assert_eq!(kind, RequestKind::Query);
    let query = QueryRequest::from_bytes(body.as_slice().try_into().unwrap());
    assert_eq!((query.version, query.reserved4), (1, 0));
}

#[test]
fn a_foreign_device_is_not_touched() {
    let wrong: [(Spoil, Error); 4] = [
        (|w| w.config[0] = 0x1234, Error::NotByway { found: 0x1234 }),
        (|w| w.config[1] = 0, Error::AbiVersion { engine: 0 }),
        (
            |w| w.probe = Err(Error::NotVirtio { found: 9 }),
            Error::NotVirtio { found: 9 },
        ),
        (|w| w.probe = Err(Error::NoDevice), Error::NoDevice),
    ];
    for (spoil, expected) in wrong {
        let world = world();
        spoil(&mut world.borrow_mut());
        let failure = try_attach(&world).err().unwrap();
        assert_eq!(failure.error, expected);
        assert_eq!(
            (world.borrow().statuses.len(), world.borrow().pages_out()),
            (0, 0)
        );
        // What came back can be used again.
        world.borrow_mut().config = [byway_protocols::config::MAGIC, 1];
        world.borrow_mut().probe = Ok(());
        assert!(Device::attach(failure.transport, failure.hal, Options::default()).is_ok());
    }
}

#[test]
fn an_unfit_device_is_refused_and_left_reset() {
    let unfit: [(Spoil, Error); 8] = [
        (|w| w.device_features = 0xffff_ffff, Error::LegacyDevice),
        (|w| w.accepts_features = false, Error::FeaturesRefused),
        (
            |w| w.size_max[0] = 8,
            Error::Virtqueue {
                queue: 0,
                size_max: 8,
            },
        ),
        (
            |w| w.size_max[1] = 0,
            Error::Virtqueue {
                queue: 1,
                size_max: 0,
            },
        ),
        (|w| w.fault = Fault::Silent, Error::Broken(Broken::TimedOut)),
        (
            |w| w.fault = Fault::Status(17),
            Error::Refused(ControlStatus::Version),
        ),
        (|w| w.query.version = 0, Error::AbiVersion { engine: 0 }),
        (|w| w.query.version = 2, Error::AbiVersion { engine: 2 }),
    ];
    for (spoil, expected) in unfit {
        let world = world();
        spoil(&mut world.borrow_mut());
        let failure = try_attach(&world).err().unwrap();
        assert_eq!(failure.error, expected);
        assert_eq!(
            (world.borrow().status, world.borrow().pages_out()),
            (0, 0),
            "{expected}"
        );
    }
}

#[test]
fn a_newer_engine_is_asked_for_this_version() {
    let world = world();
    world.borrow_mut().config[1] = 7;
    assert_eq!(try_attach(&world).unwrap().engine().version, 1);
}

#[test]
fn without_memory_nothing_is_kept() {
    for pages in 0..2 {
        let world = world();
        world.borrow_mut().pages_left = pages;
        assert_eq!(try_attach(&world).err().unwrap().error, Error::NoMemory);
        assert_eq!(
            (world.borrow().pages_out(), world.borrow().statuses.len()),
            (0, 0)
        );
    }
}

#[test]
fn a_device_that_ignores_a_reset_keeps_its_pages() {
    let world = world();
    world.borrow_mut().status = 0xf;
    world.borrow_mut().ignores_reset = true;
    let failure = try_attach(&world).err().unwrap();
    assert_eq!(failure.error, Error::Broken(Broken::ResetIgnored));
    assert_eq!(world.borrow().pages_out(), 2);
    assert!(world.borrow().now_ns > Options::default().timeout_ns);

    let (world, device) = attached();
    world.borrow_mut().ignores_reset = true;
    let failure = device.detach().err().unwrap();
    assert_eq!(failure.error, Error::Broken(Broken::ResetIgnored));
    assert_eq!(world.borrow().pages_out(), 2);
}

#[test]
fn detach_gives_all_back_and_the_device_can_be_attached_again() {
    let (world, device) = attached();
    let (transport, hal) = device.detach().ok().unwrap();
    assert_eq!((world.borrow().status, world.borrow().pages_out()), (0, 0));
    let again = Device::attach(transport, hal, Options::default());
    assert_eq!(again.ok().unwrap().engine().domain.0, 3);
}

#[test]
fn a_broken_device_says_so_until_it_is_reset() {
    let (world, mut device) = attached();
    answer(&world, |_, _| (0, 77u64.to_le_bytes().to_vec()));
    assert_eq!(device.create_context(Pasid(1), 4).unwrap().0, 77);
    let generation = device.generation();

    world.borrow_mut().fault = Fault::Silent;
    let broken = Error::Broken(Broken::TimedOut);
    assert_eq!(device.create_context(Pasid(1), 4), Err(broken));
    world.borrow_mut().fault = Fault::None;
    let asked = world.borrow().requests.len();
    assert_eq!(device.create_context(Pasid(1), 4), Err(broken));
    assert_eq!(device.next_event(), Err(broken));
    assert_eq!(device.broken(), Some(Broken::TimedOut));
    assert_eq!(
        world.borrow().requests.len(),
        asked,
        "a broken device is asked nothing"
    );

    world.borrow_mut().instance = 2;
    device.reset().unwrap();
    assert_eq!((device.broken(), device.engine().instance), (None, 2));
    assert_ne!(device.generation(), generation);
    assert_eq!(device.create_context(Pasid(1), 4).unwrap().0, 77);
    assert_eq!(world.borrow().waiting(1), 32);
    assert_eq!(world.borrow().pages_out(), 2, "the same pages");
}

#[test]
fn a_reset_that_fails_can_be_tried_again() {
    let (world, mut device) = attached();
    world.borrow_mut().size_max[0] = 0;
    let error = device.reset().unwrap_err();
    assert_eq!(
        error,
        Error::Virtqueue {
            queue: 0,
            size_max: 0
        }
    );
    assert_eq!(device.broken(), Some(Broken::NeedsReset));
    assert_eq!(world.borrow().status, status::FAILED);
    assert!(device.unbind(Pasid(1)).is_err());
    world.borrow_mut().size_max[0] = 256;
    device.reset().unwrap();
    answer(&world, |_, _| (0, Vec::new()));
    device.unbind(Pasid(1)).unwrap();
}

#[test]
fn many_resets_leave_nothing_behind() {
    let (world, mut device) = attached();
    for instance in 2..200 {
        world.borrow_mut().instance = instance;
        device.reset().unwrap();
        assert_eq!(device.engine().instance, instance);
    }
    assert_eq!(world.borrow().pages_out(), 2);
}

#[test]
fn a_restarted_engine_is_noticed() {
    let (world, mut device) = attached();
    assert_eq!(device.query().unwrap().instance, 1);
    world.borrow_mut().instance = 9;
    assert_eq!(device.query(), Err(Error::Restarted { was: 1, is: 9 }));
    device.reset().unwrap();
    assert!(device.query().is_ok());
}

#[test]
fn interrupts_with_replies_are_the_kernels_choice() {
    for wanted in [false, true] {
        let world = world();
        let options = Options {
            reply_interrupts: wanted,
            ..Options::default()
        };
        let hal = FakeHal(world.clone());
        let _device = Device::attach(FakeTransport(world.clone()), hal, options)
            .ok()
            .unwrap();
        assert_eq!(world.borrow().available_flags(0), u16::from(!wanted));
        assert_eq!(
            world.borrow().available_flags(1),
            0,
            "events always interrupt"
        );
    }
}
