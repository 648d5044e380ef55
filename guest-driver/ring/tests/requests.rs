//! Builders against the rules of SPEC sections 3 and 4, and the rest of partial transfers against
//! a byte-by-byte interpreter.

use byway_protocols::codec::Compression;
use byway_protocols::{Completion, Descriptor, Flags, Opcode, Status, Word0};
use byway_ring::{Address, Mode, Pattern, Request, RequestError, Slot, resume};
use proptest::prelude::*;

const SLOT: Slot = Slot::new(5).unwrap();

fn built(request: Result<Request, RequestError>) -> Descriptor {
    request.unwrap().into()
}

#[test]
fn put_and_get_are_memmoves_with_the_slot_where_it_belongs() {
    let put = built(Request::put(SLOT, 0x40, 0x7000_1000, 64));
    assert_eq!(put.code(), Opcode::Memmove as u8);
    assert_eq!(
        (put.slots(), put.src, put.dst),
        (Word0::new(0, 5, false), 0x7000_1000, 0x40)
    );
    assert_eq!(
        (put.size, put.flags(), put.status_array),
        (64, Flags::NONE, 0)
    );
    let get = built(Request::get(0x7000_1000, SLOT, 0x40, 64));
    assert_eq!(
        (get.slots(), get.src, get.dst),
        (Word0::new(5, 0, false), 0x40, 0x7000_1000)
    );
}

#[test]
fn sizes_and_ends_are_checked() {
    let at = Address::own(0x1000);
    for size in [0, (1 << 31) + 1, u64::MAX] {
        assert_eq!(
            Request::memmove(at, at, size),
            Err(RequestError::Size(size))
        );
        assert_eq!(
            Request::fill(at, Pattern::byte(0), size),
            Err(RequestError::Size(size))
        );
    }
    assert_eq!(built(Request::compare(at, at, 1 << 31)).size, 1 << 31);
    let last = Address::own(u64::MAX);
    assert!(Request::memmove(last, at, 1).is_ok());
    assert_eq!(
        Request::memmove(last, at, 2),
        Err(RequestError::Wraps(u64::MAX))
    );
    assert_eq!(
        Request::memmove(at, last, 2),
        Err(RequestError::Wraps(u64::MAX))
    );
    assert_eq!(
        Request::compare_value(last, [0; 8], 2),
        Err(RequestError::Wraps(u64::MAX))
    );
    assert_eq!(Slot::new(0x8000), None);
}

#[test]
fn patterns_stand_where_the_operation_reads_them() {
    let dst = Address::capability(SLOT, 8);
    let bytes: [u8; 16] = std::array::from_fn(|index| index as u8);
    let fill = built(Request::fill(dst, Pattern::Bytes16(bytes), 100));
    assert_eq!(
        (fill.src, fill.op0),
        (0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908)
    );
    assert_eq!(
        (fill.flags(), fill.slots()),
        (Flags::FILL_16, Word0::new(0, 5, false))
    );
    let fill = built(Request::fill(dst, Pattern::byte(0xab), 100));
    assert_eq!(
        (fill.src, fill.op0, fill.flags()),
        (0xabab_abab_abab_abab, 0, Flags::NONE)
    );
    let value = built(Request::compare_value(dst, [1, 0, 0, 0, 0, 0, 0, 0x80], 9));
    assert_eq!((value.src, value.dst), (8, 0x8000_0000_0000_0001));
    assert_eq!(value.slots(), Word0::new(5, 0, false));
}

#[test]
fn batches_are_checked() {
    let list = Address::own(0x1000);
    let statuses = Address::own(0x20020);
    let batch = built(Request::batch(list, statuses, 1024));
    assert_eq!(
        (batch.src, batch.status_array, batch.dst),
        (0x1000, 0x20020, 0)
    );
    assert_eq!(batch.size, 1024);
    let slots = Request::batch(
        Address::capability(SLOT, 0),
        Address::capability(SLOT, 64),
        1,
    );
    assert_eq!(built(slots).slots(), Word0::new(5, 5, false));
    for count in [0, 1025, usize::MAX] {
        assert_eq!(
            Request::batch(list, statuses, count),
            Err(RequestError::Count(count))
        );
    }
    let odd = Address::own(0x1020);
    assert_eq!(
        Request::batch(odd, statuses, 1),
        Err(RequestError::ListAlignment(0x1020))
    );
    for bad in [0, 0x20010] {
        let error = Request::batch(list, Address::own(bad), 1);
        assert_eq!(error, Err(RequestError::StatusAlignment(bad)));
    }
    // Offset 0 of a capability is an address like any other.
    assert!(Request::batch(list, Address::capability(SLOT, 0), 1).is_ok());
    for (statuses, apart) in [
        (0x1000, false),
        (0x1020, false),
        (0x1040, true),
        (0xfe0, true),
    ] {
        let result = Request::batch(list, Address::own(statuses), 1);
        assert_eq!(result.is_ok(), apart, "{statuses:#x}");
    }
}

#[test]
fn flags_go_to_operations_that_take_them() {
    let at = Address::own(0x1000);
    let memmove = || Request::memmove(at, Address::own(0x9000), 8).unwrap();
    let compare = || Request::compare(at, at, 8).unwrap();
    let flags = |request: Request| Descriptor::from(request).flags();
    assert_eq!(flags(Request::nop().fenced().interrupting()).0, 0x11);
    assert_eq!(flags(memmove().cached().unwrap()).0, 0x100);
    assert_eq!(flags(memmove().strictly_ordered().unwrap()).0, 0x2000);
    assert_eq!(flags(memmove().blocking_on_fault().unwrap()).0, 2);
    assert_eq!(compare().cached(), Err(RequestError::Flag(Opcode::Compare)));
    assert_eq!(
        compare().strictly_ordered(),
        Err(RequestError::Flag(Opcode::Compare))
    );
    assert_eq!(
        memmove().expecting_difference(true),
        Err(RequestError::Flag(Opcode::Memmove))
    );
    assert_eq!(
        Request::drain().blocking_on_fault(),
        Err(RequestError::Flag(Opcode::Drain))
    );
    let expecting = Descriptor::from(compare().expecting_difference(true).unwrap());
    assert_eq!((expecting.flags(), expecting.op0), (Flags::CHECK_RESULT, 1));
}

#[test]
fn a_copy_that_has_to_run_backwards_has_no_ascending_order() {
    let copy = |dst: u64, src: u64| {
        Request::memmove(Address::own(dst), Address::own(src), 0x100)
            .unwrap()
            .strictly_ordered()
    };
    assert_eq!(copy(0x10ff, 0x1000), Err(RequestError::Overlap));
    assert!(copy(0x1100, 0x1000).is_ok());
    assert!(copy(0x1000, 0x10ff).is_ok());
    let apart = Request::memmove(Address::capability(SLOT, 1), Address::own(0), 0x100);
    assert!(apart.unwrap().strictly_ordered().is_ok());
}

#[test]
fn what_cannot_be_resumed_is_not() {
    let copy = built(Request::memmove(
        Address::own(0x1000),
        Address::own(0x9000),
        100,
    ));
    let ended = |status: Status, bytes_completed| Completion {
        status: status as u8 | Status::WRITE_FAULT,
        bytes_completed,
        ..Completion::default()
    };
    for status in Status::ALL {
        let rest = resume(&copy, &ended(*status, 40));
        assert_eq!(rest.is_some(), status.is_resumable(), "{status}");
    }
    let fault = Status::Stage1NotPresent;
    assert_eq!(resume(&copy, &ended(fault, 100)), None, "all was done");
    assert_eq!(
        resume(&copy, &ended(fault, 101)),
        None,
        "more than all was done"
    );
    assert_eq!(resume(&Request::nop().into(), &ended(fault, 0)), None);
    let unknown = Completion {
        status: 0x7f,
        ..Completion::default()
    };
    assert_eq!(resume(&copy, &unknown), None);
    let wraps = Descriptor {
        src: u64::MAX - 10,
        ..copy
    };
    assert_eq!(resume(&wraps, &ended(fault, 40)), None);
}

#[test]
fn a_batch_goes_on_with_the_element_that_was_not_reached() {
    let batch = built(Request::batch(
        Address::own(0x1fc0),
        Address::own(0x5fe0),
        10,
    ));
    let fault = |status: Status, fault_addr| Completion {
        status: status as u8,
        fault_addr,
        ..Completion::default()
    };
    let rest = resume(&batch, &fault(Status::BatchListFault, 0x2000)).unwrap();
    assert_eq!(
        (rest.src, rest.status_array, rest.size),
        (0x2000, 0x6000, 9)
    );
    let rest = resume(&batch, &fault(Status::StatusArrayFault, 0x6000)).unwrap();
    assert_eq!(
        (rest.src, rest.status_array, rest.size),
        (0x2000, 0x6000, 9)
    );
    assert_eq!(
        resume(&batch, &fault(Status::BatchListFault, 0x1000)),
        None,
        "before the list"
    );
    assert_eq!(
        resume(&batch, &fault(Status::BatchListFault, 0x1fc0 + 640)),
        None,
        "behind it"
    );
    assert_eq!(
        resume(&batch, &fault(Status::Stage1NotPresent, 0x2000)),
        None
    );
}

/// A naive engine over a small memory that stops with a fault after `limit` bytes.
fn interpret(memory: &mut [u8], d: &Descriptor, limit: u32) -> Completion {
    let (src, dst, size) = (d.src as usize, d.dst as usize, d.size);
    let mut completion = Completion {
        status: Status::Success as u8,
        ..Completion::default()
    };
    let done = size.min(limit);
    if done < size {
        completion.status = Status::Stage1NotPresent as u8;
    }
    completion.bytes_completed = done;
    let done = done as usize;
    match Opcode::from_code(d.code()).unwrap().canonical() {
        Opcode::Memmove if src < dst && dst < src + size as usize => {
            completion.result = 1;
            let skip = size as usize - done;
            for index in (skip..size as usize).rev() {
                memory[dst + index] = memory[src + index];
            }
        }
        Opcode::Memmove => {
            for index in 0..done {
                memory[dst + index] = memory[src + index];
            }
        }
        Opcode::Fill => {
            let pattern = [d.src.to_le_bytes(), d.op0.to_le_bytes()].concat();
            let length = if d.flags().contains(Flags::FILL_16) {
                16
            } else {
                8
            };
            for index in 0..done {
                memory[dst + index] = pattern[index % length];
            }
        }
        code @ (Opcode::Compare | Opcode::CompareValue) => {
            for index in 0..done {
                let other = match code {
                    Opcode::Compare => memory[dst + index],
                    _ => d.dst.to_le_bytes()[index % 8],
                };
                if memory[src + index] != other {
                    completion.status = Status::Success as u8;
                    completion.result = 1;
                    completion.bytes_completed = index as u32;
                    break;
                }
            }
        }
        other => panic!("{other:?}"),
    }
    completion
}

proptest! {
    /// In pieces of any sizes, each made by `resume`, an operation ends as it does in one go.
    #[test]
    fn the_rest_of_the_rest_is_the_whole(
        code in prop::sample::select(&[0x03u8, 0x04, 0x05, 0x06, 0x23, 0x24, 0x25, 0x26][..]),
        src in 0u64..200,
        dst in 0u64..200,
        size in 1u32..100,
        pattern in any::<[u64; 2]>(),
        wide in any::<bool>(),
        equal_bytes in 0usize..100,
        pieces in prop::collection::vec(0u32..40, 1..60),
        seed in any::<u8>(),
    ) {
        let mut memory: Vec<u8> = (0..300usize).map(|i| (i as u8).wrapping_mul(167) ^ seed).collect();
        let mut descriptor = Descriptor::with_code(code, Flags::NONE);
        (descriptor.src, descriptor.dst, descriptor.size) = (src, dst, size);
        match code & 0xf {
            4 => {
                descriptor.src = pattern[0];
                if wide {
                    descriptor.op0 = pattern[1];
                    descriptor.flags_opcode |= Flags::FILL_16.0;
                }
            }
            5 => for index in 0..equal_bytes.min(size as usize) {
                memory[dst as usize + index] = memory[src as usize + index];
            },
            6 => {
                descriptor.dst = pattern[0];
                for index in 0..equal_bytes.min(size as usize) {
                    memory[src as usize + index] = pattern[0].to_le_bytes()[index % 8];
                }
            }
            _ => {}
        }
        let mut whole = memory.clone();
        let expected = interpret(&mut whole, &descriptor, u32::MAX);

        let mut next = descriptor;
        let mut before = 0;
        for limit in pieces.into_iter().chain([u32::MAX]) {
            let completion = interpret(&mut memory, &next, limit);
            match resume(&next, &completion) {
                Some(rest) => {
                    before += completion.bytes_completed;
                    next = rest;
                }
                None => {
                    prop_assert_eq!(completion.status, expected.status);
                    if code & 0xf >= 5 {
                        prop_assert_eq!(completion.result, expected.result);
                    }
                    prop_assert_eq!(before + completion.bytes_completed, expected.bytes_completed);
                    break;
                }
            }
        }
        prop_assert_eq!(memory, whole);
    }
}

#[test]
fn transformations_carry_their_word() {
    let (src, dst) = (Address::own(0x7000_1000), Address::capability(SLOT, 0x40));
    let d = built(Request::compress(dst, 200, src, 100, Compression::Lz4Frame));
    assert_eq!(d.code(), Opcode::Compress as u8);
    assert_eq!((d.slots(), d.size), (Word0::new(0, 5, false), 100));
    assert_eq!((d.src, d.dst), (0x7000_1000, 0x40));
    assert_eq!(d.op0, 200 << 32 | 2 << 16);
    assert_eq!((d.op1, d.op2), (0, 0));

    let key = Slot::new(9).unwrap();
    let xts = Mode::Xts {
        unit_log2: 12,
        tweak: 3 << 64 | 7,
    };
    let d = built(Request::encrypt(dst, 100, src, 100, key, &xts));
    assert_eq!(d.code(), Opcode::Encrypt as u8);
    assert_eq!(d.op0, 100 << 32 | 12 << 24 | 9);
    assert_eq!((d.op1, d.op2), (7, 3));

    let gcm = Mode::Gcm {
        nonce: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
        additional: 20,
        fused: Some(Compression::Zlib),
    };
    let d = built(Request::decrypt(dst, 100, src, 100, key, &gcm));
    assert_eq!(d.code(), Opcode::Decrypt as u8);
    assert_eq!(d.op0, 100 << 32 | 4 << 16 | 9);
    assert_eq!(
        (d.op1, d.op2),
        (0x0807_0605_0403_0201, 20 << 32 | 0x0c0b_0a09)
    );

    let d = built(Request::seal_copy(dst, src, 100, key, 7));
    assert_eq!(d.code(), Opcode::SealCopy as u8);
    assert_eq!((d.op0, d.op1, d.op2), (140 << 32 | 9, 0, 7));
    let d = built(Request::open_copy(dst, src, 140, key, 5, 7));
    assert_eq!(d.code(), Opcode::OpenCopy as u8);
    assert_eq!((d.op0, d.op1, d.op2), (100 << 32 | 9, 5, 7));
    // An empty message can be opened, but not sealed.
    let d = built(Request::open_copy(dst, src, 40, key, 0, 0));
    assert_eq!((d.size, d.op0), (40, 1 << 32 | 9));
    assert!(Request::seal_copy(dst, src, 0, key, 0).is_err());
    let (size, min) = (39, 40);
    let refused = Request::open_copy(dst, src, size, key, 0, 0);
    assert_eq!(refused, Err(RequestError::SizeMin { size, min }));
    let max = 2 << 20;
    assert!(Request::seal_copy(dst, src, max, key, 0).is_ok());
    assert!(Request::open_copy(dst, src, max + 40, key, 0, 0).is_ok());
    assert!(Request::seal_copy(dst, src, max + 1, key, 0).is_err());
    assert!(Request::open_copy(dst, src, max + 41, key, 0, 0).is_err());
    let near = Address {
        addr: src.addr + 10,
        ..src
    };
    assert!(Request::seal_copy(near, src, 100, key, 0).is_err());
    let none = Request::open_copy(dst, src, 140, Slot::OWN, 0, 0);
    assert_eq!(none, Err(RequestError::KeySlot));

    let cbc = Mode::Cbc { iv: [0xff; 16] };
    for (room, size) in [(0, 16), (16, 0), ((1 << 31) + 1, 16), (16, 1 << 33)] {
        let refused = Request::encrypt(dst, room, src, size, key, &cbc);
        assert!(matches!(refused, Err(RequestError::Size(_))));
    }
    let last = Address::own(u64::MAX - 15);
    assert!(Request::encrypt(last, 16, src, 16, key, &cbc).is_ok());
    let refused = Request::encrypt(last, 17, src, 16, key, &cbc);
    assert_eq!(refused, Err(RequestError::Wraps(u64::MAX - 15)));
}
