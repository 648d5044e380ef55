//! Processes: what a child inherits, what exec closes, what passes between two of them.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;

use byway_linux::{Device, Rights, Status, Terms, pass};

use super::Check;
use super::lab::{
    Lab, PAGE, Pages, Problem, ensure, expect_bytes, expect_ok, expect_pattern, expect_refusal,
    fail, get, in_child, last, slot,
};

pub const CHECKS: &[Check] = &[
    Check {
        name: "child-has-no-rings",
        run: child_has_no_rings,
    },
    Check {
        name: "child-may-not-use-the-context",
        run: child_may_not,
    },
    Check {
        name: "descriptors-are-closed-by-exec",
        run: exec_closes,
    },
    Check {
        name: "second-opener",
        run: second_opener,
    },
    Check {
        name: "contexts-are-apart",
        run: contexts_apart,
    },
    Check {
        name: "capability-passed-to-another-process",
        run: passed,
    },
    Check {
        name: "processes-cannot-reach-each-other",
        run: strangers,
    },
];

/// Argument by which the tool, executed by itself, looks which descriptors it was left.
pub const PROBE: &str = "--probe-descriptors";

fn child_has_no_rings(lab: &mut Lab) -> Result<(), Problem> {
    let Some(queue) = lab.queue.handle() else {
        return fail("the queue is gone");
    };
    let (start, bytes) = queue.mapping();
    for offset in (0..bytes).step_by(PAGE) {
        let status = in_child(|| {
            // SAFETY: the default action is what is wanted; the read may fault, which is wanted, too.
            unsafe {
                libc::signal(libc::SIGSEGV, libc::SIG_DFL);
                let _ = start.add(offset).read_volatile();
            }
            fail("the ring can be read")
        })?;
        ensure(
            libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV,
            &format!("reading the mapping at {offset:#x} ended with {status:#x}; expected SIGSEGV"),
        )?;
    }
    // The parent's is as it was.
    let own = lab.buffer(PAGE, 1)?;
    let at = own.region().address();
    lab.expect(super::lab::copy(at, at + 64, 64), Status::Success)?;
    Ok(())
}

fn child_may_not(lab: &mut Lab) -> Result<(), Problem> {
    let share = lab.share(PAGE, 1, Rights::READ)?;
    expect_ok(in_child(|| {
        let terms = Terms::new(0, 1, Rights::READ);
        let anywhere = Terms {
            base: 4096,
            ..terms
        };
        // SAFETY: it is refused, or the check fails before anybody is given it.
        let derived = unsafe { lab.context.derive(&anywhere) };
        expect_refusal(derived, libc::EPERM)?;
        expect_refusal(share.derive(&terms), libc::EPERM)?;
        expect_refusal(share.revoke(), libc::EPERM)?;
        let queue = lab.context.queue::<16>(&Default::default());
        expect_refusal(queue, libc::EPERM)
    })?)
}

fn descriptors<'l>(lab: &'l Lab, share: &'l byway_linux::Share) -> Vec<BorrowedFd<'l>> {
    let mut all = vec![lab.context.transport().as_fd(), share.handle().as_fd()];
    all.extend(lab.queue.handle().map(AsFd::as_fd));
    all
}

fn exec_closes(lab: &mut Lab) -> Result<(), Problem> {
    let share = lab.share(PAGE, 1, Rights::READ)?;
    let listener = lab
        .context
        .listen(&byway_linux::Name::new("selftest-exec")?, None)?;
    let mut all = descriptors(lab, &share);
    all.push(listener.handle().as_fd());
    for file in &all {
        // SAFETY: asks for flags.
        let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFD) };
        ensure(
            flags & libc::FD_CLOEXEC != 0,
            "a descriptor lacks O_CLOEXEC",
        )?;
    }
    let numbers: Vec<_> = all
        .iter()
        .map(|file| file.as_raw_fd().to_string())
        .collect();
    let left = Command::new("/proc/self/exe")
        .arg(PROBE)
        .args(&numbers)
        .status();
    match left {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => fail(format!("after exec some are open: {status}")),
        Err(why) => super::lab::skip(format!("/proc/self/exe: {why}")),
    }
}

/// Whether none of these descriptors is a device's or an anonymous one of the module: what the tool does when it
/// was executed by `exec_closes`.
#[must_use]
pub fn probe(numbers: &[String]) -> bool {
    numbers.iter().all(|number| {
        let link = std::fs::read_link(format!("/proc/self/fd/{number}"));
        !link.is_ok_and(|link| link.to_string_lossy().contains("byway"))
    })
}

fn second_opener(lab: &mut Lab) -> Result<(), Problem> {
    let mut other = Lab::new()?;
    let share = other.share(PAGE, 3, Rights::READ)?;
    let own = other.buffer(PAGE, 0)?;
    other.queue.get(own.region(), &share, 0)?;
    expect_pattern(own.region(), 3, 0)?;
    drop((share, other));
    // What the second one closed is none of the first one's.
    let share = lab.share(PAGE, 4, Rights::READ)?;
    lab.queue.get(own.region(), &share, 0)?;
    expect_pattern(own.region(), 4, 0)
}

fn contexts_apart(lab: &mut Lab) -> Result<(), Problem> {
    let mut other = Lab::new()?;
    let share = lab.share(PAGE, 3, Rights::READ)?;
    let own = other.buffer(PAGE, 1)?;
    // The slot is filled in one context, and empty in the other.
    let read = get(own.region().address(), slot(&share), 0, 64);
    other.expect(read, Status::NoCapability)?;
    expect_pattern(own.region(), 1, 0)
}

/// What the child does with what it is passed.
fn receiver(stream: &UnixStream) -> Result<(), Problem> {
    let mut lab = Lab::new()?;
    let mut note = [0; 8];
    let (file, _) = pass::receive(stream, &mut note)?;
    let capability = lab.context.attach(&file, &Terms::WHOLE)?;
    ensure(
        capability.length() == 2 * PAGE as u64,
        "another length than was passed",
    )?;
    ensure(
        capability.rights().contains(Rights::READ),
        "no right to read",
    )?;
    let own = lab.buffer(2 * PAGE, 0)?;
    lab.queue.get(own.region(), &capability, 0)?;
    expect_pattern(own.region(), 5, 0)?;
    let at = own.region().address();
    lab.expect(
        super::lab::put(slot(&capability), 0, at, 8),
        Status::MissingRight,
    )?;
    // What the receiver revokes is what it was given, not what it was given from.
    capability.revoke()?;
    lab.expect(get(at, slot(&capability), 0, 8), Status::Revoked)?;
    let again = lab.context.attach(&file, &Terms::WHOLE)?;
    lab.expect(get(at, slot(&again), 0, 8), Status::Success)?;
    pass::send_fd(stream, file.as_fd(), b"done")?;
    // Until the parent has revoked.
    pass::receive(stream, &mut note)?;
    lab.expect(get(at, slot(&again), 0, 8), Status::Revoked)?;
    Ok(())
}

fn passed(lab: &mut Lab) -> Result<(), Problem> {
    let share = lab.share(2 * PAGE, 5, Rights::READ | Rights::GRANT)?;
    let (ours, theirs) = UnixStream::pair()?;
    // SAFETY: the tool has one thread; the child ends in `_exit`.
    let child = unsafe { libc::fork() };
    match child {
        -1 => return Err(last("fork")),
        0 => {
            drop(ours);
            let code = match receiver(&theirs) {
                Ok(()) => 0,
                Err(problem) => {
                    eprintln!("# in the receiver: {problem:?}");
                    1
                }
            };
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(code) }
        }
        _ => drop(theirs),
    }
    let mut note = [0; 8];
    let exchanged = pass::send(&ours, &share, b"cap")
        .and_then(|()| pass::receive(&ours, &mut note))
        .map_err(Problem::from)
        .and_then(|_| Ok(share.revoke()?))
        .and_then(|()| Ok(pass::send(&ours, &share, b"gone")?));
    drop(ours);
    let ended = super::lab::wait_for(child)?;
    expect_ok(ended)?;
    exchanged?;
    expect_pattern(share.region(), 5, 0)
}

fn strangers(lab: &mut Lab) -> Result<(), Problem> {
    let pages = Pages::writable(1)?;
    pages.region().fill(7);
    let address = pages.address();
    // The child has another page at that address: what it reads and writes is its own.
    expect_ok(in_child(|| {
        pages.region().fill(9);
        let mut lab = Lab::new()?;
        let own = lab.buffer(PAGE, 0)?;
        let at = own.region().address();
        lab.expect(super::lab::copy(at, address, PAGE as u32), Status::Success)?;
        expect_bytes(own.region(), 9)?;
        own.region().fill(11);
        lab.expect(super::lab::copy(address, at, PAGE as u32), Status::Success)?;
        expect_bytes(pages.region(), 11)
    })?)?;
    expect_bytes(pages.region(), 7)?;
    let own = lab.buffer(PAGE, 0)?;
    lab.expect(
        super::lab::copy(own.region().address(), address, PAGE as u32),
        Status::Success,
    )?;
    expect_bytes(own.region(), 7)?;
    // And the device can be opened again after a child has come and gone.
    drop(Device::open()?);
    Ok(())
}
