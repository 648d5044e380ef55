//! A device that answers garbage, or not at all: the driver says so, and survives.

use super::fake::{FakeDevice, Fault, answer, attached};
use crate::transport::status;
use crate::{Broken, CapSlot, ContextId, Error, Options, Pasid};
use byway_protocols::control::{CapQueryReply, LookupReply};
use proptest::prelude::*;
use std::vec::Vec;

const CAP: CapSlot = CapSlot::new(ContextId(1), 1);

fn call(device: &mut FakeDevice) -> Result<ContextId, Error> {
    device.create_context(Pasid(1), 1)
}

#[test]
fn senseless_replies_break_the_device() {
    let cases = [
        (Fault::UsedIndex(1), Some(Broken::UsedIndex)),
        (Fault::UsedIndex(0x7fff), Some(Broken::UsedIndex)),
        (Fault::UsedId(16), Some(Broken::UsedElement)),
        (Fault::UsedId(0x1_0001), Some(Broken::UsedElement)),
        (Fault::UsedId(u32::MAX), Some(Broken::UsedElement)),
        (Fault::UsedId(5), Some(Broken::UsedElement)),
        (Fault::Written(257), Some(Broken::UsedElement)),
        (Fault::Written(u32::MAX), Some(Broken::UsedElement)),
        (Fault::Written(0), Some(Broken::Reply)),
        (Fault::Written(15), Some(Broken::Reply)),
        (Fault::Written(16), Some(Broken::Reply)),
        (Fault::Written(23), Some(Broken::Reply)),
        (Fault::Tag(0), Some(Broken::Reply)),
        (Fault::Length(16), Some(Broken::Reply)),
        (Fault::Length(25), Some(Broken::Reply)),
        (Fault::Length(u32::MAX), Some(Broken::Reply)),
        (Fault::Longer(8), None),
    ];
    for (fault, expected) in cases {
        let (world, mut device) = attached();
        answer(&world, |_, _| (0, 9u64.to_le_bytes().to_vec()));
        world.borrow_mut().fault = fault;
        let first = call(&mut device);
        match expected {
            // Room that was used beyond what the header says is no concern of the driver's.
            None => assert_eq!(first, Ok(ContextId(9)), "{fault:?}"),
            Some(how) => {
                assert_eq!(first, Err(Error::Broken(how)), "{fault:?}");
                assert_eq!(device.broken(), Some(how));
                world.borrow_mut().fault = Fault::None;
                device.reset().unwrap();
                assert_eq!(call(&mut device), Ok(ContextId(9)));
            }
        }
    }
}

#[test]
fn a_stale_reply_is_not_taken_for_an_answer() {
    let (world, mut device) = attached();
    answer(&world, |_, _| (0, 9u64.to_le_bytes().to_vec()));
    call(&mut device).unwrap();
    world.borrow_mut().fault = Fault::Unwritten;
    assert_eq!(call(&mut device), Err(Error::Broken(Broken::Reply)));
}

#[test]
fn values_out_of_the_abi_break_the_device() {
    let (world, mut device) = attached();
    let reply = LookupReply {
        domain: 1,
        rights_out: u32::MAX,
        ..LookupReply::default()
    };
    answer(&world, move |_, _| (0, reply.to_bytes().to_vec()));
    assert_eq!(device.lookup("bob"), Err(Error::Broken(Broken::Reply)));

    for state in [0, 4, u32::MAX] {
        let (world, mut device) = attached();
        let reply = CapQueryReply {
            state,
            ..CapQueryReply::default()
        };
        answer(&world, move |_, _| (0, reply.to_bytes().to_vec()));
        assert_eq!(
            device.query_capability(CAP),
            Err(Error::Broken(Broken::Reply))
        );
        assert_eq!(device.broken(), Some(Broken::Reply));
    }
}

#[test]
fn silence_ends_by_the_clock() {
    let (world, mut device) = attached();
    world.borrow_mut().fault = Fault::Silent;
    let start = world.borrow().now_ns;
    assert_eq!(call(&mut device), Err(Error::Broken(Broken::TimedOut)));
    let waited = world.borrow().now_ns - start;
    let timeout = Options::default().timeout_ns;
    assert!(
        (timeout..timeout + 10_000_000).contains(&waited),
        "{waited}"
    );
    assert!(world.borrow().idles > 1000, "it idles between two looks");

    let (world, mut device) = attached();
    world.borrow_mut().fault = Fault::NeedsReset;
    assert_eq!(call(&mut device), Err(Error::Broken(Broken::NeedsReset)));
    assert_ne!(world.borrow().status & status::NEEDS_RESET, 0);
    world.borrow_mut().fault = Fault::None;
    device.reset().unwrap();
}

#[test]
fn a_reply_that_came_while_the_driver_slept_counts() {
    let (world, mut device) = attached();
    answer(&world, |_, _| (0, 9u64.to_le_bytes().to_vec()));
    world.borrow_mut().fault = Fault::Late;
    assert_eq!(call(&mut device), Ok(ContextId(9)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// A device that scribbles over all of its memory between the calls: no panic, and no answer
    /// but errors that say so or values that a well-formed reply could carry.
    #[test]
    fn scribbling_is_survived(
        scribbles in prop::collection::vec(
            (0usize..2, 0u64..4096, prop::collection::vec(any::<u8>(), 1..64)), 0..40),
        replies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..240), 1..8),
        codes in prop::collection::vec(0u32..20, 1..8),
    ) {
        let (world, mut device) = attached();
        let mut replies = replies.into_iter().cycle();
        let mut codes = codes.into_iter().cycle();
        answer(&world, move |_, _| (codes.next().unwrap(), replies.next().unwrap()));
        for (queue, offset, bytes) in &scribbles {
            let page = world.borrow().queue_page(*queue);
            // The available rings stay: the fake device itself believes them.
            let used = if *queue == 0 { 296u64 } else { 584 };
            let offset = (*offset).max(used);
            let bytes = &bytes[..bytes.len().min((4096 - offset) as usize)];
            world.borrow().write(page + offset, bytes);
            let _ = device.lookup("bob");
            let _ = device.query_capability(CAP);
            let _ = device.create_owned_queue(ContextId(1), 8, false);
            for _ in 0..40 {
                if !matches!(device.next_event(), Ok(Some(_))) {
                    break;
                }
            }
        }
        device.reset().unwrap();
        prop_assert_eq!(device.broken(), None);
        answer(&world, |_, _| (0, Vec::new()));
        prop_assert!(device.revoke(CAP).is_ok());
    }
}
