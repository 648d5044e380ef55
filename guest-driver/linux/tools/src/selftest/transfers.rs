//! What has to work: bytes that arrive.

use byway_linux::{Name, Pattern, Pipeline, Port, Rights, Status, Terms};
use byway_protocols::Opcode;

use super::Check;
use super::lab::{
    Lab, PAGE, Problem, ensure, expect_bytes, expect_pattern, expect_refusal, fail, slot,
    write_pattern,
};

pub const CHECKS: &[Check] = &[
    Check {
        name: "copy-within-a-process",
        run: copy_within,
    },
    Check {
        name: "copy-16-MiB-through-a-capability",
        run: copy_large,
    },
    Check {
        name: "copy-to-odd-places",
        run: copy_odd,
    },
    Check {
        name: "fill-and-compare",
        run: fill_and_compare,
    },
    Check {
        name: "message-through-a-port",
        run: message,
    },
    Check {
        name: "query-counts-bytes",
        run: query_counts,
    },
    Check {
        name: "narrower-capability-reaches-its-part",
        run: narrower,
    },
    Check {
        name: "offer-without-a-link",
        run: offer_without_link,
    },
];

fn copy_within(lab: &mut Lab) -> Result<(), Problem> {
    let from = lab.buffer(3 * PAGE, 1)?;
    let to = lab.buffer(3 * PAGE, 2)?;
    lab.queue.copy(to.region(), from.region())?;
    expect_pattern(to.region(), 1, 0)?;
    expect_pattern(from.region(), 1, 0)
}

fn copy_large(lab: &mut Lab) -> Result<(), Problem> {
    const BYTES: usize = 16 << 20;
    let share = lab.share(BYTES, 3, Rights::READ | Rights::WRITE)?;
    let own = lab.buffer(BYTES, 4)?;
    let pipeline = Pipeline::default();
    let mut told = 0;
    lab.queue
        .get_with(own.region(), &share, 0, &pipeline, &mut |done| told = done)?;
    ensure(told == BYTES as u64, "the progress did not reach the end")?;
    expect_pattern(own.region(), 3, 0)?;
    write_pattern(own.region(), 5)?;
    lab.queue.put(&share, 0, own.region())?;
    expect_pattern(share.region(), 5, 0)
}

fn copy_odd(lab: &mut Lab) -> Result<(), Problem> {
    let share = lab.share(3 * PAGE, 6, Rights::READ)?;
    let own = lab.buffer(3 * PAGE, 0)?;
    for (offset, bytes) in [(1, 1), (PAGE - 1, 2), (7, 2 * PAGE), (PAGE + 3, PAGE - 5)] {
        own.region().fill(0);
        let target = own.region().slice(5..5 + bytes)?;
        lab.queue.get(target, &share, offset as u64)?;
        expect_pattern(target, 6, offset)?;
        expect_bytes(own.region().slice(0..5)?, 0)?;
        expect_bytes(own.region().slice(5 + bytes..3 * PAGE)?, 0)?;
    }
    Ok(())
}

fn fill_and_compare(lab: &mut Lab) -> Result<(), Problem> {
    let share = lab.share(2 * PAGE, 7, Rights::READ | Rights::WRITE)?;
    lab.queue
        .fill(&share, 1, Pattern::byte(0x5a), PAGE as u64)?;
    expect_bytes(share.region().slice(1..1 + PAGE)?, 0x5a)?;
    expect_pattern(share.region().slice(0..1)?, 7, 0)?;
    expect_pattern(share.region().slice(1 + PAGE..2 * PAGE)?, 7, 1 + PAGE)?;
    let own = lab.buffer(PAGE, 0)?;
    own.region().fill(0x5a);
    ensure(
        lab.queue.compare(own.region(), &share, 1)?.is_none(),
        "equal bytes compared as different",
    )?;
    own.region().write(77, &[0])?;
    match lab.queue.compare(own.region(), &share, 1)? {
        Some(77) => Ok(()),
        other => fail(format!("expected a difference at 77, found {other:?}")),
    }
}

fn message(lab: &mut Lab) -> Result<(), Problem> {
    lab.needs(Opcode::Send)?;
    let port = lab.context.port(&Port {
        depth: 2,
        bytes: 64,
        badge: 9,
    })?;
    let own = lab.buffer(64, 0)?;
    lab.queue.send(&port, b"first")?;
    lab.queue.send(&port, b"second")?;
    for text in [b"first".as_slice(), b"second"] {
        let received = lab.queue.receive(&port, own.region())?;
        let mut found = vec![0; received.bytes as usize];
        own.region().read(0, &mut found)?;
        ensure(found == text, "another message came than was due")?;
        ensure(received.badge == 9, "the message came under another badge")?;
    }
    Ok(())
}

fn query_counts(lab: &mut Lab) -> Result<(), Problem> {
    let share = lab.share(PAGE, 8, Rights::READ | Rights::WRITE)?;
    let own = lab.buffer(PAGE, 0)?;
    lab.queue.get(own.region().slice(0..100)?, &share, 0)?;
    lab.queue.put(&share, 0, own.region().slice(0..10)?)?;
    let info = share.query()?;
    let found = (info.bytes_read, info.bytes_written, info.length, info.depth);
    match found {
        (100, 10, 4096, 1) => Ok(()),
        other => fail(format!(
            "expected 100 bytes read, 10 written, length 4096, depth 1; found {other:?}"
        )),
    }
}

fn narrower(lab: &mut Lab) -> Result<(), Problem> {
    let share = lab.share(2 * PAGE, 9, Rights::READ | Rights::WRITE | Rights::GRANT)?;
    let part = share.derive(&Terms::new(100, 50, Rights::READ))?;
    let own = lab.buffer(50, 0)?;
    lab.queue.get(own.region(), &part, 0)?;
    expect_pattern(own.region(), 9, 100)?;
    let beyond = super::lab::get(own.region().address(), slot(&part), 1, 50);
    lab.expect(beyond, Status::Bounds)?;
    Ok(())
}

fn offer_without_link(lab: &mut Lab) -> Result<(), Problem> {
    let share = lab.share(PAGE, 0, Rights::READ | Rights::GRANT)?;
    let (peer, port) = (Name::new("no-such-domain")?, Name::new("x")?);
    expect_refusal(share.offer(&peer, &port, Rights::READ), libc::EHOSTUNREACH)
}
