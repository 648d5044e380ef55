//! Sleepers that have to be woken: by poll, by an eventfd, by the library.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use byway_linux::{Name, Reason, Rights, Status, Wait, Waiting};
use byway_protocols::Flags;
use byway_ring::Transport;

use super::Check;
use super::lab::{Lab, PAGE, Problem, copy, ensure, fail, last, with};

pub const CHECKS: &[Check] = &[
    Check {
        name: "library-sleeps-and-is-woken",
        run: library_sleeps,
    },
    Check {
        name: "poll-wakes-once-for-each-arm",
        run: poll_wakes,
    },
    Check {
        name: "epoll-reports-a-queue-and-a-listener",
        run: epoll_reports,
    },
    Check {
        name: "eventfd-counts-interrupts",
        run: eventfd_counts,
    },
    Check {
        name: "parked-queue-is-kicked",
        run: parked,
    },
    Check {
        name: "accept-gives-up-in-time",
        run: accept_times_out,
    },
];

/// Long enough for any wake-up on a busy host, short enough to notice that none came.
const SOON: i32 = 10_000;

/// What poll says of a descriptor within so many milliseconds.
fn polled(file: &impl AsFd, milliseconds: i32) -> Result<i16, Problem> {
    let mut entry = libc::pollfd {
        fd: file.as_fd().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one entry.
    if unsafe { libc::poll(&raw mut entry, 1, milliseconds) } < 0 {
        return Err(last("poll"));
    }
    Ok(entry.revents)
}

fn library_sleeps(lab: &mut Lab) -> Result<(), Problem> {
    let own = lab.buffer(4 << 20, 1)?;
    let to = lab.buffer(4 << 20, 2)?;
    lab.queue.set_waiting(Waiting::Sleep { polls: 0 });
    let start = Instant::now();
    for _ in 0..8 {
        lab.queue.copy(to.region(), own.region())?;
    }
    // It looks by itself once a second: eight wake-ups that never came take that long each.
    ensure(
        start.elapsed() < Duration::from_secs(6),
        "eight transfers took seconds: their interrupts did not come",
    )
}

fn poll_wakes(lab: &mut Lab) -> Result<(), Problem> {
    arm_by_hand(lab);
    let own = lab.buffer(2 * PAGE, 1)?;
    let at = own.region().address();
    let quiet = copy(at, at + PAGE as u64, 64);
    let loud = with(quiet, Flags::REQUEST_INTERRUPT);
    lab.expect(quiet, Status::Success)?;
    let handle = |lab: &Lab| match lab.queue.handle() {
        Some(queue) => polled(queue, 0),
        None => fail("the queue is gone"),
    };
    ensure(handle(lab)? == 0, "readable without an interrupt")?;
    lab.expect(loud, Status::Success)?;
    match lab.queue.handle() {
        Some(queue) if polled(queue, SOON)? & libc::POLLIN != 0 => {}
        _ => return fail("not readable after a completion that asked for an interrupt"),
    }
    lab.queue.arm()?;
    ensure(handle(lab)? == 0, "readable after it was armed again")?;
    lab.expect(loud, Status::Success)?;
    match lab.queue.handle() {
        Some(queue) if polled(queue, SOON)? & libc::POLLIN != 0 => Ok(()),
        _ => fail("not readable after it was armed again and a completion came"),
    }
}

fn epoll_reports(lab: &mut Lab) -> Result<(), Problem> {
    arm_by_hand(lab);
    // SAFETY: a new descriptor.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if epoll < 0 {
        return Err(last("epoll_create1"));
    }
    // SAFETY: just made.
    let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
    let add = |file: BorrowedFd<'_>, number: u64| {
        let mut event = libc::epoll_event {
            events: (libc::EPOLLIN | libc::EPOLLET) as u32,
            u64: number,
        };
        let (epoll, file) = (epoll.as_raw_fd(), file.as_raw_fd());
        // SAFETY: one event.
        match unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, file, &raw mut event) } {
            0 => Ok(()),
            _ => Err(last("epoll_ctl")),
        }
    };
    // The number of what is ready within so many milliseconds; 0: nothing.
    let ready = |milliseconds| {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: room for one event.
        match unsafe { libc::epoll_wait(epoll.as_raw_fd(), &raw mut event, 1, milliseconds) } {
            0 => Ok(0),
            1 => Ok(event.u64),
            _ => Err(last("epoll_wait")),
        }
    };
    const QUEUE: u64 = 1;
    const LISTENER: u64 = 2;
    let listener = lab
        .context
        .transport()
        .listen(&Name::new("selftest-epoll")?, None)?;
    add(listener.as_fd(), LISTENER)?;
    match lab.queue.handle() {
        Some(queue) => add(queue.as_fd(), QUEUE)?,
        None => return fail("the queue is gone"),
    }
    ensure(ready(0)? == 0, "something is ready before anything came")?;
    let own = lab.buffer(2 * PAGE, 1)?;
    let at = own.region().address();
    let loud = with(copy(at, at + PAGE as u64, 64), Flags::REQUEST_INTERRUPT);
    for _ in 0..2 {
        lab.expect(loud, Status::Success)?;
        ensure(
            ready(SOON)? == QUEUE,
            "the queue was not reported after its interrupt",
        )?;
        // Edge-triggered: told once.
        ensure(ready(0)? == 0, "one interrupt was reported twice")?;
        lab.queue.arm()?;
    }
    Ok(())
}

/// Has the queue waited for without sleep: on a slow machine that would arm it, and another interrupt come.
fn arm_by_hand(lab: &mut Lab) {
    lab.queue.set_waiting(Waiting::Poll);
}

fn eventfd_counts(lab: &mut Lab) -> Result<(), Problem> {
    arm_by_hand(lab);
    // SAFETY: a new descriptor.
    let file = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if file < 0 {
        return Err(last("eventfd"));
    }
    // SAFETY: just made.
    let file = unsafe { OwnedFd::from_raw_fd(file) };
    let own = lab.buffer(2 * PAGE, 1)?;
    let at = own.region().address();
    let loud = with(copy(at, at + PAGE as u64, 64), Flags::REQUEST_INTERRUPT);
    let Some(queue) = lab.queue.handle() else {
        return fail("the queue is gone");
    };
    queue.set_eventfd(Some(file.as_fd()))?;
    lab.expect(loud, Status::Success)?;
    ensure(
        polled(&file, SOON)? & libc::POLLIN != 0,
        "the eventfd counted nothing",
    )?;
    let mut count = 0_u64;
    // SAFETY: 8 bytes of ours.
    let read = unsafe { libc::read(file.as_raw_fd(), (&raw mut count).cast(), 8) };
    ensure(
        read == 8 && count == 1,
        &format!("it counted {count}; expected 1"),
    )?;
    // Not armed since: no more of them.
    lab.expect(loud, Status::Success)?;
    ensure(polled(&file, 100)? == 0, "an interrupt came without ARM")?;
    if let Some(queue) = lab.queue.handle() {
        queue.set_eventfd(None)?;
    }
    lab.queue.arm()?;
    lab.expect(loud, Status::Success)?;
    ensure(
        polled(&file, 100)? == 0,
        "it counts after it was taken away",
    )
}

fn parked(lab: &mut Lab) -> Result<(), Problem> {
    let park = Duration::from_micros(u64::from(lab.info().raw().park_us));
    let own = lab.buffer(2 * PAGE, 1)?;
    let at = own.region().address();
    for _ in 0..3 {
        std::thread::sleep(park + Duration::from_millis(50));
        lab.expect(copy(at, at + PAGE as u64, 64), Status::Success)?;
    }
    Ok(())
}

fn accept_times_out(lab: &mut Lab) -> Result<(), Problem> {
    let port = Name::new("selftest-nothing")?;
    let listener = lab.context.listen(&port, None)?;
    ensure(
        listener.accept(Wait::No)?.is_none(),
        "an offer came that nobody made",
    )?;
    let start = Instant::now();
    let came = listener.accept(Wait::For(Duration::from_millis(100)))?;
    ensure(came.is_none(), "an offer came that nobody made")?;
    ensure(
        start.elapsed() >= Duration::from_millis(100),
        "accept gave up before its time",
    )?;
    let again = lab.context.listen(&port, None);
    match again.map(drop).map_err(|error| error.reason()) {
        Err(Some(Reason::InUse)) => {}
        other => {
            return fail(format!(
                "a second listener: expected InUse, found {other:?}"
            ));
        }
    }
    drop(listener);
    // The name is free again.
    drop(lab.context.listen(&port, None)?);
    // And so is a capability that was never offered.
    drop(lab.share(PAGE, 1, Rights::READ)?);
    Ok(())
}
